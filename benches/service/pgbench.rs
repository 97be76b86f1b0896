//! Plain inserts of one row, by pgbench: the baseline of every write.

use std::time::Duration;

use customers::{clock, demo};
use tokio::process::Command;

use super::log::METADATA;

/// A table with the same columns, types, constraints and bytes as the log, with positions from a sequence:
/// with gaps and not in commit order.
pub const TABLE: &str = "
    create table plain (like events including constraints including indexes);
    create sequence plain_positions;
    alter table plain alter position set default nextval('plain_positions');
";

/// Inserts per second.
pub async fn inserts(url: &str, clients: u32, time: Duration) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("insert.sql");
    let (name, dob) = demo::person(1);
    let payload = format!(r#"{{"type":"CustomerCreated","name":"{name}","dob":"{dob}"}}"#);
    let insert = format!(
        "\\set id random(1, 1000000000000000)\n\
         insert into plain (aggregate_type, aggregate_id, sequence, event_type, event_version, \
         payload, metadata, command_id, recorded_at) values ('customer', :id::text, 1, \
         'CustomerCreated', '1', '{payload}', '{METADATA}', '{}', clock_timestamp());\n",
        clock::new_id()
    );
    std::fs::write(&script, insert).unwrap();
    let ran = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={clients}"))
        .arg(format!("--time={}", time.as_secs()))
        .arg(format!("--file={}", script.display()))
        .arg(url)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.unwrap_or_else(|| panic!("{ran:?}"));
    rate.split(' ').next().unwrap().parse().unwrap()
}
