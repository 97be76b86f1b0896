//! Accounts, service keys, tokens for programs.

use utoipa::ToSchema;

/// An account, without its secret.
#[derive(ToSchema)]
pub(crate) struct Account {
    /// Folded: NFKC, lower case.
    #[schema(example = "ada")]
    username: String,
    role: AccountRole,
    /// Whether it may not log in.
    disabled: bool,
    #[schema(format = DateTime)]
    created_at: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum AccountRole {
    Viewer,
    Editor,
    Subscriber,
    Auditor,
    Admin,
}

#[derive(ToSchema)]
pub(crate) struct AccountList {
    /// By name.
    accounts: Vec<Account>,
}

#[derive(ToSchema)]
pub(crate) struct NewAccount {
    /// 1 to 64 visible characters without spaces and braces; upper and lower case are the same.
    #[schema(min_length = 1, example = "ada")]
    username: String,
    /// 8 to 1024 bytes.
    #[schema(format = Password)]
    password: String,
    role: AccountRole,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// What to change of an account; what is absent or null stays as it is.
#[derive(ToSchema)]
pub(crate) struct AccountChange {
    role: Option<AccountRole>,
    disabled: Option<bool>,
    /// 8 to 1024 bytes. Of another account: the own one has `POST /password`.
    #[schema(format = Password)]
    password: Option<String>,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// An account after a change.
#[derive(ToSchema)]
pub(crate) struct ChangedAccount {
    #[schema(example = "ada")]
    username: String,
    role: AccountRole,
    disabled: bool,
    #[schema(format = DateTime)]
    created_at: String,
    /// The members that are other ones now; none if all were so already.
    changed: Vec<AccountPart>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum AccountPart {
    Role,
    Password,
    Disabled,
}

/// A service key, without its secret.
#[derive(ToSchema)]
pub(crate) struct ServiceKey {
    #[schema(format = "uuid")]
    client_id: String,
    #[schema(example = "nightly sync")]
    name: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// From then on it opens no sessions, and those that it has opened have ended.
    #[schema(format = DateTime)]
    expires_at: String,
    /// When it last opened a session, to the minute; null if it never did.
    #[schema(format = DateTime, required = true)]
    last_used_at: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct ServiceKeyList {
    /// The oldest first, expired ones too.
    keys: Vec<ServiceKey>,
}

#[derive(ToSchema)]
pub(crate) struct NewServiceKey {
    /// 1 to 64 visible characters.
    #[schema(min_length = 1, example = "nightly sync")]
    name: String,
    /// In the future, within 731 days.
    #[schema(format = DateTime)]
    expires_at: String,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// A service key with its secret, which is shown this once.
#[derive(ToSchema)]
pub(crate) struct AddedServiceKey {
    #[schema(format = "uuid")]
    client_id: String,
    #[schema(pattern = "^customers_sk_[0-9A-Za-z]{49}$")]
    client_secret: String,
    name: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A request for a token (RFC 6749, section 4.4.2). Other parameters are ignored.
#[derive(ToSchema)]
pub(crate) struct TokenRequest {
    grant_type: GrantType,
    /// Unless `Authorization: Basic` has it.
    client_id: Option<String>,
    /// Unless `Authorization: Basic` has it.
    #[schema(format = Password)]
    client_secret: Option<String>,
    /// A role that the account's role covers; by default that one.
    scope: Option<AccountRole>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum GrantType {
    ClientCredentials,
}

/// A token for a program (RFC 6749, section 5.1).
#[derive(ToSchema)]
pub(crate) struct IssuedToken {
    /// A JWT, signed with EdDSA.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: String,
    /// In seconds.
    #[schema(minimum = 1, example = 3600)]
    expires_in: i64,
    /// The role of the session.
    scope: AccountRole,
}

/// Why there is no token (RFC 6749, section 5.2).
#[derive(ToSchema)]
pub(crate) struct TokenError {
    error: TokenErrorCode,
    error_description: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum TokenErrorCode {
    InvalidRequest,
    InvalidClient,
    UnsupportedGrantType,
    InvalidScope,
}

/// The metadata of the authorization server (RFC 8414, section 2).
#[derive(ToSchema)]
pub(crate) struct OauthMetadata {
    /// The public URL of the service.
    #[schema(format = "uri")]
    issuer: String,
    #[schema(format = "uri")]
    token_endpoint: String,
    #[schema(format = "uri")]
    jwks_uri: String,
    scopes_supported: Vec<String>,
    response_types_supported: Vec<String>,
    grant_types_supported: Vec<String>,
    token_endpoint_auth_methods_supported: Vec<String>,
    #[schema(format = "uri")]
    service_documentation: String,
}
