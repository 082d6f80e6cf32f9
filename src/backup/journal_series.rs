//! What this host has saved of a server's journal, and the series of snapshots that grows.
//!
//! A cache, as that of other logs: what it says is durable is; there may be more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backup::log_root::{LogSeries, SavedFile, new_series, series_path};
use crate::format::redis::server_facts::{JournalFacts, JournalRange, RedisFacts};
use crate::format::snapshot::Facts;
use crate::id::ContentHash;
use crate::repo::error::RepoError;
use crate::repo::state::{StateDir, read_json, write_json};

/// Segments of one series at most: what each of its snapshots has to name again.
const SEGMENTS_PER_SERIES_MAX: usize = 256;
/// A series is begun anew after so long, so that retention can let go of old ones.
const SERIES_MS_MAX: u64 = 6 * 60 * 60 * 1000;

/// What the source of a journal is called, beside that of the dumps.
#[must_use]
pub fn journal_source(name: &str) -> String {
    format!("{name}.journal")
}

/// A segment, as far as it is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSegment {
    /// What it holds.
    pub range: JournalRange,
    /// The database that is selected at its end.
    pub db: Option<u32>,
    /// Length and hash of its file, once it is saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<(u64, ContentHash)>,
}

impl SavedSegment {
    /// Whether another one is of a later line, or not before this one in the same.
    fn is_before(&self, other: &Self) -> bool {
        let order = |one: &Self| (one.range.session, one.range.end);
        self.range.line != other.range.line || order(self) <= order(other)
    }
}

/// What is remembered of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalSeries {
    /// Random name of the series.
    pub series: String,
    /// A run has begun that may or may not have committed.
    pub is_open: bool,
    /// When the series was begun (milliseconds since 1970).
    pub begun: u64,
    /// The line whose dump is saved: only that one can be gone on with.
    pub line: Option<String>,
    /// Segments in the newest snapshot, by the names of their files.
    pub segments: BTreeMap<String, SavedSegment>,
    /// The end of what is saved.
    pub last: Option<SavedSegment>,
    /// What is being saved.
    #[serde(skip)]
    expected: BTreeMap<String, SavedSegment>,
}

impl JournalSeries {
    /// The first series of a journal.
    pub fn new(now_ms: u64) -> Result<Self, RepoError> {
        Ok(Self {
            series: new_series()?,
            is_open: false,
            begun: now_ms,
            line: None,
            segments: BTreeMap::new(),
            last: None,
            expected: BTreeMap::new(),
        })
    }

    /// Reads what is remembered of the journal of a source; a new one where nothing is.
    pub fn read(state: &StateDir, source: &str, now_ms: u64) -> Result<Self, RepoError> {
        read_json(&series_path(state, source))?.map_or_else(|| Self::new(now_ms), Ok)
    }

    /// Writes it.
    pub fn write(&self, state: &StateDir, source: &str) -> Result<(), RepoError> {
        write_json(&series_path(state, source), self)
    }

    /// Begins a process: what it saves is a series of its own, so that it cannot be taken for more
    /// than it is where an older copy of the local state was put back.
    pub fn begin_process(&mut self, now_ms: u64) -> Result<(), RepoError> {
        self.begun = now_ms;
        self.begin_anew()
    }

    /// Says what the next files hold; begins a new series where this one is long, or uncertain.
    pub fn expect(
        &mut self,
        files: impl Iterator<Item = (String, SavedSegment)>,
        now_ms: u64,
    ) -> Result<(), RepoError> {
        self.expected = files.collect();
        let is_new = |name: &String| !self.segments.contains_key(name);
        let new = self.expected.keys().filter(|name| is_new(name)).count();
        let is_long = self.segments.len() + new > SEGMENTS_PER_SERIES_MAX;
        let is_old = new > 0 && now_ms.saturating_sub(self.begun) > SERIES_MS_MAX;
        if self.is_open || is_long || is_old {
            self.begin_anew()?;
            self.begun = now_ms;
        }
        Ok(())
    }
}

impl LogSeries for JournalSeries {
    fn series(&self) -> &str {
        &self.series
    }

    fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    fn begin_anew(&mut self) -> Result<(), RepoError> {
        self.series = new_series()?;
        self.segments.clear();
        self.is_open = false;
        Ok(())
    }

    fn carried(&self) -> Vec<String> {
        self.segments.keys().cloned().collect()
    }

    fn replaces(&self, new: &str, old: &str) -> bool {
        new == old
    }

    fn wants_content(&self, _name: &str) -> bool {
        false
    }

    fn take_saved(&mut self, name: &str, file: SavedFile, _content: Option<Vec<u8>>) {
        if let Some(mut segment) = self.expected.remove(name) {
            segment.file = Some((file.bytes, file.hash));
            if self.last.as_ref().is_none_or(|last| last.is_before(&segment)) {
                self.last = Some(segment.clone());
            }
            self.segments.insert(name.to_owned(), segment);
        }
    }

    fn facts(&self) -> Facts {
        let mut segments: Vec<&JournalRange> =
            self.segments.values().map(|segment| &segment.range).collect();
        segments.sort_by_key(|range| (range.session, range.start));
        let mut ranges: Vec<JournalRange> = Vec::new();
        for segment in segments {
            match ranges.last_mut() {
                Some(last) if last.is_followed_by(segment) => last.extend(segment),
                _ => ranges.push(segment.clone()),
            }
        }
        RedisFacts::RedisJournal(JournalFacts { series: self.series.clone(), ranges }).encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ids::content_hash;

    fn segment(line: &str, session: u64, start: u64, end: u64) -> (String, SavedSegment) {
        let range = JournalRange {
            line: line.into(),
            session,
            replid: "r".into(),
            after: None,
            start,
            end,
            from: (start > 100).then_some(session),
            until: end / 10,
        };
        let segment = SavedSegment { range, db: Some(2), file: None };
        (format!("{line}-{start:020}"), segment)
    }

    fn saved() -> SavedFile {
        SavedFile { bytes: 1, hash: content_hash(b""), stamp: None, is_carried: true }
    }

    fn save(series: &mut JournalSeries, files: &[(String, SavedSegment)], now: u64) {
        series.expect(files.iter().cloned(), now).unwrap();
        for (name, _) in files {
            series.take_saved(name, saved(), None);
        }
    }

    #[test]
    fn ranges_join_within_a_connection_and_the_end_is_known() {
        let mut series = JournalSeries::new(5).unwrap();
        save(&mut series, &[segment("a", 0, 0, 100), segment("a", 0, 100, 200)], 6);
        save(&mut series, &[segment("a", 0, 100, 250), segment("a", 1, 250, 300)], 7);
        let facts = RedisFacts::decode(&series.facts()).unwrap();
        let Some(RedisFacts::RedisJournal(facts)) = facts else { panic!("{facts:?}") };
        let shown: Vec<_> = facts.ranges.iter().map(|r| (r.session, r.start, r.end)).collect();
        assert_eq!(shown, [(0, 0, 250), (1, 250, 300)]);
        assert_eq!(facts.ranges[0].from, None);
        assert_eq!(series.last.as_ref().unwrap().range.end, 300);
        let name = series.series.clone();
        save(&mut series, &[segment("a", 1, 250, 310)], 5 + SERIES_MS_MAX * 2);
        assert_eq!(series.series, name);
        save(&mut series, &[segment("a", 1, 310, 320)], 5 + SERIES_MS_MAX * 2);
        assert_ne!(series.series, name);
        assert_eq!(series.carried().len(), 1);
        save(&mut series, &[segment("b", 0, 0, 50)], 5 + SERIES_MS_MAX * 2);
        assert_eq!(series.last.as_ref().unwrap().range.line, "b");
        series.set_open(true);
        save(&mut series, &[segment("a", 1, 310, 330)], 5 + SERIES_MS_MAX * 2);
        assert!(!series.is_open && series.carried().len() == 1);
    }
}
