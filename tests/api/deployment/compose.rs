//! Checks a compose file against the repository and the built program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_yaml_ng::Value;

/// The variables that may also be given as `NAME_FILE`.
const SECRETS: [&str; 4] =
    ["DATABASE_URL", "CUSTOMERS_OWNER_DATABASE_URL", "DATABASE_READ_URL", "REDIS_URL"];

/// The variables that only the compose files read: ports and subnet of the host.
const OF_THE_HOST: [&str; 3] = ["HTTP_PORT", "HTTPS_PORT", "FRONT_SUBNET"];

/// What Compose 1.29 understands at the top level, apart from `x-` entries. It refuses `name` and ignores
/// `configs`.
const TOP_LEVEL: [&str; 4] = ["services", "networks", "volumes", "secrets"];

/// The variables and subcommands of the built program, from its `--help`, and the stages of the
/// Dockerfile.
pub static KNOWN: LazyLock<Known> = LazyLock::new(|| Known {
    variables: listed_under("Environment:", &help(&[])),
    subcommands: listed_under("Commands:", &help(&[]))
        .into_iter()
        .filter(|name| name != "help")
        .map(|name| (name.clone(), help(&[&name])))
        .collect(),
    stages: read("Dockerfile")
        .lines()
        .filter_map(|line| line.strip_prefix("FROM ")?.split_once(" AS "))
        .map(|(_, stage)| stage.trim().to_owned())
        .collect(),
});

pub struct Known {
    pub variables: BTreeSet<String>,
    /// The help text by name.
    subcommands: BTreeMap<String, String>,
    stages: BTreeSet<String>,
}

/// The mistakes of a compose file, one line each.
pub fn problems(text: &str) -> Vec<String> {
    let file = match parse(text) {
        Ok(file) => file,
        Err(error) => return vec![format!("not YAML: {error}")],
    };
    let mut found = Vec::new();
    for (name, service) in services(&file) {
        let complaints = dependency_problems(&file, service)
            .into_iter()
            .chain(resource_problems(&file, service))
            .chain(program_problems(service));
        found.extend(complaints.map(|complaint| format!("{name}: {complaint}")));
    }
    found.extend(declaration_problems(&file));
    let unknown = entries(&file)
        .into_iter()
        .filter(|key| !key.starts_with("x-") && !TOP_LEVEL.contains(&key.as_str()));
    found.extend(unknown.map(|key| format!("Compose 1.29 does not understand `{key}`")));
    let interpolated = text.replace("$$", "");
    for rest in interpolated.split("${").skip(1) {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if !is_variable(&rest[..end]) && !OF_THE_HOST.contains(&&rest[..end]) {
            found.push(format!("no variable `{}`", &rest[..end]));
        }
    }
    found
}

/// Missing health checks, and conditions of `depends_on` that can never hold.
fn dependency_problems(file: &Value, service: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let runs_once = |service: &Value| service["restart"] == "no";
    if service["healthcheck"]["test"].is_null() && !runs_once(service) {
        found.push("has no health check".to_owned());
    }
    for name in entries(&service["depends_on"]) {
        let target = &file["services"][name.as_str()];
        if target.is_null() {
            found.push(format!("no service `{name}`"));
            continue;
        }
        match service["depends_on"][name.as_str()]["condition"].as_str() {
            Some("service_healthy") if target["healthcheck"]["test"].is_null() => {
                found.push(format!("{name} has no health check to wait for"));
            }
            Some("service_completed_successfully") if !runs_once(target) => {
                found.push(format!("{name} is restarted and never completes"));
            }
            Some("service_healthy" | "service_completed_successfully") => {}
            other => found.push(format!("no condition `{}`", other.unwrap_or_default())),
        }
    }
    found
}

/// Volumes, secrets and networks that a service uses and that do not exist.
fn resource_problems(file: &Value, service: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if !service["configs"].is_null() {
        found.push("Compose 1.29 ignores its `configs`".to_owned());
    }
    for mount in entries(&service["volumes"]) {
        if mount.starts_with(['.', '/']) && !mount.ends_with(":ro") {
            found.push(format!("may write to {mount}"));
        }
    }
    for kind in ["volumes", "secrets", "networks"] {
        for name in used(service, kind) {
            if name.starts_with(['.', '/']) {
                found.extend(file_problem(&name));
            } else if !entries(&file[kind]).contains(&name) {
                found.push(format!("no {kind} entry `{name}`"));
            }
        }
    }
    let given = entries(&service["secrets"]);
    let values = service["environment"].as_mapping().into_iter().flat_map(|pairs| pairs.values());
    for path in values.filter_map(Value::as_str) {
        if let Some(secret) = path.strip_prefix("/run/secrets/")
            && !given.iter().any(|name| name == secret)
        {
            found.push(format!("is not given {secret}"));
        }
    }
    found
}

/// Declarations at the top level that no service uses, or whose file does not exist.
fn declaration_problems(file: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for kind in ["volumes", "secrets", "networks"] {
        for name in entries(&file[kind]) {
            if !services(file).any(|(_, service)| used(service, kind).contains(&name)) {
                found.push(format!("`{name}` is declared in {kind} and not used"));
            }
            let path = file[kind][name.as_str()]["file"].as_str();
            found.extend(path.and_then(file_problem));
        }
    }
    found
}

/// Mistakes in the build, the environment, the command and the health check of the project's image.
fn program_problems(service: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if service["build"].is_null() {
        return found;
    }
    let stage = service["build"]["target"].as_str().unwrap_or_default();
    if !KNOWN.stages.contains(stage) {
        found.push(format!("no stage `{stage}`"));
    }
    let variables = entries(&service["environment"]).into_iter();
    found.extend(
        variables.filter(|name| !is_variable(name)).map(|name| format!("no variable `{name}`")),
    );
    let health = entries(&service["healthcheck"]["test"]);
    for command in [&entries(&service["command"])[..], health.get(2..).unwrap_or_default()] {
        found.extend(command_problem(command));
    }
    found
}

pub fn command_problem(words: &[String]) -> Option<String> {
    let (subcommand, arguments) = words.split_first()?;
    let Some(help) = KNOWN.subcommands.get(subcommand) else {
        return Some(format!("no subcommand `{subcommand}`"));
    };
    let options: Vec<_> = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    let unknown = arguments.iter().find(|word| {
        word.starts_with("--") && !options.contains(&word.split('=').next().unwrap_or_default())
    });
    unknown.map(|option| format!("no option `{option}` of {subcommand}"))
}

pub fn is_variable(name: &str) -> bool {
    KNOWN.variables.contains(name)
        || name.strip_suffix("_FILE").is_some_and(|secret| SECRETS.contains(&secret))
}

/// A path that is neither in the repository nor a secret that deploy/make-secrets writes or asks for.
fn file_problem(path: &str) -> Option<String> {
    let supplied = |name| read("deploy/make-secrets").split_whitespace().any(|word| word == name);
    let there = match path.strip_prefix("./secrets/") {
        Some(name) => supplied(name) || supplied(&format!("{name};")),
        None => root().join(path).exists(),
    };
    (!there).then(|| format!("no file {path}"))
}

pub fn parse(text: &str) -> Result<Value, serde_yaml_ng::Error> {
    let mut file: Value = serde_yaml_ng::from_str(text)?;
    file.apply_merge()?;
    Ok(file)
}

pub fn services(file: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let pairs = file["services"].as_mapping().into_iter().flatten();
    pairs.filter_map(|(name, service)| Some((name.as_str()?, service)))
}

/// The names in a list, in the `source` of a list's members, or before the colons of a mapping.
pub fn entries(value: &Value) -> Vec<String> {
    let names: Vec<&Value> = match value {
        Value::Mapping(pairs) => pairs.keys().collect(),
        Value::Sequence(items) => items
            .iter()
            .map(|item| if item.is_mapping() { &item["source"] } else { item })
            .collect(),
        _ => Vec::new(),
    };
    names.into_iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The names of one kind that a service uses; for `volume:/path`, the volume.
fn used(service: &Value, kind: &str) -> Vec<String> {
    let source = |entry: String| entry.split(':').next().unwrap_or_default().to_owned();
    entries(&service[kind]).into_iter().map(source).collect()
}

fn help(subcommand: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_customers"))
        .args(subcommand)
        .arg("--help")
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{subcommand:?} --help failed");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The first words of the lines after a heading; continuation lines are indented deeper.
fn listed_under(heading: &str, help: &str) -> BTreeSet<String> {
    let lines = help.lines().skip_while(|line| line.trim_end() != heading).skip(1);
    let lines: Vec<_> = lines.take_while(|line| line.is_empty() || line.starts_with(' ')).collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let first = lines.first().map_or(0, |line| depth(line));
    let entries = lines.iter().filter(|line| depth(line) == first);
    let names: BTreeSet<_> =
        entries.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(!names.is_empty(), "--help lists nothing under {heading}");
    names
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
