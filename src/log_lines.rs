//! Log lines, written to standard error by a thread of their own. A line that cannot be written is lost and
//! counted, and nothing else happens: no task waits for a reader that has stopped reading, and none fails
//! when standard error is closed or its disk is full.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// How many lines may wait for a slow reader. At 200 bytes a line this is under 1 MiB.
const LINES_MAX: usize = 4096;

/// How long the end of the process waits for lines that are not written yet.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Takes one whole line at each write. Never fails and never waits.
#[derive(Clone)]
pub struct LogLines(SyncSender<Message>);

impl LogLines {
    /// The writer of this process; the first call starts its thread.
    #[must_use]
    pub fn of_process() -> Self {
        static LINES: OnceLock<LogLines> = OnceLock::new();
        LINES
            .get_or_init(|| {
                let (sender, lines) = sync_channel(LINES_MAX);
                // Without a thread all lines are lost.
                let _ = thread::Builder::new().name("log".to_owned()).spawn(move || print(&lines));
                Self(sender)
            })
            .clone()
    }

    /// Waits until the lines so far are written, for a moment at most.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.0.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_LIMIT);
        }
    }
}

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Message::Line(line.to_vec())).is_err() {
            count_lost();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn print(lines: &Receiver<Message>) {
    for message in lines {
        match message {
            Message::Line(line) => {
                if io::stderr().write_all(&line).is_err() {
                    count_lost();
                }
            }
            // The process may not wait any more.
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

fn count_lost() {
    metrics::counter!("customers_log_lines_lost_total").increment(1);
}
