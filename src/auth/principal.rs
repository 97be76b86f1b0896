//! Who a request acts for, and what it is admitted for.

use crate::events::values::{Role, Username};

/// The account and session of an authenticated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub username: Username,
    pub role: Role,
    pub sid: String,
    pub jti: String,
}

/// The session cookie of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie<'a> {
    Absent,
    One(&'a str),
    /// Two or more of our name: another party has set one of them.
    Several,
}

/// What a request is for, as far as admission depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Needs the cookie once the session is bound; counts towards the account's limit.
    Access,
    /// Needs the cookie in any case: the cookie experiment.
    CookieProof,
    /// Manages the account's sessions; counts towards a limit of this session alone. A thief who has
    /// used up the account's limit cannot keep the owner from ending the stolen session.
    SessionManagement,
    /// Ends the session; counts towards no limit, so that a thief with the very session of the owner
    /// cannot keep it open.
    Logout,
}
