//! The principal of a request, and the purpose for which it is admitted.

use std::sync::Arc;

use super::token::Verified;
use crate::events::account_key::ClientId;
use crate::events::values::{Role, Username};

/// The account and session of an authenticated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub role: Role,
    pub(super) token: Arc<Verified>,
}

impl Principal {
    #[must_use]
    pub fn username(&self) -> &Username {
        &self.token.claims.sub
    }

    /// The id of the session.
    #[must_use]
    pub fn sid(&self) -> &str {
        &self.token.claims.sid
    }

    /// When the token and its session end, in seconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.token.claims.exp
    }

    /// The service key that opened the session; `None` for a log-in.
    #[must_use]
    pub fn client_id(&self) -> Option<ClientId> {
        self.token.claims.client_id
    }

    /// The id of the token.
    #[must_use]
    pub(super) fn jti(&self) -> &str {
        &self.token.claims.jti
    }
}

/// The session cookie of a request, as [`SessionCookies`](super::cookie::SessionCookies) reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie<'a> {
    /// None, or only cookies of neighbours.
    Absent,
    /// A value that this installation has made.
    Own(&'a str),
    /// A value without our form, by the name that all installations share: a neighbour's, unless it is that of
    /// the session, which an earlier version opened.
    Earlier(&'a str),
    /// Two or more of ours by one name: another site has set one of them.
    Several,
}

/// The purpose of a request, as far as admission depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Needs the cookie once the session is bound; counts towards the account's limit.
    Access,
    /// Needs the cookie in any case: the cookie experiment.
    CookieProof,
    /// Manages the account's sessions; counts towards a limit of this session alone. So an attacker who
    /// uses up the account's limit cannot stop the owner from ending the stolen session.
    SessionManagement,
    /// Ends the session; counts towards no limit, so that an attacker who shares the owner's session
    /// cannot stop the owner from ending it.
    Logout,
}
