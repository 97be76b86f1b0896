//! Programs that end when we end, also by `kill -9`.
//!
//! Each runs below a small shell that holds the read end of a pipe from us: the kernel closes our
//! end whatever happens to us, and at end of file the shell stops its program. The program's output
//! goes to a log file whose `flock` it inherits, so the lock is free exactly when the program and
//! all its children are gone.

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

/// How often a condition is looked at while waiting for it.
pub const POLL: Duration = Duration::from_millis(10);

/// What is left of the time to stop when the watchdog itself is killed with its program.
const FORCE: Duration = Duration::from_secs(1);

/// A log longer than this is emptied when it is opened. In bytes.
const LOG_LIMIT: u64 = 16 << 20;

/// How much of the end of a log is quoted in an error. In lines, and in characters of each.
const QUOTED: (usize, usize) = (3, 300);

/// Arguments: input file, first signal, second signal, program, its arguments.
///
/// It ignores the signals a whole session may get, so that it is there when the program has to be
/// stopped; the programs install handlers of their own. A shell gives background programs no
/// terminal input, and `3<&-` keeps the pipe from them. The guard lets go of the log, or its
/// `sleep` would hold the lock for up to a second. The signals come 5 s and 1 s apart: less than
/// `STOP_LIMIT` in all.
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

/// What to run.
pub struct Program {
    /// For people.
    pub name: &'static str,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    /// Its standard input.
    pub input: PathBuf,
    /// The orderly signal and the one that follows after 5 s, by their POSIX names.
    pub signals: (&'static str, &'static str),
}

/// A log file whose lock we hold: nothing of an earlier run writes to it any more.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Waits up to `OLD_SERVER_LIMIT` for the servers of an earlier run.
    pub async fn open(
        folder: &Folder,
        server: &'static str,
        name: &str,
    ) -> Result<Self, StartError> {
        let path = folder.join(name);
        let deadline = Instant::now() + OLD_SERVER_LIMIT;
        let file = open_private(&path).map_err(StartError::at(&path))?;
        let mut told = false;
        while !try_lock(&file).map_err(StartError::at(&path))? {
            if Instant::now() > deadline {
                let log = path.display().to_string();
                return Err(StartError::StillRunning { server, log });
            }
            if !told {
                tracing::info!("waiting for {server} of an earlier run to end");
                told = true;
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

/// A program below its watchdog. Dropping it stops the program, without waiting.
pub struct Watched {
    name: &'static str,
    watchdog: Child,
    /// Nothing is ever written: its closing is the message.
    pipe: Option<ChildStdin>,
    log: PathBuf,
    log_start: u64,
}

impl Watched {
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
            // A terminal's Ctrl-C is for us alone.
            .process_group(0);
        let mut watchdog = command.spawn().map_err(cause)?;
        let pipe = watchdog.stdin.take();
        Ok(Self { name: program.name, watchdog, pipe, log: log.path, log_start })
    }

    /// How the program ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, StartError> {
        self.watchdog.try_wait().map_err(|cause| StartError::Spawn { program: self.name, cause })
    }

    /// Waits for a program that ends by itself.
    ///
    /// # Errors
    /// `Slow` after `limit`; `Failed` with the end of its log if it does not end well.
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

    /// Stops the program: orderly, then by force; returns at the deadline at the latest.
    pub async fn stop(mut self, deadline: Instant) {
        self.pipe = None;
        if self.gone_before(deadline - FORCE).await {
            return;
        }
        tracing::warn!("{} did not stop in time and is killed", self.name);
        // The program is in the watchdog's process group; Postgres's own children leave when it is
        // gone.
        let group = i32::try_from(self.watchdog.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group
            && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
        {
            tracing::warn!("cannot kill {}: {error}", self.name);
        }
        self.gone_before(deadline).await;
    }

    async fn gone_before(&mut self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            // An error means there is no such child any more.
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

    /// What the program has written since it was started.
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.log_start))?;
            file.take(LOG_LIMIT).read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("its log cannot be read: {error}"),
        }
    }
}

/// The end of a log as one line.
fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(QUOTED.0)..];
    if last.is_empty() {
        return "it wrote nothing".to_owned();
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
        assert_eq!(last_lines("\n"), "it wrote nothing");
        assert_eq!(last_lines(&"x".repeat(1000)).len(), 300);
    }
}
