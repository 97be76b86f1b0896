//! The folder of the servers: locked by one process at a time, with no file that other users can read.

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
    choose_user,
    error::StartError,
    run_as::{self, RunAs, User},
};

/// An opened folder, locked for the life of this value.
pub struct Folder {
    path: PathBuf,
    pub run_as: RunAs,
    /// The kernel releases the lock when this process ends, also by `kill -9`; children do not inherit
    /// it (`O_CLOEXEC`).
    lock: File,
}

impl Folder {
    /// Creates the folder if it is missing, locks it and chooses the user of the programs. Fails at once
    /// with `InUse` if another process holds the lock.
    pub async fn open(path: &Path) -> Result<Self, StartError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(StartError::at(path))?;
        // Absolute, because the programs run in `/`: they may have no access to the current directory.
        let path = fs::canonicalize(path).map_err(StartError::at(path))?;
        let lock = lock(&path)?;
        let run_as = choose_user::choose_user(&path).await?;
        let folder = Self { path, run_as, lock };
        folder.grant_access().map_err(StartError::at(&folder.path))?;
        Ok(folder)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Creates a directory of mode 0700 if it is missing; it and its content belong to the user of the
    /// programs.
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

    /// Writes a file of mode 0600 that the programs can read; it replaces an older one atomically.
    pub fn write_private(&self, name: &str, content: &[u8]) -> Result<PathBuf, StartError> {
        let path = self.join(name);
        files::write_private(&path, content, |file| self.give(file))
            .map_err(StartError::at(&path))?;
        Ok(path)
    }

    /// Makes the user of the programs the owner of an open file.
    pub fn give(&self, file: &File) -> std::io::Result<()> {
        let user = self.run_as.user();
        if file.metadata()?.uid() == user.uid {
            return Ok(());
        }
        std::os::unix::fs::fchown(file, Some(user.uid), Some(user.gid))
    }

    /// Gives the user of the programs access to the folder, and no other user.
    fn grant_access(&self) -> std::io::Result<()> {
        match self.run_as {
            RunAs::CurrentUser | RunAs::Namespace { .. } => Ok(()),
            // A folder that was created under `sudo` must stay usable without it.
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

/// Opens a file for appending, created with mode 0600 if it is missing; follows no symbolic link.
pub fn open_private(path: &Path) -> std::io::Result<File> {
    File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Tries to lock an open file (`flock`); `false` if another process holds the lock. Processes that
/// inherit the open file share its lock.
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
        .and_then(|()| write!(file, "pid {}", std::process::id()))
        .map_err(StartError::at(&path))?;
    Ok(file)
}

/// Makes `user` the owner of `path` and everything below it, unless it is already; symbolic links are
/// not followed.
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
    // The directory last, so that an interrupted walk is repeated.
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
}
