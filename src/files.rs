//! Private files: they appear whole or not at all, and are read only if nobody else can read or write them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Writes a file of mode 0600 and puts it in the place of an older one. `prepare` may change the open file
/// before it appears.
pub fn write_private(
    path: &Path,
    content: &[u8],
    prepare: impl FnOnce(&File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    prepare(file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// The rights of other users, by what they must not do.
pub const READ_OR_WRITE: u32 = 0o077;
pub const WRITE: u32 = 0o022;

/// Reads a file whole. It must be a regular file, not a link, and other users must have none of these
/// rights (see [`check_private`]).
pub fn read_private(path: &Path, rights: u32) -> io::Result<String> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
    let mut file =
        OpenOptions::new().read(true).custom_flags(no_link).open(path).map_err(|error| {
            match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::LOOP) => refused("is a link; put the file itself there"),
                _ => error,
            }
        })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused("is not a regular file"));
    }
    check_private(&metadata, rights)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Fails unless a file or folder belongs to this user or to root, and other users have none of these rights.
pub fn check_private(metadata: &fs::Metadata, rights: u32) -> io::Result<()> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(refused(&format!("belongs to another user (uid {owner})")));
    }
    if mode & rights != 0 {
        let right = mode & !rights;
        return Err(refused(&format!("is open to other users (mode {mode:o}): chmod {right:o}")));
    }
    Ok(())
}

fn refused(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, problem)
}
