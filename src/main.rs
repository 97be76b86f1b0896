//! The binary `customers`: see `customers --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    customers::cli::main()
}
