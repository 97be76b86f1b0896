//! The one integration binary: every test goes through the public API, on real servers, with a
//! database and a Redis prefix of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod crash;
mod deployment;
mod dev;
mod harness;
mod log;
mod process;
mod projections;
mod schema;
