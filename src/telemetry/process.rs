//! The metrics that client libraries of Prometheus give every process (Prometheus, "Writing client libraries",
//! section "Process metrics"), read from the kernel at each scrape. Those that the system does not tell are left out.

use std::fmt::Write as _;
use std::fs;
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::clock::Clock;

/// The metrics of a process: name, kind, help.
pub const OF_PROCESS: [(&str, &str, &str); 6] = [
    ("process_cpu_seconds_total", "counter", "CPU time that the process has used, in seconds"),
    ("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970"),
    ("process_resident_memory_bytes", "gauge", "Resident memory, in bytes"),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory, in bytes"),
    ("process_open_fds", "gauge", "Open file descriptors"),
    ("process_max_fds", "gauge", "File descriptors that the process may open"),
];

/// When the process has registered its metrics, which it does when it starts.
static BEGAN: OnceLock<f64> = OnceLock::new();

/// Notes the start of the process.
pub(super) fn begin() {
    BEGAN.get_or_init(|| seconds_since_1970(&Clock::system()));
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 stay below 2^53")]
fn seconds_since_1970(clock: &Clock) -> f64 {
    clock.now().timestamp_micros() as f64 / 1e6
}

/// Appends the metrics of the process, in the text format of Prometheus.
pub(super) fn render(text: &mut String) {
    for (name, kind, help) in OF_PROCESS {
        if let Some(value) = measure(name) {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n");
        }
    }
}

fn measure(name: &str) -> Option<f64> {
    match name {
        "process_cpu_seconds_total" => {
            let used = clock_gettime(ClockId::ProcessCPUTime);
            Some(
                as_f64(u64::try_from(used.tv_sec).ok()?)
                    + as_f64(u64::try_from(used.tv_nsec).ok()?) / 1e9,
            )
        }
        "process_start_time_seconds" => BEGAN.get().copied(),
        "process_resident_memory_bytes" => of_status("VmRSS:"),
        "process_virtual_memory_bytes" => of_status("VmSize:"),
        // Without the one that reads the folder.
        "process_open_fds" => {
            Some(as_f64(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64))
        }
        "process_max_fds" => getrlimit(Resource::Nofile).current.map(as_f64),
        _ => None,
    }
}

/// A size of `/proc/self/status`, in bytes.
fn of_status(name: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let size = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = size.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(as_f64(kib * 1024))
}

#[expect(clippy::cast_precision_loss, reason = "sizes and counts stay below 2^53")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
