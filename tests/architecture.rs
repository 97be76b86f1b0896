//! The arrows of the house: who may use whom. A forbidden one fails here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may use.
const ARROWS: [(&str, &[&str]); 15] = [
    ("clock", &[]),
    ("config", &[]),
    ("events", &["clock"]),
    ("commands", &["clock", "events"]),
    ("transaction", &[]),
    ("projections", &["clock", "events", "transaction"]),
    ("auth", &["clock", "config", "events", "transaction"]),
    ("telemetry", &["config"]),
    ("schema", &["projections"]),
    ("api", &["clock", "events", "commands", "projections", "auth"]),
    ("pools", &["config", "events", "projections"]),
    (
        "app",
        &[
            "clock",
            "config",
            "events",
            "commands",
            "projections",
            "auth",
            "api",
            "telemetry",
            "schema",
            "pools",
        ],
    ),
    ("dev", &["events", "commands", "auth"]),
    (
        "cli",
        &[
            "clock",
            "config",
            "events",
            "commands",
            "projections",
            "auth",
            "api",
            "telemetry",
            "schema",
            "pools",
            "app",
            "dev",
        ],
    ),
    ("main", &["cli"]),
];

/// Crates that only one room knows.
const KEPT: [(&str, &[&str]); 5] = [
    ("redis", &["auth"]),
    ("jsonwebtoken", &["auth"]),
    ("argon2", &["auth"]),
    ("axum", &["api", "app"]),
    ("tower_governor", &["api"]),
];

/// Where SQL may stand. Checked on the macros and functions that send it.
const SQL: [&str; 5] =
    ["events/log/", "commands/idempotency", "projections/", "auth/account", "schema"];

const VAGUE: [&str; 5] = ["util", "common", "helper", "service", "manager"];

/// Every source file: its path below src without the ending, and its code without comments and
/// without the tests at its end.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    collect(&root, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let code: String = text
                .split("#[cfg(test)]")
                .next()
                .unwrap()
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .flat_map(|line| [line, "\n"])
                .collect();
            let name = file.strip_prefix(&root).unwrap().with_extension("");
            (name.to_str().unwrap().to_owned(), code)
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

fn room(name: &str) -> &str {
    name.split('/').next().unwrap()
}

/// The rooms that a piece of code names: `crate::room` or, in main, `customers::room`.
fn used(own: &str, code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let start = if own == "main" { "customers::" } else { "crate::" };
    for (at, _) in code.match_indices(start) {
        let rest = &code[at + start.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let names = list.split('}').next().unwrap().split(',');
            rooms.extend(names.map(|name| word(name.trim())));
        } else {
            rooms.insert(word(rest));
        }
    }
    rooms.remove("");
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn forbidden(name: &str, code: &str) -> Vec<String> {
    let own = room(name);
    if own == "lib" {
        return vec![];
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| *room == own) else {
        return vec![format!("{name}: the room {own} stands in no plan")];
    };
    used(own, code)
        .into_iter()
        .filter(|used| used != own && !allowed.contains(&used.as_str()))
        .map(|used| format!("{name} uses {used}"))
        .collect()
}

#[test]
fn no_room_uses_a_room_that_comes_after_it() {
    let found: Vec<String> =
        sources().iter().flat_map(|(name, code)| forbidden(name, code)).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_forbidden_arrow_is_found_in_each_spelling() {
    assert_eq!(forbidden("events/log/read", "use crate::api::Api;"), ["events/log/read uses api"]);
    assert_eq!(forbidden("commands/bus", "crate::auth::f()"), ["commands/bus uses auth"]);
    assert_eq!(forbidden("auth/mod", "use crate::{clock, commands};"), ["auth/mod uses commands"]);
    assert_eq!(forbidden("attic/mod", ""), ["attic/mod: the room attic stands in no plan"]);
    assert_eq!(forbidden("api/mod", "use crate::auth::Auth;"), Vec::<String>::new());
}

#[test]
fn only_the_rooms_that_own_a_crate_know_it() {
    let mut found = vec![];
    for (name, code) in sources() {
        for (library, owners) in KEPT {
            let own = room(&name);
            // The embedded Redis is a module of that name, not the crate.
            if !owners.contains(&own) && own != "dev" && code.contains(&format!("{library}::")) {
                found.push(format!("{name} knows {library}"));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn sql_stands_where_it_belongs() {
    let mut found = vec![];
    for (name, code) in sources() {
        let has = ["sqlx::query", "query!(", "query_as!(", "query_scalar!("]
            .iter()
            .any(|call| code.contains(call));
        if has && !SQL.iter().any(|place| name.starts_with(place)) {
            found.push(name);
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

/// As one that is given up on its way leaves its connection inside of it.
#[test]
fn transactions_are_begun_in_one_place() {
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, code)| name != "transaction" && code.contains("pool.begin"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn nothing_has_a_vague_name() {
    let found: Vec<String> = sources()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            name.split('/').any(|part| VAGUE.iter().any(|vague| part.starts_with(vague)))
        })
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn files_stay_short_enough_to_be_read() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(name, code)| (name, code.lines().count()))
        .filter(|(_, lines)| *lines > 400)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert_eq!(long, Vec::<String>::new());
}
