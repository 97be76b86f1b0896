//! What `customers serve` tells systemd, on a socket as systemd opens it.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use crate::harness::{PATIENCE, database, folder, unique_name, variables};
use crate::process::{Process, command};

/// The next message that is not one of the watchdog.
async fn message(socket: &UnixDatagram) -> String {
    loop {
        let message = next(socket).await;
        if message != "WATCHDOG=1" {
            return message;
        }
    }
}

async fn next(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let received = tokio::time::timeout(PATIENCE * 3, socket.recv(&mut bytes)).await;
    let length = received.expect("a message comes in time").unwrap();
    std::str::from_utf8(&bytes[..length]).unwrap().to_owned()
}

async fn serve(folder: &Path, socket: &str) -> Command {
    let mut serve = command(&["serve"], folder);
    serve.envs(variables(&database().await));
    serve.env("NOTIFY_SOCKET", socket).env("CUSTOMERS_DRAIN_DELAY", "500ms");
    serve
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_when_the_service_is_ready_and_when_it_begins_to_stop() {
    let (folder, place) = (folder("systemd"), tempfile::tempdir().unwrap());
    // A short path: the address of a socket has some 100 bytes.
    let path = place.path().join("notify");
    let abstract_name = unique_name("notify");
    let mut sockets = vec![(path.display().to_string(), UnixDatagram::bind(&path).unwrap())];
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixDatagram as Blocking};
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let socket = Blocking::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        sockets.push((format!("@{abstract_name}"), UnixDatagram::from_std(socket).unwrap()));
    }
    for (name, socket) in sockets {
        let process = Process::start(serve(&folder, &name).await).await;
        assert_eq!(message(&socket).await, "READY=1");
        process.signal(Signal::TERM);
        // 500 ms to drain, 5 s for requests, 7 s for the rest.
        assert_eq!(message(&socket).await, "STOPPING=1\nEXTEND_TIMEOUT_USEC=12500000");
        assert_eq!(process.ended().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_of_systemd_hears_from_the_process_it_watches_only() {
    let (folder, place) = (folder("systemd"), tempfile::tempdir().unwrap());
    // A short path: the address of a socket has some 100 bytes.
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut watched = serve(&folder, &path.display().to_string()).await;
    watched.env("WATCHDOG_USEC", "100000");
    let process = Process::start(watched).await;
    assert_eq!(next(&socket).await, "READY=1");
    for _ in 0..3 {
        assert_eq!(next(&socket).await, "WATCHDOG=1");
    }
    assert_eq!(process.end(Signal::TERM).await, Some(0));
    while next(&socket).await == "WATCHDOG=1" {}

    let mut other = serve(&folder, &path.display().to_string()).await;
    other.env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1");
    let process = Process::start(other).await;
    assert_eq!(next(&socket).await, "READY=1");
    assert_eq!(process.end(Signal::TERM).await, Some(0));
    assert!(next(&socket).await.starts_with("STOPPING=1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_service_manager_has_gone_serves_nevertheless() {
    let folder = folder("systemd");
    let nowhere = folder.join("nowhere").display().to_string();
    let process = Process::start(serve(&folder, &nowhere).await).await;
    let answer = process.request(reqwest::Method::GET, "/livez").timeout(Duration::from_secs(5));
    assert_eq!(answer.send().await.unwrap().status(), 200);
    assert_eq!(process.end(Signal::TERM).await, Some(0));
}
