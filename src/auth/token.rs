//! Tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037), checked as RFC 8725 asks.
//! One algorithm, all claims required, the key found by `kid` among our own and nowhere else.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::clock;
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
    #[must_use]
    pub fn new(
        sub: &Username,
        sid: &str,
        jti: &str,
        now: DateTime<Utc>,
        ttl: Duration,
        keys: &Keys,
    ) -> Self {
        let iat = now.timestamp();
        Self {
            iss: keys.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: sub.clone(),
            sid: sid.to_owned(),
            jti: jti.to_owned(),
            iat,
            nbf: iat,
            exp: iat.saturating_add_unsigned(ttl.as_secs()),
        }
    }

    fn is_in_time(&self, now: DateTime<Utc>) -> bool {
        let now = now.timestamp();
        let lifetime = self.exp.saturating_sub(self.iat);
        self.exp > now - LEEWAY_SECONDS
            && self.nbf <= now + LEEWAY_SECONDS
            && self.iat <= now + LEEWAY_SECONDS
            && (1..=LIFETIME_MAX_SECONDS).contains(&lifetime)
    }
}

/// The keys of one folder: one file `KID.pem` each (PKCS #8), the newest signs, all verify.
pub struct Keys {
    folder: PathBuf,
    issuer: String,
    validation: Validation,
    ring: RwLock<BTreeMap<Uuid, Key>>,
}

struct Key {
    signing: EncodingKey,
    verifying: DecodingKey,
    /// The public key, base64url: the `x` of its JWK.
    public: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("signing failed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl Keys {
    /// Reads the folder; makes it and a first key when there is none.
    ///
    /// # Errors
    /// Names the file that cannot be read or made.
    pub fn open(folder: &Path, issuer: String) -> Result<Self, KeyError> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // The library would ask the machine's clock; ours is asked in `Claims::is_in_time`.
        validation.validate_exp = false;
        validation.validate_nbf = false;

        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| file_error(folder, error))?;
        if read_folder(folder)?.is_empty() {
            make_key(folder)?;
        }
        let ring = RwLock::new(read_folder(folder)?);
        Ok(Self { folder: folder.to_owned(), issuer, validation, ring })
    }

    /// # Errors
    /// When the library cannot sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let (kid, key) =
            ring.last_key_value().ok_or_else(|| file_error(&self.folder, "there is no key"))?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid.to_string());
        Ok(jsonwebtoken::encode(&header, claims, &key.signing)?)
    }

    /// What the token says, if one of our keys signed it and it is in time.
    #[must_use]
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Option<Claims> {
        if token.len() > TOKEN_MAX_BYTES {
            return None;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.alg != Algorithm::EdDSA || header.typ.as_deref() != Some(TYPE) {
            return None;
        }
        let kid: Uuid = header.kid?.parse().ok()?;
        self.learn(kid);
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let key = ring.get(&kid)?;
        let claims: Claims =
            jsonwebtoken::decode(token, &key.verifying, &self.validation).ok()?.claims;
        claims.is_in_time(now).then_some(claims)
    }

    /// The public keys (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<_> = ring
            .iter()
            .map(|(kid, key)| {
                json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                       "kid": kid.to_string(), "x": key.public})
            })
            .collect();
        json!({ "keys": keys })
    }

    /// Another process may have made a key since: a `kid` that is not in the ring is looked for in
    /// the folder, once per file there, so that strangers' ids cost one look at a name.
    fn learn(&self, kid: Uuid) {
        let known = self.ring.read().unwrap_or_else(PoisonError::into_inner).contains_key(&kid);
        if known || !self.folder.join(format!("{kid}.pem")).exists() {
            return;
        }
        match read_folder(&self.folder) {
            Ok(ring) => *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring,
            Err(error) => tracing::error!(%error, "cannot read the keys again"),
        }
    }
}

fn file_error(path: &Path, problem: impl std::fmt::Display) -> KeyError {
    KeyError::File { path: path.to_owned(), problem: problem.to_string() }
}

fn read_folder(folder: &Path) -> Result<BTreeMap<Uuid, Key>, KeyError> {
    let mut ring = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| file_error(folder, error))? {
        let path = entry.map_err(|error| file_error(folder, error))?.path();
        let kid = path
            .extension()
            .filter(|extension| *extension == "pem")
            .and_then(|_| path.file_stem()?.to_str()?.parse::<Uuid>().ok());
        let Some(kid) = kid else { continue };
        let pem = fs::read_to_string(&path).map_err(|error| file_error(&path, error))?;
        ring.insert(kid, read_key(&pem).ok_or_else(|| file_error(&path, "is no Ed25519 key"))?);
    }
    Ok(ring)
}

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

fn read_key(pem: &str) -> Option<Key> {
    let body = pem.trim().strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    let body: String = body.split_whitespace().collect();
    let der = BASE64_STANDARD.decode(body).ok()?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?;
    let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    Some(Key {
        signing: EncodingKey::from_ed_der(&der),
        verifying: DecodingKey::from_ed_components(&public).ok()?,
        public,
    })
}

/// Makes a key under a name that sorts by time, whole or not at all.
fn make_key(folder: &Path) -> Result<(), KeyError> {
    let kid = clock::new_id();
    let path = folder.join(format!("{kid}.pem"));
    let half = folder.join(format!("{kid}.new"));
    let der = Ed25519KeyPair::generate()
        .and_then(|pair| pair.to_pkcs8v1())
        .map_err(|error| file_error(&path, error))?;
    let pem = format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64_STANDARD.encode(der.as_ref()));
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        fs::rename(&half, &path)
    };
    write().map_err(|error| file_error(&path, error))
}
