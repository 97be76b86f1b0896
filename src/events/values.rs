//! The values of commands and events. Each is parsed once, at the edge; the code after that does not
//! check it again.

use std::fmt;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

use super::characters::{check_readable, check_visible};

/// A customer's id: 1 to 2^53 - 1, so that every JSON parser reads it exactly (RFC 8259, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CustomerId(i64);

/// The first integer that a JSON parser with 64-bit floats cannot distinguish from the next integer.
const ID_END: i64 = 1 << 53;

impl CustomerId {
    /// The largest.
    pub const MAX: Self = Self(ID_END - 1);

    /// `None` outside 1 to 2^53 - 1.
    #[must_use]
    pub fn new(id: i64) -> Option<Self> {
        (1..ID_END).contains(&id).then_some(Self(id))
    }

    /// Parses plain digits, without sign, space or leading zero.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        let id = if plain { text.parse().ok().and_then(Self::new) } else { None };
        id.ok_or(ValueError("must be an integer from 1 to 9007199254740991"))
    }

    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl std::str::FromStr for CustomerId {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::parse(text)
    }
}

impl fmt::Display for CustomerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A customer's name: 1 to 128 Unicode scalar values, trimmed, in NFC, without control characters. A new one
/// is visible, too; the log has older ones that are not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

/// The longest name, in Unicode scalar values after trimming and normalisation.
pub const NAME_MAX_CHARS: usize = 128;

impl Name {
    /// A new name. Trims white space and normalises to NFC. Rejects an empty name, more than 128 scalar values,
    /// control characters (Unicode category Cc, NUL included), and what [`check_visible`] rejects.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let name = Self::stored(text)?;
        // The error names the character that was given, where folding makes another one of it.
        let of_given = |of_folded| check_visible(text.trim()).err().unwrap_or(of_folded);
        check_visible(&name.0).map_err(|problem| ValueError(of_given(problem)))?;
        Ok(name)
    }

    /// A name from the log, by the rule of the first versions: as [`Name::parse`], but it may be invisible.
    pub fn stored(text: &str) -> Result<Self, ValueError> {
        // The limit applies after normalisation; the bound on bytes keeps normalisation cheap. NFC turns
        // a scalar value into at most three, and a scalar value takes at most four bytes.
        let text = text.trim();
        if text.len() > NAME_MAX_CHARS * 4 * 8 {
            return Err(ValueError("must have at most 128 characters"));
        }
        let name: String = text.nfc().collect();
        let name = name.trim();
        if name.is_empty() {
            return Err(ValueError("must not be empty"));
        }
        if name.chars().count() > NAME_MAX_CHARS {
            return Err(ValueError("must have at most 128 characters"));
        }
        if name.chars().any(char::is_control) {
            return Err(ValueError("must not contain control characters"));
        }
        Ok(Self(name.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    /// Names the member, since serde does not.
    type Error = String;

    /// As [`Name::stored`], without a copy in the common case: ASCII is always in NFC.
    fn try_from(text: String) -> Result<Self, String> {
        let plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let is_normal = (1..=NAME_MAX_CHARS).contains(&text.len())
            && text.bytes().all(plain)
            && text.trim().len() == text.len();
        if is_normal {
            return Ok(Self(text));
        }
        Self::stored(&text).map_err(|error| format!("name {error}"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A date of birth: an existing day from 1900-01-01 to the day on which it was parsed (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct DateOfBirth(NaiveDate);

const DOB_SHAPE: ValueError = ValueError("must be a real date written YYYY-MM-DD");
const DOB_FIRST: NaiveDate = NaiveDate::from_ymd_opt(1900, 1, 1).expect("a real day");

impl DateOfBirth {
    /// Parses `YYYY-MM-DD`. Rejects other formats, days that do not exist, days before 1900-01-01 and days
    /// after `today`.
    pub fn parse(text: &str, today: NaiveDate) -> Result<Self, ValueError> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 10
            && bytes.iter().enumerate().all(|(i, b)| match i {
                4 | 7 => *b == b'-',
                0..=3 | 5 | 6 | 8 | 9 => b.is_ascii_digit(),
                10.. => false,
            });
        if !shaped {
            return Err(DOB_SHAPE);
        }
        let date: NaiveDate = text.parse().map_err(|_| DOB_SHAPE)?;
        if date < DOB_FIRST {
            return Err(ValueError("must not be before 1900-01-01"));
        }
        if date > today {
            return Err(ValueError("must not be in the future"));
        }
        Ok(Self(date))
    }

    /// A date from the log or a read table, without a check: it was parsed before it was stored.
    #[must_use]
    pub fn stored(date: NaiveDate) -> Self {
        Self(date)
    }

    #[must_use]
    pub fn date(self) -> NaiveDate {
        self.0
    }
}

impl TryFrom<String> for DateOfBirth {
    /// Names the member, since serde does not.
    type Error = String;

    /// As [`DateOfBirth::parse`], without the upper bound: a stored date was checked against the day on which
    /// it was recorded.
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text, NaiveDate::MAX).map_err(|error| format!("dob {error}"))
    }
}

impl fmt::Display for DateOfBirth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An account's user name, folded: NFKC, lower case, trimmed; 1 to 64 scalar values without white
/// space, control characters or braces (a Redis hash tag is written in braces). A new one is visible, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Username(String);

/// The longest user name, in Unicode scalar values after folding.
pub const USERNAME_MAX_CHARS: usize = 64;

impl Username {
    /// The name of a new account: as [`Username::stored`], and rejects what [`check_visible`] rejects.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let name = Self::stored(text)?;
        // The error names the character that was given, where folding makes another one of it.
        let of_given = |of_folded| check_visible(text.trim()).err().unwrap_or(of_folded);
        check_visible(&name.0).map_err(|problem| ValueError(of_given(problem)))?;
        Ok(name)
    }

    /// The name of an account that there may be, which an earlier version may have added. Folds the name, so that
    /// `Ada`, `ada ` and `ＡＤＡ` are the same account. Rejects an empty name, more than 64 scalar values, white
    /// space, control characters and braces.
    pub fn stored(text: &str) -> Result<Self, ValueError> {
        if text.len() > USERNAME_MAX_CHARS * 16 {
            return Err(ValueError("must have at most 64 characters"));
        }
        // Lower case may undo the composition of NFKC, so normalise again.
        let folded: String = text.trim().nfkc().flat_map(char::to_lowercase).nfkc().collect();
        if folded.is_empty() {
            return Err(ValueError("must not be empty"));
        }
        if folded.chars().count() > USERNAME_MAX_CHARS {
            return Err(ValueError("must have at most 64 characters"));
        }
        let refused = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '{' | '}');
        if folded.chars().any(refused) {
            return Err(ValueError("must not contain spaces, control characters or braces"));
        }
        Ok(Self(folded))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Username {
    /// Names the member, since serde does not.
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::stored(&text).map_err(|error| format!("username {error}"))
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The rights of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads customers.
    Viewer,
    /// Reads and changes customers.
    Editor,
    /// Reads customers, and their events without addresses and agents: a program that keeps a copy.
    Subscriber,
    /// Reads customers, their histories and events; changes nothing.
    Auditor,
    /// All rights.
    Admin,
}

impl Role {
    pub const ALL: [Self; 5] =
        [Self::Viewer, Self::Editor, Self::Subscriber, Self::Auditor, Self::Admin];

    /// Parses the name of a role.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(ValueError("must be one of viewer, editor, subscriber, auditor, admin"))
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Subscriber => "subscriber",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    /// Whether this role includes the rights of `needed`.
    #[must_use]
    pub fn covers(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Editor => matches!(needed, Self::Editor | Self::Viewer),
            Self::Subscriber => matches!(needed, Self::Subscriber | Self::Viewer),
            Self::Auditor => matches!(needed, Self::Auditor | Self::Subscriber | Self::Viewer),
            Self::Viewer => matches!(needed, Self::Viewer),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The longest reason, in Unicode scalar values.
pub const REASON_MAX_CHARS: usize = 500;

/// Parses the caller's reason for a change, from a header, a body or the command line: trimmed, `None` if nothing
/// is left. Rejects more than 500 characters, control characters but the tab, what would end its line or
/// reorder others, and what [`check_readable`] rejects: an auditor reads it as one line, as it was written. The log
/// has older ones, which are shown by [`printable`](crate::printable::printable).
pub fn parse_reason(text: &str) -> Result<Option<String>, ValueError> {
    let text = text.trim();
    if text.chars().count() > REASON_MAX_CHARS {
        return Err(ValueError("must have at most 500 characters"));
    }
    for c in text.chars() {
        match c {
            '\t' => {}
            '\u{2028}' | '\u{2029}' => {
                return Err(ValueError("must not contain line or paragraph separators"));
            }
            // Embeddings, overrides and isolates; marks of direction stay.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                return Err(ValueError("must not contain characters that reorder others"));
            }
            c if c.is_control() => {
                return Err(ValueError("must not contain control characters"));
            }
            _ => {}
        }
    }
    check_readable(text).map_err(ValueError)?;
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// Why a text is rejected: a predicate for the name of the field, such as "must not be empty".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub &'static str);
