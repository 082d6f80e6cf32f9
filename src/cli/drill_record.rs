//! Records of drills: saved as snapshots of their own, and read again.

use std::io::Cursor;
use std::sync::Arc;

use crate::backup::run::{SnapshotLabel, run as run_backup};
use crate::backup::stream::{OpenStream, StreamRoot};
use crate::cli::command::backup_run::level;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{postgres, restore as explain_restore};
use crate::cli::open_repository::open;
use crate::cli::reading::Reading;
use crate::clock::SystemClock;
use crate::format::drill::{DRILL_BYTES_MAX, DRILL_STREAM, DRILL_TAG, DrillRecord, drill_of};
use crate::progress::Progress;
use crate::repo::session::SessionOptions;
use crate::restore::cat::cat;
use crate::source::stream::{ByteStream, ReaderStream};

/// Saves a record: a snapshot of the source `NAME.drill`, in the log that this host signs.
///
/// # Errors
/// It cannot be saved: this host may not write, or the store fails.
pub fn save(context: &Context, record: &DrillRecord) -> Result<String, CommandError> {
    let bytes = record.encode();
    let stream: OpenStream = Box::new(move || {
        let stream = ReaderStream::new(DRILL_STREAM.to_owned(), Cursor::new(bytes));
        Ok(Box::new(stream) as Box<dyn ByteStream>)
    });
    let label = SnapshotLabel {
        source: format!("{}.drill", record.source),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        user: String::new(),
        time: jiff::Timestamp::now(),
        tags: vec![format!("{DRILL_TAG}{}", record.source)],
    };
    let saved = run_backup(
        open(context)?,
        Arc::new(SystemClock),
        SessionOptions { threads: 1, level: level(context) },
        &label,
        vec![Box::new(StreamRoot::new(DRILL_STREAM.to_owned(), stream))],
        &Arc::new(Progress::default()),
    );
    let saved = saved.map_err(|error| {
        CommandError::new(&postgres::DRILL_NOT_KEPT, "the record is not kept").because(&error)
    })?;
    Ok(saved.committed.map(|committed| committed.snapshot.id.to_string()).unwrap_or_default())
}

/// A record, and the snapshot that holds it.
pub type KeptRecord = (String, DrillRecord);

/// All records of a source, or of all, in the order of their times.
pub fn records(
    reading: &Reading,
    context: &Context,
    source: Option<&str>,
) -> Result<Vec<KeptRecord>, CommandError> {
    let mut kept = Vec::new();
    for (record, snapshot) in reading.all(context) {
        let Some(of) = drill_of(&snapshot.tags) else { continue };
        if source.is_some_and(|source| source != of) {
            continue;
        }
        let id = record.name.id.to_string();
        if snapshot.roots.iter().any(|root| root.bytes > DRILL_BYTES_MAX) {
            context.output.warning(&format!("snapshot {}: its record is too long", &id[..8]));
            continue;
        }
        let mut bytes = Vec::new();
        let path = format!("/{DRILL_STREAM}");
        cat(&reading.access, &snapshot, path.as_bytes(), &mut bytes, 1, &Progress::default())
            .map_err(|error| CommandError::classify(&error, &explain_restore::DAMAGED))?;
        match DrillRecord::decode(&bytes) {
            Ok(record) => kept.push((id, record)),
            Err(error) => context.output.warning(&format!("snapshot {}: {error}", &id[..8])),
        }
    }
    Ok(kept)
}
