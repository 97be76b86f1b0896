//! The types of problem details (RFC 9457, section 3.1.1): what an error means, and what a client does about it.
//! The type of an error is the address of its page, `/problems/{slug}`.

use axum::http::StatusCode;

/// One type of problem.
#[derive(Debug, PartialEq, Eq)]
pub struct ProblemType {
    /// The last segment of the address.
    pub slug: &'static str,
    pub status: StatusCode,
    pub title: &'static str,
    pub meaning: &'static str,
    pub remedy: &'static str,
}

pub const UNAUTHENTICATED: ProblemType = ProblemType {
    slug: "unauthenticated",
    status: StatusCode::UNAUTHORIZED,
    title: "Unauthenticated",
    meaning: "The request has no valid token, or its session has ended. A failed log-in has the same type; its answer \
              does not tell whether the user name exists.",
    remedy: "Log in with POST /login, and send the token as Authorization: Bearer.",
};

pub const TOKEN_REPLAY: ProblemType = ProblemType {
    slug: "token-replay",
    status: StatusCode::UNAUTHORIZED,
    title: "Token replay",
    meaning: "The token came without the cookie that its session is bound to, with another cookie, or with two. A \
              session that was bound has ended: the token may have been stolen.",
    remedy: "Log in again, keep the cookie of the log-in, and send it with every request.",
};

pub const FORBIDDEN: ProblemType = ProblemType {
    slug: "forbidden",
    status: StatusCode::FORBIDDEN,
    title: "Forbidden",
    meaning: "The account's role does not cover this request. The detail names the role that does.",
    remedy: "Use an account with that role, or ask an administrator.",
};

pub const NOT_FOUND: ProblemType = ProblemType {
    slug: "not-found",
    status: StatusCode::NOT_FOUND,
    title: "Not found",
    meaning: "There is no such route, customer, session, account, service key or projection. A deleted customer is not found, but its \
              history is.",
    remedy: "Check the address. The routes are listed in /openapi.json.",
};

pub const METHOD_NOT_ALLOWED: ProblemType = ProblemType {
    slug: "method-not-allowed",
    status: StatusCode::METHOD_NOT_ALLOWED,
    title: "Method not allowed",
    meaning: "The address exists, but not with this method.",
    remedy: "Use a method that the header Allow names.",
};

pub const NOT_ACCEPTABLE: ProblemType = ProblemType {
    slug: "not-acceptable",
    status: StatusCode::NOT_ACCEPTABLE,
    title: "Not acceptable",
    meaning: "The header Accept excludes every media type that the route answers with. Nothing of the request was done.",
    remedy: "Send no Accept, */*, or one of the types that the detail names.",
};

pub const PRECONDITION_REQUIRED: ProblemType = ProblemType {
    slug: "precondition-required",
    status: StatusCode::PRECONDITION_REQUIRED,
    title: "Precondition required",
    meaning: "This installation demands that a change of a customer names the version that it was made of, so that no \
              change overwrites another one unseen.",
    remedy: "Read the customer, and send its ETag as If-Match. If-Match: * names any version.",
};

pub const OBSTRUCTED: ProblemType = ProblemType {
    slug: "obstructed",
    status: StatusCode::CONFLICT,
    title: "Rebuild obstructed",
    meaning: "The read table carries objects of others which a rebuild cannot take along. The detail names them.",
    remedy: "Remove or move these objects, and start the rebuild again.",
};

pub const EXISTS: ProblemType = ProblemType {
    slug: "exists",
    status: StatusCode::CONFLICT,
    title: "Exists already",
    meaning: "Another resource has a value that only one may have: the user name of an account, also of a disabled one, or \
              the external id of a customer, which errors names then. Nothing was changed.",
    remedy: "Choose another value, or change the resource that has it.",
};

pub const LOCKOUT: ProblemType = ProblemType {
    slug: "lockout",
    status: StatusCode::CONFLICT,
    title: "Lockout",
    meaning: "An administrator would take the role from its own account or disable it, or no enabled administrator would \
              be left.",
    remedy: "Let another administrator do it, or an operator with customers account.",
};

pub const TOO_MANY_KEYS: ProblemType = ProblemType {
    slug: "too-many-keys",
    status: StatusCode::CONFLICT,
    title: "Too many service keys",
    meaning: "The account has as many service keys as it may have, expired ones among them.",
    remedy: "Revoke a key that is not used any more.",
};

pub const LOG_RESTARTED: ProblemType = ProblemType {
    slug: "log-restarted",
    status: StatusCode::CONFLICT,
    title: "Log restarted",
    meaning: "The log that the request names was replaced, by a restore for example. The members log and \
              restarted_after name the present log and the last position that both have in common.",
    remedy: "Discard what was read after that position, and go on with the present log.",
};

pub const VERSION_MISMATCH: ProblemType = ProblemType {
    slug: "version-mismatch",
    status: StatusCode::PRECONDITION_FAILED,
    title: "Version mismatch",
    meaning: "A condition of the request, If-Match for example, is not met: the customer has changed since.",
    remedy: "Read the customer again, decide whether the change still applies, and send it with the new ETag.",
};

pub const TOO_LARGE: ProblemType = ProblemType {
    slug: "too-large",
    status: StatusCode::PAYLOAD_TOO_LARGE,
    title: "Body too large",
    meaning: "The body has more bytes than the route takes. The detail names the limit.",
    remedy: "Send less in one request. An import goes on in another file.",
};

pub const UNSUPPORTED_MEDIA_TYPE: ProblemType = ProblemType {
    slug: "unsupported-media-type",
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    title: "Unsupported media type",
    meaning: "The body has a media type, a charset or a coding that the route does not take.",
    remedy: "Send a type that the header Accept of the answer names, in UTF-8, and packed only as its header \
             Accept-Encoding says.",
};

pub const MALFORMED: ProblemType = ProblemType {
    slug: "malformed",
    status: StatusCode::BAD_REQUEST,
    title: "Malformed request",
    meaning: "Something cannot be read: broken JSON, a header, or a query parameter that is unknown, repeated, in \
              conflict with another or of the wrong shape. The member errors names each.",
    remedy: "Correct what errors names. A repetition without a change fails in the same way.",
};

pub const INVALID: ProblemType = ProblemType {
    slug: "invalid",
    status: StatusCode::UNPROCESSABLE_ENTITY,
    title: "Invalid values",
    meaning: "The JSON was read, but members are missing, of the wrong type or refused. The member errors names all \
              of them at once.",
    remedy: "Correct what errors names.",
};

pub const IDEMPOTENCY_MISMATCH: ProblemType = ProblemType {
    slug: "idempotency-mismatch",
    status: StatusCode::UNPROCESSABLE_ENTITY,
    title: "Idempotency key reused",
    meaning: "The Idempotency-Key, or the Import-Id, was used before for another request.",
    remedy: "Use a new key for each request, and the same key only to repeat that request.",
};

pub const RATE_LIMITED: ProblemType = ProblemType {
    slug: "rate-limited",
    status: StatusCode::TOO_MANY_REQUESTS,
    title: "Too many requests",
    meaning: "The client's address or the account has sent more requests, failed log-ins or long requests at the same \
              time than the service takes.",
    remedy: "Wait as many seconds as the header Retry-After says.",
};

pub const OVERLOADED: ProblemType = ProblemType {
    slug: "overloaded",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "Overloaded",
    meaning: "The service has more work, or keeps more long answers, than it can. Nothing of the request was done.",
    remedy: "Repeat the request later, after Retry-After if the answer has it.",
};

pub const UNAVAILABLE: ProblemType = ProblemType {
    slug: "unavailable",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "Service unavailable",
    meaning: "A server behind the service does not answer, the service is starting or stopping, or the read table does \
              not show the position that the request named. A change may have been made.",
    remedy: "Repeat the request after Retry-After. Send changes with an Idempotency-Key: they are made once.",
};

pub const INTERNAL: ProblemType = ProblemType {
    slug: "internal",
    status: StatusCode::INTERNAL_SERVER_ERROR,
    title: "Internal error",
    meaning: "An error of the service. Its cause is in the service's log, under the request id.",
    remedy: "Tell the operator the request id.",
};

/// All types.
pub const ALL: [&ProblemType; 22] = [
    &MALFORMED,
    &UNAUTHENTICATED,
    &TOKEN_REPLAY,
    &FORBIDDEN,
    &NOT_FOUND,
    &METHOD_NOT_ALLOWED,
    &NOT_ACCEPTABLE,
    &OBSTRUCTED,
    &EXISTS,
    &LOCKOUT,
    &TOO_MANY_KEYS,
    &LOG_RESTARTED,
    &VERSION_MISMATCH,
    &PRECONDITION_REQUIRED,
    &TOO_LARGE,
    &UNSUPPORTED_MEDIA_TYPE,
    &INVALID,
    &IDEMPOTENCY_MISMATCH,
    &RATE_LIMITED,
    &INTERNAL,
    &OVERLOADED,
    &UNAVAILABLE,
];
