//! Values that are one of a few words.

/// When a session is bound to its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieBinding {
    /// By the first request that brings the cookie.
    FirstUse,
    /// As `FirstUse`, but sessions of admins and auditors at log-in.
    Strict,
    /// At log-in, every session.
    Always,
    /// Never: the cookie is ignored.
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}
