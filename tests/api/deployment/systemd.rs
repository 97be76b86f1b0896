//! The units of `deploy/systemd` name only variables, credentials and commands that exist. `script/interop` lets
//! systemd verify them and rate their hardening.

use super::compose::{command_problem, is_variable, read};

const UNITS: [&str; 2] = ["customers.service", "customers-migrate.service"];

/// The values of a setting of a unit.
fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(of, _)| *of == name).map(|(_, value)| value).collect()
}

#[test]
fn the_units_name_only_what_exists() {
    for name in UNITS {
        let unit = read(&format!("deploy/systemd/{name}"));
        let command =
            values(&unit, "ExecStart")[0].strip_prefix("/usr/local/bin/customers ").unwrap();
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        assert_eq!(command_problem(&words), None, "{name}");
        let credentials = values(&unit, "LoadCredential");
        let credentials: Vec<&str> =
            credentials.into_iter().filter_map(|value| value.split(':').next()).collect();
        let mut used = vec![];
        for assignment in values(&unit, "Environment") {
            let (variable, value) = assignment.split_once('=').unwrap();
            assert!(is_variable(variable), "{name}: there is no variable {variable}");
            used.extend(value.strip_prefix("%d/"));
        }
        assert_eq!(used, credentials, "{name}");
        let user = values(&unit, "User")[0];
        assert!(read("deploy/systemd/customers.sysusers.conf").contains(&format!("u {user} ")));
    }
}

#[test]
fn only_the_migration_knows_the_owner_of_the_tables() {
    let [serve, migrate] = UNITS.map(|name| read(&format!("deploy/systemd/{name}")));
    assert!(!serve.contains("OWNER") && migrate.contains("OWNER"));
}

#[test]
fn the_service_may_drain_before_it_is_killed() {
    let unit = read("deploy/systemd/customers.service");
    let mut variables = values(&unit, "Environment").into_iter();
    let delay = variables.find_map(|value| value.strip_prefix("CUSTOMERS_DRAIN_DELAY="));
    let delay = humantime::parse_duration(delay.unwrap()).unwrap().as_secs();
    let limit: u64 = values(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(delay + 11 < limit, "{delay} s, {limit} s");
    assert_eq!(values(&unit, "Type"), ["notify"], "tests/api/sd_notify.rs");
}
