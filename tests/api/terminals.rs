//! What is printed for people: nothing that a client has written acts on a terminal, an error says each thing
//! once, and colours are left out where they are not wanted.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use customers::commands::{Bus, Origin};
use customers::events::customer::CustomerValues;
use customers::events::metadata::Metadata;
use customers::events::values::{DateOfBirth, Name, Role};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::{
    PATIENCE, Service, With as _, database, empty_database, folder, send, until, urls, variables,
};

/// A reason that clears a terminal, in three ways, turns the text around, begins new lines, and hides.
const ACTS: &str = "a\u{1b}[2Jb\u{9b}2Jc\u{90}d\u{85}e\u{202e}f\u{2066}g\u{2028}h\u{2029}i\u{feff}j\u{200b}\
                    k\u{7f}l\u{e0041}m\nn\ro\tp\u{fffe}q\u{8}r\u{7}s\u{200f}t\u{ad}u\u{115f}v\u{fff9}w";

/// Its form in JSON and for people.
const SHOWN: &str = "a\\u001b[2Jb\\u009b2Jc\\u0090d\\u0085e\\u202ef\\u2066g\\u2028h\\u2029i\\ufeffj\\u200bk\
                     \\u007fl\\udb40\\udc41m\\nn\\ro\\tp\\ufffeq\\u0008r\\u0007s\\u200ft\\u00adu\\u115fv\\ufff9w";

/// Whether a terminal, or what shows lines and directions, may do anything else with it than show it.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{200b}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

/// Fails if the text has a character that acts, line ends apart.
fn assert_harmless(text: &str) {
    let found: Vec<char> = text.chars().filter(|c| acts(*c) && *c != '\n').collect();
    assert!(found.is_empty(), "{found:?} in {text:?}");
}

/// A database whose customer 1 has all of these in its metadata, as an earlier version let them in.
async fn registry() -> String {
    let service = Service::start().await;
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    let text = || Some(ACTS.to_owned());
    let metadata =
        Metadata { actor: text(), user_agent: text(), reason: text(), ..Metadata::default() };
    let name = Name::parse("Ada \u{202e}adA").unwrap_or_else(|_| Name::parse("Ada").unwrap());
    let dob = DateOfBirth::parse("1990-12-10", service.hands.clock().today()).unwrap();
    bus.create(CustomerValues::new(name, dob), Origin::from(metadata)).await.unwrap();
    let url = service.database_url().to_owned();
    service.stop().await;
    url
}

fn command(database_url: &str, arguments: &[&str], place: &Path) -> Command {
    let mut command = crate::process::command(arguments, place);
    command.envs(variables(database_url));
    command
}

/// Runs a command; returns what it prints.
async fn printed(mut command: Command) -> (String, String) {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// Runs a command on a terminal of its own; returns all that it prints there.
async fn on_terminal(command: Command) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, vec![]).unwrap();
    let terminal =
        || std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = command;
    command.stdin(terminal()).stdout(terminal()).stderr(terminal());
    let mut child = command.spawn().unwrap();
    // The last writer must be the child, so that the reader sees its end.
    drop(command);
    let reading = tokio::task::spawn_blocking(move || {
        let (mut bytes, mut chunk) = (vec![], [0; 4096]);
        let mut master = std::fs::File::from(master);
        // The end of the last writer is an error (EIO) on Linux.
        while let Ok(length @ 1..) = master.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..length]);
        }
        bytes
    });
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    String::from_utf8(reading.await.unwrap()).unwrap().replace("\r\n", "\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_client_wrote_acts_on_an_auditors_terminal() {
    let url = registry().await;
    let place = folder("terminal");
    let (plain, _) = printed(command(&url, &["history", "1"], &place)).await;
    assert_harmless(&plain);
    assert_eq!(plain.lines().count(), 1, "{plain:?}");
    assert!(plain.contains(&format!("({SHOWN})")), "{plain}");
    let (json, _) = printed(command(&url, &["history", "1", "--json"], &place)).await;
    assert_harmless(&json);
    // The JSON says the same: only its spelling has changed.
    let change: Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!((&change["reason"], &change["actor"]), (&json!(ACTS), &json!(ACTS)));
    for format in ["ndjson", "csv", "cloudevents"] {
        let export = command(&url, &["export", "--format", format], &place);
        let shown = on_terminal(export).await;
        assert_harmless(&shown);
        assert!(shown.contains("\\u009b2J"), "{format}: {shown}");
    }
    // Another program gets the bytes of the log.
    let (raw, _) = printed(command(&url, &["export", "--format", "ndjson"], &place)).await;
    assert!(raw.contains("\u{9b}2J"), "{raw}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attributes_of_cloud_events_have_the_characters_that_they_may_have() {
    let service = Service::with(crate::harness::config_on(&registry().await)).await;
    let admin = service.log_in_as(Role::Admin).await;
    let request = service.get("/events?customer=1").login(&admin);
    let answer = send(request.header("accept", "application/cloudevents-batch+json")).await;
    for (name, value) in
        answer.body[0].as_object().unwrap().iter().filter(|(name, _)| *name != "data")
    {
        assert_harmless(value.as_str().unwrap());
        assert!(!value.as_str().unwrap().contains('\n'), "{name}");
    }
    assert_eq!(answer.body[0]["reason"], SHOWN);
    assert_eq!(answer.body[0]["actor"], SHOWN);
    // The feed has the log's own text.
    let feed = send(service.get("/events?customer=1").login(&admin)).await;
    assert_eq!(feed.body["events"][0]["metadata"]["reason"], ACTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_mistypes_is_repeated_harmlessly() {
    let url = database().await;
    let place = folder("terminal");
    let bad = "x\u{1b}[2J\u{9b}2J\u{202e}\u{2028}y\nz";
    // The second one has nothing but colours.
    for bad in [bad, "x\u{1b}[31my"] {
        for arguments in [
            &["import", bad][..],
            &["import", "--format", bad, "file"],
            &["import", &format!("--{bad}")],
            &["import", "--reason", bad, "/dev/null", "--format", "csv"],
            &["account", "add", bad, "--role", bad, "--password-stdin"],
            &["account", "role", "nobody", bad],
            &["projection", "rebuild", bad],
            &["history", bad],
            &["keys", "retire", bad],
            &[bad],
        ] {
            let (stdout, stderr) = printed(command(&url, arguments, &place)).await;
            assert_harmless(&stdout);
            assert_harmless(&stderr);
            assert!(!stderr.is_empty(), "{arguments:?}");
            let mut command = command(&url, arguments, &place);
            command.env("TERM", "xterm");
            assert_harmless(&on_terminal(command).await);
        }
    }
    // What was typed is shown, not swallowed.
    for arguments in [["keys", "retire", "x\u{1b}[31my"], ["projection", "verify", "x\u{1b}[31my"]]
    {
        let (_, stderr) = printed(command(&url, &arguments, &place)).await;
        assert!(stderr.contains("'x\\u001b[31my'"), "{stderr}");
    }
    for variable in ["CUSTOMERS_TRUSTED_PROXIES", "CUSTOMERS_CORS_ORIGINS", "DATABASE_URL_FILE"] {
        let mut routes = crate::process::command(&["routes"], &place);
        let (_, stderr) = printed({
            routes.env(variable, bad);
            routes
        })
        .await;
        assert_harmless(&stderr);
        assert_eq!(stderr.lines().count(), 1, "{variable}: {stderr}");
    }
}

/// A server that greets each client with a line of its own.
async fn greeting_server(greeting: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.write_all(greeting.as_bytes()).await;
        }
    });
    format!("redis://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_line_is_one_line_and_acts_on_nothing() {
    let url = database().await;
    let place = folder("terminal");
    let spool: PathBuf = place.join("spool\u{9b}2J\u{202e}\u{2028}x");
    std::fs::create_dir(&spool).unwrap();
    let redis = greeting_server(format!("-ERR {ACTS}\r\n")).await;
    let mut doctor = command(&url, &["doctor"], &place);
    doctor.env("REDIS_URL", &redis).env("CUSTOMERS_LOG", "off");
    doctor.env("CUSTOMERS_SPOOL_DIR", &spool).env("CUSTOMERS_SPOOL_LIMIT", "9999TiB");
    let (checks, _) = printed(doctor).await;
    assert_harmless(&checks);
    assert!(checks.contains("spool\\u009b2J") && checks.contains("\\u009b2Jc"), "{checks}");
    assert!(checks.lines().all(|line| line.starts_with("ok ") || line.starts_with("FAIL ")));
    // The service logs what `doctor` prints, and what Redis says.
    for format in ["pretty", "json"] {
        let mut serve = command(&url, &["serve"], &place);
        serve.env("REDIS_URL", &redis).env("CUSTOMERS_LOG_FORMAT", format);
        serve.env("CUSTOMERS_SPOOL_DIR", &spool).env("CUSTOMERS_SPOOL_LIMIT", "9999TiB");
        let file = place.join(format);
        serve.stderr(std::fs::File::create(&file).unwrap()).stdout(Stdio::null());
        let mut child = serve.spawn().unwrap();
        let log = || std::fs::read_to_string(&file).unwrap();
        until("it logs both", async || {
            let log = log();
            log.contains("spool") && log.contains("2Jb") && log.ends_with('\n')
        })
        .await;
        child.kill().await.unwrap();
        let log = log();
        assert_harmless(&log);
        for line in log.lines() {
            match format {
                "json" => assert!(serde_json::from_str::<Value>(line).is_ok(), "{line:?}"),
                _ => assert!(line.starts_with("20"), "{line:?}"),
            }
        }
    }
}

/// The parts of an error that stand twice in it.
fn repeated(text: &str) -> Vec<&str> {
    let parts: Vec<&str> = text.trim().split(": ").collect();
    let is_twice = |part: &&str| parts.iter().filter(|other| other == &part).count() > 1;
    parts.iter().copied().filter(is_twice).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_says_each_thing_once() {
    let place = folder("terminal");
    let with_user = |user: &str| {
        let (scheme, rest) = urls().database.split_once("://").unwrap();
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{user}@{host}")
    };
    for (url, said) in [
        ("postgres://u:p@127.0.0.1:1/x".to_owned(), "Connection refused"),
        ("postgres://u:p@nowhere.invalid/x".to_owned(), "lookup"),
        (with_user("stranger:wrong"), "stranger"),
    ] {
        for arguments in [
            &["account", "list"][..],
            &["migrate"],
            &["doctor"],
            &["log", "restart"],
            &["export", "--format", "csv"],
            &["projection", "status"],
            &["history", "1"],
            &["demo", "--customers", "1"],
        ] {
            let mut command = command(&url, arguments, &place);
            command.env("CUSTOMERS_LOG", "off");
            let (stdout, stderr) = printed(command).await;
            let told = stdout + &stderr;
            assert!(told.contains(said), "{arguments:?}: {told}");
            for line in told.lines() {
                assert_eq!(repeated(line), Vec::<&str>::new(), "{arguments:?}: {line}");
                let count = line.matches(said).count();
                assert!(count <= 1, "{arguments:?}: {line}");
            }
        }
    }
    let mut serve = command("postgres://u:p@127.0.0.1:1/x", &["serve"], &place);
    let log = place.join("log");
    serve.stderr(std::fs::File::create(&log).unwrap());
    let mut child = serve.spawn().unwrap();
    let told = || std::fs::read_to_string(&log).unwrap();
    until("it says what it waits for", async || told().ends_with('\n')).await;
    child.kill().await.unwrap();
    for line in told().lines() {
        assert!(line.matches("Connection refused").count() <= 1, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_and_bars_are_left_out_where_they_are_not_wanted() {
    let (url, unmigrated) = (database().await, empty_database().await);
    let place = folder("terminal");
    // The warning of a start that fails, an error of usage, and a progress bar.
    let https = ("CUSTOMERS_PUBLIC_URL", "https://customers.test");
    let commands: [(&str, &[&str]); 3] = [
        (&unmigrated, &["serve"]),
        (&url, &["import", "--wrong"]),
        (&url, &["demo", "--customers", "400"]),
    ];
    for (settings, has_colours, has_bar) in [
        (&[("TERM", "xterm-256color")][..], true, true),
        (&[("TERM", "xterm-256color"), ("NO_COLOR", "1")], false, true),
        (&[("TERM", "xterm-256color"), ("NO_COLOR", "")], true, true),
        (&[("TERM", "xterm-256color"), ("CLICOLOR", "0")], false, true),
        (&[("TERM", "xterm-256color"), ("CLICOLOR_FORCE", "0")], true, true),
        (&[("TERM", "xterm-256color"), ("CLICOLOR_FORCE", "0"), ("NO_COLOR", "1")], false, true),
        (&[("TERM", "dumb"), ("CLICOLOR_FORCE", "0")], false, false),
        (&[("TERM", "dumb")], false, false),
        (&[("TERM", "dumb"), ("CI", "true"), ("CLICOLOR", "1")], false, false),
        (&[], false, false),
    ] {
        for (number, (url, arguments)) in commands.iter().enumerate() {
            let mut command = command(url, arguments, &place);
            command.envs(settings.iter().copied()).env(https.0, https.1);
            let shown = on_terminal(command).await;
            let expected = if number == 2 { has_bar } else { has_colours };
            assert_eq!(shown.contains('\u{1b}'), expected, "{settings:?} {arguments:?}: {shown:?}");
            if !expected {
                assert_harmless(&shown);
            }
        }
    }
    // Elsewhere than on a terminal there are none unless they are asked for.
    for (force, expected) in [("", false), ("0", false), ("1", true)] {
        let mut serve = command(&unmigrated, &["serve"], &place);
        serve.env(https.0, https.1).env("TERM", "xterm").env("CLICOLOR_FORCE", force);
        let (_, log) = printed(serve).await;
        assert!(log.contains("WARN"), "{log:?}");
        assert_eq!(log.contains('\u{1b}'), expected, "{log:?}");
        let mut help = command(&url, &["--help"], &place);
        help.env("TERM", "xterm").env("CLICOLOR_FORCE", force);
        let (shown, _) = printed(help).await;
        assert_eq!(shown.contains('\u{1b}'), expected, "{shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_command_shows_no_progress_on_a_terminal() {
    let (url, place) = (database().await, folder("terminal"));
    for (arguments, has_bar) in [
        (&["demo", "--customers", "400"][..], true),
        (&["demo", "--customers", "400", "-q"], false),
    ] {
        let mut demo = command(&url, arguments, &place);
        demo.env("TERM", "xterm-256color");
        let shown = on_terminal(demo).await;
        assert!(shown.ends_with("created 400 customers\n"), "{shown:?}");
        assert_eq!(shown.contains('\u{1b}'), has_bar, "{shown:?}");
    }
}
