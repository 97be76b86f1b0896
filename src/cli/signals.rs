//! Signals that stop a command.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// The exit code of a process that a second signal has stopped.
const AT_ONCE: i32 = 1;

/// A token that Ctrl-C or SIGTERM cancels. A second one ends the process at once.
pub fn stop_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        cancelled.cancel();
        next().await;
        tracing::warn!("shutdown: a second signal, ended at once");
        telemetry::flush_logs();
        std::process::exit(AT_ONCE);
    });
    Ok(token)
}
