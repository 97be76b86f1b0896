//! The values of service keys: the credentials with which a program gets tokens for an account.

use std::fmt;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::values::{Name, ValueError};
use crate::clock;

/// The id of a service key, which OAuth calls the client identifier (RFC 6749, section 2.2): a UUID, never used
/// again. It is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(Uuid);

/// The length of the one spelling of an id, in bytes.
const CLIENT_ID_BYTES: usize = 36;

impl ClientId {
    /// A new id; it sorts by the time at which it was made.
    #[must_use]
    pub fn new_random() -> Self {
        Self(clock::new_id())
    }

    /// Parses the hyphenated form.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let id = if text.len() == CLIENT_ID_BYTES { Uuid::try_parse(text).ok() } else { None };
        id.map(Self).ok_or(ValueError("must be the client_id of a service key"))
    }

    /// An id from the database.
    #[must_use]
    pub fn stored(id: Uuid) -> Self {
        Self(id)
    }

    #[must_use]
    pub fn get(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// What people call a service key: 1 to 64 Unicode scalar values, by the rule of a customer's [`Name`]. Keys may
/// share a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyName(String);

/// The longest name of a key, in Unicode scalar values.
pub const KEY_NAME_MAX_CHARS: usize = 64;

impl KeyName {
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let name = Name::parse(text)?;
        if name.as_str().chars().count() > KEY_NAME_MAX_CHARS {
            return Err(ValueError("must have at most 64 characters"));
        }
        Ok(Self(name.as_str().to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyName {
    /// Names the member, since serde does not.
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|error| format!("name {error}"))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The time from which on a service key is of no use, in microseconds; written as every other time (RFC 3339, UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyExpiry(DateTime<Utc>);

/// The longest life of a key, in days: two years. A key that is used for longer is replaced by a new one, so that a
/// copy that was forgotten somewhere does not open the service for ever.
pub const KEY_DAYS_MAX: i64 = 731;

impl KeyExpiry {
    /// Parses a time (RFC 3339) of a new key. Rejects one that is not in the future, and one after more than
    /// [`KEY_DAYS_MAX`] days.
    pub fn parse(text: &str, now: DateTime<Utc>) -> Result<Self, ValueError> {
        let time = DateTime::parse_from_rfc3339(text)
            .map_err(|_| ValueError("must be a time like 2027-01-31T12:00:00Z"))?;
        Self::new(time.to_utc(), now)
    }

    /// The same of a time.
    pub fn new(time: DateTime<Utc>, now: DateTime<Utc>) -> Result<Self, ValueError> {
        if time <= now {
            return Err(ValueError("must be in the future"));
        }
        if time > now + TimeDelta::days(KEY_DAYS_MAX) {
            return Err(ValueError("must be within 731 days"));
        }
        Ok(Self::stored(time))
    }

    /// A time from the database or the log.
    #[must_use]
    pub fn stored(time: DateTime<Utc>) -> Self {
        Self(time.trunc_subsecs(6))
    }

    #[must_use]
    pub fn time(self) -> DateTime<Utc> {
        self.0
    }
}

impl TryFrom<String> for KeyExpiry {
    /// Names the member, since serde does not.
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let time =
            DateTime::parse_from_rfc3339(&text).map_err(|error| format!("expires_at {error}"))?;
        Ok(Self::stored(time.to_utc()))
    }
}

impl From<KeyExpiry> for String {
    fn from(expiry: KeyExpiry) -> Self {
        clock::rfc3339(expiry.0)
    }
}
