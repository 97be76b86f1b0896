//! Argon2id with the parameters that OWASP recommends (19 MiB, 2 passes, 1 lane), off the async
//! threads, a few at a time, with a bounded wait.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock;

/// How many hashes are computed at once. Each takes a core and 19 MiB.
const SLOTS: usize = 2;

/// How many log-ins may wait for a slot, and how long: at some 40 ms a hash the last of them waits
/// about 5 s, and a machine that is slower or has other work refuses sooner instead of keeping clients
/// who have given up.
const QUEUE: usize = 256;
const QUEUE_TIME: Duration = Duration::from_secs(10);

/// The costliest hash that is verified: parameters come from a table that others may write to.
const MEMORY_MAX_KIB: u32 = 65_536;
const PASSES_MAX: u32 = 8;
const LANES_MAX: u32 = 4;

/// Computes hashes. One per process.
pub struct Passwords {
    slots: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Verified for unknown names, so that they cost the same work.
    dummy: String,
}

/// The right to compute one hash.
pub struct Slot {
    _slot: OwnedSemaphorePermit,
    _queue: OwnedSemaphorePermit,
}

/// Whether a password was the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    Wrong,
    Right,
    /// Right, but hashed with other parameters than today's.
    Outdated,
}

impl Matched {
    #[must_use]
    pub fn is_right(self) -> bool {
        self != Self::Wrong
    }

    #[must_use]
    pub fn is_outdated(self) -> bool {
        self == Self::Outdated
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("too many passwords wait to be checked")]
    Overloaded,
    #[error("{0}")]
    Hash(argon2::password_hash::Error),
    #[error("the computation ended early")]
    Lost,
}

impl Passwords {
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(SLOTS)),
            queue: Arc::new(Semaphore::new(SLOTS + QUEUE)),
            dummy: dummy(),
        }
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// At once when too many wait already, and after 10 s.
    pub async fn slot(&self) -> Result<Slot, PasswordError> {
        let queue =
            Arc::clone(&self.queue).try_acquire_owned().map_err(|_| PasswordError::Overloaded)?;
        let slot = tokio::time::timeout(QUEUE_TIME, Arc::clone(&self.slots).acquire_owned())
            .await
            .map_err(|_| PasswordError::Overloaded)?
            .map_err(|_| PasswordError::Lost)?;
        Ok(Slot { _slot: slot, _queue: queue })
    }

    /// Computes one hash and compares. `None` as the stored hash costs the same and is wrong. Gives
    /// the slot back, so that the caller can keep the next one out until it has counted a failure.
    ///
    /// # Errors
    /// When the computation fails.
    pub async fn verify(
        &self,
        slot: Slot,
        password: String,
        stored: Option<String>,
    ) -> Result<(Matched, Slot), PasswordError> {
        let dummy = self.dummy.clone();
        metrics::counter!("customers_password_hashes_total").increment(1);
        tokio::task::spawn_blocking(move || {
            // A hash that cannot be used or costs too much counts as none.
            let stored = stored.and_then(|stored| usable(&stored));
            let known = stored.is_some();
            let hash = match stored {
                Some(hash) => hash,
                None => PasswordHash::new(&dummy).map_err(|_| PasswordError::Lost)?,
            };
            let right = is_right(password.as_bytes(), &hash).unwrap_or(false);
            let matched = match (known && right, is_current(&hash)) {
                (false, _) => Matched::Wrong,
                (true, true) => Matched::Right,
                (true, false) => Matched::Outdated,
            };
            Ok((matched, slot))
        })
        .await
        .map_err(|_| PasswordError::Lost)?
    }

    /// A new hash in the PHC string format.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        let slot = self.slot().await?;
        metrics::counter!("customers_password_hashes_total").increment(1);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let salt = clock::random_bytes::<16>();
            hashed(password.as_bytes(), &salt)
                .map(|hash| hash.to_string())
                .map_err(PasswordError::Hash)
        })
        .await
        .map_err(|_| PasswordError::Lost)?
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

fn hashed(password: &[u8], salt: &[u8]) -> Result<PasswordHash, password_hash::Error> {
    let (algorithm, version, params) = (Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let argon2 = Argon2::new(algorithm, version, params.clone());
    Ok(PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(&params)?,
        salt: Some(Salt::new(salt)?),
        hash: Some(output(&argon2, password, salt, Params::DEFAULT_OUTPUT_LEN)?),
    })
}

/// With the hash's own parameters. Outputs are compared in constant time.
fn is_right(password: &[u8], hash: &PasswordHash) -> Result<bool, password_hash::Error> {
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else { return Ok(false) };
    let algorithm = Algorithm::try_from(hash.algorithm.as_str())?;
    let version = hash.version.map(Version::try_from).transpose()?.unwrap_or_default();
    let argon2 = Argon2::new(algorithm, version, Params::try_from(hash)?);
    Ok(output(&argon2, password, salt, expected.as_bytes().len())? == *expected)
}

/// The computation, in memory that is given back to the system as soon as it is done: glibc keeps what
/// is given back to it in pieces of up to 32 MiB for each of its arenas, and does not find room in them
/// for the next ones. What is reserved and never touched costs nothing.
fn output(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
    length: usize,
) -> Result<Output, password_hash::Error> {
    const GIVEN_BACK: usize = 33 * 1024 * 1024 / Block::SIZE;
    let blocks = argon2.params().block_count();
    let mut memory = Vec::with_capacity(blocks.max(GIVEN_BACK));
    memory.resize(blocks, Block::default());
    let mut out = [0; Output::MAX_LENGTH];
    let out = out.get_mut(..length).ok_or(password_hash::Error::OutputSize)?;
    argon2.hash_password_into_with_memory(password, salt, out, &mut memory)?;
    Output::new(out).map_err(Into::into)
}

/// A hash of nothing that anybody knows, of today's parameters. Its output is random: computing it
/// would cost a start 40 ms, and no password needs to match it.
fn dummy() -> String {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD_NO_PAD;
    let salt = BASE64_STANDARD_NO_PAD.encode(clock::random_bytes::<16>());
    let output = BASE64_STANDARD_NO_PAD.encode(clock::random_bytes::<32>());
    let params = Params::DEFAULT;
    let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
    format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${output}")
}

fn usable(stored: &str) -> Option<PasswordHash> {
    let hash = PasswordHash::new(stored).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let bounded = params.m_cost() <= MEMORY_MAX_KIB
        && params.t_cost() <= PASSES_MAX
        && params.p_cost() <= LANES_MAX;
    bounded.then_some(hash)
}

fn is_current(hash: &PasswordHash) -> bool {
    hash.algorithm.as_str() == "argon2id"
        && Params::try_from(hash).is_ok_and(|params| {
            (params.m_cost(), params.t_cost(), params.p_cost())
                == (Params::DEFAULT.m_cost(), Params::DEFAULT.t_cost(), Params::DEFAULT.p_cost())
        })
}
