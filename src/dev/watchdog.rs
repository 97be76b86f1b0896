//! Programs that end when this process ends, also by `kill -9`.
//!
//! Each program runs under a small shell, its watchdog, that holds the read end of a pipe from this
//! process. The kernel closes the write end when this process ends, for whatever reason, and at end of
//! file the shell stops its program. The program's output goes to a log file whose `flock` it inherits,
//! so the lock is free exactly when the program and all its children have ended.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::{
    error::StartError,
    folder::{Folder, open_private, try_lock},
    options::OLD_SERVER_LIMIT,
};

/// How often a condition is checked while waiting for it.
pub const POLL: Duration = Duration::from_millis(10);

/// How long before the deadline of a stop the watchdog is killed together with its program.
const FORCE: Duration = Duration::from_secs(1);

/// A log longer than this is emptied when it is opened. In bytes.
const LOG_LIMIT: u64 = 16 << 20;

/// How much of the end of a log an error quotes: in lines, and in characters of each line.
const QUOTED: (usize, usize) = (3, 300);

/// The watchdog. Arguments: input file, first signal, second signal, program, its arguments.
///
/// It ignores the signals that a whole session may receive, because it must outlive them to stop the
/// program; the programs install handlers of their own. A shell gives background programs no terminal
/// input, and `3<&-` closes the pipe for them. The guard closes the log, because its `sleep` would hold
/// the lock for up to a second. The signals are 5 s and 1 s apart: less than `STOP_LIMIT` in all.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
input=$1 first=$2 second=$3
shift 3
exec 3<&0
"$@" <"$input" 3<&- &
server=$!
(
  exec >/dev/null 2>&1
  read -r line <&3
  kill -s "$first" "$server"
  for pause in 1 1 1 1 1; do sleep "$pause"; done
  kill -s "$second" "$server"
  sleep 1
  kill -s KILL "$server"
) &
guard=$!
exec 3<&- </dev/null >/dev/null 2>&1
wait "$server"
status=$?
kill -s KILL "$guard"
wait "$guard"
exit "$status"
"#;

/// A program to run.
pub struct Program {
    /// The name in messages.
    pub name: &'static str,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    /// Its standard input.
    pub input: PathBuf,
    /// The signal that stops it gracefully and the one that follows after 5 s, by their POSIX names.
    pub signals: (&'static str, &'static str),
}

/// A log file whose lock this process holds: no process of an earlier run writes to it.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens a log after the servers of an earlier run have ended; `StillRunning` after
    /// `OLD_SERVER_LIMIT`.
    pub async fn open(
        folder: &Folder,
        server: &'static str,
        name: &str,
    ) -> Result<Self, StartError> {
        let path = folder.join(name);
        let deadline = Instant::now() + OLD_SERVER_LIMIT;
        let file = open_private(&path).map_err(StartError::at(&path))?;
        let mut logged = false;
        while !try_lock(&file).map_err(StartError::at(&path))? {
            if Instant::now() > deadline {
                let log = path.display().to_string();
                return Err(StartError::StillRunning { server, log });
            }
            if !logged {
                tracing::info!(server, "dev: waiting for the server of an earlier run to end");
                logged = true;
            }
            tokio::time::sleep(POLL).await;
        }
        if file.metadata().is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            file.set_len(0).map_err(StartError::at(&path))?;
        }
        folder.give(&file).map_err(StartError::at(&path))?;
        Ok(Self { path, file })
    }
}

/// A program under its watchdog. A drop stops the program without waiting.
pub struct WatchedProgram {
    name: &'static str,
    watchdog: Child,
    /// Nothing is written to it: when it is closed, the watchdog stops the program.
    pipe: Option<ChildStdin>,
    log: PathBuf,
    log_start: u64,
}

impl WatchedProgram {
    pub fn start(folder: &Folder, log: Log, program: &Program) -> Result<Self, StartError> {
        let cause = |cause| StartError::Spawn { program: program.name, cause };
        let log_start = log.file.metadata().map_err(cause)?.len();
        let mut command = folder.run_as.command(Path::new("/bin/sh"));
        command
            .args([
                OsStr::new("-c"),
                OsStr::new(SCRIPT),
                OsStr::new("watchdog"),
                program.input.as_os_str(),
            ])
            .args([program.signals.0, program.signals.1])
            .arg(&program.path)
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(log.file.try_clone().map_err(cause)?)
            .stderr(log.file)
            // Ctrl-C in a terminal must reach this process only.
            .process_group(0);
        let mut watchdog = command.spawn().map_err(cause)?;
        let pipe = watchdog.stdin.take();
        Ok(Self { name: program.name, watchdog, pipe, log: log.path, log_start })
    }

    /// The exit status of the program, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, StartError> {
        self.watchdog.try_wait().map_err(|cause| StartError::Spawn { program: self.name, cause })
    }

    /// Waits for a program that ends by itself: `Slow` after `limit`; `Failed`, with the end of its
    /// log, if its exit status is not 0.
    pub async fn finish(mut self, limit: Duration) -> Result<(), StartError> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.failed(status)),
                None => tokio::time::sleep(POLL).await,
            }
        }
        Err(self.slow(limit))
    }

    /// Stops the program, gracefully and then by force; returns at the deadline at the latest.
    pub async fn stop(mut self, deadline: Instant) {
        self.pipe = None;
        if self.ended_before(deadline - FORCE).await {
            return;
        }
        tracing::warn!(program = self.name, "dev: program did not stop in time, killing it");
        // The program is in the watchdog's process group; PostgreSQL's own children end after it has
        // ended.
        let group = i32::try_from(self.watchdog.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group
            && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
        {
            tracing::warn!(program = self.name, %error, "dev: kill failed");
        }
        self.ended_before(deadline).await;
    }

    async fn ended_before(&mut self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            // An error means that the child no longer exists.
            if !matches!(self.watchdog.try_wait(), Ok(None)) {
                return true;
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }

    pub fn failed(&self, status: ExitStatus) -> StartError {
        let log = self.log.display().to_string();
        StartError::Failed { program: self.name, status, reason: last_lines(&self.output()), log }
    }

    pub fn slow(&self, limit: Duration) -> StartError {
        StartError::Slow {
            program: self.name,
            seconds: limit.as_secs(),
            log: self.log.display().to_string(),
        }
    }

    /// The output of the program since its start.
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.log_start))?;
            file.take(LOG_LIMIT).read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("cannot read the log: {error}"),
        }
    }
}

/// The last lines of a log, joined into one.
fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(QUOTED.0)..];
    if last.is_empty() {
        return "no output".to_owned();
    }
    let shortened: Vec<String> =
        last.iter().map(|line| line.chars().take(QUOTED.1).collect()).collect();
    shortened.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_end_of_a_log_becomes_one_line() {
        assert_eq!(last_lines("a\nb\n\n  c \nd\n"), "b | c | d");
        assert_eq!(last_lines("\n"), "no output");
        assert_eq!(last_lines(&"x".repeat(1000)).len(), 300);
    }
}
