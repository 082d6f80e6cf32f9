//! The dumps and the journal of one Redis source: which snapshot has which segment, and the way to
//! a moment.

use std::io::Write;

use crate::backup::journal_pending::UNSURE_MS_MAX;
use crate::backup::journal_series::journal_source;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{redis, restore};
use crate::cli::reading::{FoundSnapshot, Reading};
use crate::cli::time::format_rfc3339;
use crate::format::redis::command_stream::CommandScanner;
use crate::format::redis::journal::{SegmentError, SegmentHeader, SegmentReader};
use crate::format::redis::reach::{Coverage, DumpStart, Plan, Stretch, Unreached};
use crate::format::redis::replay::{Replay, ReplayError, Replayed};
use crate::format::redis::server_facts::{DumpFacts, JournalFacts, JournalRange, RedisFacts};
use crate::format::snapshot::Snapshot;
use crate::progress::Progress;
use crate::repo::tree_reader::TreeReader;
use crate::restore::cat::cat;

/// A dump.
pub struct Dump<'a> {
    /// The snapshot.
    pub found: FoundSnapshot<'a>,
    /// What it says about itself.
    pub facts: DumpFacts,
    /// Where it stands among moments and commands.
    pub start: DumpStart,
}

/// All that is kept of a source.
pub struct RedisArchive<'a> {
    reading: &'a Reading,
    /// Its dumps, in the order in which they were made.
    pub dumps: Vec<Dump<'a>>,
    journals: Vec<(FoundSnapshot<'a>, JournalFacts)>,
}

/// Takes bytes of a frame, with the header of their segment and the time of the frame; gives whether
/// more is wanted.
type Visit<'v> = dyn FnMut(&SegmentHeader, u64, &[u8]) -> Result<bool, CommandError> + 'v;

/// A segment of the journal, and where it is.
struct Segment<'s> {
    snapshot: &'s Snapshot,
    path: Vec<u8>,
    start: u64,
    /// Position up to which it is of use.
    end: u64,
}

impl<'a> RedisArchive<'a> {
    /// Reads what the snapshots of a source say; those that later ones of their series contain are
    /// left out.
    ///
    /// # Errors
    /// `HF-REDIS-015` where there is nothing.
    pub fn read(
        reading: &'a Reading,
        context: &Context,
        source: &str,
    ) -> Result<Self, CommandError> {
        let (mut dumps, mut journals) =
            (Vec::new(), Vec::<(FoundSnapshot<'a>, JournalFacts)>::new());
        let of_journal = journal_source(source);
        for found in reading.all(context) {
            if found.1.source != source && found.1.source != of_journal {
                continue;
            }
            match facts_of(&found.1)? {
                Some(RedisFacts::Redis(facts)) => {
                    let start = start_of(&facts, found.0.seq)?;
                    dumps.push(Dump { found, facts, start });
                }
                Some(RedisFacts::RedisJournal(facts)) => {
                    // Its place in the log decides, not its time: clocks go back.
                    let known = journals.iter().position(|(_, one)| one.series == facts.series);
                    match known {
                        Some(known) if journals[known].0.0.seq > found.0.seq => {}
                        Some(known) => journals[known] = (found, facts),
                        None => journals.push((found, facts)),
                    }
                }
                None => {}
            }
        }
        if dumps.is_empty() && journals.is_empty() {
            let what = format!("nothing of the Redis source {source} is kept");
            return Err(CommandError::new(&redis::NO_BACKUP, what));
        }
        dumps.sort_by_key(|dump| dump.start.moment);
        Ok(Self { reading, dumps, journals })
    }

    /// What there is of the journal.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        Coverage::of(self.journals.iter().map(|(_, facts)| facts))
    }

    /// Where the dumps stand.
    #[must_use]
    pub fn starts(&self) -> Vec<DumpStart> {
        self.dumps.iter().map(|dump| dump.start.clone()).collect()
    }

    /// Whether the journal reaches the end of what was saved of it.
    #[must_use]
    pub fn has(&self, saved: &JournalRange) -> bool {
        let mut ranges = self.journals.iter().flat_map(|(_, facts)| &facts.ranges);
        ranges.any(|range| {
            (&range.line, range.session) == (&saved.line, saved.session) && range.end >= saved.end
        })
    }

    /// Whether a dump that is kept leads to the end of a line.
    #[must_use]
    pub fn leads_to(&self, line: &str) -> bool {
        let coverage = self.coverage();
        self.dumps.iter().any(|dump| coverage.leads_to(&dump.start, line))
    }

    /// The way to a moment, to the newest one without one.
    ///
    /// # Errors
    /// `HF-REDIS-014`, with the nearest moments that can be reached.
    pub fn plan(&self, moment: Option<jiff::Timestamp>) -> Result<Plan, CommandError> {
        let wanted = moment.map(|moment| u64::try_from(moment.as_millisecond()).unwrap_or(0));
        let (coverage, mut starts) = (self.coverage(), self.starts());
        loop {
            let plan = coverage.plan(&starts, wanted).map_err(|error| unreached(moment, &error))?;
            if plan.is_newest || self.is_before(&plan)? {
                return Ok(plan);
            }
            // By the clock of the host that took it, which was behind, it is older than it is.
            starts[plan.dump].moment = u64::MAX;
        }
    }

    /// Whether the dump of a plan is of before the moment, by the commands of the journal.
    fn is_before(&self, plan: &Plan) -> Result<bool, CommandError> {
        let [only] = &plan.stretches[..] else { return Ok(true) };
        // A moment is known to a second.
        let moment = plan.moment.saturating_add(UNSURE_MS_MAX);
        Ok(self.cut(&self.segments(only)?, moment)? >= only.start)
    }

    /// Replays the commands of a plan; gives how many they were, and the highest number of a database
    /// that they or the dump need.
    ///
    /// # Errors
    /// The journal is damaged, or whoever takes the commands has failed.
    pub fn replay<R: Replayed<Error = CommandError>>(
        &self,
        plan: &Plan,
        out: &mut R,
    ) -> Result<(u64, u32), CommandError> {
        let numbers = self.dumps[plan.dump].facts.keys.keys().filter_map(|db| db.parse().ok());
        let mut database_max: u32 = numbers.max().unwrap_or(0);
        let mut commands = 0;
        for (number, stretch) in plan.stretches.iter().enumerate() {
            let segments = self.segments(stretch)?;
            let is_last = number + 1 == plan.stretches.len() && !plan.is_newest;
            let end = if is_last {
                let cut = self.cut(&segments, plan.moment)?;
                cut.clamp(stretch.start, stretch.end)
            } else {
                stretch.end
            };
            let mut at = stretch.start;
            for segment in &segments {
                let to = segment.end.min(end);
                if segment.end <= at || to <= at {
                    continue;
                }
                if segment.start > at {
                    return Err(damaged(&format!(
                        "nothing is kept from {at} to {}",
                        segment.start
                    )));
                }
                let replayed = self.replay_segment(segment, (at, to), out)?;
                commands += replayed.0;
                database_max = database_max.max(replayed.1);
                at = to;
            }
            if at < end {
                return Err(damaged(&format!("nothing is kept from {at} to {end}")));
            }
        }
        Ok((commands, database_max))
    }

    fn replay_segment<R: Replayed<Error = CommandError>>(
        &self,
        segment: &Segment<'_>,
        range: (u64, u64),
        out: &mut R,
    ) -> Result<(u64, u32), CommandError> {
        let mut replay: Option<Replay> = None;
        self.each_frame(segment, &mut |header, time_ms, bytes| {
            let new = || Replay::new(header.start, header.db, range);
            let replay = replay.get_or_insert_with(new);
            let taken = replay.take(time_ms, bytes, out).map_err(|error| match error {
                ReplayError::NoCommand(error) => damaged(&error.to_string()),
                ReplayError::Replayed(error) => error,
            });
            taken.map(|()| !replay.is_done())
        })?;
        match replay {
            Some(replay) if replay.is_done() => Ok((replay.commands(), replay.database_max())),
            _ => Err(damaged(&format!("the segment at {} ends before {}", segment.start, range.1))),
        }
    }

    /// Position behind the last command that was executed by a moment; 0 where none was.
    fn cut(&self, segments: &[Segment<'_>], moment: u64) -> Result<u64, CommandError> {
        let (mut low, mut high) = (0, segments.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.begun(&segments[middle])? <= moment { low = middle + 1 } else { high = middle }
        }
        let Some(segment) = low.checked_sub(1).map(|last| &segments[last]) else {
            return Ok(0);
        };
        let mut scanner = None;
        self.each_frame(segment, &mut |header, time_ms, bytes| {
            let new = || CommandScanner::new(header.start, header.db);
            let scanner = scanner.get_or_insert_with(new);
            if time_ms > moment {
                return Ok(false);
            }
            let scanned = scanner.take(bytes, &mut |_| {});
            scanned.map(|()| true).map_err(|error| damaged(&error.to_string()))
        })?;
        Ok(scanner.map_or(segment.start, |scanner| scanner.boundary()))
    }

    fn begun(&self, segment: &Segment<'_>) -> Result<u64, CommandError> {
        let mut begun = None;
        self.each_frame(segment, &mut |header, _, _| {
            begun = Some(header.begun);
            Ok(false)
        })?;
        begun.ok_or_else(|| damaged(&format!("the segment at {} is empty", segment.start)))
    }

    /// The segments of a stretch, in their order.
    fn segments(&self, stretch: &Stretch) -> Result<Vec<Segment<'_>>, CommandError> {
        let mut segments: Vec<Segment<'_>> = Vec::new();
        let unreadable = |error| CommandError::classify(&error, &restore::DAMAGED);
        for ((_, snapshot), facts) in &self.journals {
            let ranges = facts.ranges.iter().filter(|range| {
                (&range.line, range.session) == (&stretch.line, stretch.session)
                    && range.start < stretch.end
                    && range.end > stretch.start
            });
            let ranges: Vec<_> = ranges.collect();
            let Some(root) = snapshot.roots.first().filter(|_| !ranges.is_empty()) else {
                continue;
            };
            for entry in TreeReader::open(&self.reading.access, root).map_err(unreadable)? {
                let (key, _) = entry.map_err(unreadable)?;
                let Some(start) = start_of_name(&key.name, &stretch.line) else { continue };
                let Some(range) = ranges.iter().find(|r| r.start <= start && start < r.end) else {
                    continue;
                };
                let path = [b"/", snapshot.source.as_bytes(), b"/", &key.name].concat();
                segments.push(Segment { snapshot, path, start, end: range.end });
            }
        }
        // The same segment may be in two series, in the later one longer.
        segments.sort_by_key(|one| (one.start, std::cmp::Reverse(one.end)));
        segments.dedup_by_key(|one| one.start);
        for number in 1..segments.len() {
            let next = segments[number].start;
            let before = &mut segments[number - 1];
            before.end = before.end.min(next);
        }
        Ok(segments)
    }

    /// Gives the frames of a segment to `visit`, until that wants no more.
    fn each_frame(&self, segment: &Segment<'_>, visit: &mut Visit<'_>) -> Result<(), CommandError> {
        let mut frames = Frames { reader: SegmentReader::default(), visit, outcome: Ok(true) };
        let Segment { snapshot, path, .. } = segment;
        let read = cat(&self.reading.access, snapshot, path, &mut frames, 1, &Progress::default());
        match (frames.outcome, read) {
            (Err(error), _) => Err(error),
            (Ok(false), _) => Ok(()),
            (Ok(true), Err(error)) => Err(CommandError::classify(&error, &restore::DAMAGED)),
            (Ok(true), Ok(_)) => frames.reader.finish().map_err(|error| segment_error(&error)),
        }
    }
}

/// Takes the bytes of a segment.
struct Frames<'v> {
    reader: SegmentReader,
    visit: &'v mut Visit<'v>,
    outcome: Result<bool, CommandError>,
}

impl Write for Frames<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (mut frames, mut header) = (Vec::new(), self.reader.header().cloned());
        let taken = self.reader.take(bytes, &mut |time, bytes| frames.push((time, bytes.to_vec())));
        header = header.or_else(|| self.reader.header().cloned());
        for (time, bytes) in frames {
            if let (Ok(true), Some(header)) = (&self.outcome, &header) {
                self.outcome = (self.visit)(header, time, &bytes);
            }
        }
        if let (Ok(true), Err(error)) = (&self.outcome, taken) {
            self.outcome = Err(segment_error(&error));
        }
        match self.outcome {
            Ok(true) => Ok(bytes.len()),
            _ => Err(std::io::Error::other("no more is wanted")),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn start_of_name(name: &[u8], line: &str) -> Option<u64> {
    let rest = name.strip_prefix(line.as_bytes())?.strip_prefix(b"-")?;
    std::str::from_utf8(rest).ok()?.parse().ok()
}

fn segment_error(error: &SegmentError) -> CommandError {
    CommandError::classify(error, &redis::JOURNAL)
}

fn damaged(what: &str) -> CommandError {
    CommandError::new(&redis::JOURNAL, format!("the journal is damaged: {what}"))
}

fn start_of(facts: &DumpFacts, order: u64) -> Result<DumpStart, CommandError> {
    let moment: jiff::Timestamp = facts.moment.parse().map_err(|error: jiff::Error| {
        CommandError::new(&redis::JOURNAL, "a dump does not say when it was made").because(&error)
    })?;
    // Whoever names the second in which it was made means it too.
    let moment = u64::try_from(moment.as_millisecond()).unwrap_or(0);
    let position = facts.replid.clone().zip(facts.offset);
    Ok(DumpStart { moment, is_exact: !facts.inexact, order, position })
}

/// The error for a moment that cannot be reached, with the nearest ones that can.
fn unreached(moment: Option<jiff::Timestamp>, error: &Unreached) -> CommandError {
    let shown = moment.map_or_else(|| "latest".to_owned(), format_rfc3339);
    let what = format!("{shown} cannot be reached: {error}");
    let nearest = [("before", error.before), ("after", error.after)];
    nearest.iter().fold(
        CommandError::new(&redis::UNREACHED, what),
        |refused, (word, at)| match at {
            Some(at) => refused.hint(format!("the nearest {word} it: --to-time {}", shown_ms(*at))),
            None => refused,
        },
    )
}

/// A time in milliseconds since 1970, as it is written.
#[must_use]
pub fn shown_ms(ms: u64) -> String {
    let moment = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| ms.to_string(), format_rfc3339)
}

/// What a snapshot says about its Redis root, where it has one.
///
/// # Errors
/// `HF-REDIS-012` where it cannot be understood.
pub fn facts_of(snapshot: &Snapshot) -> Result<Option<RedisFacts>, CommandError> {
    for facts in snapshot.roots.iter().filter_map(|root| root.facts.as_ref()) {
        let decoded = RedisFacts::decode(facts).map_err(|error| {
            let what = format!("what a snapshot of {} says cannot be read", snapshot.source);
            CommandError::new(&redis::JOURNAL, what).because(&error)
        })?;
        if decoded.is_some() {
            return Ok(decoded);
        }
    }
    Ok(None)
}
