//! Long work on a thread of its own with a lower priority. On the threads that serve requests, work
//! that occupies a core for seconds would delay every request.

use std::thread;

use tokio::runtime;
use tokio::sync::oneshot;

/// Runs the work on a thread and a runtime of its own, to its end, even if the receiver is dropped.
/// A connection belongs to the runtime that it was made on, so the work makes its own.
pub(super) fn run<F, T>(work: impl FnOnce() -> F + Send + 'static) -> oneshot::Receiver<T>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    let (done, receiver) = oneshot::channel();
    let thread = move || {
        lower_priority();
        if let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() {
            let _ = done.send(runtime.block_on(work()));
        }
    };
    // Without a thread or a runtime the receiver sees that the sender is gone.
    let _ = thread::Builder::new().name("low-priority".to_owned()).spawn(thread);
    receiver
}

/// On Linux each thread has a nice value of its own. If it fails, the thread runs at normal priority.
#[cfg(target_os = "linux")]
fn lower_priority() {
    let _ = rustix::process::setpriority_process(None, 10);
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}
