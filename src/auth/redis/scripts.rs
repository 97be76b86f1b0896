//! The Lua scripts that Redis runs: each reads and writes keys of one account or address, all under one
//! hash tag (see [`crate::auth::session`]), as a Redis Cluster requires. A fenced script is preceded by
//! [`FENCE`], takes the trusted epochs as its last argument and returns the epoch as its first value.

/// Runs before every fenced script, and returns unless the epoch is trusted.
pub(in crate::auth) const FENCE: &str = include_str!("scripts/epoch_fence.lua");

/// Whether the epoch is trusted. Fenced.
pub(in crate::auth) const IS_TRUSTED_EPOCH: &str = include_str!("scripts/is_trusted_epoch.lua");

/// Whether Redis accepts writes. Fenced.
pub(in crate::auth) const IS_WRITABLE: &str = include_str!("scripts/is_writable.lua");

/// Records the position up to which an epoch has the effects of the log. Fenced.
pub(in crate::auth) const WRITE_EPOCH_POSITION: &str =
    include_str!("scripts/write_epoch_position.lua");

/// Reads that record.
pub(in crate::auth) const READ_EPOCH_POSITION: &str =
    include_str!("scripts/read_epoch_position.lua");

/// Whether a full Redis evicts nothing.
pub(in crate::auth) const IS_NOEVICTION: &str = include_str!("scripts/is_noeviction.lua");

/// The commands that the user of Redis may not run, and those that this server does not know.
pub(in crate::auth) const MISSING_PERMISSIONS: &str =
    include_str!("scripts/missing_permissions.lua");

/// Opens a session, and ends the oldest ones over the limit.
pub(in crate::auth) const OPEN_SESSION: &str = include_str!("scripts/open_session.lua");

/// Checks session, cookie and rate of a request. Fenced.
pub(in crate::auth) const CHECK_SESSION_AND_COOKIE: &str =
    include_str!("scripts/check_session_and_cookie.lua");

/// The role of an open session. Fenced.
pub(in crate::auth) const READ_SESSION_ROLE: &str = include_str!("scripts/read_session_role.lua");

/// The ids of the sessions of an account. Fenced.
pub(in crate::auth) const LIST_SESSIONS: &str = include_str!("scripts/list_sessions.lua");

/// The open ones of some sessions of an account. Fenced.
pub(in crate::auth) const READ_SESSIONS: &str = include_str!("scripts/read_sessions.lua");

/// Binds a session to its cookie. Fenced.
pub(in crate::auth) const BIND_SESSION: &str = include_str!("scripts/bind_session.lua");

/// Ends a session. Fenced.
pub(in crate::auth) const CLOSE_SESSION: &str = include_str!("scripts/close_session.lua");

/// Ends some of the sessions that a change of the account ends. Fenced.
pub(in crate::auth) const CLOSE_ACCOUNT_SESSIONS: &str =
    include_str!("scripts/close_account_sessions.lua");

/// The number of failed log-ins in the window.
pub(in crate::auth) const READ_LOGIN_FAILURES: &str =
    include_str!("scripts/read_login_failures.lua");

/// Counts a failed log-in.
pub(in crate::auth) const COUNT_LOGIN_FAILURE: &str =
    include_str!("scripts/count_login_failure.lua");
