//! Standard output for a whole log: large writes, each of them checked.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

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
        let result = self.write(&pending, &mut written);
        let whole = ends.partition_point(|end| *end <= written);
        self.events += i64::try_from(whole).unwrap_or(i64::MAX);
        result
    }

    fn write(&mut self, bytes: &[u8], written: &mut usize) -> io::Result<()> {
        while *written < bytes.len() {
            match self.file.write(&bytes[*written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => *written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A pipe or terminal that another program has set to non-blocking is full.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until there is room, or the reader has closed its end.
    fn wait(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what is left. A disk may report only now that it is full.
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        if self.file.metadata()?.is_file() { self.file.sync_all() } else { Ok(()) }
    }
}
