//! `holdfast backup`: saves files, streams or the output of commands as a snapshot.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use jiff::Span;

use crate::cli::error::CommandError;
use crate::cli::explain::usage;
use crate::cli::postgres_dump::DumpArgs;
use crate::cli::redis::RedisPasswordArgs;
use crate::cli::source_config::{PostgresMethod, SourceConfig};
use crate::cli::words;
use crate::units::{parse_size, parse_span};

const AFTER_HELP: &str = "\
Examples:
  holdfast backup --init ~/Documents
  holdfast backup -r /srv/repo /etc /home --exclude '*.tmp' --tag nightly
  holdfast backup -r /srv/repo nightly-db                     a source of the configuration
  holdfast backup --command shop.sql -- pg_dump --no-password shop
  holdfast backup --command a.sql='pg_dump a' --command b.sql='pg_dump b'
  tar -c /srv | holdfast backup --stdin srv.tar

Commands are run directly, without a shell: quotes group words, nothing else is special. If one
fails, no snapshot is saved (exit code 20). That is why --command is safer than a pipe to --stdin.
Exit code 3: the snapshot is saved, but some files could not be read.";

/// Arguments of `backup`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = AFTER_HELP)]
#[allow(clippy::struct_excessive_bools, reason = "each is an independent switch of the command")]
pub struct BackupArgs {
    /// Files and folders, or one source of the configuration
    #[arg(value_name = "PATH|SOURCE")]
    pub paths: Vec<PathBuf>,
    /// Read more paths from a file, one a line (or NUL-separated); - is standard input (repeatable)
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    pub files_from: Vec<PathBuf>,
    /// Save standard input as a stream of this name
    #[arg(long, value_name = "NAME")]
    pub stdin: Option<String>,
    /// Store standard input by its bytes, also where it is a dump of Redis or Valkey
    #[arg(long, requires = "stdin")]
    pub plain: bool,
    /// Save a dump file of Redis or Valkey by its records: NAME and the file
    #[arg(long, value_name = "NAME=FILE", conflicts_with_all = ["paths", "stdin", "command", "files_from", "postgres", "redis"])]
    pub redis_rdb: Option<String>,
    /// Save the append-only file of Redis or Valkey, also of a running server: NAME and its folder
    #[arg(long, value_name = "NAME=FOLDER", conflicts_with_all = ["paths", "stdin", "command", "files_from", "postgres", "redis", "redis_rdb"])]
    pub redis_aof: Option<String>,
    /// Do not keep the order in which a dump of Redis or Valkey has its keys: it comes back sorted
    /// by them, with the same data, and takes less
    #[arg(long, conflicts_with_all = ["plain", "paths", "command", "files_from", "postgres", "redis_aof"])]
    pub canonical: bool,
    /// Save what a command prints as a stream: NAME and the command after --, or NAME=COMMAND
    /// (repeatable)
    #[arg(long, value_name = "NAME[=COMMAND]")]
    pub command: Vec<String>,
    /// Save a PostgreSQL server: NAME and where it is, or the NAME of a known one
    #[arg(long, value_name = "NAME[=CONNECTION]", conflicts_with_all = ["paths", "stdin", "command", "files_from"])]
    pub postgres: Option<String>,
    /// What to save of a PostgreSQL server
    #[arg(long, value_enum, requires = "postgres")]
    pub method: Option<PostgresMethod>,
    /// With --method base, let pg_basebackup, or a program that takes its arguments, talk to the server
    #[arg(long, value_name = "PROGRAM", requires = "postgres", num_args = 0..=1, default_missing_value = "pg_basebackup")]
    pub via_tool: Option<OsString>,
    /// The server is another cluster than before, and takes its name over
    #[arg(long, requires = "postgres")]
    pub new_cluster: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub dump: DumpArgs,
    /// Save a Redis or Valkey server, one that sentinels name, or a cluster: NAME and where it is, or
    /// the NAME of a known one
    #[arg(long, value_name = "NAME[=ADDRESS]", conflicts_with_all = ["paths", "stdin", "command", "files_from", "postgres"])]
    pub redis: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub redis_password: RedisPasswordArgs,
    /// Ask the Redis server for DEBUG DIGEST after its dump, and keep it for drills; the server
    /// answers nobody else meanwhile
    #[arg(long)]
    pub redis_digest: bool,
    /// The command of --command NAME
    #[arg(last = true, value_name = "COMMAND")]
    pub argv: Vec<OsString>,
    /// Create the repository first, with a generated key, and print the recovery kit
    #[arg(long)]
    pub init: bool,
    /// Lock what the snapshot needs in the store for so long: nobody can delete it before
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub lock_for: Option<Span>,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read all files, also those that look unchanged; of a PostgreSQL cluster all pages
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub label: LabelArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would replace the heading's help")]
    pub exclude: ExcludeArgs,
}

/// What the snapshot says about itself.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What the snapshot says")]
pub struct LabelArgs {
    /// Name of the source: retention goes by it, `source:NAME` names its newest snapshot
    /// [default: the paths and streams, joined by commas]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Tag (repeatable)
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Host to record [default: this host's name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Time to record, such as 2026-03-01T12:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
}

/// What is left out.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What to leave out")]
pub struct ExcludeArgs {
    /// Leave out what matches, as in .gitignore (repeatable)
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// The same, not telling upper case from lower case (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,
    /// Read patterns from a file, one a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,
    /// Obey files of this name in the folders, as git does with .gitignore (repeatable)
    #[arg(long, value_name = "NAME")]
    pub ignore_file: Vec<String>,
    /// Leave out folders with a CACHEDIR.TAG
    #[arg(long)]
    pub exclude_caches: bool,
    /// Leave out folders that have a file of this name (repeatable)
    #[arg(long, value_name = "NAME")]
    pub exclude_if_present: Vec<String>,
    /// Stay within the file systems of the given paths
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub exclude_larger_than: Option<u64>,
}

/// A command whose output is to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandStream {
    /// Name of the stream in the snapshot.
    pub name: String,
    /// Program and arguments; never empty.
    pub argv: Vec<OsString>,
}

impl BackupArgs {
    /// The commands to run: every `--command NAME=COMMAND`, and `--command NAME -- argv…`.
    ///
    /// # Errors
    /// Wrong usage: a name without a command or a command without a name, two names for one
    /// command, quotes that do not close, the same name twice.
    pub fn command_streams(&self) -> Result<Vec<CommandStream>, CommandError> {
        let mut streams = Vec::new();
        let mut argv = Some(&self.argv).filter(|argv| !argv.is_empty());
        for text in &self.command {
            let stream = match text.split_once('=') {
                Some((name, command)) => inline_stream(name, command)?,
                None => CommandStream {
                    name: text.clone(),
                    argv: argv.take().ok_or_else(|| without_command(text))?.clone(),
                },
            };
            if streams.iter().any(|other: &CommandStream| other.name == stream.name) {
                return Err(usage_error(format!("two streams are named {:?}", stream.name)));
            }
            streams.push(stream);
        }
        match argv {
            Some(_) => Err(usage_error("a command after -- needs --command NAME before it".into())),
            None => Ok(streams),
        }
    }
}

impl From<&SourceConfig> for ExcludeArgs {
    fn from(source: &SourceConfig) -> Self {
        Self {
            exclude: source.exclude.clone(),
            iexclude: source.iexclude.clone(),
            exclude_file: source.exclude_file.clone(),
            ignore_file: source.ignore_file.clone(),
            exclude_caches: source.exclude_caches,
            exclude_if_present: source.exclude_if_present.clone(),
            one_file_system: source.one_file_system,
            exclude_larger_than: source.exclude_larger_than,
        }
    }
}

/// The paths in a file of `--files-from`: NUL-separated where it has a NUL, else one a line.
///
/// Paths are bytes; empty ones are left out.
#[must_use]
pub fn listed_paths(list: &[u8]) -> Vec<PathBuf> {
    let separator = if list.contains(&0) { 0 } else { b'\n' };
    list.split(|byte| *byte == separator)
        .filter(|path| !path.is_empty())
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .collect()
}

fn inline_stream(name: &str, command: &str) -> Result<CommandStream, CommandError> {
    let argv = words::split(command).map_err(|error| {
        CommandError::new(&usage::ARGUMENT, format!("--command {name}=…")).because(&error)
    })?;
    if argv.is_empty() {
        return Err(without_command(name));
    }
    Ok(CommandStream {
        name: name.to_owned(),
        argv: argv.into_iter().map(OsString::from).collect(),
    })
}

fn without_command(name: &str) -> CommandError {
    usage_error(format!("--command {name} has no command of its own")).hint(format!(
        "--command {name}='PROGRAM ARGUMENT…', or --command {name} -- PROGRAM ARGUMENT…"
    ))
}

fn usage_error(what: String) -> CommandError {
    CommandError::new(&usage::ARGUMENT, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(command: &[&str], argv: &[&str]) -> BackupArgs {
        BackupArgs {
            command: command.iter().map(|text| (*text).to_owned()).collect(),
            argv: argv.iter().map(OsString::from).collect(),
            ..BackupArgs::default()
        }
    }

    #[test]
    fn commands_get_their_words() {
        let streams = args(&["a.sql='pg_dump' 'a b'", "b.sql"], &["pg_dump", "b"]);
        let streams = streams.command_streams().unwrap();
        assert_eq!(streams[0].name, "a.sql");
        assert_eq!(streams[0].argv, ["pg_dump", "a b"]);
        assert_eq!(streams[1].argv, ["pg_dump", "b"]);
    }

    #[test]
    fn lists_of_paths_have_lines_or_nuls() {
        let paths = |list: &[u8]| listed_paths(list);
        assert_eq!(paths(b"/a\n\n/b c"), [PathBuf::from("/a"), PathBuf::from("/b c")]);
        assert_eq!(paths(b"/a\nb\0/c\0"), [PathBuf::from("/a\nb"), PathBuf::from("/c")]);
    }

    #[test]
    fn wrong_combinations_are_refused() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["a"], &[]),
            (&["a="], &[]),
            (&[], &["pg_dump"]),
            (&["a", "b"], &["pg_dump"]),
            (&["a=x", "a=y"], &[]),
            (&["a='x"], &[]),
        ];
        for (command, argv) in cases {
            assert!(args(command, argv).command_streams().is_err(), "{command:?} {argv:?}");
        }
    }
}
