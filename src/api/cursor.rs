//! Cursors: where a list goes on. Opaque and signed, so that what is in them is only ever ours.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::error::ApiError;

/// How many bytes of the signature are kept (RFC 2104, section 5, allows half of it).
const SIGNATURE: usize = 16;

/// The last customer of a page, in the order of every list, and the moment that the list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    #[serde(rename = "d")]
    pub dob: NaiveDate,
    #[serde(rename = "i")]
    pub id: i64,
    /// The position that a list of the past shows; absent in a list of now.
    #[serde(rename = "p", skip_serializing_if = "Option::is_none", default)]
    pub position: Option<i64>,
}

impl Cursor {
    /// The cursor as text: its JSON and the signature, in base64url.
    pub fn sign(&self, key: &hmac::Key) -> Result<String, ApiError> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|error| ApiError::Internal(format!("a cursor: {error}")))?;
        let signature = hmac::sign(key, &bytes);
        bytes.extend_from_slice(&signature.as_ref()[..SIGNATURE]);
        Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Verifies the signature (in constant time) and reads the cursor; 400 when this service did not
    /// sign it.
    pub fn verify(key: &hmac::Key, text: &str) -> Result<Self, ApiError> {
        let foreign = || ApiError::malformed("after", "is not a cursor of this list");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| foreign())?;
        let at = bytes.len().checked_sub(SIGNATURE).ok_or_else(foreign)?;
        let (body, signature) = bytes.split_at(at);
        let expected = hmac::sign(key, body);
        aws_lc_rs::constant_time::verify_slices_are_equal(
            &expected.as_ref()[..SIGNATURE],
            signature,
        )
        .map_err(|_| foreign())?;
        serde_json::from_slice(body).map_err(|_| foreign())
    }
}

/// The key of the installation's secret.
#[must_use]
pub fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}
