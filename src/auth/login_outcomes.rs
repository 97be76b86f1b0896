//! What becomes of log-ins, counted.

use super::error::AuthError;

/// Counts log-ins by their outcome.
const LOG_INS: &str = "customers_logins_total";

const OPENED: &str = "opened";
/// An unknown name, a wrong password, or a disabled account.
const REFUSED: &str = "refused";
/// After too many failures.
const THROTTLED: &str = "throttled";
/// The account has opened too many sessions.
const LIMITED: &str = "limited";
/// Too many log-ins wait for a password check.
const QUEUE_FULL: &str = "queue_full";
/// Redis or PostgreSQL is away.
const FAILED: &str = "failed";

/// Registers the series of all outcomes.
pub(super) fn register() {
    for outcome in [OPENED, REFUSED, THROTTLED, LIMITED, QUEUE_FULL, FAILED] {
        metrics::counter!(LOG_INS, "outcome" => outcome).increment(0);
    }
}

/// Counts a log-in that ended with this error, or with none.
pub(super) fn count(error: Option<&AuthError>) {
    let outcome = match error {
        None => OPENED,
        Some(AuthError::Unauthenticated) => REFUSED,
        Some(AuthError::Throttled { .. }) => THROTTLED,
        Some(AuthError::TooManyLogins { .. }) => LIMITED,
        Some(AuthError::Overloaded) => QUEUE_FULL,
        Some(_) => FAILED,
    };
    metrics::counter!(LOG_INS, "outcome" => outcome).increment(1);
}
