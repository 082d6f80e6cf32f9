//! What this host has saved of a cluster's log: names, contents, and the snapshot that grows.
//!
//! Snapshots of one series build upon each other: the newest of them holds all files of the
//! others. The local file is a cache of that. Where it may be behind the repository, because a run
//! ended between its commit and the writing of the file, a new series is begun: then no snapshot
//! claims to hold what it does not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backup::log_root::{LogSeries, SavedFile, new_series, series_path};
use crate::format::postgres::facts::{ClusterFacts, PostgresFacts, WalFacts, WalRange};
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::segment::WalFile;
use crate::format::snapshot::Facts;
use crate::repo::error::RepoError;
use crate::repo::state::{StateDir, read_json};

/// Files of one series at most: what each of its snapshots has to name again.
const FILES_PER_SERIES_MAX: usize = 256;
/// Names that are remembered, to tell other content of the same name.
const NAMES_MAX: usize = 8192;

/// What is remembered of a source's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSeries {
    /// Random name of the series.
    pub series: String,
    /// A run has begun that may or may not have committed.
    pub is_open: bool,
    /// Whose log.
    pub cluster: ClusterFacts,
    /// By name.
    pub files: BTreeMap<String, SavedFile>,
    /// Histories of timelines.
    pub histories: BTreeMap<Timeline, String>,
    /// No record is younger than this.
    pub newest: String,
}

impl WalSeries {
    /// The first series of a cluster.
    pub fn new(cluster: ClusterFacts) -> Result<Self, RepoError> {
        Ok(Self {
            series: new_series()?,
            is_open: false,
            cluster,
            files: BTreeMap::new(),
            histories: BTreeMap::new(),
            newest: String::new(),
        })
    }

    /// Where what is remembered of a source stands.
    #[must_use]
    pub fn path(state: &StateDir, source: &str) -> PathBuf {
        series_path(state, source)
    }

    /// Reads what is remembered.
    pub fn read(state: &StateDir, source: &str) -> Result<Option<Self>, RepoError> {
        read_json(&Self::path(state, source))
    }

    /// Whether so many more files make it too long.
    #[must_use]
    pub fn is_full(&self, more: usize) -> bool {
        self.carried_names().count() + more > FILES_PER_SERIES_MAX
    }

    /// Names of the files in the newest snapshot.
    fn carried_names(&self) -> impl Iterator<Item = &String> {
        self.files.iter().filter(|(_, file)| file.is_carried).map(|(name, _)| name)
    }

    /// Takes a file that is in the next snapshot. The partial one of a whole segment goes.
    pub fn take(&mut self, name: &str, file: SavedFile) {
        self.files.remove(&format!("{name}.partial"));
        self.files.insert(name.to_owned(), file);
        while self.files.len() > NAMES_MAX {
            let oldest = self.files.iter().find(|(_, file)| !file.is_carried);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.files.remove(&oldest);
        }
    }

    /// What the snapshot says about itself.
    #[must_use]
    pub fn wal_facts(&self) -> WalFacts {
        let size = self.cluster.segments();
        let mut ranges: Vec<WalRange> = Vec::new();
        for (name, file) in self.files.iter().filter(|(_, file)| file.is_carried) {
            let (segment, bytes) = match WalFile::parse(name, size) {
                Some(WalFile::Segment(segment)) => (segment, size.bytes()),
                Some(WalFile::Partial(segment)) => (segment, file.bytes.min(size.bytes())),
                _ => continue,
            };
            let start = segment.start(size);
            let end = Lsn(start.0 + bytes);
            match ranges.last_mut() {
                Some(last) if (last.timeline, last.end) == (segment.timeline, start) => {
                    last.end = end;
                }
                _ => ranges.push(WalRange { timeline: segment.timeline, start, end }),
            }
        }
        WalFacts {
            cluster: self.cluster.clone(),
            series: self.series.clone(),
            ranges,
            histories: self.histories.clone().into_iter().collect(),
            newest: self.newest.clone(),
        }
    }
}

impl LogSeries for WalSeries {
    fn series(&self) -> &str {
        &self.series
    }

    fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    fn begin_anew(&mut self) -> Result<(), RepoError> {
        self.series = new_series()?;
        for file in self.files.values_mut() {
            file.is_carried = false;
        }
        self.is_open = false;
        Ok(())
    }

    fn carried(&self) -> Vec<String> {
        self.carried_names().cloned().collect()
    }

    /// The partial one of a whole segment goes too.
    fn replaces(&self, new: &str, old: &str) -> bool {
        new == old || old.strip_suffix(".partial") == Some(new)
    }

    fn wants_content(&self, name: &str) -> bool {
        name.ends_with(".history")
    }

    fn take_saved(&mut self, name: &str, file: SavedFile, content: Option<Vec<u8>>) {
        let kind = WalFile::parse(name, self.cluster.segments());
        if let (Some(WalFile::History(timeline)), Some(text)) = (kind, content) {
            self.histories.insert(timeline, String::from_utf8_lossy(&text).into_owned());
        }
        self.take(name, file);
    }

    fn facts(&self) -> Facts {
        PostgresFacts::Wal(self.wal_facts()).encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ids::content_hash;

    fn file(bytes: u64) -> SavedFile {
        SavedFile { bytes, hash: content_hash(b""), stamp: None, is_carried: true }
    }

    #[test]
    fn ranges_join_and_whole_segments_replace_partial_ones() {
        let segment_bytes = 1 << 20;
        let cluster = ClusterFacts { system: "1".into(), version_number: 170_000, segment_bytes };
        let mut series = WalSeries::new(cluster).unwrap();
        let name = |number: u32| format!("0000000100000000{number:08X}");
        series.take(&name(1), file(1 << 20));
        series.take(&name(2), file(1 << 20));
        series.take(&format!("{}.partial", name(3)), file(1000));
        series.take("00000002.history", file(20));
        let ranges = |series: &WalSeries| -> Vec<(u64, u64)> {
            series.wal_facts().ranges.iter().map(|r| (r.start.0, r.end.0)).collect()
        };
        assert_eq!(ranges(&series), [(1 << 20, (3 << 20) + 1000)]);
        series.take(&name(3), file(1 << 20));
        assert_eq!(series.carried().len(), 4);
        assert_eq!(ranges(&series), [(1 << 20, 4 << 20)]);
        series.begin_anew().unwrap();
        assert_eq!(ranges(&series), []);
        assert!(!series.is_full(256) && series.is_full(257));
    }
}
