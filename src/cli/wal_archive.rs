//! The saved log of one source: which snapshot has which file.

use std::io::Write;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{postgres, restore};
use crate::cli::reading::{FoundSnapshot, Reading, made_at};
use crate::format::commit::SnapshotName;
use crate::format::postgres::coverage::Coverage;
use crate::format::postgres::facts::{PostgresFacts, WalFacts};
use crate::format::postgres::segment::WalFile;
use crate::format::snapshot::Snapshot;
use crate::progress::Progress;
use crate::repo::snapshot_path::find_path;
use crate::restore::cat::cat;

/// All snapshots of a log, newest first.
pub struct WalArchive<'a> {
    reading: &'a Reading,
    snapshots: Vec<(FoundSnapshot<'a>, WalFacts)>,
}

/// A file of the log, and where it is.
pub struct FoundFile<'a> {
    /// The name of the snapshot.
    pub name: SnapshotName,
    snapshot: &'a Snapshot,
    /// Its path there.
    pub path: Vec<u8>,
    /// Bytes that the file must have; a partial one is filled up with zeros.
    pub filled_to: Option<u64>,
}

impl<'a> WalArchive<'a> {
    /// Reads what the snapshots of `source` say; those that later ones of their series contain are
    /// left out, and those of another cluster than `system`: without one, than the newest has.
    pub fn read(
        reading: &'a Reading,
        context: &Context,
        source: &str,
        system: Option<&str>,
    ) -> Result<Self, CommandError> {
        let mut system = system.map(str::to_owned);
        let mut snapshots: Vec<(FoundSnapshot<'a>, WalFacts)> = Vec::new();
        for found in reading.all(context).into_iter().rev() {
            if found.1.source != source {
                continue;
            }
            let Some(PostgresFacts::Wal(facts)) = facts_of(&found.1)? else { continue };
            if *system.get_or_insert_with(|| facts.cluster.system.clone()) != facts.cluster.system {
                continue;
            }
            if !snapshots.iter().any(|(_, later)| later.series == facts.series) {
                snapshots.push((found, facts));
            }
        }
        snapshots.sort_by_key(|((record, snapshot), _)| {
            std::cmp::Reverse((made_at(record, Some(snapshot)), record.seq))
        });
        Ok(Self { reading, snapshots })
    }

    /// What of the log is there.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let mut coverage = Coverage::default();
        for (_, facts) in &self.snapshots {
            coverage.add(facts);
        }
        coverage
    }

    /// The facts of each snapshot, newest first.
    pub fn facts(&self) -> impl Iterator<Item = &WalFacts> {
        self.snapshots.iter().map(|(_, facts)| facts)
    }

    /// Looks a file up by its name; a partial segment stands for the whole one.
    pub fn find(&self, name: &str) -> Result<Option<FoundFile<'_>>, CommandError> {
        let mut partial = None;
        for ((record, snapshot), facts) in &self.snapshots {
            let size = facts.cluster.segments();
            let Some(kind) = WalFile::parse(name, size) else { continue };
            if let WalFile::Segment(segment) = kind {
                let (start, end) = (segment.start(size), segment.end(size));
                let overlaps = facts.ranges.iter().any(|range| {
                    range.timeline == segment.timeline && range.start < end && range.end > start
                });
                if !overlaps {
                    continue;
                }
            }
            let at = |name: &str| format!("/{}/{name}", snapshot.source).into_bytes();
            let has = |path: &[u8]| {
                let found = find_path(&self.reading.access, snapshot, path);
                found
                    .map(|found| !found.is_empty())
                    .map_err(|error| CommandError::classify(&error, &restore::DAMAGED))
            };
            let path = at(name);
            if has(&path)? {
                return Ok(Some(FoundFile { name: record.name, snapshot, path, filled_to: None }));
            }
            let path = at(&format!("{name}.partial"));
            if partial.is_none() && matches!(kind, WalFile::Segment(_)) && has(&path)? {
                let filled_to = Some(size.bytes());
                partial = Some(FoundFile { name: record.name, snapshot, path, filled_to });
            }
        }
        Ok(partial)
    }

    /// Writes the content of a file.
    pub fn copy(&self, found: &FoundFile<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
        let progress = Progress::default();
        let FoundFile { snapshot, path, filled_to, .. } = found;
        let access = &self.reading.access;
        let length = cat(access, snapshot, path, out, 1, &progress)
            .map_err(|error| CommandError::classify(&error, &restore::DAMAGED))?;
        let mut left = filled_to.map_or(0, |bytes| bytes.saturating_sub(length));
        let zeros = [0; 8192];
        while left > 0 {
            let now = left.min(zeros.len() as u64) as usize;
            out.write_all(&zeros[..now]).map_err(|error| {
                CommandError::new(&restore::TARGET, "cannot fill up a segment").because(&error)
            })?;
            left -= now as u64;
        }
        Ok(())
    }
}

/// What a snapshot says about its PostgreSQL root, where it has one.
pub fn facts_of(snapshot: &Snapshot) -> Result<Option<PostgresFacts>, CommandError> {
    for root in &snapshot.roots {
        let Some(facts) = &root.facts else { continue };
        let decoded = PostgresFacts::decode(facts).map_err(|error| {
            let what = format!("what a snapshot of {} says cannot be read", snapshot.source);
            CommandError::new(&postgres::FACTS, what).because(&error)
        })?;
        if decoded.is_some() {
            return Ok(decoded);
        }
    }
    Ok(None)
}
