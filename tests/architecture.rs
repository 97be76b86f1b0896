//! The allowed dependencies between modules, crates and files. A test fails for each other one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate root and the modules that it may use.
const ALLOWED: [(&str, &[&str]); 25] = [
    ("clock", &[]),
    ("server_url", &[]),
    ("config", &["postgres", "server_url"]),
    ("printable", &[]),
    ("log_lines", &[]),
    ("telemetry", &["clock", "config", "log_lines", "printable"]),
    ("tasks", &[]),
    ("coalesce", &[]),
    ("files", &[]),
    ("check", &[]),
    ("text_file", &[]),
    ("postgres", &["server_url"]),
    ("events", &["clock", "postgres", "printable", "tasks", "telemetry"]),
    ("feed", &["clock", "events", "postgres", "printable", "tasks", "text_file"]),
    ("commands", &["clock", "events", "postgres", "text_file"]),
    ("projections", &["clock", "events", "postgres", "tasks", "telemetry"]),
    ("auth", &["check", "clock", "coalesce", "config", "events", "files", "postgres", "tasks"]),
    ("schema", &["check", "postgres", "projections"]),
    (
        "api",
        &[
            "clock",
            "coalesce",
            "postgres",
            "events",
            "feed",
            "commands",
            "projections",
            "auth",
            "tasks",
            "telemetry",
        ],
    ),
    ("pools", &["config", "events", "postgres", "projections"]),
    (
        "app",
        &[
            "clock",
            "coalesce",
            "config",
            "events",
            "feed",
            "commands",
            "projections",
            "auth",
            "api",
            "postgres",
            "printable",
            "tasks",
            "telemetry",
            "schema",
            "pools",
        ],
    ),
    ("demo", &["events", "commands", "auth"]),
    ("dev", &["files"]),
    (
        "cli",
        &[
            "check",
            "clock",
            "config",
            "events",
            "feed",
            "commands",
            "projections",
            "auth",
            "api",
            "files",
            "postgres",
            "printable",
            "tasks",
            "telemetry",
            "schema",
            "pools",
            "app",
            "demo",
            "dev",
        ],
    ),
    ("main", &["cli"]),
];

/// Crates that only some modules may use.
const CRATE_USERS: [(&str, &[&str]); 11] = [
    ("redis", &["auth"]),
    ("rustls", &["auth", "telemetry"]),
    ("jsonwebtoken", &["auth"]),
    ("argon2", &["auth"]),
    ("axum", &["api", "app"]),
    ("hyper", &["app", "telemetry"]),
    ("hyper_util", &["app", "telemetry"]),
    ("tower_governor", &["api"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("tracing_opentelemetry", &["telemetry"]),
];

/// The files that may contain SQL, found by the macros and functions that send it.
const SQL_FILES: [&str; 6] = [
    "events/log/",
    "commands/idempotency",
    "projections/",
    "auth/account",
    "schema",
    // Only about connections.
    "postgres/",
];

const VAGUE_NAMES: [&str; 5] = ["util", "common", "helper", "service", "manager"];

/// Every source file: its path below src without the ending, and its code without comments and
/// without the tests at its end.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    collect(&root, &mut files);
    assert!(files.len() > 30, "only {} source files found", files.len());
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
            // A visibility uses nothing.
            let code = code.replace("pub(in crate::", "pub(in ");
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

fn root_module(name: &str) -> &str {
    name.split('/').next().unwrap()
}

/// The modules that the code names: `crate::module` or, in main, `customers::module`.
fn used(own: &str, code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    let start = if own == "main" { "customers::" } else { "crate::" };
    for (at, _) in code.match_indices(start) {
        let rest = &code[at + start.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let names = list.split('}').next().unwrap().split(',');
            modules.extend(names.map(|name| word(name.trim())));
        } else {
            modules.insert(word(rest));
        }
    }
    modules.remove("");
    modules
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn forbidden(name: &str, code: &str) -> Vec<String> {
    let own = root_module(name);
    if own == "lib" {
        return vec![];
    }
    let Some((_, allowed)) = ALLOWED.iter().find(|(module, _)| *module == own) else {
        return vec![format!("{name}: the module {own} is not in ALLOWED")];
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
    assert_eq!(forbidden("attic/mod", ""), ["attic/mod: the module attic is not in ALLOWED"]);
    assert_eq!(forbidden("api/mod", "use crate::auth::Auth;"), Vec::<String>::new());
}

/// A path in the code, from the crate's root.
type ModulePath = Vec<String>;

/// The module of a source file.
fn module_of(name: &str) -> ModulePath {
    let parts: ModulePath = name.split('/').map(str::to_owned).collect();
    match parts.split_last() {
        Some((last, folder)) if last == "mod" => folder.to_vec(),
        Some((last, _)) if last == "lib" => vec![],
        _ => parts,
    }
}

/// Every path in the code that begins with `crate`, `self` or `super`; a `use` tree becomes one path
/// per leaf.
fn paths(module: &[String], code: &str) -> Vec<ModulePath> {
    let mut found = vec![];
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let start =
            before.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
        let (first, is_inner) = (&before[start..], before[..start].ends_with("::"));
        let base = match first {
            "crate" => vec![],
            "self" => module.to_vec(),
            "super" => module[..module.len().saturating_sub(1)].to_vec(),
            _ => continue,
        };
        if !is_inner {
            tree(&base, &code[at + 2..], &mut found);
        }
    }
    // A folder's `mod.rs` also names its files without a prefix.
    for child in
        code.lines().filter_map(|line| line.trim().rsplit_once("mod ")?.1.strip_suffix(';'))
    {
        let path = format!("{child}::");
        let is_whole = |at: usize| !code[..at].ends_with(|c: char| c == ':' || c.is_alphanumeric());
        if code.match_indices(&path).any(|(at, _)| is_whole(at)) {
            found.push([module, &[child.to_owned()]].concat());
        }
    }
    found
}

/// Adds the path, or each path of the `use` tree, to `found`; returns the text after it.
fn tree<'a>(base: &[String], rest: &'a str, found: &mut Vec<ModulePath>) -> &'a str {
    if let Some(list) = rest.strip_prefix('{') {
        let mut rest = list.trim_start();
        while !rest.starts_with('}') {
            rest = tree(base, rest, found).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        return &rest[1..];
    }
    let name = word(rest);
    if name.is_empty() {
        // A glob, or the end of the path.
        found.push(base.to_vec());
        return rest.strip_prefix('*').unwrap_or(&rest[rest.len().min(1)..]);
    }
    let rest = &rest[name.len()..];
    let mut base = base.to_vec();
    if name == "super" {
        base.pop();
    } else if name != "self" {
        base.push(name);
    }
    match rest.strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => tree(&base, rest, found),
        _ => {
            found.push(base);
            rest.split_once(" as ")
                .filter(|(gap, _)| gap.is_empty())
                .map_or(rest, |(_, name)| &name[word(name).len()..])
        }
    }
}

/// The names that a folder's `mod.rs` re-exports, and the path of each.
fn reexports(module: &[String], code: &str) -> Vec<(String, ModulePath)> {
    let mut reexports = vec![];
    for (at, _) in code.match_indices("pub use ") {
        let target = &code[at + 8..];
        let (base, rest) = match target.strip_prefix("self::").or(target.strip_prefix("crate::")) {
            Some(rest) if target.starts_with("self::") => (module.to_vec(), rest),
            Some(rest) => (vec![], rest),
            None => (module.to_vec(), target),
        };
        let mut found = vec![];
        tree(&base, rest, &mut found);
        reexports.extend(found.into_iter().filter_map(|path| Some((path.last()?.clone(), path))));
    }
    reexports
}

/// The files that each file uses.
fn uses(sources: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let files: BTreeMap<ModulePath, &String> =
        sources.iter().map(|(name, _)| (module_of(name), name)).collect();
    let reexports: BTreeMap<ModulePath, Vec<(String, ModulePath)>> = sources
        .iter()
        .map(|(name, code)| (module_of(name), reexports(&module_of(name), code)))
        .collect();
    let file_of = |path: &ModulePath| {
        let mut path = path.clone();
        // A re-exported name is looked up at its own path.
        for _ in 0..4 {
            let known = (0..=path.len()).rev().find(|end| files.contains_key(&path[..*end]));
            let end = known?;
            let next = path
                .get(end)
                .and_then(|name| reexports[&path[..end]].iter().find(|(known, _)| known == name));
            match next {
                Some((_, target)) => path = [target.as_slice(), &path[end + 1..]].concat(),
                None => return Some(files[&path[..end]].clone()),
            }
        }
        None
    };
    let used = |(name, code): &(String, String)| {
        let module = module_of(name);
        let mut paths = paths(&module, code);
        paths.extend(reexports[&module].iter().map(|(_, path)| path.clone()));
        let used: BTreeSet<String> =
            paths.iter().filter_map(file_of).filter(|used| used != name).collect();
        (name.clone(), used)
    };
    sources.iter().map(used).collect()
}

/// The cycles of files that use each other, directly or through other files: at least one through each
/// such file.
fn cycles(uses: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<String>> {
    let mut cycles = BTreeSet::new();
    for start in uses.keys() {
        let mut from: BTreeMap<&String, &String> = BTreeMap::new();
        let mut next = vec![start];
        while let Some(file) = next.pop() {
            for used in &uses[file] {
                if used == start {
                    let mut circle = vec![file.clone()];
                    while let Some(before) = from.get(circle.last().unwrap()) {
                        circle.push((*before).clone());
                    }
                    let first = circle.iter().min().unwrap().clone();
                    while circle[0] != first {
                        circle.rotate_left(1);
                    }
                    cycles.insert(circle);
                } else if !from.contains_key(used) {
                    from.insert(used, file);
                    next.insert(0, used);
                }
            }
        }
    }
    cycles
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    assert_eq!(cycles(&uses(&sources())), BTreeSet::new());
}

#[test]
fn a_circle_of_files_is_found_in_each_spelling() {
    let file = |name: &str, code: &str| (name.to_owned(), code.to_owned());
    let circle = |sources: &[(String, String)]| cycles(&uses(sources)).len();
    let user = file("a/user", "use super::{tree::{Leaf, Twig}};");
    let shows = file("a/mod", "mod user; pub use user::User;");
    let tree = |code| file("a/tree", code);
    for code in ["fn f() { crate::a::user::g() }", "use crate::a::User;", "use super::{user};"] {
        assert_eq!(circle(&[user.clone(), tree(code), shows.clone()]), 1, "{code}");
    }
    assert_eq!(circle(&[user.clone(), tree("use crate::b;"), shows, file("b/mod", "")]), 0);
    let calls = file("a/mod", "pub mod user;\nfn f() { user::g() }");
    assert_eq!(circle(&[file("a/user", "use super::f;"), calls]), 1);
}

#[test]
fn only_the_rooms_that_own_a_crate_know_it() {
    let mut found = vec![];
    for (name, code) in sources() {
        for (library, owners) in CRATE_USERS {
            let own = root_module(&name);
            // `dev` has a module `redis` for the embedded Redis; it does not use the crate. Nor does a path
            // to a module with the name of a crate.
            let path = format!("{library}::");
            let names_crate = code.match_indices(&path).any(|(at, _)| !code[..at].ends_with("::"));
            if !owners.contains(&own) && own != "dev" && names_crate {
                found.push(format!("{name} uses the crate {library}"));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

/// What opens a connection to PostgreSQL past the hosts, settings and limits of `postgres::server`.
const CONNECTS: [&str; 4] =
    ["PgConnection::connect", "PgPool::connect", "PgPoolOptions", "PgConnectOptions"];

#[test]
fn only_one_room_opens_connections_to_postgresql() {
    let mut found = vec![];
    for (name, code) in sources() {
        for way in CONNECTS {
            if root_module(&name) != "postgres" && code.contains(way) {
                found.push(format!("{name}: {way}"));
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
        if has && !SQL_FILES.iter().any(|place| name.starts_with(place)) {
            found.push(name);
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

/// A `begin` that is dropped before it returns would leave its connection inside the transaction.
#[test]
fn transactions_are_begun_in_one_place() {
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, code)| name != "postgres/transaction" && code.contains("pool.begin"))
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
            name.split('/').any(|part| VAGUE_NAMES.iter().any(|vague| part.starts_with(vague)))
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
