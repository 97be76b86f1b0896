//! The examples at the end of each `--help`.

use clap::Command;

/// The examples of a command: what a line does, and the line. A group of commands shows some of its commands.
type Examples = &'static [(&'static str, &'static str)];

/// The examples by the words of the command.
const ALL: &[(&str, Examples)] = &[
    (
        "",
        &[
            ("Everything on this machine, with demo data", "customers dev"),
            ("The schema of the database of DATABASE_URL, then the service", "customers migrate"),
            ("", "customers serve"),
            ("What a customer went through", "customers history 101"),
        ],
    ),
    (
        "dev",
        &[
            ("The service on http://127.0.0.1:8080; Ctrl-C ends everything", "customers dev"),
            ("On another port", "CUSTOMERS_LISTEN=127.0.0.1:9000 customers dev"),
            ("A command with throw-away servers", "customers dev --run -- cargo test"),
        ],
    ),
    (
        "serve",
        &[
            ("With the servers of DATABASE_URL and REDIS_URL", "customers serve"),
            (
                "Behind a proxy with TLS, to which it gives 5 s to notice a stop",
                "CUSTOMERS_PUBLIC_URL=https://customers.example CUSTOMERS_TRUSTED_PROXIES=10.0.0.0/8 \
                 CUSTOMERS_DRAIN_DELAY=5s customers serve",
            ),
        ],
    ),
    (
        "migrate",
        &[
            ("What is missing", "customers migrate --dry-run"),
            ("As the owner of the tables", "CUSTOMERS_OWNER_DATABASE_URL=$OWNER customers migrate"),
        ],
    ),
    (
        "demo",
        &[
            ("A thousand customers more", "customers demo --customers 1000"),
            ("Once, for an empty log", "customers demo --account --customers 100 --if-empty"),
        ],
    ),
    (
        "account",
        &[
            (
                "The first account",
                "echo \"$PASSWORD\" | customers account add root --role admin --password-stdin",
            ),
            ("All accounts", "customers account list"),
        ],
    ),
    ("account enable", &[("After `account disable`", "customers account enable ada")]),
    ("account key", &[("Those of an account", "customers account key list ada")]),
    (
        "account key add",
        &[(
            "For a program, for 90 days",
            "customers account key add ada --name sync --expires-in 90days",
        )],
    ),
    ("account key list", &[("Those of an account", "customers account key list ada")]),
    (
        "account key revoke",
        &[(
            "By the id that `list` shows",
            "customers account key revoke ada 0192f0c1-2f0a-7000-8000-000000000001",
        )],
    ),
    (
        "account add",
        &[(
            "An account that may change customers",
            "echo \"$PASSWORD\" | customers account add ada --role editor --password-stdin",
        )],
    ),
    (
        "account passwd",
        &[(
            "A new password; all sessions of the account end",
            "echo \"$PASSWORD\" | customers account passwd ada --password-stdin",
        )],
    ),
    (
        "account role",
        &[("From now on the account only reads", "customers account role ada viewer")],
    ),
    (
        "account list",
        &[
            ("For people", "customers account list"),
            ("For programs", "customers account list --json"),
        ],
    ),
    ("account disable", &[("The account can no longer log in", "customers account disable ada")]),
    (
        "keys",
        &[
            ("A new key signs from now on", "customers keys new"),
            ("Which key signs", "customers keys list"),
        ],
    ),
    ("keys new", &[("A new key signs from now on", "customers keys new")]),
    ("keys list", &[("Which key signs, for programs", "customers keys list --json")]),
    (
        "keys retire",
        &[
            ("After a new one signs", "customers keys retire 0192f0c1-2f0a-7000-8000-000000000001"),
            (
                "A key that leaked",
                "customers keys retire 0192f0c1-2f0a-7000-8000-000000000001 --now",
            ),
        ],
    ),
    (
        "history",
        &[
            ("For people", "customers history 101"),
            ("The first change, for programs", "customers history 101 --json | head -n 1"),
        ],
    ),
    ("log", &[("The identity of the log", "customers log show")]),
    ("log show", &[("The identity of the log", "customers log show --json")]),
    (
        "log restart",
        &[(
            "After a backup was restored",
            "CUSTOMERS_OWNER_DATABASE_URL=$OWNER customers log restart",
        )],
    ),
    (
        "projection",
        &[
            ("Where each projection is", "customers projection status"),
            ("Fill a read table anew, without downtime", "customers projection rebuild customers"),
        ],
    ),
    ("projection status", &[("For programs", "customers projection status --json")]),
    (
        "projection rebuild",
        &[
            (
                "Without downtime; an interrupted one goes on",
                "customers projection rebuild customers",
            ),
            ("From the start", "customers projection rebuild customers --restart"),
        ],
    ),
    (
        "projection verify",
        &[("Exit code 1 if a row differs from the log", "customers projection verify customers")],
    ),
    (
        "projection retry",
        &[("After the cause is repaired", "customers projection retry customers")],
    ),
    (
        "projection rollback",
        &[("The table from before the last rebuild", "customers projection rollback customers")],
    ),
    ("redis", &[("After a backup was restored", "customers redis empty")]),
    ("redis empty", &[("After a backup was restored", "customers redis empty")]),
    ("routes", &[("For people", "customers routes"), ("For programs", "customers routes --json")]),
    ("openapi", &[("For a generator of clients", "customers openapi > openapi.json")]),
    (
        "import",
        &[
            (
                "Customers, to go on after an interruption",
                "customers import people.csv --import-id monday",
            ),
            (
                "From standard input, nothing if a line is bad",
                "customers import - --format ndjson --strict --reason \"moved from the old system\" < people.ndjson",
            ),
            ("A whole log, into an empty installation", "customers import --log log.ndjson"),
        ],
    ),
    (
        "export",
        &[
            ("A copy of the log", "customers export --format ndjson > log.ndjson"),
            (
                "The first 1000 events, for a spreadsheet",
                "customers export --format csv --to 1000 > log.csv",
            ),
        ],
    ),
    (
        "doctor",
        &[
            ("Before the service starts", "customers doctor"),
            ("For programs", "customers doctor --json"),
        ],
    ),
    ("health", &[("In a container without curl", "customers health")]),
    (
        "completions",
        &[
            (
                "For bash",
                "customers completions bash > ~/.local/share/bash-completion/completions/customers",
            ),
            ("For zsh, in a folder of $fpath", "customers completions zsh > ~/.zfunc/_customers"),
        ],
    ),
    (
        "man",
        &[
            ("Read it", "customers man | man -l -"),
            ("Install the pages of all commands", "customers man /usr/local/share/man/man1"),
        ],
    ),
];

/// The command with the examples of all of its commands.
pub fn added_to(command: Command) -> Command {
    add(command, "")
}

fn add(mut command: Command, words: &str) -> Command {
    let names: Vec<String> =
        command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    for name in names {
        let words = format!("{words} {name}").trim_start().to_owned();
        command = command.mut_subcommand(name, |below| add(below, &words));
    }
    match text(words) {
        Some(text) => command.after_help(text),
        None => command,
    }
}

/// The examples of the command with these words, as its help shows them.
pub fn text(words: &str) -> Option<String> {
    use std::fmt::Write as _;
    let (_, examples) = ALL.iter().find(|(of, _)| *of == words)?;
    let mut text = String::from("Examples:\n");
    for (purpose, line) in *examples {
        if !purpose.is_empty() {
            let _ = writeln!(text, "  # {purpose}");
        }
        let _ = writeln!(text, "  {line}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The words of a line of a shell from `customers` to a pipe or a redirection.
    fn words(line: &str) -> Vec<String> {
        let start = line.find("customers ").expect("an example calls the program");
        let before = line[..start].trim_end();
        let is_command = before.is_empty()
            || before.ends_with('|')
            || before.split(' ').all(|word| word.contains('='));
        assert!(is_command, "{line}: `customers` is not a command there");
        let (mut words, mut word, mut quoted) = (vec![], String::new(), false);
        for c in line[start..].chars() {
            match c {
                '"' => quoted = !quoted,
                ' ' if !quoted => words.push(std::mem::take(&mut word)),
                c => word.push(c),
            }
        }
        words.push(word);
        words.into_iter().take_while(|word| !["|", ">", "<"].contains(&word.as_str())).collect()
    }

    /// The words of the command that a line calls; a panic if the program refuses it.
    fn called(line: &str) -> Vec<String> {
        let matches = crate::cli::command_line().try_get_matches_from(words(line));
        let mut matches = &matches.unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut called = vec![];
        while let Some((name, below)) = matches.subcommand() {
            called.push(name.to_owned());
            matches = below;
        }
        called
    }

    fn check(command: &Command, words: &[String], seen: &mut HashSet<String>) {
        let name = words.join(" ");
        let mut command = command.clone();
        let help = command.render_long_help().to_string();
        let (_, shown) = help
            .split_once("Examples:\n")
            .unwrap_or_else(|| panic!("`customers {name}` has no examples"));
        let lines = shown.lines().take_while(|line| line.starts_with("  "));
        let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.starts_with('#')).collect();
        assert!(!lines.is_empty(), "`customers {name}` has no examples");
        for line in lines {
            assert!(called(line).starts_with(words), "{line} is no example of `customers {name}`");
        }
        seen.insert(name);
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            let words = [words, &[below.get_name().to_owned()]].concat();
            check(below, &words, seen);
        }
    }

    #[test]
    fn every_help_has_examples_and_the_program_takes_them() {
        let mut seen = HashSet::new();
        check(&crate::cli::command_line(), &[], &mut seen);
        for (words, _) in ALL {
            let is_left_out = cfg!(not(feature = "embedded")) && *words == "dev";
            assert!(seen.contains(*words) || is_left_out, "there is no command `{words}`");
        }
    }
}
