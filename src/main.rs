//! The binary `customers`: see `customers --help`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A request makes many small allocations: docs/decisions.md has the figures.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    customers::cli::main()
}
