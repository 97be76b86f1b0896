//! How much a command says: `-q` and `-v`.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process leaves out progress and remarks.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

#[derive(clap::Args, Clone, Copy)]
pub struct Verbosity {
    /// Only results and errors: no progress, no remarks, no warnings in the log
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log more than CUSTOMERS_LOG says: -v what the program does, -vv what its libraries do, too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Verbosity {
    /// Makes it that of this process.
    pub fn settle(self) {
        IS_QUIET.store(self.quiet, Ordering::Relaxed);
    }

    /// The directives of the log: those of the flags, else those that are configured.
    pub fn log(self, configured: String) -> String {
        match (self.quiet, self.verbose) {
            (true, _) => "error".to_owned(),
            (false, 0) => configured,
            (false, 1) => "info,customers=debug".to_owned(),
            (false, _) => "debug,customers=trace".to_owned(),
        }
    }
}

/// Whether this process leaves out progress and remarks.
pub fn is_quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}
