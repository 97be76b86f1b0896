//! The JSON shapes of requests and answers, for the document only: the tests compare every answer with them. A
//! comment of a member is its description.

#![expect(dead_code, reason = "read by the derived code only")]
#![expect(clippy::struct_field_names, reason = "the names of the members")]

/// Accounts, service keys, tokens for programs.
mod accounts;

/// Customers, their histories, the import.
mod customers;

/// The log.
mod events;

/// Projections, health, keys, this document.
mod operation;

/// Errors.
mod problems;

/// Log-in and sessions.
mod sessions;

pub(super) use self::accounts::*;
pub(super) use self::customers::*;
pub(super) use self::events::*;
pub(super) use self::operation::*;
pub(super) use self::problems::*;
pub(super) use self::sessions::*;
