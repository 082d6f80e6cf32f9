//! The run that saves what waits of a journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backup::error::BackupError;
use crate::backup::journal_receiver::Receiving;
use crate::backup::journal_series::{JournalSeries, journal_source};
use crate::backup::log_root::{LogRun, lock_name, save_files};
use crate::backup::run::SnapshotLabel;
use crate::clock::{Clock, now_ms};
use crate::progress::Progress;
use crate::repo::open::Repository;
use crate::repo::session::SessionOptions;

/// A journal that is being saved.
pub struct JournalRun<'a> {
    /// Name of the source of the dumps.
    pub name: &'a str,
    /// The label, but for source and tags.
    pub label: SnapshotLabel,
    /// How the run works.
    pub options: SessionOptions,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where progress goes.
    pub progress: Arc<Progress>,
}

/// Saves what waits in one snapshot; whether there was anything. `open` opens the repository; it is
/// called once more where the newest snapshot cannot be built upon.
///
/// # Errors
/// Nothing is saved; what waits stays where it is.
pub fn save_journal(
    run_of: &JournalRun<'_>,
    receiving: &Receiving,
    open: &mut dyn FnMut() -> Result<Repository, BackupError>,
) -> Result<bool, BackupError> {
    let unsaved = receiving.spool().unsaved();
    if unsaved.files.is_empty() {
        return Ok(false);
    }
    let mut label = run_of.label.clone();
    label.source = journal_source(run_of.name);
    let repository = open()?;
    let _lock = repository.state.lock(&lock_name(&label.source))?;
    let now = now_ms();
    let mut series = JournalSeries::read(&repository.state, &label.source, now)?;
    series.expect(unsaved.segments.iter().cloned(), now)?;
    let log_run = LogRun {
        root: format!("redis:{}", label.source),
        label,
        options: run_of.options,
        clock: Arc::clone(&run_of.clock),
        progress: &run_of.progress,
    };
    save_files(&log_run, repository, open, &mut series, unsaved.files)?;
    let mut spool = receiving.spool();
    spool.saved(&unsaved.segments);
    let newest = unsaved.segments.last().map(|(_, segment)| &segment.range);
    if let Some(range) = newest.filter(|range| Some(&range.line) == spool.line()) {
        receiving.durable.fetch_max(range.end, Ordering::Relaxed);
    }
    Ok(true)
}
