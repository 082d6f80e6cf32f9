//! A transaction or a restore point, looked for in the saved log.
//!
//! From the newest base backup on backwards, each segment is read once, page by page, until the
//! record is found behind a base; the server ends there then, or nothing is restored.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;

use jiff::Timestamp;

use crate::cli::error::CommandError;
use crate::cli::explain::{postgres, restore};
use crate::cli::postgres_bases::Base;
use crate::cli::postgres_recovery::root_path;
use crate::cli::reading::Reading;
use crate::cli::wal_archive::WalArchive;
use crate::format::postgres::coverage::{Coverage, Reach};
use crate::format::postgres::facts::BaseFacts;
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::segment::{Segment, SegmentBytes};
use crate::format::postgres::wal_records::{Mark, MarkKind, PAGE_BYTES, WalRecords};
use crate::progress::Progress;
use crate::repo::snapshot_path::find_path;
use crate::restore::cat::cat;
use crate::restore::postgres::plan::{Point, RecoveryPlan, point_of_marks, ways};

/// Names of restore points that a message has.
const NAMES_SHOWN: usize = 10;

/// What the log has, as far as it was read.
pub struct LogSearch<'a> {
    reading: &'a Reading,
    archive: &'a WalArchive<'a>,
    coverage: Coverage,
    bases: &'a [Base<'a>],
    facts: Vec<BaseFacts>,
    point: Point,
    read: HashSet<Segment>,
    /// Records that could be meant, by the segment that they begin in.
    found: BTreeMap<Segment, BTreeMap<Lsn, Mark>>,
    seen: Seen,
}

/// What else was seen.
#[derive(Default)]
struct Seen {
    transactions: Option<(u32, u32)>,
    names: BTreeSet<String>,
}

impl<'a> LogSearch<'a> {
    /// Nothing is read yet. `point` is a transaction or a name.
    #[must_use]
    pub fn new(
        reading: &'a Reading,
        archive: &'a WalArchive<'a>,
        bases: &'a [Base<'a>],
        point: Point,
    ) -> Self {
        Self {
            reading,
            archive,
            coverage: archive.coverage(),
            bases,
            facts: bases.iter().map(|base| base.facts.clone()).collect(),
            point,
            read: HashSet::new(),
            found: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    /// The newest base from which recovery gets to the point, on the way to that timeline.
    ///
    /// # Errors
    /// The log cannot be read, or `HF-PG-010`, `-011`.
    pub fn plan(mut self, timeline: Option<Timeline>) -> Result<RecoveryPlan, CommandError> {
        let newest = self
            .facts
            .last()
            .ok_or_else(|| CommandError::new(&postgres::NO_BACKUP, "there is no base backup"))?;
        let size = newest.cluster.segments();
        if let Some(plan) = self.plan_on(timeline, size)? {
            return Ok(plan);
        }
        let mut elsewhere = None;
        for other in self.coverage.timelines().collect::<Vec<_>>() {
            if Some(other) != timeline && self.plan_on(Some(other), size)?.is_some() {
                elsewhere = Some(other);
            }
        }
        Err(self.not_found(timeline, elsewhere))
    }

    fn plan_on(
        &mut self,
        timeline: Option<Timeline>,
        size: SegmentBytes,
    ) -> Result<Option<RecoveryPlan>, CommandError> {
        let ways: Vec<(usize, Reach)> = ways(&self.facts, &self.coverage, timeline).collect();
        for (base, reach) in ways {
            let way = way_of(&reach, size);
            self.read(&way, base, size)?;
            let marks: Vec<&Mark> = way
                .iter()
                .filter_map(|one| self.found.get(one))
                .flat_map(BTreeMap::values)
                .collect();
            if let Some((point, mark)) = point_of_marks(&self.facts[base], &marks, &self.point) {
                return Ok(Some(RecoveryPlan { base, reach, point, mark: Some(mark) }));
            }
        }
        Ok(None)
    }

    /// Reads what was not read so far of a way.
    fn read(
        &mut self,
        way: &[Segment],
        base: usize,
        size: SegmentBytes,
    ) -> Result<(), CommandError> {
        let mut records = WalRecords::default();
        for segment in way {
            let is_known = self.read.contains(segment);
            // A record may go on in a segment that was read before.
            let is_needed = !is_known || records.is_within_record();
            let follows = is_needed && self.read_segment(*segment, base, size, &mut records)?;
            if !follows {
                records = WalRecords::default();
            }
            self.read.insert(*segment);
        }
        Ok(())
    }

    /// Whether it is there.
    fn read_segment(
        &mut self,
        segment: Segment,
        base: usize,
        size: SegmentBytes,
        records: &mut WalRecords,
    ) -> Result<bool, CommandError> {
        let (point, found, seen) = (&self.point, &mut self.found, &mut self.seen);
        let mut visit = |mark: Mark| {
            if point.is_mark(&mark.kind) {
                let start = Segment::of(segment.timeline, mark.start, size);
                found.entry(start).or_default().insert(mark.start, mark);
            } else {
                seen.note(mark.kind);
            }
        };
        records.next_segment();
        let at = segment.start(size);
        let mut pages = Pages { records, at, page: Vec::new(), visit: &mut visit };
        let name = segment.name(size);
        if let Some(file) = self.archive.find(&name)? {
            self.archive.copy(&file, &mut pages)?;
            return Ok(true);
        }
        // What was written while the base was taken it has itself.
        let base = &self.bases[base];
        let (access, snapshot) = (&self.reading.access, &base.found.1);
        let path = format!("{}/pg_wal/{name}", root_path(base));
        let damaged = |error: &(dyn std::error::Error + 'static)| {
            CommandError::classify(error, &restore::DAMAGED)
        };
        let is_there =
            find_path(access, snapshot, path.as_bytes()).map_err(|error| damaged(&error))?;
        if is_there.is_empty() {
            return Ok(false);
        }
        cat(access, snapshot, path.as_bytes(), &mut pages, 1, &Progress::default())
            .map_err(|error| damaged(&error))?;
        Ok(true)
    }

    fn not_found(&self, timeline: Option<Timeline>, elsewhere: Option<Timeline>) -> CommandError {
        let sought = shown(&self.point);
        let is_seen = !self.found.is_empty();
        let what = match (timeline, is_seen) {
            (_, false) => {
                format!("{sought} is nowhere in the saved log that a base backup leads to")
            }
            (Some(timeline), true) => {
                format!("no base backup leads to {sought} on the way to timeline {timeline}")
            }
            (None, true) => format!("no base backup that was complete before {sought} leads to it"),
        };
        let mut refused = CommandError::new(&postgres::UNREACHABLE_POINT, what);
        if let Some(mark) = self.found.values().flat_map(BTreeMap::values).last() {
            refused = refused.because_text(&format!("it is at {}", place_of(mark)));
        }
        let ways: Vec<(usize, Reach)> = ways(&self.facts, &self.coverage, timeline).collect();
        if let (Some((oldest, _)), Some((_, newest))) = (ways.last(), ways.first()) {
            let oldest = &self.facts[*oldest];
            refused = refused.because_text(&format!(
                "what can be reached: from {} ({}) to {} on timeline {}",
                oldest.stop, oldest.stop_time, newest.end, newest.timeline
            ));
        }
        if let Some(text) = self.seen.shown(&self.point) {
            refused = refused.because_text(&text);
        }
        match elsewhere {
            Some(timeline) => refused.hint(format!("--timeline {timeline} leads there")),
            None => refused,
        }
    }
}

impl Seen {
    fn note(&mut self, kind: MarkKind) {
        match kind {
            MarkKind::TransactionEnd(None | Some(0)) => {}
            MarkKind::TransactionEnd(Some(number)) => {
                let (least, most) = self.transactions.unwrap_or((number, number));
                self.transactions = Some((least.min(number), most.max(number)));
            }
            MarkKind::RestorePoint(name) => {
                if self.names.len() < NAMES_SHOWN {
                    self.names.insert(name);
                }
            }
        }
    }

    fn shown(&self, point: &Point) -> Option<String> {
        if let Point::Name(_) = point {
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            return (!names.is_empty())
                .then(|| format!("restore points that are there: {}", names.join(", ")));
        }
        let (least, most) = self.transactions?;
        Some(format!("transactions that ended there: {least} to {most}"))
    }
}

/// The segments of a way, in its order. The first segment of a timeline repeats what is valid of
/// its parent's, and is read instead of it.
fn way_of(reach: &Reach, size: SegmentBytes) -> Vec<Segment> {
    let mut way: BTreeMap<u64, Timeline> = BTreeMap::new();
    for range in &reach.ranges {
        let mut at = size.start(range.start);
        while at < range.end {
            let segment = Segment::of(range.timeline, at, size);
            way.insert(segment.number, segment.timeline);
            at = segment.end(size);
        }
    }
    way.into_iter().map(|(number, timeline)| Segment { timeline, number }).collect()
}

/// The point for people.
#[must_use]
pub fn shown(point: &Point) -> String {
    match point {
        Point::Transaction(number) => format!("transaction {number}"),
        Point::Name(name) => format!("the restore point {name}"),
        Point::Latest => "the end of the log".to_owned(),
        Point::Immediate => "its own end".to_owned(),
        Point::Time(time) => time.to_string(),
        Point::Lsn(lsn) => lsn.to_string(),
    }
}

/// Where and when a record is.
#[must_use]
pub fn place_of(mark: &Mark) -> String {
    match Timestamp::from_microsecond(mark.microseconds) {
        Ok(time) => format!("{}, {time}", mark.start),
        Err(_) => mark.start.to_string(),
    }
}

/// Takes a segment apart into pages, of which one is kept.
struct Pages<'a> {
    records: &'a mut WalRecords,
    at: Lsn,
    page: Vec<u8>,
    visit: &'a mut dyn FnMut(Mark),
}

impl Write for Pages<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(PAGE_BYTES - self.page.len());
        self.page.extend_from_slice(&bytes[..taken]);
        if self.page.len() == PAGE_BYTES {
            self.records.take_page_at(&self.page, self.at, self.visit);
            self.at = Lsn(self.at.0.saturating_add(PAGE_BYTES as u64));
            self.page.clear();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
