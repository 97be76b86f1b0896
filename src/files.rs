//! Files that appear whole or not at all.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

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
