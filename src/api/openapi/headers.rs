//! The headers of requests and answers: what each means, and its shape.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::ObjectBuilder;
use utoipa::openapi::{Header, Ref};

use super::plain::{integer, one_of, string};

/// The headers of every answer.
pub(super) const OF_EVERY_ANSWER: [&str; 7] = [
    "cache-control",
    "content-security-policy",
    "ratelimit",
    "ratelimit-policy",
    "referrer-policy",
    "x-content-type-options",
    "x-request-id",
];

/// Request headers of changes.
pub(super) const OF_CHANGES: [&str; 5] =
    ["if-match", "if-none-match", "idempotency-key", "x-reason", "prefer"];

/// The description and the schema of a request header.
pub(super) fn of_request(name: &str) -> (&'static str, ObjectBuilder) {
    match name {
        "if-match" => (
            "Entity tags, or `*`. The request fails with 412 if the customer is at another version.",
            string(),
        ),
        "if-none-match" => (
            "Entity tags, or `*`. A read of a version that is named is answered 304; a change of it fails with 412.",
            string(),
        ),
        "idempotency-key" => (
            "The client's name for this request, kept for 24 hours: a repetition gets the first answer, and nothing \
             is done twice.",
            visible_ascii(),
        ),
        "x-reason" => (
            "Why, in UTF-8; the event and the history keep it. `X-Reason*` takes the same text percent-encoded \
             (RFC 8187), for clients that cannot send UTF-8.",
            string().max_length(Some(500)),
        ),
        "prefer" => (
            "`respond-async`: the answer does not wait until the read table shows the change (RFC 7240).",
            string(),
        ),
        "min-event-position" => (
            "The read shows at least the state after this position, or is answered 503 after two seconds.",
            integer(0, None),
        ),
        "import-id" => (
            "The client's name for this import: a repetition goes on where the first one has stopped.",
            visible_ascii(),
        ),
        "accept" => (
            "`application/json`, `application/x-ndjson` or `application/cloudevents-batch+json`.",
            string(),
        ),
        "content-encoding" => {
            ("`gzip` or `zstd`, if the body is packed.", one_of(["gzip", "zstd"]))
        }
        "last-event-id" => ("The position after which the stream begins.", integer(0, None)),
        name => unreachable!("the request header {name} is not described"),
    }
}

/// The headers of answers: name and description. The value is a text, or a plain integer for [`INTEGERS`].
const OF_ANSWERS: [(&str, &str); 25] = [
    ("accept", "The media types that the route takes."),
    ("accept-encoding", "The content codings that the route takes; `identity` if it takes none."),
    (
        "as-of",
        "The moment that is shown: the last microsecond of the day that `as_of` names, or now, if that is today.",
    ),
    ("cache-control", "`no-store`, but for what may be cached."),
    ("content-security-policy", "Nothing that a browser finds in an answer may run."),
    (
        "etag",
        "The version in quotes. That of a list is weak, and another one when the log has grown: `If-None-Match` with it \
         makes a poll cost a 304.",
    ),
    ("event-head", "The member `head` of the JSON form."),
    ("event-log", "The identity of the log."),
    ("event-next", "The member `next` of the JSON form."),
    (
        "event-position",
        "The position of the change in the log; of the last one, if nothing changed. Of a list, the position that it \
         shows: a copy of the list goes on with `GET /events?after=` it, and misses nothing.",
    ),
    ("idempotent-replayed", "`true`: the answer to the first request with this `Idempotency-Key`."),
    ("link", "The address of the next page, as `rel=\"next\"` (RFC 8288)."),
    ("location", "The address of the customer, or of the account."),
    ("preference-applied", "`respond-async`."),
    ("projection-pending", "`true`: the read table does not show the change yet."),
    (
        "ratelimit",
        "How many requests are left, and for how many seconds (draft-ietf-httpapi-ratelimit-headers-10). Absent while \
         the limit is off.",
    ),
    ("ratelimit-policy", "The limit of requests per second of a client's address."),
    ("referrer-policy", "`no-referrer`."),
    ("retry-after", "After how many seconds to repeat the request."),
    ("set-cookie", "The session's cookie."),
    ("vary", "The request headers by which answers differ."),
    ("www-authenticate", "`Bearer` (RFC 6750); of the token endpoint `Basic` (RFC 7617)."),
    ("x-accel-buffering", "`no`: nginx passes each part on at once."),
    ("x-content-type-options", "`nosniff`."),
    ("x-request-id", "The id of this request: the client's `X-Request-Id`, or a new one."),
];

const INTEGERS: [&str; 4] = ["event-head", "event-next", "event-position", "retry-after"];

/// A reference to a header of an answer.
pub(super) fn reference(name: &str) -> Ref {
    assert!(
        OF_ANSWERS.iter().any(|(known, _)| *known == name),
        "the header {name} is not described"
    );
    Ref::new(format!("#/components/headers/{name}"))
}

/// The headers of answers, by their names.
pub(super) fn of_answers() -> impl Iterator<Item = (&'static str, Header)> {
    OF_ANSWERS.into_iter().map(|(name, description)| {
        let schema = if INTEGERS.contains(&name) { integer(0, None) } else { string() };
        let header = HeaderBuilder::new().description(Some(description)).schema(Some(schema));
        (name, header.build())
    })
}

fn visible_ascii() -> ObjectBuilder {
    string().min_length(Some(1)).max_length(Some(255)).pattern(Some("^[!-~]+$"))
}
