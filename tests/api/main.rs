//! The one integration binary: every test goes through the public API, on real servers, with a
//! database and a Redis prefix of its own.

mod deployment;
mod harness;
