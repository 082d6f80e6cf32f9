//! `holdfast pg wal-push`: saves a file of the write-ahead log, and those that wait behind it.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use crate::backup::error::BackupError;
use crate::backup::log_root::{LogContent, LogInput, is_same};
use crate::backup::postgres_wal::{WalError, WalRun, save_wal, wal_source};
use crate::backup::wal_series::WalSeries;
use crate::cli::command::backup_run::{backup_error, label_now, level};
use crate::cli::command::pg::wal_fetch::system_beside;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::postgres;
use crate::cli::open_repository::open;
use crate::cli::postgres::{KnownSources, only_name};
use crate::cli::time::format_rfc3339;
use crate::clock::SystemClock;
use crate::format::postgres::facts::ClusterFacts;
use crate::format::postgres::segment::{SegmentBytes, WalFile};
use crate::format::postgres::wal_page::{LONG_HEADER_BYTES, SegmentHead};
use crate::progress::Progress;
use crate::repo::session::SessionOptions;
use crate::repo::state::StateDir;

/// Files that are saved together, at most.
const BATCH_FILES: usize = 64;

const AFTER_HELP: &str = "\
It returns 0 only when the file is durable in the repository. A file that is there already, with the
same content, is 0 at once; with other content it is refused. Other files that wait to be archived
are saved in the same run, so that a server that is behind catches up.";

/// Arguments of `pg wal-push`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WalPushArgs {
    /// The file, %p of archive_command
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Name of the source [default: the only one there is]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
}

/// Saves the file.
pub fn run(args: &WalPushArgs, context: &Context) -> Result<Exit, CommandError> {
    let file = name_of(&args.path)?;
    let states = context.state_dir()?;
    let location = context.location()?;
    let known_id = StateDir::known_at(&states, &location.place.remembered(&location.s3))?;
    let state = known_id.map(|id| StateDir::open(&states, id)).transpose()?;
    let known = state.as_ref().map(KnownSources::read_at).transpose()?.unwrap_or_default();
    let name = args.source.clone().map_or_else(|| only_name(context, &known), Ok)?;
    let owner = known.0.get(&name).map(|one| one.cluster.system.clone());
    let series = match &state {
        Some(state) => WalSeries::read(state, &wal_source(&name))?,
        None => None,
    };
    // What another cluster saved under the name before is not to be compared with.
    let is_of_owner =
        |series: &WalSeries| owner.as_ref().is_none_or(|o| *o == series.cluster.system);
    let series = series.filter(is_of_owner);
    let input = input_of(&args.path, &file)?;
    if let Some(saved) = series.as_ref().and_then(|series| series.files.get(&file))
        && is_same(&input, saved).map_err(backup_error)?
    {
        report(context, &file, 0);
        return Ok(Exit::Done);
    }
    let cluster = cluster_of(&args.path, &file, series.as_ref(), &known, &name)?;
    let mut files = vec![input];
    files.extend(waiting_behind(&args.path, &file, series.as_ref(), &cluster));
    let run = WalRun {
        name: &name,
        cluster,
        owner,
        label: label_now(&wal_source(&name)),
        newest: newest(&files, context),
        options: SessionOptions { threads: 2, level: level(context) },
        clock: Arc::new(SystemClock),
        progress: Arc::new(Progress::default()),
    };
    let mut reopen = || open(context).map_err(|error| broken(&error));
    // The first time an error of opening is told as what it is.
    let mut first = Some(open(context)?);
    let mut open = || first.take().map_or_else(&mut reopen, Ok);
    let mut saved = save_wal(&run, &mut open, &files);
    if files.len() > 1 && matches!(saved, Err(WalError::Backup(BackupError::Source { .. }))) {
        // One of those behind cannot be read: that is for its own turn.
        files.truncate(1);
        saved = save_wal(&run, &mut open, &files);
    }
    let saved = saved.map_err(wal_error)?;
    for message in run.progress.take_messages() {
        context.output.warning(&message);
    }
    report(context, &file, if saved.is_some() { files.len() } else { 0 });
    Ok(Exit::Done)
}

fn report(context: &Context, file: &str, saved: usize) {
    context.output.summary(Exit::Done, &json!({ "file": file, "saved_files": saved }));
}

/// An error of opening for the second time.
fn broken(error: &CommandError) -> BackupError {
    BackupError::Root {
        path: "the repository".to_owned(),
        source: std::io::Error::other(error.what().to_owned()),
    }
}

/// The error for people.
#[allow(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
#[must_use]
pub fn wal_error(error: WalError) -> CommandError {
    match error {
        WalError::Backup(error) => backup_error(error),
        WalError::Differs { .. } => CommandError::new(&postgres::WAL_DIFFERS, error.to_string()),
        WalError::OtherCluster { .. } => {
            CommandError::new(&postgres::OTHER_CLUSTER, error.to_string())
        }
    }
}

fn name_of(path: &Path) -> Result<String, CommandError> {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    // Any segment size will do to tell the kinds of names apart.
    if WalFile::parse(name, SegmentBytes::DEFAULT).or_else(|| largest_names(name)).is_some() {
        return Ok(name.to_owned());
    }
    let what = format!("{} is not a file of the log", path.display());
    Err(CommandError::new(&postgres::WAL_NAME, what))
}

/// With segments of 1 MiB, the last part of a name goes up to `FFF`.
fn largest_names(name: &str) -> Option<WalFile> {
    WalFile::parse(name, SegmentBytes::new(1 << 20)?)
}

fn input_of(path: &Path, name: &str) -> Result<LogInput, CommandError> {
    let stamp = stamp_of(path).map_err(|error| unreadable(path, &error))?;
    let content = LogContent::File { path: path.to_owned(), stamp: Some(stamp) };
    Ok(LogInput { name: name.to_owned(), content })
}

fn stamp_of(path: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    Ok(format!("{}:{}:{seconds}.{nanoseconds}", metadata.ino(), metadata.len()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> CommandError {
    let what = format!("{} cannot be read", path.display());
    CommandError::new(&postgres::WAL_UNREADABLE, what).because(error)
}

/// Whose log it is: a segment says so itself, other files lie in a data directory.
fn cluster_of(
    path: &Path,
    name: &str,
    series: Option<&WalSeries>,
    known: &KnownSources,
    source: &str,
) -> Result<ClusterFacts, CommandError> {
    let before = known.0.get(source).map(|one| one.cluster.clone());
    let before = series.map(|series| series.cluster.clone()).or(before);
    let folder = path.parent().unwrap_or(Path::new("."));
    let head = head_of(path).map_err(|error| unreadable(path, &error))?;
    let is_segment = WalFile::parse(name, SegmentBytes::DEFAULT).or_else(|| largest_names(name));
    let is_segment = matches!(is_segment, Some(WalFile::Segment(_) | WalFile::Partial(_)));
    let wrong = |cause: &(dyn std::error::Error + 'static)| {
        let what = format!("{} is not the segment that its name says", path.display());
        CommandError::new(&postgres::WAL_NAME, what).because(cause)
    };
    let (system, segment_bytes) = if is_segment {
        let head = SegmentHead::parse(&head).map_err(|error| wrong(&error))?;
        if let Some(WalFile::Segment(segment) | WalFile::Partial(segment)) =
            WalFile::parse(name, head.size)
        {
            head.require(segment).map_err(|error| wrong(&error))?;
        }
        (head.system.to_string(), head.size.bytes())
    } else {
        match (system_beside(path), &before) {
            (Some(system), _) => {
                let bytes = before.as_ref().map_or(16 << 20, |cluster| cluster.segment_bytes);
                (system, bytes)
            }
            (None, Some(before)) => return Ok(before.clone()),
            (None, None) => {
                let what = format!("nothing says whose log {} is", path.display());
                return Err(CommandError::new(&postgres::WAL_UNREADABLE, what));
            }
        }
    };
    if let Some(known) = known.0.get(source)
        && known.cluster.system != system
    {
        let expected = known.cluster.system.clone();
        let name = source.to_owned();
        return Err(wal_error(WalError::OtherCluster { name, expected, found: system }));
    }
    let version = std::fs::read_to_string(folder.join("../PG_VERSION")).unwrap_or_default();
    let version_number = match (version.trim().parse::<u32>(), &before) {
        (_, Some(before)) => before.version_number,
        (Ok(major), None) => major * 10_000,
        (Err(_), None) => 0,
    };
    Ok(ClusterFacts { system, version_number, segment_bytes })
}

fn head_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(LONG_HEADER_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The other files that the server waits to have archived, of the same cluster, oldest first.
fn waiting_behind(
    path: &Path,
    name: &str,
    series: Option<&WalSeries>,
    cluster: &ClusterFacts,
) -> Vec<LogInput> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder.join("archive_status")) else { return Vec::new() };
    let ready = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_suffix(".ready")?.to_owned())
    });
    let mut names: Vec<String> = ready.filter(|ready| ready != name).collect();
    names.sort();
    let size = cluster.segments();
    let is_new = |name: &String| series.is_none_or(|series| !series.files.contains_key(name));
    let whole = |name: &String| {
        let path = folder.join(name);
        let input = input_of(&path, name).ok()?;
        if let WalFile::Segment(segment) = WalFile::parse(name, size)? {
            let head = SegmentHead::parse(&head_of(&path).ok()?).ok()?;
            let is_ours = head.system.to_string() == cluster.system;
            head.require(segment).ok().filter(|()| is_ours)?;
        }
        Some(input)
    };
    names.iter().filter(|name| is_new(name)).filter_map(whole).take(BATCH_FILES - 1).collect()
}

/// No record in the files is younger than their last change.
fn newest(files: &[LogInput], context: &Context) -> String {
    let modified = files.iter().filter_map(|file| match &file.content {
        LogContent::File { path, .. } => std::fs::metadata(path).ok()?.modified().ok(),
        LogContent::Front { .. } | LogContent::Bytes(_) => None,
    });
    let newest = modified.max().unwrap_or_else(SystemTime::now);
    let newest = jiff::Timestamp::try_from(newest).unwrap_or_else(|_| context.now.timestamp());
    format_rfc3339(newest)
}
