//! The binary `customers`: see `customers --help`.

use std::process::ExitCode;

// Several threads work on a request, and glibc's allocator locks when one frees what another has allocated.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    customers::cli::main()
}
