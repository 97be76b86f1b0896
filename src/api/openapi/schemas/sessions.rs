//! Log-in and sessions.

use utoipa::ToSchema;

#[derive(ToSchema)]
pub(crate) struct Message {
    msg: String,
}

#[derive(ToSchema)]
pub(crate) struct LogIn {
    #[schema(example = "demo")]
    username: String,
    #[schema(format = Password, example = "demo-password")]
    password: String,
    /// Binds the session to its cookie at once, and not at the first request that brings it.
    binding: Option<Binding>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Binding {
    Cookie,
}

/// A token (RFC 6749, section 5.1).
#[derive(ToSchema)]
pub(crate) struct Token {
    /// A JWT, signed with EdDSA.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: String,
    /// In seconds.
    #[schema(minimum = 1, example = 3600)]
    expires_in: i64,
}

/// The account and the session of a request.
#[derive(ToSchema)]
pub(crate) struct Me {
    #[schema(example = "demo")]
    username: String,
    #[schema(example = "admin")]
    role: String,
    sid: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A session of the account.
#[derive(ToSchema)]
pub(crate) struct Session {
    sid: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// The address of the log-in.
    ip: String,
    user_agent: String,
    /// Whether it is the session of this request.
    current: bool,
    /// The service key that opened it; absent for a log-in.
    #[schema(format = "uuid", required = false)]
    client_id: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct SessionList {
    /// The oldest first.
    sessions: Vec<Session>,
}

#[derive(ToSchema)]
pub(crate) struct PasswordChange {
    #[schema(format = Password)]
    old: String,
    /// 8 to 1024 bytes.
    #[schema(format = Password)]
    new: String,
    #[schema(max_length = 500)]
    reason: Option<String>,
}
