//! What a command prints: JSON for programs, less with `-q`, more with `-v`.

use serde_json::{Value, json};

use super::{Shell, json_lines};
use crate::harness::empty_database;

/// The JSON that a command prints, which must succeed: one value per line.
async fn printed(shell: &Shell, arguments: &str) -> Vec<Value> {
    let ended = shell.run_with(arguments, "correct horse battery").await;
    assert_eq!(ended.code, 0, "{arguments}: {ended:?}");
    json_lines(&ended.stdout)
}

/// The members of an object, in the order of the alphabet.
fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_a_script_would_read_prints_json() {
    let shell = Shell::on(&empty_database().await);
    let planned = printed(&shell, "migrate --dry-run --json").await;
    let applied = printed(&shell, "migrate --json").await;
    assert_eq!(planned.len(), applied.len());
    assert_eq!((&planned[0]["version"], &planned[0]["applied"]), (&json!(1), &json!(false)));
    assert_eq!((&applied[0]["version"], &applied[0]["applied"]), (&json!(1), &json!(true)));
    assert_eq!(printed(&shell, "migrate --json").await, Vec::<Value>::new());

    assert_eq!(printed(&shell, "demo --customers 2 --json").await, [json!({"created": 2})]);
    let again = printed(&shell, "demo --customers 2 --if-empty --json").await;
    assert_eq!(again, [json!({"created": 0})]);

    for (arguments, role, disabled) in [
        ("account add ada --role editor --password-stdin --json", "editor", false),
        ("account passwd ada --password-stdin --json", "editor", false),
        ("account role ada viewer --json", "viewer", false),
        ("account disable ada --json", "viewer", true),
    ] {
        let account = printed(&shell, arguments).await;
        let listed = printed(&shell, "account list --json").await;
        assert_eq!(account, listed, "{arguments}");
        assert_eq!(
            (&account[0]["role"], &account[0]["disabled"]),
            (&json!(role), &json!(disabled))
        );
    }

    let key = printed(&shell, "keys new --json").await;
    let kid = key[0]["kid"].as_str().unwrap();
    let retired = printed(&shell, &format!("keys retire {kid} --json")).await;
    assert_eq!(retired[0]["kid"], kid);
    let keys = printed(&shell, "keys list --json").await;
    let listed = keys.iter().find(|key| key["kid"] == kid).unwrap();
    assert_eq!(listed["verifies_until"], retired[0]["verifies_until"]);

    let rebuilt = printed(&shell, "projection rebuild customers --json").await;
    let rebuilt = &rebuilt[0];
    assert_eq!(members(rebuilt), ["changed", "name", "position", "seconds"]);
    assert_eq!((&rebuilt["name"], &rebuilt["changed"]), (&json!("customers"), &json!(0)));
    let verified = printed(&shell, "projection verify customers --json").await;
    let head = &rebuilt["position"];
    let equal = json!({
        "name": "customers", "equal": true, "position": head, "head": head,
        "difference": null, "parked": [],
    });
    assert_eq!(verified, [equal]);
    let retried = printed(&shell, "projection retry customers --json").await;
    assert_eq!(retried, [json!({"repaired": 0, "parked": []})]);
    let rolled_back = printed(&shell, "projection rollback customers --json").await;
    assert_eq!(members(&rolled_back[0]), ["name", "position"]);
    let status = printed(&shell, "projection status --json").await;
    assert!(status.iter().any(|status| &status["checkpoint"] == head), "{status:?}");

    let log = printed(&shell, "log show --json").await;
    let restarted = printed(&shell, "log restart --json").await;
    assert_eq!((restarted.len(), &restarted[0]["log"]), (2, &log[0]["log"]));
    let emptied = printed(&shell, "redis empty --json").await;
    assert_eq!(members(&emptied[0]), ["deleted", "prefix"]);
    assert_eq!(printed(&shell, "history 1 --json").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_command_prints_results_and_errors_only() {
    let shell = Shell::on(&empty_database().await);
    for arguments in ["migrate -q", "--quiet migrate"] {
        let ended = shell.run(arguments).await;
        assert_eq!((ended.code, ended.stdout, ended.stderr), (0, String::new(), String::new()));
    }
    let ended = shell.run("-q demo --customers 1").await;
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("created 1 customers\n", ""));
    let ended = shell.run("history 999 -q").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert_eq!(ended.stderr, "customers: the log has no customer 999\n");
    assert_eq!(shell.run("history 1 -q -v").await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verbose_command_logs_more_than_is_configured() {
    let shell = Shell::on(&empty_database().await).with("CUSTOMERS_LOG", "error");
    let plain = shell.run("migrate").await;
    assert!(!plain.stderr.contains("DEBUG") && plain.code == 0, "{plain:?}");
    let verbose = shell.run("log show -vv").await;
    assert!(verbose.stderr.contains("DEBUG"), "{verbose:?}");
    assert_eq!(shell.run("log show").await.stdout, verbose.stdout);
}
