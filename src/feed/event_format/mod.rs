//! Encodes an event for other programs, in three formats. JSON members keep their stored bytes and order.

/// The JSON object of the feed, the stream and the export.
mod json;

/// CloudEvents 1.0.
mod cloud_event;

/// Records of a CSV export.
mod csv;

/// The members of a payload, without its type.
mod data;

pub use cloud_event::{cloud_event, source};
pub use csv::{CSV_COLUMNS, cell, csv_record};
pub use json::json;
