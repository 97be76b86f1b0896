//! Finds programs: on PATH, or in the folders of the common packages.

use std::{
    cmp::Reverse,
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::error::StartError;

/// The oldest supported PostgreSQL (Debian 12).
pub const OLDEST_POSTGRES: u32 = 15;

/// How long a program may take to print its version or a user id.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The folders that are searched after PATH, which may be nearly empty.
const COMMON_FOLDERS: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/opt/homebrew/bin"];

/// Packages that install each version of PostgreSQL in its own folder: the parent folder, and the
/// prefix of the name before the version.
const VERSIONED: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

/// The absolute path of the first of these names that is a program.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let directories = directories();
    names.iter().find_map(|name| {
        directories.iter().map(|directory| directory.join(name)).find(|path| runnable(path))
    })
}

/// PATH for the programs: that of this process, then the common folders.
pub fn search_path() -> OsString {
    // Only a folder with a colon in its name cannot be joined, and none can come from a PATH.
    env::join_paths(directories()).unwrap_or_default()
}

/// The folder of `postgres` and `initdb`: of the version that created the data if there is data, else
/// the first on PATH, else the newest.
pub async fn postgres(folder: &Path, data_version: Option<u32>) -> Result<PathBuf, StartError> {
    let mut found = Vec::new();
    for directory in directories().into_iter().chain(versioned()) {
        if !runnable(&directory.join("initdb")) {
            continue;
        }
        // PostgreSQL finds its files relative to its program, so a link to it in /usr/local/bin is
        // resolved first.
        let Ok(program) = fs::canonicalize(directory.join("postgres")) else {
            continue;
        };
        let mut command = Command::new(&program);
        command.arg("--version").current_dir("/");
        let Some(version) = output(command).await.as_deref().and_then(major) else {
            continue;
        };
        if data_version.map_or(version >= OLDEST_POSTGRES, |wanted| version == wanted) {
            return Ok(program.parent().map_or(directory, Path::to_path_buf));
        }
        found.push(version.to_string());
    }
    // The same installation may be on PATH and in its own folder.
    found.dedup();
    if found.is_empty() {
        return Err(StartError::Missing { program: "PostgreSQL (postgres, initdb)" });
    }
    let wanted =
        data_version.map_or(format!("{OLDEST_POSTGRES} or newer"), |version| version.to_string());
    Err(StartError::Version {
        folder: folder.display().to_string(),
        wanted,
        found: found.join(", "),
    })
}

/// The trimmed standard output of a command; `None` if it fails or exceeds `ANSWER_LIMIT`.
pub async fn output(command: Command) -> Option<String> {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER_LIMIT, command.output()).await.ok()?.ok()?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(answer)
}

fn directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = Vec::new();
    for directory in env::split_paths(&path).chain(COMMON_FOLDERS.map(PathBuf::from)) {
        // The programs run in `/`, where a relative folder would be another one.
        if directory.is_absolute() && !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// The `bin` folders of the versioned packages, newest first.
fn versioned() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix) in VERSIONED {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version =
                name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
            if let Some(version) = version {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(version, _)| Reverse(*version));
    found.into_iter().map(|(_, path)| path).collect()
}

fn runnable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The major version in the output of `postgres --version`, also of a beta.
fn major(answer: &str) -> Option<u32> {
    let (_, version) = answer.split_once("(PostgreSQL) ")?;
    let digits =
        version.find(|character: char| !character.is_ascii_digit()).unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_is_read_from_what_packages_print() {
        assert_eq!(major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 17"), Some(17));
        assert_eq!(major("redis-server 7"), None);
    }
}
