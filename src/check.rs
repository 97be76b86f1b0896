//! One check of `customers doctor`.

/// The name of a check, and what is wrong and what to do about it; `None` if all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub advice: Option<String>,
}

impl Check {
    #[must_use]
    pub fn new(name: &'static str, advice: Option<String>) -> Self {
        Self { name, advice }
    }
}
