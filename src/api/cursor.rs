//! Cursors: the point at which a list continues. Opaque and signed, so that clients cannot forge them.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::NaiveDate;
use serde::de::DeserializeOwned;
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
    /// See [`sign`].
    pub fn sign(&self, key: &hmac::Key) -> Result<String, ApiError> {
        sign(self, key)
    }

    /// See [`verify`].
    pub fn verify(key: &hmac::Key, text: &str) -> Result<Self, ApiError> {
        verify(key, text)
    }
}

/// A cursor as text: its JSON and the signature, in base64url.
pub(super) fn sign(cursor: &impl Serialize, key: &hmac::Key) -> Result<String, ApiError> {
    let mut bytes = serde_json::to_vec(cursor)
        .map_err(|error| ApiError::Internal(format!("cursor: {error}")))?;
    let signature = hmac::sign(key, &bytes);
    bytes.extend_from_slice(&signature.as_ref()[..SIGNATURE]);
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Verifies the signature (in constant time) and reads the cursor; 400 when this service did not sign it, or for
/// a list of another kind.
pub(super) fn verify<C: DeserializeOwned>(key: &hmac::Key, text: &str) -> Result<C, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| of_another_list())?;
    let at = bytes.len().checked_sub(SIGNATURE).ok_or_else(of_another_list)?;
    let (body, signature) = bytes.split_at(at);
    let expected = hmac::sign(key, body);
    aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..SIGNATURE], signature)
        .map_err(|_| of_another_list())?;
    serde_json::from_slice(body).map_err(|_| of_another_list())
}

/// 400: the cursor is no use here.
pub(super) fn of_another_list() -> ApiError {
    ApiError::malformed("after", "is not a cursor of this list")
}

/// The HMAC key for the secret of the installation.
#[must_use]
pub fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Many cases in a second or two, many more with `script/test --long`.
    fn cases() -> ProptestConfig {
        let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
        let cases = if is_long { 200_000 } else { 2_000 };
        ProptestConfig { cases, failure_persistence: None, ..Default::default() }
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        let dob = (0..200_000_u64).prop_map(|days| {
            let first = NaiveDate::from_ymd_opt(1900, 1, 1).expect("a date");
            first + chrono::Days::new(days)
        });
        (dob, any::<i64>(), any::<Option<i64>>()).prop_map(|(dob, id, position)| Cursor {
            dob,
            id,
            position,
        })
    }

    /// A character that a cursor may have, or any other.
    fn character() -> impl Strategy<Value = char> {
        prop_oneof![
            prop::char::ranges(vec!['0'..='9', 'A'..='Z', 'a'..='z', '-'..='_'].into()),
            any::<char>()
        ]
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn a_cursor_is_read_as_it_was_signed_and_with_no_other_key(cursor in cursor()) {
            let text = cursor.sign(&key("secret")).expect("a cursor");
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert_eq!(Cursor::verify(&key("secret"), &text).expect("ours"), cursor);
            prop_assert!(Cursor::verify(&key("other"), &text).is_err());
        }

        #[test]
        fn a_cursor_that_was_changed_anywhere_is_refused(
            cursor in cursor(),
            at in any::<prop::sample::Index>(),
            change in 0..3,
            by in character(),
        ) {
            let text = cursor.sign(&key("secret")).expect("a cursor");
            let mut changed: Vec<char> = text.chars().collect();
            let at = at.index(changed.len());
            match change {
                0 => changed[at] = by,
                1 => changed.insert(at, by),
                _ => drop(changed.remove(at)),
            }
            let changed: String = changed.into_iter().collect();
            prop_assume!(changed != text);
            prop_assert!(Cursor::verify(&key("secret"), &changed).is_err());
        }

        #[test]
        fn any_text_is_refused(text in prop::collection::vec(character(), 0..120)) {
            let text: String = text.into_iter().collect();
            prop_assert!(Cursor::verify(&key("secret"), &text).is_err());
        }
    }
}
