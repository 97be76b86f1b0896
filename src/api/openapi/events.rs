//! The documentation of the log: the feed and the stream.

use super::doc::{Doc, Tag};
use super::plain::{integer, one_of, string, time};
use super::schemas;
use crate::api::problem_types::{LOG_RESTARTED, RATE_LIMITED};
use crate::events::account::{ACCOUNT, AccountEvent};
use crate::events::customer::{CUSTOMER, CustomerEvent};

pub(crate) fn list_events() -> Doc {
    Doc::new(
        Tag::Events, "list_events",
        "Read a page of the log",
        "The events after a position, in the order of the log. A page with filters reads a bounded stretch of the log, \
         so it may be empty although more events follow: go on with `next` until it is `head`. Filters combine. A \
         subscriber is shown the events of customers, without the members `ip` and `user_agent` of their metadata; \
         events of accounts are left out like those that a filter does not select.",
    )
    .query("after", "The position before the first event; 0 without it.", integer(0, None))
    .query("limit", "The size of a page; 100 without it.", integer(1, Some(1000)))
    .query("from", "Only events at this time or later.", time())
    .query("to", "Only events before this time.", time())
    .filters()
    .query("log", "The identity of the log that the client knows.", string())
    .headers(&["accept", "min-event-position"])
    .feed_page(&["event-next", "event-head", "event-log", "link", "vary"])
    .problems(&[&LOG_RESTARTED])
}

pub(crate) fn stream_events() -> Doc {
    Doc::new(
        Tag::Events, "stream_events",
        "Follow the log",
        "Server-Sent Events: each event of the log once, in its order, as soon as it is committed. The id of each is \
         its position, its data that of the feed. Without a position the stream begins at the end of the log. Filters \
         and what a subscriber is shown are those of the feed.",
    )
    .query("after", "The position before the first event.", integer(0, None))
    .query("lastEventId", "The same, for clients that cannot send the header.", integer(0, None))
    .filters()
    .query("log", "The identity of the log that the client knows.", string())
    .headers(&["last-event-id"])
    .text(
        200,
        "The events, until the client or the service closes the stream.",
        "text/event-stream",
        &["event-log", "x-accel-buffering"],
    )
    .problems(&[&LOG_RESTARTED, &RATE_LIMITED])
}

impl Doc {
    /// The filters of the log.
    fn filters(self) -> Self {
        let types: Vec<&str> =
            CustomerEvent::TYPES.iter().chain(AccountEvent::TYPES).copied().collect();
        let types = format!("Only events of these types, with commas: {}.", types.join(", "));
        self.query(
            "aggregate_type",
            "Only events of customers, or of accounts.",
            one_of([CUSTOMER, ACCOUNT]),
        )
        .query("type", &types, string())
        .query("customer", "Only events of this customer.", integer(1, None))
        .query("actor", "Only events that this account has caused.", string())
        .query("request_id", "Only events that this request has caused.", string())
        .query("session", "Only events that this session has caused.", string())
    }

    /// A page of the log in its three forms.
    fn feed_page(self, headers: &[&'static str]) -> Self {
        self.json::<schemas::EventPage>(
            200,
            "The events, in the form that Accept prefers.",
            headers,
        )
        .also::<schemas::Event>("application/x-ndjson")
        .also_list::<schemas::CloudEvent>("application/cloudevents-batch+json")
    }
}
