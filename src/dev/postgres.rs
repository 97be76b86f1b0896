//! The private PostgreSQL: started on a free port of 127.0.0.1, without a Unix socket.

use std::{ffi::OsString, fs, net::Ipv4Addr, path::Path, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use super::{
    cluster::{Cluster, NAME, words},
    error::StartError,
    folder::{Folder, remove_if_there},
    options::{OLD_SERVER_LIMIT, Options, READY_LIMIT},
    redis::{ADDRESS_TAKEN, PORT_ATTEMPTS, free_port},
    running::Running,
    watchdog::{POLL, WatchedProgram},
};

/// How long one connection attempt may take on the loopback interface.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The pause before the next start, after a server found its data in use.
const DATA_IN_USE_PAUSE: Duration = Duration::from_millis(200);

/// `max_connections` of a throw-away server, because every test has pools of its own; the default is
/// 100.
const QUICK_CONNECTIONS: u32 = 400;

/// Why a server ended before it was ready.
#[derive(Debug, PartialEq, Eq)]
enum StartFailure {
    PortInUse,
    /// An earlier server or one of its sessions still uses the data.
    DataInUse,
    Other,
}

/// Starts PostgreSQL on the data of the folder; retries if another program takes the port first, or
/// while an earlier server still uses the data.
pub async fn start(
    folder: &Folder,
    secret: &[u8],
    options: &Options,
) -> Result<Running, StartError> {
    let cluster = Cluster::open(folder, secret, options.throw_away).await?;
    let deadline = Instant::now() + OLD_SERVER_LIMIT;
    let mut retries = 0;
    loop {
        let log = cluster.log().await?;
        remove_stale_lock(&cluster)?;
        let port = free_port().map_err(|cause| StartError::Spawn { program: NAME, cause })?;
        let before = lock_file(&cluster);
        // SIGINT (fast shutdown) does not wait for clients. SIGQUIT (immediate shutdown) does not write
        // the data files either: the next start runs crash recovery.
        let signals = ("INT", "QUIT");
        let mut process = cluster.run(
            log,
            "postgres",
            arguments(&cluster, port, &options.settings),
            Path::new("/dev/null"),
            signals,
        )?;
        let Some(failure) = ready(&cluster, &mut process, before.as_deref(), port).await? else {
            let password = &cluster.password;
            let url = format!("postgres://customers:{password}@127.0.0.1:{port}/customers");
            return Ok(Running { url, process });
        };
        match start_failure(&process.output()) {
            StartFailure::PortInUse if retries < PORT_ATTEMPTS => retries += 1,
            StartFailure::DataInUse if Instant::now() < deadline => {
                tokio::time::sleep(DATA_IN_USE_PAUSE).await;
            }
            StartFailure::PortInUse | StartFailure::DataInUse | StartFailure::Other => {
                return Err(failure);
            }
        }
    }
}

fn arguments(cluster: &Cluster<'_>, port: u16, settings: &[String]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = words("-c unix_socket_directories=");
    arguments.extend(settings.iter().flat_map(|setting| ["-c".into(), setting.into()]));
    // These come last, so that they override the given ones. The server logs to standard error, since
    // that is the file with the lock of the watchdog.
    arguments.extend(words(
        "-c listen_addresses=127.0.0.1 -c fsync=on \
         -c logging_collector=off -c log_destination=stderr -c log_timezone=UTC",
    ));
    arguments.extend(words(&format!("-c port={port}")));
    if cluster.throw_away {
        arguments.extend(words(&format!("-c max_connections={QUICK_CONNECTIONS}")));
    }
    arguments.extend(["-D".into(), cluster.data.clone().into()]);
    arguments
}

/// Waits for the first connection; returns the failure if the server ends instead.
async fn ready(
    cluster: &Cluster<'_>,
    process: &mut WatchedProgram,
    before: Option<&str>,
    port: u16,
) -> Result<Option<StartError>, StartError> {
    let deadline = Instant::now() + READY_LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = process.ended()? {
            return Ok(Some(process.failed(status)));
        }
        // The lock file distinguishes this server from another program that took the port first.
        let text = lock_file(cluster).filter(|text| Some(text.as_str()) != before);
        if text.is_some_and(|text| is_ready(&text, port)) && connects(port).await {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
    Err(process.slow(READY_LIMIT))
}

fn lock_file(cluster: &Cluster<'_>) -> Option<String> {
    fs::read_to_string(cluster.data.join("postmaster.pid")).ok()
}

/// Removes the lock file of a dead server whose process id another program has now, as after a restart
/// of a container: PostgreSQL would refuse to start while that program runs. This is safe because the
/// caller holds the lock of the log, and the process with that id is not PostgreSQL.
fn remove_stale_lock(cluster: &Cluster<'_>) -> Result<(), StartError> {
    let Some(text) = lock_file(cluster) else {
        return Ok(());
    };
    let pid = text.lines().next().unwrap_or_default().trim();
    // Only Linux has this file; elsewhere nothing is removed.
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    if !is_another_program(program.as_deref()) {
        return Ok(());
    }
    tracing::warn!(pid, "dev: stale PostgreSQL lock file (process id reused), removing it");
    let path = cluster.data.join("postmaster.pid");
    remove_if_there(&path).map_err(StartError::at(&path))
}

async fn connects(port: u16) -> bool {
    let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    matches!(tokio::time::timeout(CONNECT_LIMIT, connect).await, Ok(Ok(_)))
}

/// Whether a `postmaster.pid` reports a server that accepts connections on this port (lines 4 and 8).
fn is_ready(lock_file: &str, port: u16) -> bool {
    let mut lines = lock_file.lines().map(str::trim);
    lines.nth(3) == Some(port.to_string().as_str()) && lines.nth(3) == Some("ready")
}

fn is_another_program(program: Option<&str>) -> bool {
    program.is_some_and(|name| !matches!(name.trim(), "postgres" | "postmaster" | ""))
}

fn start_failure(output: &str) -> StartFailure {
    if ADDRESS_TAKEN.iter().any(|text| output.contains(text)) {
        StartFailure::PortInUse
    } else if output.contains("\"postmaster.pid\" already exists")
        || output.contains("is still in use")
    {
        StartFailure::DataInUse
    } else {
        StartFailure::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_its_lock_file_says_so_for_our_port() {
        let file =
            |status| format!("42\n/data\n1764000000\n5433\n\n127.0.0.1\n  123 4\n{status}\n");
        assert!(is_ready(&file("ready   "), 5433));
        assert!(!is_ready(&file("starting"), 5433));
        assert!(!is_ready(&file("ready   "), 5434));
        assert!(!is_ready("42\n/data\n1764000000\n5433\n", 5433));
        assert!(!is_ready("", 5433));
    }

    #[test]
    fn obstacles_that_pass_are_told_from_the_others() {
        let port = "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use";
        let lock = "FATAL:  lock file \"postmaster.pid\" already exists";
        let memory = "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use";
        assert_eq!(start_failure(port), StartFailure::PortInUse);
        assert_eq!(start_failure(lock), StartFailure::DataInUse);
        assert_eq!(start_failure(memory), StartFailure::DataInUse);
        assert_eq!(start_failure("FATAL:  could not open file"), StartFailure::Other);
    }

    #[test]
    fn only_a_living_other_program_makes_a_lock_file_stale() {
        assert!(is_another_program(Some("redis-server\n")));
        assert!(!is_another_program(Some("postgres\n")));
        assert!(!is_another_program(None));
    }
}
