//! Standard output: lines, and a whole log in large writes, each of them checked.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::printable::printable;

/// How many bytes are written at a time: what a pipe holds on Linux.
const PIECE: usize = 64 * 1024;

/// Standard output, without a buffer that could swallow an error.
pub struct Output {
    file: File,
    pending: Vec<u8>,
    /// Where the events of `pending` end.
    ends: Vec<usize>,
    events: i64,
}

impl Output {
    pub fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { file, pending: vec![], ends: vec![], events: 0 })
    }

    /// How many events were written whole, also if a write has failed.
    pub fn events(&self) -> i64 {
        self.events
    }

    /// Adds an event and its line end.
    pub fn event(&mut self, line: &str) -> io::Result<()> {
        self.line(line);
        self.ends.push(self.pending.len());
        if self.pending.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    /// Adds a line that is no event, and its line end.
    pub fn line(&mut self, line: &str) {
        self.pending.extend_from_slice(line.as_bytes());
        self.pending.push(b'\n');
    }

    /// Writes all that was added.
    pub fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let ends = std::mem::take(&mut self.ends);
        let mut written = 0;
        let result = write(&self.file, &pending, &mut written);
        let whole = ends.partition_point(|end| *end <= written);
        self.events += i64::try_from(whole).unwrap_or(i64::MAX);
        result
    }

    /// Writes what is left. A disk may report only now that it is full.
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        if !self.file.metadata()?.is_file() {
            return Ok(());
        }
        match rustix::fs::fsync(&self.file) {
            // Not every file system can do it, and the writes have succeeded.
            Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A record of CSV (RFC 4180), without its line end.
pub fn csv_row(cells: &[impl AsRef<[u8]>]) -> anyhow::Result<String> {
    let mut writer = csv::WriterBuilder::new().buffer_capacity(512).from_writer(vec![]);
    writer.write_record(cells)?;
    // Flushes, which dropping the writer does without a word about an error.
    let mut line = String::from_utf8(writer.into_inner()?)?;
    line.pop();
    Ok(line)
}

/// Writes one printable line to a standard stream, past its buffer, which would keep an error to itself.
pub fn write_line(stream: impl AsFd, line: &str) -> io::Result<()> {
    let mut line = printable(line).into_owned();
    line.push('\n');
    write(&stream, line.as_bytes(), &mut 0)
}

/// Writes a text for another program, as it is.
pub fn write_text(stream: impl AsFd, text: &[u8]) -> io::Result<()> {
    write(&stream, text, &mut 0)
}

/// Writes all bytes; `written` counts them, also if a write fails.
fn write(file: &impl AsFd, bytes: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < bytes.len() {
        match rustix::io::write(file, &bytes[*written..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => *written += length,
            Err(Errno::INTR) => {}
            // A pipe or terminal that another program has set to non-blocking is full.
            Err(Errno::AGAIN) => wait(file)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until there is room, or the reader has closed its end.
fn wait(file: &impl AsFd) -> io::Result<()> {
    match poll(&mut [PollFd::new(file, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the reader has closed the pipe, for example `head`.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// The result of printing for a command whose exit code is a verdict: a reader that closes the pipe does not
/// change it.
pub fn unless_closed(printed: anyhow::Result<()>) -> anyhow::Result<()> {
    match printed {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        printed => printed,
    }
}
