//! The secret of a service key, in a form that scanners of source code find: `customers_sk_`, 43 digits of base 62
//! that are 256 random bits, and 6 digits that are the CRC-32 of all before them. `docs/api.md` has it as a regular
//! expression.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret as _, SecretString};

use crate::clock;

/// Says whose secret it is, and of which kind (a service key). An underscore is in no digit, so a double click takes
/// the whole secret.
const PREFIX: &str = "customers_sk_";

/// How many digits 256 bits, and 32 bits, have in base 62.
const RANDOM_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret of a new key. It is shown once.
pub struct KeySecret(SecretString);

impl KeySecret {
    #[must_use]
    pub fn new_random() -> Self {
        let mut text = format!("{PREFIX}{}", base62::<32>(clock::random_bytes(), RANDOM_DIGITS));
        let checksum = base62(crc32(text.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS);
        text.push_str(&checksum);
        Self(text.into())
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What is stored of it.
    pub(super) fn hash(&self) -> Vec<u8> {
        hash(self.expose())
    }
}

/// Whether a secret has this hash. Takes the same time for every secret of its length.
pub(super) fn has_hash(secret: &str, stored: &[u8]) -> bool {
    verify_slices_are_equal(&hash(secret), stored).is_ok()
}

/// Enough for a secret of 256 random bits, which cannot be guessed however fast the hash is.
fn hash(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

/// A number of big-endian bytes in so many digits.
fn base62<const N: usize>(mut number: [u8; N], digits: usize) -> String {
    let mut text = vec![0; digits];
    for digit in text.iter_mut().rev() {
        let mut rest = 0_u16;
        for byte in &mut number {
            let value = rest * 256 + u16::from(*byte);
            *byte = u8::try_from(value / 62).expect("the rest before it is below 62");
            rest = value % 62;
        }
        *digit = DIGITS[usize::from(rest)];
    }
    text.into_iter().map(char::from).collect()
}

/// CRC-32 as zlib and GitHub's tokens have it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn every_number_has_its_own_digits_of_one_length() {
        assert_eq!(base62([0; 32], RANDOM_DIGITS), "0".repeat(43));
        assert_eq!(base62(61_u32.to_be_bytes(), CHECKSUM_DIGITS), "00000z");
        assert_eq!(base62(62_u32.to_be_bytes(), CHECKSUM_DIGITS), "000010");
        // 2^256 - 1 and 2^32 - 1, by another program.
        assert_eq!(
            base62([0xff; 32], RANDOM_DIGITS),
            "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1"
        );
        assert_eq!(base62([0xff; 4], CHECKSUM_DIGITS), "4gfFC3");
    }

    #[test]
    fn a_secret_is_found_by_its_form_and_by_its_hash() {
        let secret = KeySecret::new_random();
        let text = secret.expose();
        let digits = text.strip_prefix(PREFIX).unwrap();
        assert_eq!(digits.len(), RANDOM_DIGITS + CHECKSUM_DIGITS);
        assert!(digits.bytes().all(|digit| DIGITS.contains(&digit)));
        assert!(has_hash(text, &secret.hash()));
        assert!(!has_hash(&text[1..], &secret.hash()));
        assert!(!has_hash(text, &[]));
        assert_ne!(text, KeySecret::new_random().expose());
    }
}
