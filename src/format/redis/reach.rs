//! Which moments of a server can be reached: from a dump, by the commands of the journal after it.
//!
//! Commands of one line join where a part goes on at or before the end of the one before. A moment
//! is known only where it is known when commands were executed.

use std::collections::BTreeMap;

use crate::format::redis::server_facts::{JournalFacts, JournalRange};

/// What there is of the journals of a source.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    lines: BTreeMap<String, Vec<JournalRange>>,
}

/// A dump as the beginning of a way. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpStart {
    /// Nothing in it is younger.
    pub moment: u64,
    /// All that was done by then is in it.
    pub is_exact: bool,
    /// Those with greater numbers were kept later, whatever clocks say.
    pub order: u64,
    /// History and position that it is of, where the server said it.
    pub position: Option<(String, u64)>,
}

/// Commands of one part of a journal that lead on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The line.
    pub line: String,
    /// Number of the part.
    pub session: u64,
    /// Position of the first byte.
    pub start: u64,
    /// Position after the last byte.
    pub end: u64,
    /// From this moment on moments are exact.
    pub from: Option<u64>,
    /// The last moment.
    pub until: u64,
}

/// How a moment is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Place of the dump among those that were given.
    pub dump: usize,
    /// The commands after it; of the last stretch those up to the moment.
    pub stretches: Vec<Stretch>,
    /// The moment, or that of the last command.
    pub moment: u64,
    /// All commands are meant, also those that came at times that are not known exactly.
    pub is_newest: bool,
}

/// A moment that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing that is kept leads to this moment")]
pub struct Unreached {
    /// The nearest one before it that can.
    pub before: Option<u64>,
    /// The nearest one after it that can.
    pub after: Option<u64>,
}

/// Between the end of one line and the first exact moment of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Nothing of the line before is younger.
    pub from: u64,
    /// From here on the next line is exact; without it, it is nowhere yet.
    pub to: Option<u64>,
}

impl Coverage {
    /// What all journals have.
    pub fn of<'a>(all: impl IntoIterator<Item = &'a JournalFacts>) -> Self {
        let mut lines: BTreeMap<String, Vec<JournalRange>> = BTreeMap::new();
        for range in all.into_iter().flat_map(|facts| &facts.ranges) {
            lines.entry(range.line.clone()).or_default().push(range.clone());
        }
        for line in lines.values_mut() {
            line.sort_by_key(|range| (range.session, range.start, range.end));
            let mut joined: Vec<JournalRange> = Vec::new();
            for range in line.drain(..) {
                match joined.last_mut() {
                    Some(last) if last.session == range.session && range.start <= last.end => {
                        let end = last.end.max(range.end);
                        last.extend(&range);
                        last.end = end;
                    }
                    _ => joined.push(range),
                }
            }
            *line = joined;
        }
        Self { lines }
    }

    /// Everything, line by line in the order of their times.
    #[must_use]
    pub fn ranges(&self) -> Vec<&JournalRange> {
        let mut lines: Vec<_> = self.lines.values().filter(|line| !line.is_empty()).collect();
        lines.sort_by_key(|line| line[0].until);
        lines.into_iter().flatten().collect()
    }

    /// The commands that follow a position, in each line that has it.
    fn ways(&self, replid: &str, offset: u64) -> impl Iterator<Item = Vec<Stretch>> {
        self.lines.values().filter_map(move |line| {
            let is_at = |range: &JournalRange| {
                let is_within = range.start <= offset && offset <= range.end;
                let is_before = range.start == offset && range.after.as_deref() == Some(replid);
                is_before || (is_within && range.replid == replid)
            };
            let first = line.iter().position(is_at)?;
            Some(follow(&line[first..], offset))
        })
    }

    /// The commands that follow a position.
    #[must_use]
    pub fn way(&self, replid: &str, offset: u64) -> Vec<Stretch> {
        let ways = self.ways(replid, offset);
        ways.max_by_key(|way| way.last().map(|last| last.until)).unwrap_or_default()
    }

    /// Whether a dump leads to the end of a line.
    #[must_use]
    pub fn leads_to(&self, dump: &DumpStart, line: &str) -> bool {
        let Some((replid, offset)) = &dump.position else { return false };
        let end = self.lines.get(line).and_then(|line| line.last()).map(|last| last.end);
        let is_end = |last: &Stretch| last.line == line && Some(last.end) == end;
        self.ways(replid, *offset).any(|way| way.last().is_some_and(is_end))
    }

    /// The part of a journal that a stretch is of.
    #[must_use]
    pub fn range_of(&self, stretch: &Stretch) -> Option<&JournalRange> {
        let mut line = self.lines.get(&stretch.line)?.iter();
        line.find(|range| range.session == stretch.session && range.end == stretch.end)
    }

    /// Where nothing goes on from what ends there. Several hosts may have lines at the same time.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        // Of each piece without a break: from when it is exact, and where it ends.
        let mut pieces: Vec<(Option<u64>, u64)> = Vec::new();
        for line in self.lines.values() {
            let mut end = None;
            for range in line {
                match pieces.last_mut() {
                    Some(piece) if end.is_some_and(|end| range.start <= end) => {
                        piece.0 = piece.0.or(range.from);
                        piece.1 = piece.1.max(range.until);
                    }
                    _ => pieces.push((range.from, range.until)),
                }
                end = end.max(Some(range.end));
            }
        }
        pieces.sort_by_key(|(from, until)| (from.unwrap_or(*until), *until));
        let mut gaps = Vec::new();
        let mut covered: Option<u64> = None;
        for (from, until) in pieces {
            if let Some(end) = covered.filter(|end| from.unwrap_or(until) > *end) {
                gaps.push(Gap { from: end, to: from });
            }
            covered = covered.max(Some(until));
        }
        gaps
    }

    /// All exact moments, as intervals in their order that do not touch.
    #[must_use]
    pub fn moments(&self, dumps: &[DumpStart]) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = Vec::new();
        for dump in dumps {
            all.extend(dump.is_exact.then_some((dump.moment, dump.moment)));
            let way = dump.position.as_ref().map(|(replid, offset)| self.way(replid, *offset));
            for stretch in way.into_iter().flatten() {
                let from = stretch.from.map(|from| from.max(dump.moment));
                all.extend(from.filter(|from| *from <= stretch.until).map(|f| (f, stretch.until)));
            }
        }
        all.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (from, until) in all {
            match joined.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(until),
                _ => joined.push((from, until)),
            }
        }
        joined
    }

    /// The way to the end of all that is kept.
    fn newest(&self, dumps: &[DumpStart]) -> Option<Plan> {
        // The dump that was kept last is of the last history; clocks may say something else.
        let (dump, start) = dumps.iter().enumerate().max_by_key(|(_, start)| start.order)?;
        let position = start.position.as_ref();
        let stretches = position.map(|(replid, offset)| self.way(replid, *offset));
        let stretches = stretches.unwrap_or_default();
        let moment = stretches.last().map_or(start.moment, |last| last.until.max(start.moment));
        Some(Plan { dump, stretches, moment, is_newest: true })
    }

    /// The shortest way to a moment; to the end of all that is kept without one.
    ///
    /// # Errors
    /// [`Unreached`].
    pub fn plan(&self, dumps: &[DumpStart], moment: Option<u64>) -> Result<Plan, Unreached> {
        let Some(moment) = moment else {
            return self.newest(dumps).ok_or(Unreached { before: None, after: None });
        };
        let mut order: Vec<usize> = (0..dumps.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse((dumps[*index].moment, *index)));
        for dump in order {
            let start = &dumps[dump];
            if start.moment > moment {
                continue;
            }
            let position = start.position.as_ref();
            let way = position.map(|(replid, offset)| self.way(replid, *offset));
            let way = way.unwrap_or_default();
            let is_in = |stretch: &Stretch| {
                stretch.from.is_some_and(|from| from <= moment) && moment <= stretch.until
            };
            if let Some(last) = way.iter().rposition(is_in) {
                let stretches = way[..=last].to_vec();
                return Ok(Plan { dump, stretches, moment, is_newest: false });
            }
            if start.moment == moment && start.is_exact {
                return Ok(Plan { dump, stretches: Vec::new(), moment, is_newest: false });
            }
        }
        let moments = self.moments(dumps);
        Err(Unreached {
            before: moments.iter().map(|(_, until)| *until).filter(|at| *at < moment).max(),
            after: moments.iter().map(|(from, _)| *from).filter(|at| *at > moment).min(),
        })
    }
}

/// The commands from `offset` on, which lies in the first range.
fn follow(line: &[JournalRange], offset: u64) -> Vec<Stretch> {
    let mut way = Vec::new();
    let mut at = offset;
    for range in line {
        if range.start > at && !way.is_empty() {
            break;
        }
        if range.end < at || range.start > at {
            continue;
        }
        way.push(Stretch {
            line: range.line.clone(),
            session: range.session,
            start: at,
            end: range.end,
            from: range.from,
            until: range.until,
        });
        at = range.end;
    }
    // Later moments than those at which it went on are those of a clock that was put back.
    let mut next = u64::MAX;
    for stretch in way.iter_mut().rev() {
        stretch.until = stretch.until.min(next);
        next = next.min(stretch.from.unwrap_or(stretch.until));
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(
        line: &str,
        session: u64,
        bytes: (u64, u64),
        times: (Option<u64>, u64),
    ) -> JournalRange {
        let replid = if session < 2 { "r1" } else { "r2" };
        JournalRange {
            line: line.into(),
            session,
            replid: replid.into(),
            after: None,
            start: bytes.0,
            end: bytes.1,
            from: times.0,
            until: times.1,
        }
    }

    fn coverage(ranges: &[JournalRange]) -> Coverage {
        let each =
            |range: &JournalRange| JournalFacts { series: "s".into(), ranges: vec![range.clone()] };
        let all: Vec<JournalFacts> = ranges.iter().map(each).collect();
        Coverage::of(&all)
    }

    fn dump(moment: u64, replid: &str, offset: u64) -> DumpStart {
        let position = Some((replid.into(), offset));
        DumpStart { moment, is_exact: true, order: moment, position }
    }

    /// A line of three connections, the second of which came late, and one after a gap.
    fn journal() -> Coverage {
        coverage(&[
            range("a", 0, (100, 150), (Some(1005), 1050)),
            range("a", 1, (180, 300), (Some(1200), 1300)),
            range("a", 0, (150, 200), (Some(1050), 1100)),
            range("a", 2, (300, 400), (None, 1450)),
            range("b", 0, (70, 90), (Some(2010), 2100)),
        ])
    }

    #[test]
    fn ways_lead_over_connections_and_failovers() {
        let way = journal().way("r1", 120);
        let shown: Vec<_> = way.iter().map(|s| (s.session, s.start, s.end, s.from)).collect();
        let expected = [(0, 120, 200, Some(1005)), (1, 200, 300, Some(1200)), (2, 300, 400, None)];
        assert_eq!(shown, expected);
        assert_eq!(journal().way("r2", 350).len(), 1);
        // The history has another name from the first byte on that came.
        let after = Some("r1".to_owned());
        let renamed = JournalRange { after, ..range("c", 2, (100, 400), (None, 1450)) };
        let renamed = coverage(&[renamed]);
        assert_eq!((renamed.way("r1", 100).len(), renamed.way("r1", 101).len()), (1, 0));
        assert!(journal().way("r2", 120).is_empty() && journal().way("r1", 99).is_empty());
        assert_eq!(journal().gaps(), [Gap { from: 1450, to: Some(2010) }]);
        let two_hosts = coverage(&[
            range("a", 0, (100, 150), (Some(1005), 1050)),
            range("b", 0, (120, 190), (Some(1020), 1090)),
            range("c", 0, (110, 115), (Some(1010), 1015)),
        ]);
        assert_eq!(two_hosts.gaps(), []);
        let lost = coverage(&[
            range("a", 0, (0, 10), (Some(1), 2)),
            range("a", 0, (20, 30), (Some(3), 4)),
        ]);
        assert_eq!(lost.way("r1", 5).len(), 1);
        assert_eq!(lost.gaps(), [Gap { from: 2, to: Some(3) }]);
    }

    #[test]
    fn what_is_not_known_exactly_is_no_moment() {
        let joined = DumpStart { is_exact: false, ..dump(1000, "r1", 100) };
        let joined = [joined];
        assert_eq!(journal().moments(&joined)[0], (1005, 1100));
        let unreached = Unreached { before: None, after: Some(1005) };
        assert_eq!(journal().plan(&joined, Some(1000)), Err(unreached));
        // The clock was an hour ahead, and was put back.
        let moved = coverage(&[
            range("a", 0, (100, 200), (Some(5000), 6000)),
            range("a", 1, (200, 300), (None, 2400)),
            range("a", 2, (300, 400), (Some(2500), 2600)),
        ]);
        let dumps = [dump(4900, "r1", 100)];
        assert_eq!(moved.moments(&[dump(900, "r1", 100)]), [(900, 900), (2500, 2600)]);
        assert!(moved.plan(&dumps, Some(5500)).is_err());
        assert_eq!(moved.plan(&dumps, None).unwrap().stretches.len(), 3);
        // A new history after it, of the right clock: what was kept later is newer.
        let ahead = coverage(&[
            range("a", 0, (100, 200), (Some(5000), 6000)),
            range("b", 0, (70, 90), (Some(2010), 2100)),
        ]);
        let mut dumps = [dump(4900, "r1", 100), dump(2000, "r1", 70)];
        (dumps[0].order, dumps[1].order) = (1, 2);
        let newest = ahead.plan(&dumps, None).unwrap();
        assert_eq!((newest.dump, newest.moment), (1, 2100));
        assert!(ahead.leads_to(&dumps[1], "b") && !ahead.leads_to(&dumps[0], "b"));
        assert_eq!(ahead.range_of(&newest.stretches[0]).unwrap().line, "b");
    }

    #[test]
    fn a_moment_is_reached_from_the_nearest_dump_or_not_at_all() {
        let journal = journal();
        let dumps = [dump(1000, "r1", 100), dump(1080, "r1", 190), dump(2000, "r1", 70)];
        let plan = |moment| journal.plan(&dumps, moment).map(|p| (p.dump, p.stretches.len()));
        assert_eq!(plan(Some(1000)), Ok((0, 0)));
        assert_eq!(plan(Some(1005)), Ok((0, 1)));
        assert_eq!(plan(Some(1090)), Ok((1, 1)));
        assert_eq!(plan(Some(1250)), Ok((1, 2)));
        assert_eq!(plan(Some(2050)), Ok((2, 1)));
        assert_eq!(plan(None), Ok((2, 1)));
        let unreached = |before, after| Err(Unreached { before, after });
        assert_eq!(plan(Some(999)), unreached(None, Some(1000)));
        assert_eq!(plan(Some(1003)), unreached(Some(1000), Some(1005)));
        assert_eq!(plan(Some(1150)), unreached(Some(1100), Some(1200)));
        assert_eq!(plan(Some(1400)), unreached(Some(1300), Some(2000)));
        assert_eq!(plan(Some(2200)), unreached(Some(2100), None));
        let intervals = [(1000, 1000), (1005, 1100), (1200, 1300), (2000, 2000), (2010, 2100)];
        assert_eq!(journal.moments(&dumps), intervals);
        // The end is all that came, also where nobody knows when it was executed.
        let late = coverage(&[
            range("a", 0, (100, 200), (Some(1005), 1100)),
            range("a", 1, (200, 300), (None, 1200)),
        ]);
        let plan = late.plan(&dumps[..2], None).unwrap();
        assert_eq!((plan.dump, plan.stretches.len(), plan.moment), (1, 2, 1200));
        let nothing = Coverage::default();
        assert!(nothing.plan(&[], None).is_err());
        let alone = [DumpStart { moment: 5, is_exact: true, order: 1, position: None }];
        assert_eq!(nothing.plan(&alone, None).unwrap().dump, 0);
    }
}
