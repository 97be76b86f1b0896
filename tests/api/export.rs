//! `customers export` and other commands into pipes that close, fill up or do not block, and on a full disk.

use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use rustix::fs::{OFlags, fcntl_setfl};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::harness::{PATIENCE, database, folder, until, variables};
use crate::process::{BINARY, command};
use crate::transfer::{log, stdout};

const FORMATS: [&str; 3] = ["ndjson", "csv", "cloudevents"];

/// A log whose export is far larger than a pipe.
async fn large_log() -> String {
    let url = database().await;
    stdout(&url, &folder("export"), &["demo", "--customers", "3000"]).await;
    url
}

/// A command on this database, with its standard output there.
fn to(url: &str, arguments: &[&str], output: impl Into<Stdio>) -> Command {
    let mut command = command(arguments, &folder("export"));
    command.envs(variables(url)).stdout(output).stderr(Stdio::piped());
    command
}

async fn ended(mut command: Command) -> Output {
    // `output` would replace the standard output.
    let child = command.spawn().unwrap();
    // The command holds the other end of a pipe, too.
    drop(command);
    child.wait_with_output().await.unwrap()
}

/// The number of events in an export.
fn events(format: &str, text: &str) -> usize {
    match format {
        "ndjson" => text.lines().filter(|line| line.starts_with("{\"position\"")).count(),
        "csv" => csv::Reader::from_reader(text.as_bytes()).records().flatten().count(),
        _ => text.lines().filter(|line| line.starts_with("{\"specversion\"")).count(),
    }
}

async fn until_full(reader: &PipeReader) {
    let full = async || rustix::io::ioctl_fionread(reader).unwrap() >= 60 * 1024;
    until("the pipe is full", full).await;
}

/// Reads a pipe to its end, on a thread of its own.
fn read_all(mut reader: PipeReader) -> JoinHandle<String> {
    tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_is_full_for_a_moment_loses_nothing() {
    let url = large_log().await;
    for format in FORMATS {
        let (reader, writer) = std::io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let exporting = tokio::spawn(ended(to(&url, &["export", "--format", format], writer)));
        until_full(&reader).await;
        let reading = read_all(reader);
        let output = exporting.await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{format}: {output:?}");
        let text = reading.await.unwrap();
        assert_eq!(events(format, &text), 3000, "{format}");
        let summary = if format == "ndjson" {
            text.lines().last().unwrap().to_owned()
        } else {
            String::from_utf8(output.stderr).unwrap()
        };
        let summary: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["summary"]["events"], 3000, "{format}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_pipe_ends_an_export_at_once_and_without_a_word() {
    let url = large_log().await;
    let mut owner = PgConnection::connect(&url).await.unwrap();
    for format in FORMATS {
        let (reader, writer) = std::io::pipe().unwrap();
        let exporting = tokio::spawn(ended(to(&url, &["export", "--format", format], writer)));
        until_full(&reader).await;
        // The export cannot read the rest of the log.
        let mut locked = owner.begin().await.unwrap();
        locked.execute("lock table events in access exclusive mode").await.unwrap();
        // As `head -1` does; but it takes no whole page from the pipe, which would give the writer room.
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(256, reader);
        reader.read_line(&mut line).unwrap();
        drop(reader);
        let output = tokio::time::timeout(PATIENCE, exporting).await.expect(format).unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), told.as_str()), (Some(0), ""), "{format}");
        locked.rollback().await.unwrap();
    }
}

/// A folder with a file of lines that an import refuses, whose report is far larger than a pipe; then good lines.
fn refused_file(good: usize) -> PathBuf {
    let place = folder("export");
    let file = "name,dob\n".to_owned() + &"x,x\n".repeat(5000) + &"Ada,1990-12-10\n".repeat(good);
    std::fs::write(place.join("people.csv"), file).unwrap();
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_into_a_pipe_that_is_full_for_a_moment_tells_everything() {
    let (url, place) = (database().await, refused_file(1));
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut command = to(&url, &["import", "people.csv"], writer);
    command.current_dir(&place);
    let importing = tokio::spawn(ended(command));
    until_full(&reader).await;
    let reading = read_all(reader);
    let output = importing.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = reading.await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5001);
    assert_eq!(lines[5000]["summary"]["created"], 1, "{}", lines[5000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_on_standard_error_waits_for_room_too() {
    let url = large_log().await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(b"\n").is_ok() {}
    let path = folder("export").join("log");
    let file = File::create(&path).unwrap();
    let mut command = to(&url, &["export", "--format", "csv"], file);
    command.stderr(writer);
    let exporting = tokio::spawn(ended(command));
    until("the log is written", async || {
        events("csv", &std::fs::read_to_string(&path).unwrap()) == 3000
    })
    .await;
    let reading = read_all(reader);
    assert_eq!(exporting.await.unwrap().status.code(), Some(0));
    let text = reading.await.unwrap();
    let summary: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(summary["summary"]["events"], 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_closes_the_pipe_changes_no_verdict() {
    let url = database().await;
    for (good, options, code, told) in [
        (1, &["--strict"][..], 1, "nothing was imported: 5000 bad lines"),
        (0, &[], 1, "nothing was imported: all lines were refused"),
        (1, &[], 0, r#"{"summary":{"lines":5001,"created":1,"refused":5000,"#),
    ] {
        let place = refused_file(good);
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = to(&url, &[&["import", "people.csv"], options].concat(), writer);
        command.current_dir(&place);
        let importing = tokio::spawn(ended(command));
        until_full(&reader).await;
        drop(reader);
        let output = importing.await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{options:?}: {stderr}");
        assert!(stderr.contains(told), "{options:?}: {stderr}");
    }
    assert_eq!(log(&url).await.len(), 1);
    // The role of the tests owns the tables, which the doctor reports, and no service runs.
    for arguments in [&["doctor"][..], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = ended(to(&url, arguments, writer)).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = ended(to(&url, &["projection", "verify", "customers"], writer)).await;
    assert_eq!(output.status.code(), Some(1), "it lacks an event: {output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_on_a_full_disk_tells_what_it_created() {
    let (url, place) = (database().await, refused_file(2));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = to(&url, &["import", "people.csv"], full);
    command.current_dir(&place);
    let output = ended(command).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(r#""created":2,"#) && told.contains("No space left"), "{told}");
    assert_eq!(log(&url).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_needs_no_file_that_can_be_synced() {
    let url = large_log().await;
    // A file of /proc: it takes every write, and has no fsync. The shell opens that of its own process.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" export --format csv --to 9 >/proc/self/comm", BINARY]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(variables(&url)).current_dir(folder("export"));
    let output = command.output().await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains(r#"{"summary":{"events":9,"#), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_is_an_error_for_every_command() {
    let url = large_log().await;
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for format in FORMATS {
        // The smallest export, which fits into any buffer, and one of many writes.
        for to_position in ["0", "1", "3000"] {
            let arguments = ["export", "--format", format, "--to", to_position];
            if (format, to_position) == ("cloudevents", "0") {
                continue;
            }
            let output = ended(to(&url, &arguments, full())).await;
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
            let expected = "the export is not whole: 0 events were written: No space left";
            assert!(told.contains(expected), "{arguments:?}: {told}");
            assert!(!told.contains("summary"), "{told}");
        }
    }
    for arguments in
        [&["routes"][..], &["history", "1"], &["log", "show", "--json"], &["projection", "status"]]
    {
        let output = ended(to(&url, arguments, full())).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    }
    assert_eq!(log(&url).await.len(), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_into_a_file_is_whole() {
    let url = large_log().await;
    for format in FORMATS {
        let path = folder("export").join("log");
        let file = File::create(&path).unwrap();
        let output = ended(to(&url, &["export", "--format", format], file)).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let mut text = String::new();
        File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(events(format, &text), 3000, "{format}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_without_a_standard_output_or_its_summary_is_an_error() {
    let url = large_log().await;
    for format in FORMATS {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" export --format \"$1\" >&-", BINARY, format]);
        shell.env_clear().envs(variables(&url)).current_dir(folder("export"));
        let output = shell.output().await.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{format}: {told}");
        assert_eq!(told, "customers: standard output is closed\n", "{format}");
        // What is thrown away on purpose is no error.
        let output = ended(to(&url, &["export", "--format", format], Stdio::null())).await;
        assert_eq!(output.status.code(), Some(0), "{format}: {output:?}");
        // The summary of NDJSON stands on standard output.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut export = to(&url, &["export", "--format", format], Stdio::null());
        let code = export.stderr(full).status().await.unwrap().code();
        assert_eq!(code, Some(i32::from(format != "ndjson")), "{format}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_pipe_makes_no_failed_check_a_success() {
    // No projection has the events.
    let url = large_log().await;
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for arguments in
        [&["projection", "verify", "customers"][..], &["doctor"], &["doctor", "--json"]]
    {
        let mut checked = to(&url, arguments, closed());
        // The role of the tests owns the tables, which doctor reports.
        checked.env("CUSTOMERS_PUBLIC_URL", "http://customers.test");
        let output = ended(checked).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    }
    let output = ended(to(&url, &["routes"], closed())).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_argument_has_its_exit_code_and_lost_help_is_an_error() {
    let url = database().await;
    for (arguments, problem) in [
        (
            &["projection", "verify", "nope"][..],
            "there are: customers, customer_history, customer_search",
        ),
        (
            &["projection", "rebuild", "nope"],
            "there are: customers, customer_history, customer_search",
        ),
        (&["export", "--format", "csv", "--to", "99999999"], "--to is beyond the end of the log"),
        // It has no end.
        (&["import", "/dev/zero"], "--format is missing"),
    ] {
        let output = ended(to(&url, arguments, Stdio::null())).await;
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(problem), "{arguments:?}: {told}");
    }
    for arguments in [&["--help"][..], &["export", "--help"], &["--version"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = ended(to(&url, arguments, full)).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    }
}
