//! `script/interop`: a suite that breaks off is a failure, whatever it has printed before.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::nginx::program;

/// Runs suites of shell commands as the script does; returns what it prints.
fn totals(python: &Path, suites: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/script/interop");
    let program = "import importlib.machinery, importlib.util, sys
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader('interop', sys.argv[1])
interop = importlib.util.module_from_spec(importlib.util.spec_from_loader('interop', loader))
loader.exec_module(interop)
print(interop.run_suites([['sh', '-c', suite] for suite in sys.argv[2:]], limit=1))";
    let mut python = Command::new(python);
    python.args(["-c", program, script]).args(suites).stderr(Stdio::inherit());
    let output = python.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned()
}

#[test]
fn a_suite_that_breaks_off_is_a_failure() {
    let Some(python) = program("python3") else { return };
    for (suites, expected) in [
        (&["echo 'ok a'; echo 'ok b'; echo ended"][..], "(2, 0)"),
        (&["echo 'ok a'; echo 'FAILED b'; echo ended; exit 1"], "(1, 1)"),
        // An exception outside of a check: Python and Node.js end with 1.
        (&["echo 'ok a'; exit 1"], "(1, 1)"),
        (&["echo 'ok a'; echo 'FAILED b'; exit 1"], "(1, 2)"),
        (&["echo 'ok a'"], "(1, 1)"),
        (&["echo 'ok a'; echo ended; exit 1"], "(1, 1)"),
        (&["echo 'ok a'; echo 'FAILED b'; echo ended"], "(1, 2)"),
        (&["echo ended"], "(0, 1)"),
        (&["kill -9 $$"], "(0, 1)"),
        // The next suite runs nevertheless.
        (&["echo 'ok a'; exec sleep 60", "echo 'ok b'; echo ended"], "(2, 1)"),
    ] {
        assert_eq!(totals(&python, suites), expected, "{suites:?}");
    }
}
