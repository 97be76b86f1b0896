//! Refused tokens: why each was refused, counted by cause, and one log line for each, up to a limit per second. The
//! client is told no cause.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strum::VariantArray as _;
use tokio::time::Instant;

use super::error::AuthError;
use crate::events::metadata::Metadata;

/// How many lines one [`WINDOW`] may have: enough to see what is wrong, too few to fill a disk.
const LINES_MAX: u32 = 10;

/// The time in which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts refused tokens by cause.
const REFUSED: &str = "customers_tokens_refused_total";

/// Counts token replays, which end a session.
const REPLAYS: &str = "customers_token_replays_total";

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum TokenRefusal {
    /// It is no JWT of this kind, lacks a claim, or is too long.
    Malformed,
    /// No key of this installation has its `kid`.
    UnknownKey,
    /// Its key verifies no longer.
    RetiredKey,
    Signature,
    OtherIssuer,
    OtherAudience,
    Expired,
    NotYetValid,
    /// It lives longer than any token may.
    Lifetime,
    /// Its session has ended, or never existed.
    NoSession,
    /// It came with several cookies of this installation.
    SeveralCookies,
    /// It came with the cookie of another session, and its own is not bound.
    OtherCookie,
    /// It came without the cookie that the request needs.
    CookieRequired,
    /// It came without the cookie that its session is bound to.
    Replay,
}

impl From<TokenRefusal> for AuthError {
    fn from(refusal: TokenRefusal) -> Self {
        match refusal {
            TokenRefusal::Malformed
            | TokenRefusal::UnknownKey
            | TokenRefusal::RetiredKey
            | TokenRefusal::Signature
            | TokenRefusal::OtherIssuer
            | TokenRefusal::OtherAudience
            | TokenRefusal::Expired
            | TokenRefusal::NotYetValid
            | TokenRefusal::Lifetime
            | TokenRefusal::NoSession
            | TokenRefusal::SeveralCookies => Self::Unauthenticated,
            TokenRefusal::OtherCookie => Self::OtherCookie,
            TokenRefusal::CookieRequired => Self::CookieRequired,
            TokenRefusal::Replay => Self::TokenReplay,
        }
    }
}

/// Records refused tokens. Clones share the limit.
#[derive(Clone)]
pub(super) struct Refusals(Arc<Mutex<Window>>);

/// The lines of the current window.
struct Window {
    began: Instant,
    lines: u32,
    suppressed: u64,
}

impl Refusals {
    /// Registers the series.
    pub fn new() -> Self {
        for cause in TokenRefusal::VARIANTS {
            metrics::counter!(REFUSED, "cause" => <&'static str>::from(cause)).increment(0);
        }
        metrics::counter!(REPLAYS).increment(0);
        Self(Arc::new(Mutex::new(Window { began: Instant::now(), lines: 0, suppressed: 0 })))
    }

    /// Records that the token of this request was refused; returns the error of the request.
    pub fn refuse(&self, refusal: TokenRefusal, metadata: &Metadata) -> AuthError {
        let cause = <&'static str>::from(refusal);
        metrics::counter!(REFUSED, "cause" => cause).increment(1);
        if refusal == TokenRefusal::Replay {
            metrics::counter!(REPLAYS).increment(1);
        }
        if self.may_log() {
            tracing::info!(cause, request_id = metadata.request_id.as_deref(), "token refused");
        }
        refusal.into()
    }

    /// Whether the window has room for a line. After the first that it has no room for, a line says at its end how
    /// many there were.
    fn may_log(&self) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.suppressed == 0 && window.began.elapsed() >= WINDOW {
            (window.began, window.lines) = (Instant::now(), 0);
        }
        if window.lines < LINES_MAX && window.suppressed == 0 {
            window.lines += 1;
            return true;
        }
        window.suppressed += 1;
        if window.suppressed == 1 {
            let (refusals, end) = (self.clone(), window.began + WINDOW);
            tokio::spawn(async move {
                tokio::time::sleep_until(end).await;
                refusals.say_suppressed();
            });
        }
        false
    }

    fn say_suppressed(&self) {
        let suppressed = {
            let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let suppressed = window.suppressed;
            *window = Window { began: Instant::now(), lines: 0, suppressed: 0 };
            suppressed
        };
        tracing::info!(suppressed, "token refused: further lines of this second were left out");
    }
}
