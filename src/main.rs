//! The binary: arguments and environment in, an exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    podrole::cli::main(std::env::args_os(), &std::env::vars().collect(), podrole::app::run)
}
