//! What happens to an account and its sessions: the auditor's record of who came in. No secret is
//! ever part of an event.

use serde::{Deserialize, Serialize};
use strum::VariantNames as _;

use super::values::{Role, Username};

/// The `aggregate_type` of accounts in the log.
pub const ACCOUNT: &str = "account";

/// Internally tagged like the customers' events.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
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
    pub const TYPES: &'static [&'static str] = Self::VARIANTS;

    #[must_use]
    pub fn event_type(&self) -> &'static str {
        self.into()
    }

    /// Whether the event ends every session that was opened before it: those of the index
    /// `changes_of_accounts`.
    #[must_use]
    pub fn ends_all_sessions(&self) -> bool {
        match self {
            Self::PasswordChanged {} | Self::RoleChanged { .. } | Self::AccountDisabled {} => true,
            Self::AccountAdded { .. }
            | Self::SessionOpened { .. }
            | Self::SessionBound { .. }
            | Self::SessionClosed { .. }
            | Self::TokenReplayDetected { .. }
            | Self::LoginThrottled { .. } => false,
        }
    }

    /// Whether Redis must have the event's effect before it is trusted: those of the index
    /// `events_of_sessions`.
    #[must_use]
    pub fn changes_sessions(&self) -> bool {
        match self {
            Self::SessionBound { .. }
            | Self::SessionClosed { .. }
            | Self::TokenReplayDetected { .. } => true,
            Self::AccountAdded { .. }
            | Self::AccountDisabled {}
            | Self::RoleChanged { .. }
            | Self::PasswordChanged {}
            | Self::SessionOpened { .. }
            | Self::LoginThrottled { .. } => self.ends_all_sessions(),
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

impl cqrs_es::DomainEvent for AccountEvent {
    fn event_type(&self) -> String {
        self.event_type().to_owned()
    }

    fn event_version(&self) -> String {
        self.event_version().to_owned()
    }
}
