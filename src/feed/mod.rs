//! HOW THE LOG IS TOLD. Events for other programs: page by page, as they come, as a file.

#![deny(clippy::wildcard_enum_match_arm)]

/// A page of the log, whole or filtered.
pub mod page;

/// The end of the log, shared by all followers.
pub mod tail;

/// An event as JSON, as a CloudEvent, as a CSV record.
pub mod event_format;

/// A whole log from one installation into another.
pub mod log_copy;
