//! Arguments that turn out to be wrong only beside the data.

/// A wrong argument (exit code 2).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(String);

pub fn misused(problem: impl Into<String>) -> anyhow::Error {
    Misuse(problem.into()).into()
}
