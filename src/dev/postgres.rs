//! The private Postgres: started on a free port of 127.0.0.1, with no socket file.

use std::{ffi::OsString, fs, net::Ipv4Addr, path::Path, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use super::{
    cluster::{Cluster, NAME, words},
    error::StartError,
    folder::{Folder, remove_if_there},
    options::{OLD_SERVER_LIMIT, Options, READY_LIMIT},
    redis::{ADDRESS_TAKEN, PORT_ATTEMPTS, free_port},
    running::Running,
    watchdog::{POLL, Watched},
};

/// How long one connection attempt may take on the loopback interface.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How long to wait before asking again a server that refused to start.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// Connections of a server for a test run, where every test has pools of its own; the default is
/// 100.
const QUICK_CONNECTIONS: u32 = 400;

/// Why a server ended instead of getting ready.
#[derive(Debug, PartialEq, Eq)]
enum Obstacle {
    PortTaken,
    /// An earlier server or one of its sessions still has the data.
    DataTaken,
    Other,
}

/// Starts Postgres on the data of the folder, again if another program was quicker to take the port
/// or an earlier server has not left yet.
pub async fn start(
    folder: &Folder,
    secret: &[u8],
    options: &Options,
) -> Result<Running, StartError> {
    let cluster = Cluster::open(folder, secret, options.quick).await?;
    let patience = Instant::now() + OLD_SERVER_LIMIT;
    let mut ports = 0;
    loop {
        let log = cluster.log().await?;
        remove_stale_lock(&cluster)?;
        let port = free_port().map_err(|cause| StartError::Spawn { program: NAME, cause })?;
        let before = lock_file(&cluster);
        // SIGINT does not wait for clients, SIGQUIT not even for the data files: the next start
        // replays the log.
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
        match obstacle(&process.output()) {
            Obstacle::PortTaken if ports < PORT_ATTEMPTS => ports += 1,
            Obstacle::DataTaken if Instant::now() < patience => {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Obstacle::PortTaken | Obstacle::DataTaken | Obstacle::Other => return Err(failure),
        }
    }
}

fn arguments(cluster: &Cluster<'_>, port: u16, settings: &[String]) -> Vec<OsString> {
    // Ours come last, so that they hold. The log stays ours, since the lock of the watchdog is on it.
    let given = settings.iter().flat_map(|setting| ["-c".into(), setting.into()]);
    let mut arguments: Vec<OsString> = given.collect();
    arguments.extend(words(
        "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=on \
         -c logging_collector=off -c log_destination=stderr -c log_timezone=UTC",
    ));
    arguments.extend(words(&format!("-c port={port}")));
    if cluster.quick {
        arguments.extend(words(&format!("-c max_connections={QUICK_CONNECTIONS}")));
    }
    arguments.extend(["-D".into(), cluster.data.clone().into()]);
    arguments
}

/// Waits for the first connection; gives the failure if the server ended instead.
async fn ready(
    cluster: &Cluster<'_>,
    process: &mut Watched,
    before: Option<&str>,
    port: u16,
) -> Result<Option<StartError>, StartError> {
    let deadline = Instant::now() + READY_LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = process.ended()? {
            return Ok(Some(process.failed(status)));
        }
        // The lock file tells our server from another program's that was quicker to take the port.
        let text = lock_file(cluster).filter(|text| Some(text.as_str()) != before);
        if text.is_some_and(|text| says_ready(&text, port)) && connects(port).await {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
    Err(process.slow(READY_LIMIT))
}

fn lock_file(cluster: &Cluster<'_>) -> Option<String> {
    fs::read_to_string(cluster.data.join("postmaster.pid")).ok()
}

/// Removes the lock file of a dead server whose number another program has now, as after a restart
/// of a container: Postgres would refuse to start for as long as that program runs.
///
/// Sure on two grounds: we have the lock of the log, and the process of that number is no Postgres.
fn remove_stale_lock(cluster: &Cluster<'_>) -> Result<(), StartError> {
    let Some(text) = lock_file(cluster) else {
        return Ok(());
    };
    let pid = text.lines().next().unwrap_or_default().trim();
    // Only Linux tells; elsewhere nothing is removed.
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    if !another_program_has_the_number(program.as_deref()) {
        return Ok(());
    }
    tracing::warn!("removing the lock file of a dead PostgreSQL: process {pid} is another program");
    let path = cluster.data.join("postmaster.pid");
    remove_if_there(&path).map_err(StartError::at(&path))
}

async fn connects(port: u16) -> bool {
    let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    matches!(tokio::time::timeout(CONNECT_LIMIT, connect).await, Ok(Ok(_)))
}

/// Whether a `postmaster.pid` is of a server that accepts connections on this port: lines 4 and 8.
fn says_ready(lock_file: &str, port: u16) -> bool {
    let mut lines = lock_file.lines().map(str::trim);
    lines.nth(3) == Some(port.to_string().as_str()) && lines.nth(3) == Some("ready")
}

fn another_program_has_the_number(program: Option<&str>) -> bool {
    program.is_some_and(|name| !matches!(name.trim(), "postgres" | "postmaster" | ""))
}

fn obstacle(output: &str) -> Obstacle {
    if ADDRESS_TAKEN.iter().any(|text| output.contains(text)) {
        Obstacle::PortTaken
    } else if output.contains("\"postmaster.pid\" already exists")
        || output.contains("is still in use")
    {
        Obstacle::DataTaken
    } else {
        Obstacle::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_its_lock_file_says_so_for_our_port() {
        let file =
            |status| format!("42\n/data\n1764000000\n5433\n\n127.0.0.1\n  123 4\n{status}\n");
        assert!(says_ready(&file("ready   "), 5433));
        assert!(!says_ready(&file("starting"), 5433));
        assert!(!says_ready(&file("ready   "), 5434));
        assert!(!says_ready("42\n/data\n1764000000\n5433\n", 5433));
        assert!(!says_ready("", 5433));
    }

    #[test]
    fn obstacles_that_pass_are_told_from_the_others() {
        let port = "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use";
        let lock = "FATAL:  lock file \"postmaster.pid\" already exists";
        let memory = "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use";
        assert_eq!(obstacle(port), Obstacle::PortTaken);
        assert_eq!(obstacle(lock), Obstacle::DataTaken);
        assert_eq!(obstacle(memory), Obstacle::DataTaken);
        assert_eq!(obstacle("FATAL:  could not open file"), Obstacle::Other);
    }

    #[test]
    fn only_a_living_other_program_makes_a_lock_file_stale() {
        assert!(another_program_has_the_number(Some("redis-server\n")));
        assert!(!another_program_has_the_number(Some("postgres\n")));
        assert!(!another_program_has_the_number(None));
    }
}
