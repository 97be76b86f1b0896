//! Tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037), checked as RFC 8725 asks.
//! One algorithm, all claims required, the key found by `kid` among our own and nowhere else.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Header, Validation};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keys::{KeyError, Keys};
use crate::events::values::Username;

/// How far two clocks may be apart, in seconds.
pub const LEEWAY_SECONDS: i64 = 5;

/// The longest life of a token that is believed, in seconds: a day, the cap of `CUSTOMERS_TOKEN_TTL`.
pub const LIFETIME_MAX_SECONDS: i64 = 24 * 60 * 60;

/// Who our tokens are for.
const AUDIENCE: &str = "customers";

/// The media type of an access token (RFC 9068, section 2.1): no other kind of JWT passes for one.
const TYPE: &str = "at+jwt";

/// The longest token that is looked at; ours have some 500 bytes.
const TOKEN_MAX_BYTES: usize = 4096;

/// What a token says. All members are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub sub: Username,
    pub sid: String,
    pub jti: String,
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
}

impl Claims {
    fn is_in_time(&self, now: DateTime<Utc>) -> bool {
        let now = now.timestamp();
        let lifetime = self.exp.saturating_sub(self.iat);
        self.exp > now - LEEWAY_SECONDS
            && self.nbf <= now + LEEWAY_SECONDS
            && self.iat <= now + LEEWAY_SECONDS
            && (1..=LIFETIME_MAX_SECONDS).contains(&lifetime)
    }
}

/// How many verified signatures are remembered, some 500 bytes each.
const REMEMBERED: u64 = 10_000;

/// Signs tokens, and checks them.
pub struct Tokens {
    keys: Keys,
    issuer: String,
    validation: Validation,
    /// What tokens say whose signature was right, by the SHA-256 of the token, and who signed it. Time,
    /// key and session are asked each time all the same.
    verified: Cache<[u8; 32], (Uuid, Claims)>,
}

impl Tokens {
    #[must_use]
    pub fn new(keys: Keys, issuer: String) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // The library would ask the machine's clock; ours is asked in `Claims::is_in_time`.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self { keys, issuer, validation, verified: Cache::new(REMEMBERED) }
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What a token says that is made now.
    pub(super) fn claims(
        &self,
        sub: &Username,
        sid: &str,
        jti: &str,
        now: DateTime<Utc>,
        ttl: Duration,
    ) -> Claims {
        let iat = now.timestamp();
        Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: sub.clone(),
            sid: sid.to_owned(),
            jti: jti.to_owned(),
            iat,
            nbf: iat,
            exp: iat.saturating_add_unsigned(ttl.as_secs()),
        }
    }

    /// # Errors
    /// When no key signs, or the library cannot.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let (kid, ring) = (self.keys.signs(), self.keys.ring());
        let key = kid.and_then(|kid| ring.get(&kid));
        let (Some(kid), Some(key)) = (kid, key) else { return Err(KeyError::None) };
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid.to_string());
        Ok(jsonwebtoken::encode(&header, claims, &key.signing)?)
    }

    /// What the token says, if one of our keys signed it, still verifies, and it is in time.
    #[must_use]
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Option<Claims> {
        if token.len() > TOKEN_MAX_BYTES {
            return None;
        }
        let name: [u8; 32] = digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()?;
        let known = self.verified.get(&name);
        let (kid, claims) = match &known {
            Some(verified) => verified.clone(),
            None => self.verified_now(token)?,
        };
        if known.is_none() {
            self.verified.insert(name, (kid, claims.clone()));
        }
        let is_believed = self.keys.ring().get(&kid).is_some_and(|key| key.verifies(now));
        (is_believed && claims.is_in_time(now)).then_some(claims)
    }

    /// By its signature alone.
    fn verified_now(&self, token: &str) -> Option<(Uuid, Claims)> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.alg != Algorithm::EdDSA || header.typ.as_deref() != Some(TYPE) {
            return None;
        }
        let kid: Uuid = header.kid?.parse().ok()?;
        let ring = self.keys.ring_with(kid);
        let key = ring.get(&kid)?;
        let claims = jsonwebtoken::decode(token, &key.verifying, &self.validation).ok()?.claims;
        Some((kid, claims))
    }
}
