//! The Lua scripts that Redis runs: each reads and writes keys of one account or address, all under one
//! hash tag ([`super::session`] says which), so that they are legal on a Redis Cluster. A fenced script
//! follows [`FENCE`], takes the trusted epochs as its last argument and answers with the epoch first.

/// Runs before every fenced script: does its work in trusted epochs only.
pub(super) const FENCE: &str = include_str!("scripts/fence.lua");

/// Whether the epoch is trusted. Fenced.
pub(super) const KNOWN: &str = include_str!("scripts/known.lua");

/// Whether Redis takes writes. Fenced.
pub(super) const READY: &str = include_str!("scripts/ready.lua");

/// Records how far an epoch has the effects of the log. Fenced.
pub(super) const RECORD_PROGRESS: &str = include_str!("scripts/record_progress.lua");

/// Reads that record.
pub(super) const RECORDED_PROGRESS: &str = include_str!("scripts/recorded_progress.lua");

/// Whether a full Redis evicts nothing.
pub(super) const IS_NOEVICTION: &str = include_str!("scripts/is_noeviction.lua");

/// Opens a session, and ends the oldest ones over the limit.
pub(super) const OPEN_SESSION: &str = include_str!("scripts/open_session.lua");

/// Checks session, cookie and rate of a request. Fenced.
pub(super) const CHECK_SESSION_AND_COOKIE: &str =
    include_str!("scripts/check_session_and_cookie.lua");

/// The role of an open session. Fenced.
pub(super) const SESSION_ROLE: &str = include_str!("scripts/session_role.lua");

/// The open sessions of an account. Fenced.
pub(super) const LIST_SESSIONS: &str = include_str!("scripts/list_sessions.lua");

/// Binds a session to its cookie. Fenced.
pub(super) const BIND_SESSION: &str = include_str!("scripts/bind_session.lua");

/// Ends a session. Fenced.
pub(super) const CLOSE_SESSION: &str = include_str!("scripts/close_session.lua");

/// Ends the sessions that a change of the account ends. Fenced.
pub(super) const CLOSE_SESSIONS: &str = include_str!("scripts/close_sessions.lua");

/// Failed log-ins in the window.
pub(super) const LOGIN_FAILURES: &str = include_str!("scripts/login_failures.lua");

/// Counts a failed log-in.
pub(super) const COUNT_LOGIN_FAILURE: &str = include_str!("scripts/count_login_failure.lua");
