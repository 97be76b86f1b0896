//! The one integration binary: every test goes through the public API, on real servers, with a
//! database and a Redis prefix of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod bad_input;
mod bad_parameters;
mod batches;
mod binding;
mod cli;
mod cluster;
mod crash;
mod customers;
mod decisions;
mod deployment;
mod dev;
mod doctor;
mod evolution;
mod feed;
mod given_up;
mod harness;
mod headers;
mod history;
mod hostile;
mod idempotency;
mod if_match;
mod import;
mod keys;
mod limits;
mod lists;
mod log;
mod log_ins;
mod lost_connections;
mod ops;
mod own_redis;
mod own_sessions;
mod own_writes;
mod parked;
mod password;
mod past;
mod process;
mod projections;
mod proxy;
mod rebuild;
mod redis_trouble;
mod refusals;
mod replica;
mod roles;
mod schema;
mod sessions;
mod sizes;
mod stream;
mod takeover;
mod throttle;
mod tokens;
mod transfer;
mod two_processes;
mod versions;
