//! The whole command line as types; the doc comments are the help.
//!
//! Nothing here looks at the environment or at files: a parsed [`Cli`] is a plain value.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::command::backup::BackupArgs;
use crate::cli::command::cat::CatArgs;
use crate::cli::command::check::CheckArgs;
use crate::cli::command::completions::CompletionsArgs;
use crate::cli::command::config::ConfigArgs;
use crate::cli::command::copy::CopyArgs;
use crate::cli::command::diff::DiffArgs;
use crate::cli::command::doctor::DoctorArgs;
#[cfg(feature = "mount")]
use crate::cli::command::drill::DrillArgs;
use crate::cli::command::explain::ExplainArgs;
use crate::cli::command::find::FindArgs;
use crate::cli::command::forget::ForgetArgs;
use crate::cli::command::init::InitArgs;
use crate::cli::command::key::KeyArgs;
use crate::cli::command::ls::LsArgs;
use crate::cli::command::man::ManArgs;
#[cfg(feature = "mount")]
use crate::cli::command::mount::MountArgs;
use crate::cli::command::pg::PgArgs;
use crate::cli::command::promote::PromoteArgs;
use crate::cli::command::prune::PruneArgs;
use crate::cli::command::recover::RecoverArgs;
use crate::cli::command::recovery_kit::RecoveryKitArgs;
use crate::cli::command::redis::RedisArgs;
use crate::cli::command::repair::RepairArgs;
use crate::cli::command::replica::ReplicaArgs;
use crate::cli::command::restore::RestoreArgs;
use crate::cli::command::scrub::ScrubArgs;
#[cfg(feature = "webdav")]
use crate::cli::command::serve::ServeArgs;
use crate::cli::command::snapshots::SnapshotsArgs;
use crate::cli::command::stats::StatsArgs;
use crate::cli::command::version::VersionArgs;
use crate::cli::command::writer::WriterArgs;
use crate::cli::place::S3Args;
use crate::units::UnitStyle;

const AFTER_HELP: &str = "\
Examples:
  holdfast backup --init ~/Documents            first backup: creates a repository with a key
  holdfast backup -r /srv/repo /etc /home       back up two folders
  holdfast snapshots -r /srv/repo               what there is
  holdfast restore latest:/etc --target /tmp/x  get it back

Exit codes:
   0 done                      11 busy, try again
   1 failed                    12 no key opens the repository
   2 wrong usage or settings   13 repository is newer than this program
   3 done in part              14 store not reachable
   4 damage found              15 refused: permission or immutability
   7 no space left             16 rollback suspected
  10 no such repository        20 source failed, nothing was saved
 130 interrupted              143 terminated

Every error has an id; `holdfast explain HF-…` says what it means and what to do.";

/// Encrypted, deduplicated backups that can be restored without this program.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[allow(missing_docs, reason = "a doc comment here would replace the program's help")]
    #[command(flatten)]
    pub global: GlobalArgs,
    #[allow(missing_docs, reason = "a doc comment here would replace the program's help")]
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a repository
    Init(InitArgs),
    /// Save files, streams or the output of commands as a snapshot
    Backup(BackupArgs),
    /// List the snapshots
    #[command(visible_alias = "list")]
    Snapshots(SnapshotsArgs),
    /// List the files of a snapshot
    Ls(LsArgs),
    /// Find files by name in the snapshots
    Find(FindArgs),
    /// Show what changed between two snapshots
    Diff(DiffArgs),
    /// Write one file or stream of a snapshot to standard output
    Cat(CatArgs),
    /// Show how much space is used, and by what
    Stats(StatsArgs),
    /// Write a snapshot, or a part of it, back to a folder
    Restore(RestoreArgs),
    /// Show the snapshots as a read-only file system
    #[cfg(feature = "mount")]
    Mount(MountArgs),
    /// Show the snapshots to other programs over the network
    #[cfg(feature = "webdav")]
    Serve(ServeArgs),
    /// Verify the repository
    Check(CheckArgs),
    /// Remove snapshots by rule or by name
    Forget(ForgetArgs),
    /// Give back the space that no snapshot needs any more
    Prune(PruneArgs),
    /// Bring a forgotten snapshot back
    Recover(RecoverArgs),
    /// Rebuild what can be rebuilt
    Repair(RepairArgs),
    /// Manage the copies in other places
    Replica(ReplicaArgs),
    /// Bring a replica up to date; needs no key
    Copy(CopyArgs),
    /// Save and fetch the log of a PostgreSQL server, and show what can be reached
    Pg(PgArgs),
    /// Save the journal of a Redis or Valkey server, and show what can be reached
    Redis(RedisArgs),
    /// Prove that a database comes back: start it from the backup, check it, measure
    #[cfg(feature = "mount")]
    Drill(Box<DrillArgs>),
    /// Make a replica the primary
    Promote(PromoteArgs),
    /// Compare every object with its name, where the bytes are kept; needs no key
    Scrub(ScrubArgs),
    /// Look what the place of a repository really keeps, and say what that means
    Doctor(DoctorArgs),
    /// Manage the passphrases and recipients that open the repository
    Key(KeyArgs),
    /// Manage the hosts that may write to the repository
    Writer(WriterArgs),
    /// Print what is needed to restore after losing everything else
    RecoveryKit(RecoveryKitArgs),
    /// Check or show the configuration
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
    /// Say what an error id means and what to do
    Explain(ExplainArgs),
    /// Print the version
    Version(VersionArgs),
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Repository: a path, s3://BUCKET/PREFIX, or a name from the configuration [env: HOLDFAST_REPO]
    #[arg(short, long, global = true, value_name = "PATH|URL|NAME")]
    pub repo: Option<PathBuf>,
    /// Read this configuration file only [env: HOLDFAST_CONFIG]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the local state [env: HOLDFAST_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub state_dir: Option<PathBuf>,
    /// Folder of caches [env: HOLDFAST_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub cache_dir: Option<PathBuf>,
    /// Read the passphrase from a file that only you can read [env: HOLDFAST_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Run a command, without a shell, that prints the passphrase [env: HOLDFAST_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", hide_short_help = true)]
    pub password_command: Option<String>,
    /// Read the passphrase from an open file descriptor [env: HOLDFAST_PASSWORD_FD]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub password_fd: Option<u32>,
    /// age identity or SSH private key that opens the repository (repeatable) [env: HOLDFAST_IDENTITY_FILE]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub identity_file: Vec<PathBuf>,
    /// Print JSON lines instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more (repeatable: -vv, -vvv)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// How sizes are printed [env: HOLDFAST_UNITS]
    #[arg(long, global = true, value_name = "STYLE", value_parser = units_parser())]
    #[arg(hide_short_help = true)]
    pub units: Option<UnitStyle>,
    #[allow(missing_docs, reason = "a doc comment here would replace the help")]
    #[command(flatten)]
    pub s3: S3Args,
    /// When to colour [env: HOLDFAST_COLOR, NO_COLOR]
    #[arg(long, global = true, value_name = "WHEN", hide_short_help = true)]
    pub color: Option<ColorChoice>,
    /// How progress is shown [env: HOLDFAST_PROGRESS]
    #[arg(long, global = true, value_name = "HOW", hide_short_help = true)]
    pub progress: Option<ProgressChoice>,
}

fn units_parser() -> impl TypedValueParser<Value = UnitStyle> {
    PossibleValuesParser::new(UnitStyle::NAMES)
        .map(|name| name.parse().expect("only names of UnitStyle pass the possible values"))
}

/// When text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ProgressChoice {
    /// A bar on a terminal, plain lines elsewhere, JSON with --json
    #[default]
    Auto,
    /// Not at all
    None,
    /// A line every 30 seconds
    Plain,
    /// A bar
    Bar,
    /// JSON lines: on standard output with --json, on standard error without
    Json,
}

/// Which snapshots a command looks at.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which snapshots")]
pub struct FilterArgs {
    /// Only snapshots of this source (repeatable)
    #[arg(long, value_name = "NAME")]
    pub source: Vec<String>,
    /// Only snapshots made on this host (repeatable)
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// Only snapshots with this tag (repeatable; a,b means both)
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub tag: Vec<String>,
}

impl FilterArgs {
    /// Whether a snapshot with these properties is among those meant.
    #[must_use]
    pub fn matches(&self, source: &str, host: &str, tags: &[String]) -> bool {
        let one_of = |wanted: &[String], name: &str| {
            wanted.is_empty() || wanted.iter().any(|candidate| candidate == name)
        };
        let has_all = |list: &String| list.split(',').all(|tag| tags.iter().any(|t| t == tag));
        one_of(&self.source, source)
            && one_of(&self.host, host)
            && (self.tag.is_empty() || self.tag.iter().any(has_all))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn filters_join_kinds_with_and_values_with_or() {
        let filter = FilterArgs {
            source: vec!["shop".into(), "etc".into()],
            host: Vec::new(),
            tag: vec!["a,b".into(), "c".into()],
        };
        let tags = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(filter.matches("etc", "h", &tags("b a")));
        assert!(filter.matches("shop", "h", &tags("c")));
        assert!(!filter.matches("shop", "h", &tags("a")));
        assert!(!filter.matches("other", "h", &tags("c")));
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = Cli::try_parse_from(["holdfast", "version", "--json", "-r", "x"]).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.repo, Some(PathBuf::from("x")));
    }
}
