//! The folder of the servers: one living owner at a time, and nothing in it readable by others.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags},
    io::Errno,
};

use crate::files;

use super::{
    error::StartError,
    facts,
    run_as::{self, RunAs, User},
};

/// An opened folder, locked for the life of this value.
pub struct Folder {
    path: PathBuf,
    pub run_as: RunAs,
    /// The kernel releases the lock when we end, also by `kill -9`; children do not inherit it
    /// (`O_CLOEXEC`).
    lock: File,
}

impl Folder {
    /// Makes the folder if it is missing, locks it and settles who runs the programs.
    ///
    /// # Errors
    /// `InUse` at once if another process has it; `Path`, `Closed`, `NoUser`.
    pub async fn open(path: &Path) -> Result<Self, StartError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(StartError::at(path))?;
        // The programs run in `/`, since the current directory may be closed to them.
        let path = fs::canonicalize(path).map_err(StartError::at(path))?;
        let lock = lock(&path)?;
        let run_as = facts::settle(&path).await?;
        let folder = Self { path, run_as, lock };
        folder.admit().map_err(StartError::at(&folder.path))?;
        Ok(folder)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A directory of mode 0700 that belongs to the user of the programs, with everything that is
    /// in it.
    pub fn private_directory(&self, name: &str) -> Result<PathBuf, StartError> {
        let path = self.join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StartError::at(&path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        give_all(&path, self.run_as.user()).map_err(StartError::at(&path))?;
        Ok(path)
    }

    /// A whole new file of mode 0600, in place of an older one, that the programs can read.
    pub fn write_private(&self, name: &str, content: &[u8]) -> Result<PathBuf, StartError> {
        let path = self.join(name);
        files::write_private(&path, content, |file| self.give(file))
            .map_err(StartError::at(&path))?;
        Ok(path)
    }

    /// Gives an open file of ours to the user of the programs.
    pub fn give(&self, file: &File) -> std::io::Result<()> {
        let user = self.run_as.user();
        if file.metadata()?.uid() == user.uid {
            return Ok(());
        }
        std::os::unix::fs::fchown(file, Some(user.uid), Some(user.gid))
    }

    /// Lets the user of the programs into the folder, without opening it to anybody else.
    fn admit(&self) -> std::io::Result<()> {
        match self.run_as {
            RunAs::Ourselves | RunAs::Namespace { .. } => Ok(()),
            // What `sudo` made must stay usable without it.
            RunAs::Owner(user) => {
                self.give(&self.lock)?;
                std::os::unix::fs::lchown(&self.path, Some(user.uid), Some(user.gid))
            }
            RunAs::System(user) => {
                let metadata = fs::metadata(&self.path)?;
                if run_as::passable(&metadata, user) {
                    return Ok(());
                }
                std::os::unix::fs::lchown(&self.path, None, Some(user.gid))?;
                fs::set_permissions(&self.path, fs::Permissions::from_mode(0o710))
            }
        }
    }
}

/// Opens a file of ours for appending, made with mode 0600; follows no link.
pub fn open_private(path: &Path) -> std::io::Result<File> {
    File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Whether this open file now holds the lock of its file; a lock is shared with every process that
/// inherits the file.
pub fn try_lock(file: &File) -> std::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn lock(folder: &Path) -> Result<File, StartError> {
    let path = folder.join("lock");
    let mut file = open_private(&path).map_err(StartError::at(&path))?;
    if !try_lock(&file).map_err(StartError::at(&path))? {
        let mut owner = String::new();
        let read = file.read_to_string(&mut owner);
        if read.is_err() || owner.is_empty() {
            "unknown".clone_into(&mut owner);
        }
        return Err(StartError::InUse { folder: folder.display().to_string(), owner });
    }
    file.set_len(0)
        .and_then(|()| write!(file, "process {}", std::process::id()))
        .map_err(StartError::at(&path))?;
    Ok(file)
}

/// Gives `path` and what is below it to `user`, if it is not theirs; links are given, not followed.
fn give_all(path: &Path, user: User) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.uid() == user.uid {
        return Ok(());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give_all(&entry?.path(), user)?;
        }
    }
    // The directory last: a walk that was cut off is done again.
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
}
