//! The feed: the log for other programs, in pages, as a live stream, or as a file.

#![deny(clippy::wildcard_enum_match_arm)]

/// What a reader is shown of the log.
pub mod view;

/// A page of the log, whole or filtered.
pub mod page;

/// Consecutive events of the tail, encoded.
pub mod chunk;

/// The end of the log, read once per process and shared by all followers.
pub mod tail;

/// Encodes an event as JSON, as a CloudEvent or as a CSV record.
pub mod event_format;

/// Copies a whole log into an empty installation.
pub mod log_copy;
