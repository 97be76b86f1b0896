//! Cursors: the point at which a list continues. Opaque and signed, so that clients cannot forge them.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::error::ApiError;

/// How many bytes of the signature are kept (RFC 2104, section 5, allows half of it).
const SIGNATURE: usize = 16;

/// The last customer of a page, in the sort order of all lists, and the moment that the list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    #[serde(rename = "d")]
    pub dob: NaiveDate,
    #[serde(rename = "i")]
    pub id: i64,
    /// The position that a list with `as_of` shows; absent in a list of the current state.
    #[serde(rename = "p", skip_serializing_if = "Option::is_none", default)]
    pub position: Option<i64>,
}

impl Cursor {
    /// The cursor as text: its JSON and the signature, in base64url.
    pub fn sign(&self, key: &hmac::Key) -> Result<String, ApiError> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|error| ApiError::Internal(format!("cursor: {error}")))?;
        let signature = hmac::sign(key, &bytes);
        bytes.extend_from_slice(&signature.as_ref()[..SIGNATURE]);
        Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Verifies the signature (in constant time) and reads the cursor; 400 when this service did not
    /// sign it.
    pub fn verify(key: &hmac::Key, text: &str) -> Result<Self, ApiError> {
        let invalid = || ApiError::malformed("after", "is not a cursor of this list");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let at = bytes.len().checked_sub(SIGNATURE).ok_or_else(invalid)?;
        let (body, signature) = bytes.split_at(at);
        let expected = hmac::sign(key, body);
        aws_lc_rs::constant_time::verify_slices_are_equal(
            &expected.as_ref()[..SIGNATURE],
            signature,
        )
        .map_err(|_| invalid())?;
        serde_json::from_slice(body).map_err(|_| invalid())
    }
}

/// The HMAC key for the secret of the installation.
#[must_use]
pub fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}
