//! Tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037), verified as RFC 8725 recommends:
//! one algorithm, all claims required, the key looked up by `kid` among our own keys only.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keys::{KeyError, Keys};
use super::token_refusal::TokenRefusal;
use crate::events::account_key::ClientId;
use crate::events::values::Username;

/// The tolerated difference between two clocks, in seconds.
pub const LEEWAY_SECONDS: i64 = 5;

/// The longest accepted lifetime of a token, in seconds: a day, the maximum of `CUSTOMERS_TOKEN_TTL`.
pub const LIFETIME_MAX_SECONDS: i64 = 24 * 60 * 60;

/// The audience of our tokens.
const AUDIENCE: &str = "customers";

/// The media type of an access token (RFC 9068, section 2.1): no other kind of JWT is accepted as one.
const TYPE: &str = "at+jwt";

/// The longest token that is parsed, in bytes; ours have about 500.
const TOKEN_MAX_BYTES: usize = 4096;

/// The claims of a token. All but the last are required.
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
    /// The service key that opened the session (RFC 9068, section 2.2); `None` for a log-in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_id: Option<ClientId>,
}

impl Claims {
    fn check_time(&self, now: DateTime<Utc>) -> Result<(), TokenRefusal> {
        let now = now.timestamp();
        let lifetime = self.exp.saturating_sub(self.iat);
        if self.exp <= now - LEEWAY_SECONDS {
            Err(TokenRefusal::Expired)
        } else if self.nbf > now + LEEWAY_SECONDS || self.iat > now + LEEWAY_SECONDS {
            Err(TokenRefusal::NotYetValid)
        } else if !(1..=LIFETIME_MAX_SECONDS).contains(&lifetime) {
            Err(TokenRefusal::Lifetime)
        } else {
            Ok(())
        }
    }
}

/// A token that one of our keys has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub claims: Claims,
    /// The key.
    pub kid: Uuid,
}

/// How many verified tokens are cached, about 500 bytes each.
const VERIFIED_MAX: usize = 10_000;

/// Signs and verifies tokens.
pub struct Tokens {
    keys: Keys,
    issuer: String,
    validation: Validation,
    /// The tokens whose signature was valid, by their SHA-256. Times, key and session are still checked for each
    /// request.
    verified: Cache<[u8; 32], Arc<Verified>>,
}

impl Tokens {
    #[must_use]
    pub fn new(keys: Keys, issuer: String) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // The library would use the system clock; `Claims::is_in_time` uses ours.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self { keys, issuer, validation, verified: Cache::new(VERIFIED_MAX) }
    }

    /// The issuer of the tokens: the public URL.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The claims of a token that is issued now.
    pub(super) fn claims(
        &self,
        sub: &Username,
        sid: &str,
        jti: &str,
        now: DateTime<Utc>,
        ttl: Duration,
        client_id: Option<ClientId>,
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
            client_id,
        }
    }

    /// Signs the claims with the newest key that is not retired.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let (kid, ring) = (self.keys.signing_key_id(), self.keys.ring());
        let key = kid.and_then(|kid| ring.get(&kid));
        let (Some(kid), Some(key)) = (kid, key) else { return Err(KeyError::None) };
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid.to_string());
        Ok(jsonwebtoken::encode(&header, claims, &key.signing)?)
    }

    /// The token, if one of our keys signed it and still verifies, and the token is valid at `now`; otherwise why
    /// not.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Arc<Verified>, TokenRefusal> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenRefusal::Malformed);
        }
        let hash: [u8; 32] = digest(&SHA256, token.as_bytes())
            .as_ref()
            .try_into()
            .map_err(|_| TokenRefusal::Malformed)?;
        let verified = if let Some(verified) = self.verified.get(&hash) {
            verified
        } else {
            let verified = Arc::new(self.verify_signature(token)?);
            self.verified.insert(hash, Arc::clone(&verified));
            verified
        };
        if !self.keys.verifies(verified.kid, now) {
            return Err(TokenRefusal::RetiredKey);
        }
        verified.claims.check_time(now)?;
        Ok(verified)
    }

    /// A token with a valid signature. Does not check times.
    fn verify_signature(&self, token: &str) -> Result<Verified, TokenRefusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefusal::Malformed)?;
        if header.alg != Algorithm::EdDSA || header.typ.as_deref() != Some(TYPE) {
            return Err(TokenRefusal::Malformed);
        }
        let kid = header.kid.as_deref().and_then(|kid| kid.parse().ok());
        let kid: Uuid = kid.ok_or(TokenRefusal::UnknownKey)?;
        let ring = self.keys.ring_with(kid);
        let key = ring.get(&kid).ok_or(TokenRefusal::UnknownKey)?;
        let decoded = jsonwebtoken::decode(token, &key.verifying, &self.validation);
        let claims = decoded.map_err(|error| refusal(&error))?.claims;
        Ok(Verified { claims, kid })
    }
}

/// What the library found.
fn refusal(error: &jsonwebtoken::errors::Error) -> TokenRefusal {
    use jsonwebtoken::errors::ErrorKind;
    let kind = error.kind();
    if matches!(kind, ErrorKind::InvalidSignature) {
        TokenRefusal::Signature
    } else if matches!(kind, ErrorKind::InvalidIssuer) {
        TokenRefusal::OtherIssuer
    } else if matches!(kind, ErrorKind::InvalidAudience) {
        TokenRefusal::OtherAudience
    } else {
        TokenRefusal::Malformed
    }
}
