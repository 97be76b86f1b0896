//! What the service tells systemd (`sd_notify(3)`): datagrams to the socket of `NOTIFY_SOCKET`. Without the variable
//! nothing is sent, and a message that cannot be sent is lost: the service needs no service manager.

use std::ffi::OsStr;
use std::future::pending;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The service answers requests.
pub const READY: &str = "READY=1";

/// Tells the service manager that the process begins to stop, once `stop` is cancelled, and how long that may take;
/// until then, if it wants to hear it (`WATCHDOG_USEC`), that the process is alive.
pub async fn follow(stop: CancellationToken, stops_within: Duration) {
    let alive = async {
        let Some(every) = watchdog() else { return pending::<()>().await };
        loop {
            notify("WATCHDOG=1");
            tokio::time::sleep(every).await;
        }
    };
    stop.run_until_cancelled(alive).await;
    notify(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", stops_within.as_micros()));
}

/// How often the service manager wants to hear from this process: twice as often as it looks.
fn watchdog() -> Option<Duration> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is_ours = set("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let micros: u64 = set("WATCHDOG_USEC")?.parse().ok()?;
    (is_ours && micros > 0).then(|| Duration::from_micros(micros) / 2)
}

/// Sends a message, if there is a service manager.
pub fn notify(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    let sent = address(&socket)
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, ?socket, "service manager: not told");
    }
}

/// The address of a path, or with `@` in front of an abstract name (`unix(7)`).
fn address(socket: &OsStr) -> std::io::Result<SocketAddr> {
    match socket.as_bytes().strip_prefix(b"@") {
        None => SocketAddr::from_pathname(socket),
        #[cfg(target_os = "linux")]
        Some(name) => SocketAddr::from_abstract_name(name),
        #[cfg(not(target_os = "linux"))]
        Some(_) => Err(std::io::ErrorKind::Unsupported.into()),
    }
}
