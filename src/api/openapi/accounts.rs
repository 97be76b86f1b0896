//! The documentation of accounts, service keys, and tokens for programs.

use super::doc::{Doc, Tag};
use super::plain::string;
use super::schemas;
use crate::api::problem_types::{EXISTS, FORBIDDEN, LOCKOUT, NOT_FOUND, TOO_MANY_KEYS};

pub(crate) fn list_accounts() -> Doc {
    Doc::new(
        Tag::Accounts,
        "list_accounts",
        "List the accounts",
        "All accounts, disabled ones too.",
    )
    .json::<schemas::AccountList>(200, "The accounts.", &[])
}

pub(crate) fn add_account() -> Doc {
    Doc::new(
        Tag::Accounts,
        "add_account",
        "Add an account",
        "The name is its own for ever, also after it was disabled.",
    )
    .headers(&["x-reason"])
    .json_body::<schemas::NewAccount>()
    .json::<schemas::Account>(201, "The account.", &["location"])
    .problems(&[&EXISTS])
}

pub(crate) fn get_account() -> Doc {
    of_account(Doc::new(Tag::Accounts, "get_account", "Show an account", "One account."))
        .json::<schemas::Account>(200, "The account.", &[])
}

pub(crate) fn change_account() -> Doc {
    of_account(Doc::new(
        Tag::Accounts, "change_account",
        "Change an account",
        "Changes role, password and whether it is disabled, all or nothing; an event for each that is another one then. \
         Each of them ends all sessions of the account, but enabling does not. An admin neither disables its own \
         account nor gives up its role, and the last enabled admin stays one.",
    ))
    .headers(&["x-reason"])
    .json_body::<schemas::AccountChange>()
    .json::<schemas::ChangedAccount>(200, "The account, and what has changed.", &[])
    .problems(&[&LOCKOUT])
}

pub(crate) fn list_account_sessions() -> Doc {
    of_account(Doc::new(
        Tag::Accounts,
        "list_account_sessions",
        "List the sessions of an account",
        "The open sessions of any account, the oldest first.",
    ))
    .json::<schemas::SessionList>(200, "The sessions.", &[])
}

pub(crate) fn end_account_sessions() -> Doc {
    of_account(Doc::new(
        Tag::Accounts,
        "end_account_sessions",
        "Log an account out everywhere",
        "Ends all sessions of any account. It may log in again.",
    ))
    .headers(&["x-reason"])
    .json::<schemas::Message>(200, "The sessions have ended.", &["set-cookie"])
}

pub(crate) fn list_service_keys() -> Doc {
    of_keys(Doc::new(
        Tag::Accounts,
        "list_service_keys",
        "List service keys",
        "The keys with which programs get tokens of the account, without their secrets.",
    ))
    .json::<schemas::ServiceKeyList>(200, "The keys.", &[])
}

pub(crate) fn add_service_key() -> Doc {
    of_keys(Doc::new(
        Tag::Accounts, "add_service_key",
        "Add a service key",
        "A key with the role of the account. Its secret is shown in this answer and never again. A session that a key \
         has opened adds no key to its own account.",
    ))
    .headers(&["x-reason"])
    .json_body::<schemas::NewServiceKey>()
    .json::<schemas::AddedServiceKey>(201, "The key, with its secret.", &[])
    .problems(&[&TOO_MANY_KEYS])
}

pub(crate) fn revoke_service_key() -> Doc {
    of_keys(Doc::new(
        Tag::Accounts,
        "revoke_service_key",
        "Revoke a service key",
        "The key opens no more sessions, and those that it has opened end at once.",
    ))
    .path("client_id", "The key.", string())
    .headers(&["x-reason"])
    .json::<schemas::Message>(200, "The key is revoked.", &[])
}

pub(crate) fn issue_token() -> Doc {
    Doc::new(
        Tag::Accounts, "issue_token",
        "Get a token for a service key",
        "OAuth 2.0, client credentials (RFC 6749, section 4.4), with the id and the secret of a service key in \
         `Authorization: Basic` or in the form. It opens a session without a cookie: the token alone is enough, in every \
         mode of binding. The token lives no longer than the key. Wrong secrets are limited as failed log-ins are. What \
         is wrong with the form or the client is an error of RFC 6749; everything else is a problem.",
    )
    .form_body::<schemas::TokenRequest>()
    .json::<schemas::IssuedToken>(200, "The token.", &[])
    .json::<schemas::TokenError>(400, "The request, or the secret in it, is wrong.", &[])
    .json::<schemas::TokenError>(401, "The secret in the header is wrong.", &["www-authenticate"])
}

pub(crate) fn get_oauth_metadata() -> Doc {
    Doc::new(
        Tag::Accounts, "get_oauth_metadata",
        "Find the token endpoint",
        "The metadata of the authorization server (RFC 8414). Below a path, its address at the host is \
         `/.well-known/oauth-authorization-server` followed by that path.",
    )
    .json::<schemas::OauthMetadata>(200, "The metadata.", &[])
}

fn of_account(doc: Doc) -> Doc {
    doc.path("username", "The user name.", string()).problems(&[&NOT_FOUND])
}

/// Every account may ask for its own.
fn of_keys(doc: Doc) -> Doc {
    doc.path("username", "The user name: the own one, or any for an admin.", string())
        .problems(&[&FORBIDDEN, &NOT_FOUND])
}
