//! The documentation of log-in, log-out and sessions.

use super::doc::{Doc, Tag};
use super::plain::string;
use super::schemas;
use crate::api::problem_types::{NOT_FOUND, RATE_LIMITED, UNAUTHENTICATED};

pub(crate) fn log_in() -> Doc {
    Doc::new(
        Tag::Sessions, "log_in",
        "Log in",
        "Opens a session, and answers with its token and its cookie. Send both with every request: the cookie shows \
         that the token has not moved to another client. By default the first request with the cookie binds the \
         session to it. Failed log-ins have one answer, and their number per minute is limited.",
    )
    .json_body::<schemas::LogIn>()
    .json::<schemas::Token>(200, "The token, and the cookie.", &["set-cookie"])
    .problems(&[&UNAUTHENTICATED, &RATE_LIMITED])
}

pub(crate) fn log_out() -> Doc {
    Doc::new(
        Tag::Sessions,
        "log_out",
        "Log out",
        "Ends the session. From the answer on its token is refused by every process.",
    )
    .headers(&["x-reason"])
    .json::<schemas::Message>(200, "The session has ended.", &["set-cookie"])
}

pub(crate) fn prove_binding() -> Doc {
    Doc::new(
        Tag::Sessions, "prove_binding",
        "Show that token and cookie belong together",
        "Demands the cookie. With it, the session is bound; without it, the request is a token replay, and a session \
         that was bound ends.",
    )
    .json::<schemas::Message>(200, "Token and cookie belong together.", &[])
}

pub(crate) fn get_me() -> Doc {
    Doc::new(
        Tag::Sessions,
        "get_me",
        "Show who I am",
        "The account and the session of this request: user name, role, and when the session ends.",
    )
    .json::<schemas::Me>(200, "The account and its session.", &[])
}

pub(crate) fn list_sessions() -> Doc {
    Doc::new(
        Tag::Sessions,
        "list_sessions",
        "List the account's sessions",
        "The open sessions of the account, the oldest first.",
    )
    .json::<schemas::SessionList>(200, "The sessions.", &[])
}

pub(crate) fn end_sessions() -> Doc {
    Doc::new(
        Tag::Sessions,
        "end_sessions",
        "Log out everywhere",
        "Ends all sessions of the account, also that of this request.",
    )
    .headers(&["x-reason"])
    .json::<schemas::Message>(200, "The sessions have ended.", &["set-cookie"])
}

pub(crate) fn end_session() -> Doc {
    Doc::new(Tag::Sessions, "end_session", "End one session", "Ends a session of the account.")
        .path("sid", "The session.", string())
        .headers(&["x-reason"])
        .json::<schemas::Message>(200, "The session has ended.", &["set-cookie"])
        .problems(&[&NOT_FOUND])
}

pub(crate) fn change_password() -> Doc {
    Doc::new(
        Tag::Sessions,
        "change_password",
        "Change the password",
        "Changes the password of the account, and ends all its other sessions.",
    )
    .headers(&["x-reason"])
    .json_body::<schemas::PasswordChange>()
    .json::<schemas::Message>(200, "The password has changed.", &[])
}
