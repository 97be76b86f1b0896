//! Text files that other programs have written: UTF-8 with or without a byte order mark, UTF-16 with one,
//! and lines that end with LF, CRLF or CR.

use std::io::{self, BufRead, Read};

/// How many bytes of the file are read at a time.
const PIECE: usize = 64 * 1024;

/// Stands for what is not text in UTF-16. No UTF-8 contains this byte.
const NOT_TEXT: u8 = 0xFF;

/// A file, read as UTF-8 whose lines end with LF. What is not text in the file's encoding is passed on as
/// bytes that are no UTF-8, so that [`Encoding::check`] finds it in its line.
pub struct TextFile<R> {
    file: R,
    encoding: Encoding,
    /// Bytes of the file that are not converted: of an unfinished UTF-16 character, at most three.
    raw: Vec<u8>,
    /// Converted bytes, taken up to `at`.
    text: Vec<u8>,
    at: usize,
    bytes_read: u64,
    after_cr: bool,
    is_at_end: bool,
}

/// The encodings that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

/// What a file is that is not read, by its first bytes.
const OTHER_FILES: [(&[u8], &str); 6] = [
    (b"\xff\xfe\0\0", "is UTF-32: only UTF-8 and UTF-16 are read"),
    (b"\0\0\xfe\xff", "is UTF-32: only UTF-8 and UTF-16 are read"),
    (b"PK\x03\x04", "is an archive or a workbook (.zip, .xlsx, .ods): save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "is an old workbook (.xls): save it as CSV"),
    (b"\x1f\x8b", "is compressed (gzip): unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd): unpack it first"),
];

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A predicate for the file, such as "is UTF-32".
    #[error("{0}")]
    NotText(&'static str),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// A line that has more bytes than it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl<R: Read> TextFile<R> {
    /// Reads the byte order mark, if there is one.
    pub fn open(file: R) -> Result<Self, OpenError> {
        let mut opened = Self {
            file,
            encoding: Encoding::Utf8,
            raw: vec![],
            text: vec![],
            at: 0,
            bytes_read: 0,
            after_cr: false,
            is_at_end: false,
        };
        while opened.raw.len() < 4 && opened.read_piece()? > 0 {}
        let other = OTHER_FILES.iter().find(|(start, _)| opened.raw.starts_with(start));
        if let Some((_, what)) = other {
            return Err(OpenError::NotText(what));
        }
        let marks: [(&[u8], Encoding); 3] = [
            (b"\xef\xbb\xbf", Encoding::Utf8),
            (b"\xff\xfe", Encoding::Utf16Le),
            (b"\xfe\xff", Encoding::Utf16Be),
        ];
        if let Some((mark, encoding)) = marks.iter().find(|(mark, _)| opened.raw.starts_with(mark))
        {
            opened.encoding = *encoding;
            opened.raw.drain(..mark.len());
        }
        Ok(opened)
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The next line, of at most `max` bytes without its end; `None` at the end of the file. A longer line is
    /// skipped, and takes no more memory.
    pub fn next_line(&mut self, max: usize) -> io::Result<Option<Result<Vec<u8>, TooLong>>> {
        let mut line = vec![];
        // One byte more than allowed, and the line feed.
        if self.by_ref().take(max as u64 + 2).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let is_ended = line.pop_if(|byte| *byte == b'\n').is_some();
        if line.len() <= max {
            return Ok(Some(Ok(line)));
        }
        if !is_ended {
            self.skip_until(b'\n')?;
        }
        Ok(Some(Err(TooLong)))
    }

    /// How many bytes of the file were read, those that wait here included.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Reads the next bytes into `raw`; returns their number.
    fn read_piece(&mut self) -> io::Result<usize> {
        let taken = (&mut self.file).take(PIECE as u64).read_to_end(&mut self.raw)?;
        self.is_at_end = taken == 0;
        self.bytes_read += taken as u64;
        Ok(taken)
    }

    /// Converts what is in `raw` into `text`.
    fn convert(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        match self.encoding {
            Encoding::Utf8 => self.push(&raw),
            Encoding::Utf16Le => self.convert_utf16(&raw, u16::from_le_bytes),
            Encoding::Utf16Be => self.convert_utf16(&raw, u16::from_be_bytes),
        }
    }

    fn convert_utf16(&mut self, raw: &[u8], unit: fn([u8; 2]) -> u16) {
        let (pairs, odd) = raw.as_chunks::<2>();
        let mut units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
        let mut rest = odd.to_vec();
        // The other half of the character comes with the next piece.
        let is_half = |unit: &u16| (0xD800..0xDC00).contains(unit);
        if !self.is_at_end && units.last().is_some_and(is_half) {
            units.pop();
            rest = raw[raw.len() - 2 - odd.len()..].to_vec();
        }
        let mut text = Vec::with_capacity(units.len() * 2);
        for decoded in char::decode_utf16(units) {
            match decoded {
                Ok(char) => text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
                Err(_) => text.push(NOT_TEXT),
            }
        }
        if self.is_at_end && !rest.is_empty() {
            text.push(NOT_TEXT);
            rest.clear();
        }
        self.push(&text);
        self.raw = rest;
    }

    /// Appends to `text`, with LF for each CR and each CRLF.
    fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            self.after_cr = false;
        }
        while let Some(at) = rest.iter().position(|byte| *byte == b'\r') {
            self.text.extend_from_slice(&rest[..at]);
            self.text.push(b'\n');
            rest = &rest[at + 1..];
            self.after_cr = rest.is_empty();
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        self.text.extend_from_slice(rest);
    }
}

impl<R: Read> BufRead for TextFile<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.text.len() && !(self.is_at_end && self.raw.is_empty()) {
            self.text.clear();
            self.at = 0;
            // The first piece was read with the byte order mark.
            if self.raw.len() < 4 {
                self.read_piece()?;
            }
            self.convert();
        }
        Ok(&self.text[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl<R: Read> Read for TextFile<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let text = self.fill_buf()?;
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl Encoding {
    /// The bytes as text; the error is a predicate for what they are, such as "is not UTF-8".
    pub fn check(self, bytes: &[u8]) -> Result<&str, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| match self {
            Self::Utf8 => {
                format!("is not UTF-8 (byte 0x{:02X})", bytes[error.valid_up_to()])
            }
            Self::Utf16Le | Self::Utf16Be => {
                "is not UTF-16: half a character stands alone".to_owned()
            }
        })?;
        match self {
            Self::Utf8 if text.contains('\0') => {
                Err("contains NUL: UTF-16 is read only with a byte order mark".to_owned())
            }
            Self::Utf8 | Self::Utf16Le | Self::Utf16Be => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, the worst that a pipe may do.
    struct Dripping<'a>(&'a [u8]);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(buffer.len()).min(1);
            self.0.read(&mut buffer[..length])
        }
    }

    fn read(file: &[u8]) -> Vec<u8> {
        let mut text = vec![];
        TextFile::open(Dripping(file)).unwrap().read_to_end(&mut text).unwrap();
        let mut whole = vec![];
        TextFile::open(file).unwrap().read_to_end(&mut whole).unwrap();
        assert_eq!(text, whole);
        text
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(bytes).collect()
    }

    #[test]
    fn each_encoding_and_each_line_end_is_the_same_text() {
        let expected = "name\nKöln 😀\n\nŁódź".as_bytes();
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("name{end}Köln 😀{end}{end}Łódź");
            assert_eq!(read(text.as_bytes()), expected);
            assert_eq!(read(format!("\u{feff}{text}").as_bytes()), expected);
            assert_eq!(read(&utf16(&text, u16::to_le_bytes)), expected);
            assert_eq!(read(&utf16(&text, u16::to_be_bytes)), expected);
        }
        // Longer than a piece, so that characters and line ends are cut by it.
        let (long, expected) = ("a😀\r\n".repeat(50_000), "a😀\n".repeat(50_000));
        for before in ["", "x", "xx", "xxx"] {
            let (long, expected) = (format!("{before}{long}"), before.to_owned() + &expected);
            assert_eq!(read(long.as_bytes()), expected.as_bytes());
            assert_eq!(read(&utf16(&long, u16::to_le_bytes)), expected.as_bytes());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let file = "abc\nabcd\nabcde\nabcdefghij\n\nab";
        let mut file = TextFile::open(file.as_bytes()).expect("it is text");
        let mut lines = vec![];
        while let Some(line) = file.next_line(3).expect("memory can be read") {
            lines.push(line.map(|line| String::from_utf8(line).expect("it is text")));
        }
        let text = |text: &str| Ok(text.to_owned());
        let expected =
            [text("abc"), Err(TooLong), Err(TooLong), Err(TooLong), text(""), text("ab")];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_not_text_is_found_in_its_line() {
        let broken = [utf16("a\nb", u16::to_le_bytes), vec![0x00, 0xD8]].concat();
        let odd = [utf16("a\nb", u16::to_le_bytes), vec![b'c']].concat();
        for file in [broken, odd] {
            let text = read(&file);
            let lines: Vec<_> = text
                .split(|byte| *byte == b'\n')
                .map(|line| Encoding::Utf16Le.check(line))
                .collect();
            assert_eq!(lines[0], Ok("a"));
            assert!(lines[1].as_ref().unwrap_err().contains("UTF-16"), "{lines:?}");
        }
        let latin1 = Encoding::Utf8.check(b"K\xf6ln").unwrap_err();
        assert_eq!(latin1, "is not UTF-8 (byte 0xF6)");
        assert!(Encoding::Utf8.check(b"n\0a\0").unwrap_err().contains("byte order mark"));
        for other in OTHER_FILES {
            assert!(matches!(TextFile::open(other.0), Err(OpenError::NotText(_))));
        }
    }
}
