//! External ids: the name that another system has for a customer.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

use super::characters::check_visible;
use super::values::ValueError;

/// The longest external id, in Unicode scalar values after normalisation.
pub const EXTERNAL_ID_MAX_CHARS: usize = 128;

/// An external id: 1 to 128 visible Unicode scalar values in NFC, without white space. Upper and lower case differ.
/// No two customers that are there have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ExternalId(String);

impl ExternalId {
    /// Normalises to NFC. Rejects an empty id, more than 128 scalar values, white space, control characters, and
    /// what [`check_visible`] rejects.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        const TOO_LONG: ValueError = ValueError("must have at most 128 characters");
        // As for names, the bound on bytes keeps normalisation cheap.
        if text.len() > EXTERNAL_ID_MAX_CHARS * 4 * 8 {
            return Err(TOO_LONG);
        }
        let id: String = text.nfc().collect();
        if id.is_empty() {
            return Err(ValueError("must not be empty"));
        }
        if id.chars().count() > EXTERNAL_ID_MAX_CHARS {
            return Err(TOO_LONG);
        }
        if id.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(ValueError("must not contain white space or control characters"));
        }
        check_visible(&id).map_err(ValueError)?;
        Ok(Self(id))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ExternalId {
    /// Names the member, since serde does not.
    type Error = String;

    /// From the log: as [`ExternalId::parse`].
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|error| format!("external_id {error}"))
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
