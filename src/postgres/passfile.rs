//! The password file of libpq (PostgreSQL 15, "34.16. The Password File").

use std::fs;
use std::path::{Path, PathBuf};

/// The password file of libpq for a URL that names none.
pub(super) fn default_path() -> Option<PathBuf> {
    std::env::var_os("PGPASSFILE")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".pgpass")))
}

/// The content of a password file. As in libpq, only its owner may read it.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let problem =
        |error: std::io::Error| format!("the parameter passfile: cannot read the file: {error}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if fs::metadata(path).map_err(problem)?.permissions().mode() & 0o077 != 0 {
            return Err("the parameter passfile: others may read the file; run chmod 600".into());
        }
    }
    fs::read_to_string(path).map_err(problem)
}

/// The password of the first line that matches host, port, database and user (PostgreSQL 15, "34.16. The
/// Password File").
pub(super) fn find_password(file: &str, of: [&str; 4]) -> Option<String> {
    let host = if of[0].is_empty() || of[0].starts_with('/') { "localhost" } else { of[0] };
    let of = [host, of[1], of[2], of[3]];
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let matches = |(field, wanted): (&String, &str)| field == "*" || field == wanted;
        let password = fields.get(4)?;
        fields.iter().zip(of).all(matches).then(|| password.clone())
    })
}

/// The fields of a line: separated by colons; a backslash escapes a colon or a backslash.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => fields.last_mut().expect("never empty").extend(characters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => fields.last_mut().expect("never empty").push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_password_file_matches_as_in_libpq() {
        let file = "# comment\nother:*:*:*:no\nh:5432:d\\:b:*:p\\\\w:x\n*:*:*:u:last\n";
        assert_eq!(find_password(file, ["h", "5432", "d:b", "u"]).unwrap(), "p\\w:x");
        assert_eq!(find_password(file, ["/run", "5432", "d", "u"]).unwrap(), "last");
        assert_eq!(find_password(file, ["h", "5432", "d", "other"]), None);
    }
}
