//! README and docs name only links, paths, commands and variables that exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use customers::config;
use customers::events::account::AccountEvent;
use customers::events::customer::CustomerEvent;
use customers::events::installation::InstallationEvent;

use crate::harness::folder;
use crate::process::command;

/// The limit of the README; longer texts belong in docs/.
const README_MAX_BYTES: usize = 12 * 1024;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each page with its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let mut paths: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    paths.push(root().join("README.md"));
    assert!(paths.len() >= 7, "{paths:?}");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    };
    paths.into_iter().map(read).collect()
}

/// Code blocks line by line, and code spans, each marked as one or the other.
fn code(text: &str) -> Vec<(bool, String)> {
    let (mut found, mut prose, mut fence) = (vec![], String::new(), None);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, Some("sh")) => found.push((true, line.to_owned())),
            (None, Some(_)) => {}
            (None, None) => prose = prose + line + "\n",
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    found.extend(spans.map(|span| (false, span.replace('\n', " "))));
    found
}

/// The anchors of a page, as code forges make them of its headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = vec![];
    for (page, text) in pages() {
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let target = root().join(target);
            let is_there = target.exists();
            let has_anchor = anchor.is_empty()
                || std::fs::read_to_string(target)
                    .is_ok_and(|text| anchors(&text).iter().any(|known| known == anchor));
            if !is_there || !has_anchor {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn every_path_exists() {
    const FOLDERS: [&str; 8] =
        ["src/", "tests/", "docs/", "script/", "migrations/", "deploy/", "benches/", ".sqlx/"];
    let mut missing = vec![];
    for (page, text) in pages() {
        for (_, code) in code(&text) {
            for word in code.split_whitespace() {
                let path = word.split(['{', '*', ':']).next().unwrap().trim_end_matches(['.', ',']);
                if FOLDERS.iter().any(|folder| path.starts_with(folder))
                    && !root().join(path).exists()
                {
                    missing.push(format!("{}: {path}", page.display()));
                }
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// The output of `--help` for a subcommand; `None` if there is no such subcommand.
async fn help(subcommand: &[&str]) -> Option<String> {
    let arguments = [subcommand, &["--help"]].concat();
    let output = command(&arguments, &folder("docs")).output().await.unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn every_command_exists_with_its_options() {
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    let (mut broken, mut checked) = (vec![], 0);
    for (page, text) in pages() {
        for (is_block, code) in code(&text) {
            let starts: Vec<usize> = code
                .match_indices("customers ")
                .map(|(at, _)| at)
                .filter(|at| {
                    *at == 0 || (is_block && code[..*at].ends_with([' ', '/', ';', '|', '(']))
                })
                .collect();
            for start in starts {
                let rest = code[start + "customers ".len()..].split(['|', ';', '>', '#', ')']);
                let words: Vec<&str> = rest.take(1).flat_map(str::split_whitespace).collect();
                let depth = match words.first() {
                    Some(&"account") if words.get(1) == Some(&"key") => 3,
                    Some(&("account" | "keys" | "log" | "projection" | "redis")) => 2,
                    Some(word) if word.chars().all(|c| c.is_ascii_lowercase()) => 1,
                    _ => continue,
                };
                let subcommand: Vec<&str> = words.iter().take(depth).copied().collect();
                let key = subcommand.join(" ");
                if !known.contains_key(&key) {
                    known.insert(key.clone(), help(&subcommand).await);
                }
                let Some(help) = &known[&key] else {
                    broken.push(format!("{}: customers {key}", page.display()));
                    continue;
                };
                checked += 1;
                // The words after `--` are another command.
                let options = words.iter().take_while(|word| **word != "--");
                let options = options.filter(|word| word.starts_with("--"));
                for option in options.map(|option| option.trim_end_matches([']', '.', ','])) {
                    if !help.contains(option.split('=').next().unwrap()) {
                        broken.push(format!("{}: customers {key} {option}", page.display()));
                    }
                }
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(checked > 20, "only {checked} commands were found");
}

#[test]
fn every_variable_and_kind_of_event_is_told_and_no_other() {
    let all: String = pages().into_iter().map(|(_, text)| text).collect();
    let names: Vec<String> = config::variables().into_iter().map(|known| known.name).collect();
    for name in &names {
        assert!(all.contains(&format!("`{name}`")), "{name} is in no page");
    }
    let mentioned =
        all.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    for name in mentioned.filter(|word| word.starts_with("CUSTOMERS_")) {
        let known = names.iter().any(|known| known == name.trim_end_matches("_FILE"));
        assert!(known || name == "CUSTOMERS_TEST_LONG", "there is no variable {name}");
    }
    let kinds = CustomerEvent::TYPES.iter().chain(AccountEvent::TYPES);
    for kind in kinds.chain(InstallationEvent::TYPES) {
        assert!(all.contains(kind), "{kind} is in no page");
    }
}

#[test]
fn the_readme_stays_short() {
    let bytes = std::fs::read(root().join("README.md")).unwrap().len();
    assert!(bytes <= README_MAX_BYTES, "README.md has {bytes} bytes");
}
