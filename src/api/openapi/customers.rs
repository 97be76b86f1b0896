//! The documentation of customers: reads, changes, the import.

use utoipa::openapi::schema::ObjectBuilder;

use super::doc::{Doc, Tag};
use super::headers::OF_CHANGES;
use super::plain::{boolean, day, integer, one_of, string, time};
use super::schemas;
use crate::api::problem_types::{
    EXISTS, FORBIDDEN, IDEMPOTENCY_MISMATCH, NOT_FOUND, OVERLOADED, PRECONDITION_REQUIRED,
    ProblemType, RATE_LIMITED, VERSION_MISMATCH,
};
use crate::events::external_id::EXTERNAL_ID_MAX_CHARS;
use crate::events::values::{CustomerId, NAME_MAX_CHARS};

/// The headers of the answer to a change.
const OF_CHANGED: [&str; 4] =
    ["event-position", "projection-pending", "preference-applied", "idempotent-replayed"];

const CREATED: [&str; 6] = [
    "location",
    "etag",
    "event-position",
    "projection-pending",
    "preference-applied",
    "idempotent-replayed",
];

const UPDATED: [&str; 5] =
    ["etag", "event-position", "projection-pending", "preference-applied", "idempotent-replayed"];

/// The headers of a list.
const LISTED: [&str; 5] = ["link", "etag", "event-position", "event-log", "as-of"];

const AS_OF: &str =
    "A time that is not in the future, or a date: the end of that day in UTC, of today now.";

/// The problems of a change of a customer.
const OF_CHANGE: [&ProblemType; 4] =
    [&NOT_FOUND, &VERSION_MISMATCH, &PRECONDITION_REQUIRED, &IDEMPOTENCY_MISMATCH];

fn name() -> ObjectBuilder {
    string().min_length(Some(1)).max_length(Some(NAME_MAX_CHARS))
}

fn external_id() -> ObjectBuilder {
    string().min_length(Some(1)).max_length(Some(EXTERNAL_ID_MAX_CHARS))
}

fn id() -> ObjectBuilder {
    integer(1, Some(CustomerId::MAX.get()))
}

pub(crate) fn list_customers() -> Doc {
    Doc::new(
        Tag::Customers, "list_customers",
        "List customers",
        "Without parameters all customers, as one consistent state of any size; with `numbers` the youngest; with \
         `limit` or `after` a page. `as_of` shows the same as the registry stood then, and needs the role auditor. \
         `name`, `born_from`, `born_to`, `external_id` and `sort` ask for a page of those who match; `count` for their \
         number. To keep a copy, take one list, and go on with `GET /events?after=` its `Event-Position`.",
    )
    .query("numbers", "How many of the youngest; 0 gives an empty list.", integer(0, None))
    .query("number", "Another spelling of `numbers`.", integer(0, None))
    .query("limit", "The size of a page; 100 without it.", integer(1, Some(1000)))
    .query("after", "The `next` of the page before.", string())
    .query("as_of", AS_OF, string())
    .query("name", "What a word of the name begins with; case, accents and width do not matter.", name())
    .query("born_from", "The first date of birth.", day())
    .query("born_to", "The last date of birth.", day())
    .query("external_id", "The id that another system has for the customer.", external_id())
    .query(
        "sort",
        "By date of birth, the youngest first; by name; by the first or the last change, the newest first.",
        one_of(["dob", "name", "created", "updated"]),
    )
    .query("count", "Only the number: exact, alone or with `name` and the others.", boolean())
    .headers(&["min-event-position"])
    .json::<schemas::CustomerList>(200, "The customers in the order of the list.", &LISTED)
    .or_json::<schemas::CustomerCount>()
    .problems(&[&FORBIDDEN, &OVERLOADED, &RATE_LIMITED])
}

pub(crate) fn create_customer() -> Doc {
    Doc::new(
        Tag::Customers, "create_customer",
        "Create a customer",
        "Appends `CustomerCreated`. Two customers may share a name. The answer waits until every read shows the \
         customer.",
    )
    .headers(&["idempotency-key", "x-reason", "prefer"])
    .json_body::<schemas::CustomerValues>()
    .json::<schemas::Customer>(201, "The customer.", &CREATED)
    .problems(&[&EXISTS, &IDEMPOTENCY_MISMATCH])
}

pub(crate) fn legacy_create_customer() -> Doc {
    Doc::new(
        Tag::Customers,
        "legacy_create_customer",
        "Create a customer (the path of the first version)",
        "The same as `POST /customers`, but for the status.",
    )
    .headers(&["idempotency-key", "x-reason", "prefer"])
    .json_body::<schemas::CustomerValues>()
    .json::<schemas::Customer>(200, "The customer.", &CREATED)
    .problems(&[&EXISTS, &IDEMPOTENCY_MISMATCH])
}

pub(crate) fn get_customer() -> Doc {
    Doc::new(
        Tag::Customers, "get_customer",
        "Read a customer",
        "The customer as it is. `version` and `as_of` show an earlier state, also of a deleted customer, and need the \
         role auditor.",
    )
    .path("id", "The customer.", id())
    .query("version", "The number of a version.", integer(0, None))
    .query("as_of", AS_OF, string())
    .headers(&["min-event-position"])
    .json::<schemas::Customer>(200, "The customer.", &["etag", "as-of", "event-position"])
    .problems(&[&FORBIDDEN, &NOT_FOUND])
}

pub(crate) fn update_customer() -> Doc {
    Doc::new(
        Tag::Customers, "update_customer",
        "Overwrite a customer",
        "Appends `CustomerUpdated`. The values that the customer has already change nothing, and append no event.",
    )
    .path("id", "The customer.", id())
    .headers(&OF_CHANGES)
    .json_body::<schemas::CustomerValues>()
    .json::<schemas::Customer>(200, "The customer.", &UPDATED)
    .problems(&OF_CHANGE)
    .problems(&[&EXISTS])
}

pub(crate) fn put_external_customer() -> Doc {
    Doc::new(
        Tag::Customers,
        "put_external_customer",
        "Create or overwrite the customer with an external id",
        "So another system needs no ids but its own: the customer that has the external id is overwritten, and one is \
         created if there is none. `If-None-Match: *` asks for a create only, `If-Match` for an update only.",
    )
    .path("external_id", "The id that another system has for the customer.", external_id())
    .headers(&OF_CHANGES)
    .json_body::<schemas::CustomerValues>()
    .json::<schemas::Customer>(200, "The customer, overwritten.", &UPDATED)
    .json::<schemas::Customer>(201, "The customer, created.", &CREATED)
    .problems(&OF_CHANGE)
}

pub(crate) fn restore_customer() -> Doc {
    Doc::new(
        Tag::Customers,
        "restore_customer",
        "Give a customer the values of an earlier version",
        "Appends `CustomerRestored`, also to a deleted customer, which is there again. The values that the customer has \
         already change nothing, and append no event.",
    )
    .path("id", "The customer.", id())
    .headers(&OF_CHANGES)
    .json_body::<schemas::Restoration>()
    .json::<schemas::Customer>(200, "The customer.", &UPDATED)
    .problems(&OF_CHANGE)
    .problems(&[&EXISTS])
}

pub(crate) fn legacy_update_customer() -> Doc {
    Doc::new(
        Tag::Customers,
        "legacy_update_customer",
        "Overwrite a customer (the path of the first version)",
        "The same as `PUT /customers/{id}`, with the id in the body.",
    )
    .headers(&OF_CHANGES)
    .json_body::<schemas::CustomerUpdate>()
    .json::<schemas::Customer>(200, "The customer.", &UPDATED)
    .problems(&OF_CHANGE)
    .problems(&[&EXISTS])
}

pub(crate) fn delete_customer() -> Doc {
    Doc::new(
        Tag::Customers,
        "delete_customer",
        "Delete a customer",
        "Appends `CustomerDeleted`. The customer is in no list any more; its history stays.",
    )
    .path("id", "The customer.", id())
    .headers(&OF_CHANGES)
    .json::<schemas::DeletedCustomer>(200, "The customer is deleted.", &OF_CHANGED)
    .problems(&OF_CHANGE)
}

pub(crate) fn legacy_delete_customer() -> Doc {
    Doc::new(
        Tag::Customers,
        "legacy_delete_customer",
        "Delete a customer (the path of the first version)",
        "The same as `DELETE /customers/{id}`.",
    )
    .required_query("id", "The customer.", id())
    .headers(&OF_CHANGES)
    .json::<schemas::DeletedCustomer>(200, "The customer is deleted.", &OF_CHANGED)
    .problems(&OF_CHANGE)
}

pub(crate) fn get_history() -> Doc {
    Doc::new(
        Tag::Customers, "get_history",
        "Read the history of a customer",
        "Every change: who, when, from where, why, and what it changed. Also of a deleted customer.",
    )
    .path("id", "The customer.", id())
    .query("limit", "The size of a page; 100 without it.", integer(1, Some(1000)))
    .query("after", "The `next` of the page before.", integer(0, None))
    .query("from", "Only changes at this time or later.", time())
    .query("to", "Only changes before this time.", time())
    .headers(&["min-event-position"])
    .json::<schemas::History>(200, "The changes, the oldest first.", &["link"])
    .problems(&[&NOT_FOUND])
}

pub(crate) fn import_customers() -> Doc {
    Doc::new(
        Tag::Customers, "import_customers",
        "Import customers",
        "Creates a customer for each good line of a file, up to 1 GiB. The answer is a line of JSON for each refused \
         line, for the progress, and at the end for the summary, or for the error that has ended the import. What \
         was created stays. The body may be packed with gzip or zstd; both it and what it unpacks to have at most \
         1 GiB.",
    )
    .headers(&["import-id", "x-reason", "content-encoding"])
    .text_body(&["text/csv", "application/x-ndjson", "application/ndjson", "application/jsonl"])
    .contents::<schemas::ImportLine>(
        200,
        "Lines of JSON, each of this shape.",
        &["application/x-ndjson"],
        &["x-accel-buffering"],
    )
    .problems(&[&IDEMPOTENCY_MISMATCH, &OVERLOADED, &RATE_LIMITED])
}
