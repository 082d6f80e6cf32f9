//! The command line: the only part that reads the environment, prints, and knows exit codes.
//!
//! A command parses its arguments, calls the library once, and prints text or JSON. Errors are
//! printed here, once, and nowhere else.

pub mod args;
#[cfg(feature = "mount")]
pub mod base_into;
pub mod command;
pub mod config;
pub mod config_files;
pub mod config_text;
pub mod context;
#[cfg(feature = "mount")]
pub mod drill_checks;
#[cfg(feature = "mount")]
pub mod drill_record;
pub mod entry;
pub mod environment;
pub mod error;
pub mod error_kind;
pub mod escape;
pub mod explain;
pub mod fetched_dump;
pub mod hardening;
pub mod healing;
#[cfg(feature = "mount")]
pub mod isolated;
pub mod known_addresses;
#[cfg(feature = "mount")]
pub mod live_directory;
#[cfg(feature = "mount")]
pub mod live_server;
pub mod log;
pub mod log_search;
pub mod maintaining;
#[cfg(any(feature = "mount", feature = "webdav"))]
pub mod mounting;
pub mod open_repository;
pub mod output;
pub mod place;
pub mod postgres;
pub mod postgres_bases;
pub mod postgres_dump;
pub mod postgres_recovery;
pub mod private_file;
pub mod progress;
pub mod reading;
pub mod redis;
pub mod redis_append_only;
pub mod redis_archive;
#[cfg(feature = "mount")]
pub mod redis_assertion;
#[cfg(feature = "mount")]
pub mod redis_checks;
pub mod redis_cluster;
#[cfg(feature = "mount")]
pub mod redis_drill;
pub mod redis_files;
pub mod redis_found;
pub mod redis_moment;
pub mod replicas;
pub mod run_folder;
pub mod secret_file;
pub mod secrets;
pub mod selector;
pub mod signals;
pub mod source_config;
pub mod table;
pub mod terminal;
pub mod time;
pub mod wal_archive;
pub mod words;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::args::{Cli, Command};
use crate::cli::context::{Context, output_options};
use crate::cli::environment::Environment;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::usage;
use crate::cli::output::{Output, OutputOptions};

/// Runs the program: arguments as the system gives them, the program's own name first.
///
/// Returns the exit code; everything has been printed.
#[must_use]
#[allow(clippy::needless_pass_by_value, reason = "the program's own; nothing else uses it")]
pub fn run(arguments: Vec<OsString>, environment: Environment) -> u8 {
    // A recovering server takes most codes for the end of its log, and goes on from there.
    let is_fetch = arguments.iter().any(|argument| argument == "wal-fetch");
    let code = run_arguments(arguments, &environment);
    if is_fetch { wal_fetch_code(code) } else { code }
}

/// Whatever is not "there" or "not there" must stop a recovery.
fn wal_fetch_code(code: u8) -> u8 {
    match code {
        0 => 0,
        code if code == Exit::NotArchived.code() => 1,
        _ => u8::MAX,
    }
}

fn run_arguments(arguments: Vec<OsString>, environment: &Environment) -> u8 {
    let json = arguments.iter().any(|argument| argument == "--json");
    let plain = Arc::new(Output::new(OutputOptions { json, ..OutputOptions::default() }));
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return end(&plain, refused(&plain, &error)),
    };
    let output = match output_options(&cli.global, environment) {
        Ok(options) => Arc::new(Output::new(options)),
        Err(error) => return end(&plain, Err(error)),
    };
    let result = catch_unwind(AssertUnwindSafe(|| execute(cli, environment, &output)));
    // The panic hook has said where; what broke is not known to be safe to print.
    let result = result.unwrap_or_else(|_| {
        Err(CommandError::new(&usage::INTERNAL, "the command stopped at an internal fault"))
    });
    end(&output, result)
}

fn execute(
    cli: Cli,
    environment: &Environment,
    output: &Arc<Output>,
) -> Result<Exit, CommandError> {
    let Cli { global, command } = cli;
    log::start(global.verbose, environment)?;
    let bare = |global| Context::bare(global, environment.clone(), Arc::clone(output));
    let full = |global| Context::new(global, environment.clone(), Arc::clone(output));
    match command {
        Command::Version(args) => command::version::run(args, &bare(global)),
        Command::Explain(args) => command::explain::run(&args, &bare(global)),
        Command::Completions(args) => command::completions::run(&args, &bare(global)),
        Command::Man(args) => command::man::run(&args, &bare(global)),
        Command::Cat(args) => command::restore_run::run_cat(&args, &full(global)?),
        Command::Config(args) => command::config::run(&args, &full(global)?),
        Command::Backup(args) => command::backup_run::run(&args, &full(global)?),
        Command::Init(args) => command::init::run(&args, &full(global)?),
        Command::Key(args) => command::key::run(&args, &full(global)?),
        Command::Writer(args) => command::writer::run(&args, &full(global)?),
        Command::Snapshots(args) => command::snapshots::run(&args, &full(global)?),
        Command::Ls(args) => command::ls::run(&args, &full(global)?),
        Command::Find(args) => command::find::run(&args, &full(global)?),
        Command::Doctor(args) => command::doctor::run(args, &full(global)?),
        Command::Diff(args) => command::diff::run(&args, &full(global)?),
        Command::Stats(args) => command::stats::run(&args, &full(global)?),
        Command::Restore(args) => command::restore_run::run(&args, &full(global)?),
        #[cfg(feature = "mount")]
        Command::Drill(args) => command::drill::run(&args, &full(global)?),
        #[cfg(feature = "mount")]
        Command::Mount(args) => command::mount::run(&args, &full(global)?),
        #[cfg(feature = "webdav")]
        Command::Serve(args) => command::serve::run(&args, &full(global)?),
        Command::RecoveryKit(args) => command::recovery_kit::run(&args, &full(global)?),
        Command::Forget(args) => command::forget::run(&args, &full(global)?),
        Command::Prune(args) => command::prune::run(&args, &full(global)?),
        Command::Recover(args) => command::recover::run(&args, &full(global)?),
        Command::Check(args) => command::check::run(&args, &full(global)?),
        Command::Replica(args) => command::replica::run(&args, &full(global)?),
        Command::Copy(args) => command::copy::run(&args, &full(global)?),
        Command::Pg(args) => command::pg::run(&args, &full(global)?),
        Command::Redis(args) => command::redis::run(&args, &full(global)?),
        Command::Promote(args) => command::promote::run(&args, &full(global)?),
        Command::Scrub(args) => command::scrub::run(&args, &full(global)?),
        Command::Repair(args) => command::repair::run(&args, &full(global)?),
    }
}

/// Prints the error, if there is one, and gives the exit code.
fn end(output: &Output, result: Result<Exit, CommandError>) -> u8 {
    output.detach();
    match result.and_then(|exit| output.finish().map(|()| exit)) {
        Ok(exit) => exit.code(),
        Err(error) => {
            let error = interrupted_instead(error);
            output.error(&error);
            error.exit().code()
        }
    }
}

/// After a signal the error is the signal, not what it led to.
fn interrupted_instead(error: CommandError) -> CommandError {
    match signals::interrupted() {
        Some(Exit::Terminated) => CommandError::new(&usage::TERMINATED, "terminated"),
        Some(_) => CommandError::new(&usage::INTERRUPTED, "interrupted"),
        None => error,
    }
}

/// Help and version are printed; anything else that the parser has to say is wrong usage.
fn refused(output: &Output, error: &clap::Error) -> Result<Exit, CommandError> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output.bytes(text.as_bytes());
            return Ok(Exit::Done);
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Err(
                CommandError::new(&usage::ARGUMENT, "no command was given").hint("holdfast --help")
            );
        }
        _ => {}
    }
    let mut paragraphs = text.split("\n\n");
    let what = paragraphs.next().unwrap_or_default().trim_start_matches("error: ");
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut wrong = CommandError::new(&usage::ARGUMENT, what);
    for line in paragraphs.flat_map(str::lines).map(str::trim) {
        if let Some(hint) = line.strip_prefix("tip: ").or_else(|| line.strip_prefix("Usage: ")) {
            wrong = wrong.hint(hint);
        }
    }
    Err(wrong)
}
