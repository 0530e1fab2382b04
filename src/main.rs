//! The binary: passes arguments and environment to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    podrole::cli::main(std::env::args_os(), &std::env::vars().collect(), podrole::app::run)
}
