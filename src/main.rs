//! The binary. It passes its arguments and environment to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    podrole::cli::main(std::env::args_os(), &std::env::vars().collect(), podrole::app::run)
}
