//! Long work aside from what answers requests: on a thread of its own, which gives way to theirs. On
//! those, work that takes a processor for seconds makes each request wait for its turn.

use std::thread;

use tokio::runtime;
use tokio::sync::oneshot;

/// Does the work on a thread and a runtime of its own; it goes on when nobody waits for it any more.
/// Connections are of the runtime that they were made on, so it makes its own.
pub(super) fn run<F, T>(work: impl FnOnce() -> F + Send + 'static) -> oneshot::Receiver<T>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    let (done, receiver) = oneshot::channel();
    let thread = move || {
        give_way();
        if let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() {
            let _ = done.send(runtime.block_on(work()));
        }
    };
    // Without a thread or a runtime nothing is done, which the end of `done` says.
    let _ = thread::Builder::new().name("aside".to_owned()).spawn(thread);
    receiver
}

/// On Linux each thread has a nice value of its own. That it cannot be set is no reason not to work.
#[cfg(target_os = "linux")]
fn give_way() {
    let _ = rustix::process::setpriority_process(None, 10);
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}
