//! The parameter `options`: settings of the session as the command line of a backend takes them (PostgreSQL
//! 15, "34.1.2. Parameter Key Words").

/// Settings by name.
pub(super) type NamedSettings = Vec<(String, String)>;

/// The settings of `-c name=value` and `--name=value`; a backslash escapes a blank.
pub(super) fn settings(options: &str) -> Result<NamedSettings, String> {
    let problem = || "the parameter options: must be like -c name=value".to_owned();
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => words.last_mut().expect("never empty").extend(characters.next()),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => words.last_mut().expect("never empty").push(c),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = vec![];
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("-c") {
            Some("") => words.next().ok_or_else(problem)?,
            Some(assignment) => assignment.to_owned(),
            None => word.strip_prefix("--").ok_or_else(problem)?.to_owned(),
        };
        let (name, value) = assignment.split_once('=').ok_or_else(problem)?;
        settings.push(setting(name, value).ok_or_else(problem)?);
    }
    Ok(settings)
}

/// One setting; a dash in its name means an underscore, one in its value does not. `None` without a name.
pub(super) fn setting(name: &str, value: &str) -> Option<(String, String)> {
    (!name.is_empty()).then(|| (name.replace('-', "_"), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_read_as_a_backend_reads_them() {
        let read =
            settings("-c jit=off  --log-min-messages=a-b -cTimeZone=Etc/GMT-3 -c app.x=a\\ b=\\\\");
        let expected = [
            ("jit", "off"),
            ("log_min_messages", "a-b"),
            ("TimeZone", "Etc/GMT-3"),
            ("app.x", "a b=\\"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read.unwrap(), expected);
        for wrong in ["jit=off", "-c", "-c jit", "--jit", "-c =off", "--=off", "-d 5"] {
            assert!(settings(wrong).is_err(), "{wrong}");
        }
    }
}
