//! Files of a write-ahead log, and the run that saves them.
//!
//! A file is saved when [`save_wal`] returns: then its commit is durable. One that is saved
//! already, with the same content, costs nothing; with other content it is refused.

use std::sync::Arc;

use crate::backup::error::BackupError;
use crate::backup::log_root::{LogInput, LogRun, LogSeries as _, is_same, lock_name, save_files};
use crate::backup::run::{BackupSummary, SnapshotLabel};
use crate::backup::wal_series::WalSeries;
use crate::clock::Clock;
use crate::format::postgres::facts::ClusterFacts;
use crate::progress::Progress;
use crate::repo::open::Repository;
use crate::repo::session::SessionOptions;

/// What the source of a log is called, beside that of its base backups.
#[must_use]
pub fn wal_source(name: &str) -> String {
    format!("{name}.wal")
}

/// A log that is being saved.
pub struct WalRun<'a> {
    /// Name of the source.
    pub name: &'a str,
    /// Whose log.
    pub cluster: ClusterFacts,
    /// System identifier of the cluster that has the name now, where that is known. A log of
    /// another one that had it before ends, and is kept.
    pub owner: Option<String>,
    /// The label, but for source and tags.
    pub label: SnapshotLabel,
    /// No record is younger than this (RFC 3339).
    pub newest: String,
    /// How the run works.
    pub options: SessionOptions,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where progress goes.
    pub progress: Arc<Progress>,
}

/// Why files of a log were not saved.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The run failed.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Under this name something else is saved.
    #[error("{file} of {name} was saved before, with other content")]
    Differs {
        /// Name of the source.
        name: String,
        /// The file.
        file: String,
    },
    /// The log is of another cluster than what is saved under the name.
    #[error("this is the log of cluster {found}, and {name} was cluster {expected} so far")]
    OtherCluster {
        /// Name of the source.
        name: String,
        /// System identifier that was saved before.
        expected: String,
        /// System identifier of the log.
        found: String,
    },
}

/// Saves files of a log in one snapshot; `None` when all of them were saved already.
///
/// `open` opens the repository; it is called once more where the newest snapshot cannot be built
/// upon.
///
/// # Errors
/// [`WalError`]. Nothing is saved then.
pub fn save_wal(
    run_of: &WalRun<'_>,
    open: &mut dyn FnMut() -> Result<Repository, BackupError>,
    files: &[LogInput],
) -> Result<Option<BackupSummary>, WalError> {
    let source = wal_source(run_of.name);
    let repository = open()?;
    let lock = repository.state.lock(&lock_name(&source)).map_err(BackupError::from)?;
    let read = WalSeries::read(&repository.state, &source).map_err(BackupError::from)?;
    let is_of_owner = run_of.owner.as_deref() == Some(&*run_of.cluster.system);
    let mut series = match read {
        Some(series) if series.cluster.system == run_of.cluster.system || !is_of_owner => series,
        _ => WalSeries::new(run_of.cluster.clone()).map_err(BackupError::from)?,
    };
    if series.cluster.system != run_of.cluster.system {
        return Err(WalError::OtherCluster {
            name: run_of.name.to_owned(),
            expected: series.cluster.system,
            found: run_of.cluster.system.clone(),
        });
    }
    let fresh = fresh_files(run_of.name, &series, files)?;
    if fresh.is_empty() {
        return Ok(None);
    }
    if series.is_open || series.is_full(fresh.len()) {
        series.begin_anew().map_err(BackupError::from)?;
    }
    if is_later(&run_of.newest, &series.newest) {
        series.newest.clone_from(&run_of.newest);
    }
    let mut label = run_of.label.clone();
    label.source = source;
    let log_run = LogRun {
        root: format!("postgres:{}", label.source),
        label,
        options: run_of.options,
        clock: Arc::clone(&run_of.clock),
        progress: &run_of.progress,
    };
    let summary = save_files(&log_run, repository, open, &mut series, fresh)?;
    drop(lock);
    Ok(Some(summary))
}

/// Whether a time (RFC 3339) is later than another, or the other is none.
fn is_later(time: &str, than: &str) -> bool {
    let (time, than) = (time.parse::<jiff::Timestamp>(), than.parse::<jiff::Timestamp>());
    match (time, than) {
        (Ok(time), Ok(than)) => time > than,
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    }
}

/// Those that are not saved yet.
fn fresh_files(
    name: &str,
    series: &WalSeries,
    files: &[LogInput],
) -> Result<Vec<LogInput>, WalError> {
    let mut fresh = Vec::new();
    for input in files {
        let Some(saved) = series.files.get(&input.name) else {
            fresh.push(input.clone());
            continue;
        };
        if is_same(input, saved)? {
            continue;
        }
        // A partial one grows, and never gives way to a shorter one.
        if input.name.ends_with(".partial") {
            if input.bytes()? > saved.bytes {
                fresh.push(input.clone());
            }
            continue;
        }
        return Err(WalError::Differs { name: name.to_owned(), file: input.name.clone() });
    }
    Ok(fresh)
}
