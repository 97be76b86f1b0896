//! The keys that sign tokens: one folder, which all processes share and re-read every few seconds, with
//! a file `KID.pem` (PKCS #8) for each key. The newest key signs, all keys verify. A retired key has a
//! second file `KID.retired` with a time; from that time on the key verifies nothing. Folder and files must
//! be private: who can write them can make tokens.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::json;
use uuid::Uuid;

use crate::{clock, files};

/// How often a process re-reads the folder.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// The folder, and the keys at its last read.
pub struct Keys {
    folder: PathBuf,
    ring: RwLock<Arc<Ring>>,
}

type Ring = BTreeMap<Uuid, Arc<Key>>;

/// One key.
pub struct Key {
    pub(super) signing: EncodingKey,
    pub(super) verifying: DecodingKey,
    /// The public key, base64url: the `x` of its JWK.
    public: String,
    /// From this time on the key verifies nothing.
    pub retired: Option<DateTime<Utc>>,
}

impl Key {
    /// Whether the key verifies at `now`.
    #[must_use]
    pub fn verifies(&self, now: DateTime<Utc>) -> bool {
        self.retired.is_none_or(|end| now < end)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    /// The folder itself cannot be used: the configuration is wrong.
    #[error("{path}: {problem}")]
    Folder { path: PathBuf, problem: String },
    #[error("no signing key")]
    None,
    #[error("no such key: {0}")]
    Unknown(Uuid),
    #[error("{0} is the only signing key: create a new one first")]
    Only(Uuid),
    #[error("signing failed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl Keys {
    /// Checks the rights of the folder and its files, and reads them; changes nothing. A folder that is
    /// missing is made at the first start.
    pub fn check(folder: &Path) -> Result<(), KeyError> {
        let metadata = match fs::metadata(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata.map_err(|error| folder_error(folder, error))?,
        };
        check_folder(folder, &metadata)?;
        read_folder(folder).map(drop)
    }

    /// Reads the folder. Creates the folder if it is missing, and a key if there is none that signs. An
    /// error names the file.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let metadata = match fs::metadata(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .and_then(|()| fs::metadata(folder)),
            metadata => metadata,
        };
        check_folder(folder, &metadata.map_err(|error| folder_error(folder, error))?)?;
        let mut ring = read_folder(folder)?;
        if newest(&ring).is_none() {
            make_key(folder)?;
            ring = read_folder(folder)?;
        }
        Ok(Self { folder: folder.to_owned(), ring: RwLock::new(Arc::new(ring)) })
    }

    /// Reads the folder again. A key whose files cannot be read stays as it was, and is logged.
    pub fn reload(&self) -> Result<(), KeyError> {
        let (before, mut ring) = (self.ring(), Ring::new());
        for kid in kids(&self.folder)? {
            match (read_files(&self.folder, kid), before.get(&kid)) {
                (Ok(key), _) => {
                    ring.insert(kid, Arc::new(key));
                }
                (Err(error), before) => {
                    tracing::error!(%error, "signing keys: key unreadable, keeping its last state");
                    ring.extend(before.map(|key| (kid, Arc::clone(key))));
                }
            }
        }
        let ring = Arc::new(ring);
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(())
    }

    /// All keys of the folder, oldest first.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is such a key, and it verifies at `now`.
    #[must_use]
    pub fn verifies(&self, kid: Uuid, now: DateTime<Utc>) -> bool {
        self.ring().get(&kid).is_some_and(|key| key.verifies(now))
    }

    /// The id of the key that signs.
    #[must_use]
    pub fn signing_key_id(&self) -> Option<Uuid> {
        newest(&self.ring())
    }

    /// The keys, for the lookup of a token's `kid`. If the id is unknown but has a file, the folder is
    /// read again, because another process may have created the key meanwhile. An invented id costs one
    /// `stat`.
    pub(super) fn ring_with(&self, kid: Uuid) -> Arc<Ring> {
        let ring = self.ring();
        if ring.contains_key(&kid) || !self.folder.join(format!("{kid}.pem")).exists() {
            return ring;
        }
        if let Err(error) = self.reload() {
            tracing::error!(%error, "signing keys: read failed, keeping the known keys");
        }
        self.ring()
    }

    /// The public keys that verify (RFC 7517).
    #[must_use]
    pub fn jwks(&self, now: DateTime<Utc>) -> serde_json::Value {
        let ring = self.ring();
        let keys: Vec<_> = ring
            .iter()
            .filter(|(_, key)| key.verifies(now))
            .map(|(kid, key)| {
                json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
                       "kid": kid.to_string(), "x": key.public})
            })
            .collect();
        json!({ "keys": keys })
    }

    /// Creates a key. It signs here at once, and in all processes within [`RELOAD_INTERVAL`]. An error names
    /// the file.
    pub fn add(&self) -> Result<Uuid, KeyError> {
        let kid = make_key(&self.folder)?;
        self.reload()?;
        Ok(kid)
    }

    /// Retires a key: it no longer signs, and verifies until `end` or until its earlier end, which is
    /// returned. Fails for an unknown key, and for the last key that signs.
    pub fn retire(&self, kid: Uuid, end: DateTime<Utc>) -> Result<DateTime<Utc>, KeyError> {
        let ring = self.ring();
        let key = ring.get(&kid).ok_or(KeyError::Unknown(kid))?;
        let end = key.retired.map_or(end, |before| before.min(end));
        if ring.iter().all(|(other, key)| *other == kid || key.retired.is_some()) {
            return Err(KeyError::Only(kid));
        }
        let path = self.folder.join(format!("{kid}.retired"));
        write_whole(&path, &format!("{}\n", clock::rfc3339(end)))?;
        self.reload()?;
        Ok(end)
    }
}

fn newest(ring: &Ring) -> Option<Uuid> {
    ring.iter().rev().find(|(_, key)| key.retired.is_none()).map(|(kid, _)| *kid)
}

pub(super) fn file_error(path: &Path, problem: impl std::fmt::Display) -> KeyError {
    KeyError::File { path: path.to_owned(), problem: problem.to_string() }
}

fn folder_error(path: &Path, problem: impl std::fmt::Display) -> KeyError {
    KeyError::Folder { path: path.to_owned(), problem: problem.to_string() }
}

/// Fails unless it is a folder, and private. One that has other content is not the keys' own: its rights must
/// stay as they are.
fn check_folder(folder: &Path, metadata: &fs::Metadata) -> Result<(), KeyError> {
    if !metadata.is_dir() {
        return Err(folder_error(folder, "is not a folder"));
    }
    let refused = |error: std::io::Error| folder_error(folder, error);
    let Err(error) = files::check_private(metadata, files::READ_OR_WRITE) else { return Ok(()) };
    let is_of_keys = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.map(|entry| entry.path()).unwrap_or_default();
        path.extension().is_some_and(|ending| ending == "pem" || ending == "retired")
    };
    if fs::read_dir(folder).map_err(refused)?.all(is_of_keys) {
        return Err(refused(error));
    }
    let text = error.to_string();
    let problem = text.split(": chmod").next().unwrap_or_default();
    let problem = format!("{problem} and has other content: choose a folder for the keys alone");
    Err(folder_error(folder, problem))
}

fn read_folder(folder: &Path) -> Result<Ring, KeyError> {
    kids(folder)?.into_iter().map(|kid| Ok((kid, Arc::new(read_files(folder, kid)?)))).collect()
}

/// The ids of the keys of a folder.
fn kids(folder: &Path) -> Result<Vec<Uuid>, KeyError> {
    let mut kids = vec![];
    for entry in fs::read_dir(folder).map_err(|error| file_error(folder, error))? {
        let path = entry.map_err(|error| file_error(folder, error))?.path();
        let is_key = path.extension().is_some_and(|extension| extension == "pem");
        let name = path.file_stem().filter(|_| is_key).and_then(|name| name.to_str());
        kids.extend(name.and_then(|name| name.parse::<Uuid>().ok()));
    }
    Ok(kids)
}

fn read_files(folder: &Path, kid: Uuid) -> Result<Key, KeyError> {
    let path = folder.join(format!("{kid}.pem"));
    let pem = files::read_private(&path, files::READ_OR_WRITE)
        .map_err(|error| file_error(&path, error))?;
    let retired = read_retired(&folder.join(format!("{kid}.retired")))?;
    read_key(&pem, retired).ok_or_else(|| file_error(&path, "is not an Ed25519 key"))
}

fn read_retired(path: &Path) -> Result<Option<DateTime<Utc>>, KeyError> {
    match files::read_private(path, files::WRITE) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| file_error(path, "is not a time")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(path, error)),
    }
}

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

fn read_key(pem: &str, retired: Option<DateTime<Utc>>) -> Option<Key> {
    let body = pem.trim().strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    let body: String = body.split_whitespace().collect();
    let der = BASE64_STANDARD.decode(body).ok()?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?;
    let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    Some(Key {
        signing: EncodingKey::from_ed_der(&der),
        verifying: DecodingKey::from_ed_components(&public).ok()?,
        public,
        retired,
    })
}

/// Creates a key file. Key ids sort by time.
fn make_key(folder: &Path) -> Result<Uuid, KeyError> {
    let kid = clock::new_id();
    let path = folder.join(format!("{kid}.pem"));
    let der = Ed25519KeyPair::generate()
        .and_then(|pair| pair.to_pkcs8v1())
        .map_err(|error| file_error(&path, error))?;
    let pem = format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64_STANDARD.encode(der.as_ref()));
    write_whole(&path, &pem)?;
    Ok(kid)
}

fn write_whole(path: &Path, text: &str) -> Result<(), KeyError> {
    files::write_private(path, text.as_bytes(), |_| Ok(())).map_err(|error| file_error(path, error))
}
