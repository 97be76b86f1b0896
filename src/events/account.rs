//! What happens to an account and its sessions: the auditor's record of who came in. No secret is
//! ever part of an event.

use serde::{Deserialize, Serialize};

use super::values::{Role, Username};

/// The `aggregate_type` of accounts in the log.
pub const ACCOUNT: &str = "account";

/// Internally tagged like the customers' events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum AccountEvent {
    AccountAdded {
        username: Username,
        role: Role,
    },
    AccountDisabled {},
    RoleChanged {
        role: Role,
    },
    PasswordChanged {},
    SessionOpened {
        session: String,
    },
    /// Its cookie was seen for the first time: from here on its token alone is a replay.
    SessionBound {
        session: String,
    },
    SessionClosed {
        session: String,
        jti: String,
        cause: CloseCause,
    },
    /// A bound session's token came without its cookie, or with another one. The event's metadata
    /// says where it came from, the payload where the session had been opened.
    TokenReplayDetected {
        session: String,
        jti: String,
        opened_ip: String,
        opened_user_agent: String,
    },
    LoginThrottled {
        by: ThrottledBy,
    },
}

/// Why a session ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseCause {
    LogOut,
    PasswordChanged,
    RoleChanged,
    AccountDisabled,
    SessionLimit,
}

/// Which limit of failed log-ins was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThrottledBy {
    Account,
    Address,
}

impl AccountEvent {
    /// The names of all account events.
    pub const TYPES: [&'static str; 9] = [
        "AccountAdded",
        "AccountDisabled",
        "RoleChanged",
        "PasswordChanged",
        "SessionOpened",
        "SessionBound",
        "SessionClosed",
        "TokenReplayDetected",
        "LoginThrottled",
    ];

    #[must_use]
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::AccountAdded { .. } => "AccountAdded",
            Self::AccountDisabled {} => "AccountDisabled",
            Self::RoleChanged { .. } => "RoleChanged",
            Self::PasswordChanged {} => "PasswordChanged",
            Self::SessionOpened { .. } => "SessionOpened",
            Self::SessionBound { .. } => "SessionBound",
            Self::SessionClosed { .. } => "SessionClosed",
            Self::TokenReplayDetected { .. } => "TokenReplayDetected",
            Self::LoginThrottled { .. } => "LoginThrottled",
        }
    }

    /// The version in which this program writes the event.
    #[must_use]
    pub fn event_version(&self) -> &'static str {
        match self {
            Self::AccountAdded { .. }
            | Self::AccountDisabled {}
            | Self::RoleChanged { .. }
            | Self::PasswordChanged {}
            | Self::SessionOpened { .. }
            | Self::SessionBound { .. }
            | Self::SessionClosed { .. }
            | Self::TokenReplayDetected { .. }
            | Self::LoginThrottled { .. } => "1",
        }
    }
}
