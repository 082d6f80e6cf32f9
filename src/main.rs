//! The binary: hardens the process, runs the command line, exits with its code.

use std::process::ExitCode;

use holdfast::cli;
use holdfast::cli::environment::Environment;
use holdfast::cli::hardening::harden_process;

fn main() -> ExitCode {
    harden_process();
    ExitCode::from(cli::run(std::env::args_os().collect(), Environment::of_process()))
}
