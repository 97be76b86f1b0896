//! Argon2id (RFC 9106) with the parameters that OWASP recommends (19 MiB, 2 passes, 1 lane), outside the
//! async threads, with a limit on parallel hashes and a bounded wait.

use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash};

use super::fair_queue::{FairQueue, Full, Network, Place};
use super::opaque_string::spellings;
use crate::clock;

/// How many hashes are computed in parallel. Each needs a core and 19 MiB.
const SLOTS: usize = 2;

/// How many log-ins may wait for a slot, and how long: networks in turn. At about 40 ms per hash the last of
/// them waits about 5 s, or 10 s if each brings a wrong password that is not ASCII, which costs two hashes. The
/// service refuses a log-in after the time limit, because its client has given up by then.
const QUEUE: usize = 256;
const QUEUE_TIME: Duration = Duration::from_secs(10);

/// The most expensive parameters that are verified: they come from a table that operators may write to.
const MEMORY_MAX_KIB: u32 = 65_536;
const PASSES_MAX: u32 = 8;
const LANES_MAX: u32 = 4;

/// Computes hashes; one per process.
pub struct Passwords {
    slots: FairQueue,
    /// Verified for unknown names, so that they take the same time.
    dummy: String,
}

/// The permit to compute one hash.
pub struct Slot(#[expect(dead_code, reason = "held while a hash is computed")] Place);

/// The result of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    Wrong,
    Right,
    /// Correct, but hashed with other parameters than the current ones, or from another spelling than the
    /// prepared one.
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
    #[error("too many log-ins wait for a password check")]
    Overloaded,
    #[error("{0}")]
    Hash(argon2::password_hash::Error),
    #[error("the computation was cancelled")]
    TaskFailed,
}

impl Passwords {
    #[must_use]
    pub fn new() -> Self {
        Self { slots: FairQueue::new(SLOTS, QUEUE), dummy: dummy() }
    }

    /// Waits for a slot. Fails at once if too many clients of the network wait already, and after 10 s.
    pub async fn slot(&self, network: Network) -> Result<Slot, PasswordError> {
        match tokio::time::timeout(QUEUE_TIME, self.slots.place(network)).await {
            Ok(Ok(place)) => Ok(Slot(place)),
            Ok(Err(Full)) | Err(_) => Err(PasswordError::Overloaded),
        }
    }

    /// Computes one hash and compares; a second one if an earlier version may have hashed another spelling of
    /// the password and the first is wrong. `None` as the stored hash takes the same time and is wrong.
    /// Returns the slot, so that the caller can hold it until a failure is counted.
    pub async fn verify(
        &self,
        slot: Slot,
        password: String,
        stored: Option<String>,
    ) -> Result<(Matched, Slot), PasswordError> {
        let dummy = self.dummy.clone();
        tokio::task::spawn_blocking(move || {
            // A hash that cannot be parsed or is too expensive is treated like an unknown name.
            let stored = stored.and_then(|stored| usable(&stored));
            let known = stored.is_some();
            let hash = match stored {
                Some(hash) => hash,
                None => PasswordHash::new(&dummy).map_err(|_| PasswordError::TaskFailed)?,
            };
            let is_right = |text: &str| {
                metrics::counter!("customers_password_hashes_total").increment(1);
                // Computed in any case, because the time must not depend on the account.
                is_right(text.as_bytes(), &hash).unwrap_or(false) && known
            };
            let spellings = spellings(&password);
            let matched = if is_right(&spellings.stored) {
                if is_current(&hash) { Matched::Right } else { Matched::Outdated }
            } else if spellings.earlier.is_some_and(|earlier| is_right(&earlier)) {
                Matched::Outdated
            } else {
                Matched::Wrong
            };
            Ok((matched, slot))
        })
        .await
        .map_err(|_| PasswordError::TaskFailed)?
    }

    /// Hashes the prepared form of a password, in the PHC string format.
    pub async fn hash(&self, slot: Slot, password: String) -> Result<String, PasswordError> {
        metrics::counter!("customers_password_hashes_total").increment(1);
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let salt = clock::random_bytes::<16>();
            hashed(spellings(&password).stored.as_bytes(), &salt)
                .map(|hash| hash.to_string())
                .map_err(PasswordError::Hash)
        })
        .await
        .map_err(|_| PasswordError::TaskFailed)?
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

/// Hashes with the parameters of the stored hash, and compares in constant time.
fn is_right(password: &[u8], hash: &PasswordHash) -> Result<bool, password_hash::Error> {
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else { return Ok(false) };
    let algorithm = Algorithm::try_from(hash.algorithm.as_str())?;
    let version = hash.version.map(Version::try_from).transpose()?.unwrap_or_default();
    let argon2 = Argon2::new(algorithm, version, Params::try_from(hash)?);
    Ok(output(&argon2, password, salt, expected.as_bytes().len())? == *expected)
}

/// Computes a hash in an allocation of more than 32 MiB, which is returned to the system afterwards: the
/// allocator of glibc keeps smaller freed blocks in each of its arenas, and fragmentation prevents their
/// reuse for the next hash. Reserved pages that are never touched take no memory.
fn output(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
    length: usize,
) -> Result<Output, password_hash::Error> {
    const MIN_BLOCKS: usize = 33 * 1024 * 1024 / Block::SIZE;
    let blocks = argon2.params().block_count();
    let mut memory = Vec::with_capacity(blocks.max(MIN_BLOCKS));
    memory.resize(blocks, Block::default());
    let mut out = [0; Output::MAX_LENGTH];
    let out = out.get_mut(..length).ok_or(password_hash::Error::OutputSize)?;
    argon2.hash_password_into_with_memory(password, salt, out, &mut memory)?;
    Output::new(out).map_err(Into::into)
}

/// A hash with the current parameters and a random output, which no known password matches. Computing a
/// real one would delay the start by 40 ms.
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
