//! What of a log is there, and how far recovery gets from a base backup.
//!
//! Pure: handed what the snapshots say, it answers; nothing is read. A gap is a gap: recovery
//! never goes over one, and never from one timeline to another that did not begin there.

use std::collections::BTreeMap;

use crate::format::postgres::facts::{BaseFacts, WalFacts, WalRange};
use crate::format::postgres::history_file::{Stretch, parse_history};
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::segment::SegmentBytes;

/// All that is there of one cluster's log.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// By timeline: ranges that neither touch nor overlap, ascending.
    ranges: BTreeMap<Timeline, Vec<(Lsn, Lsn)>>,
    /// The way to each timeline whose history is there; the first has none and needs none.
    ways: BTreeMap<Timeline, Vec<Stretch>>,
    segment: Option<SegmentBytes>,
}

/// A stretch of the log that is missing between two that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The timeline.
    pub timeline: Timeline,
    /// First byte that is missing.
    pub start: Lsn,
    /// First byte that is there again.
    pub end: Lsn,
}

/// How far recovery gets on the way to a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The timeline on which it ends.
    pub timeline: Timeline,
    /// The end of what is there without a gap.
    pub end: Lsn,
    /// What is to be fetched: ranges of timelines in the order of recovery.
    pub ranges: Vec<WalRange>,
}

impl Coverage {
    /// Takes what a snapshot of the log has.
    pub fn add(&mut self, facts: &WalFacts) {
        self.segment = Some(facts.cluster.segments());
        for range in &facts.ranges {
            insert(self.ranges.entry(range.timeline).or_default(), range.start, range.end);
        }
        for (timeline, text) in &facts.histories {
            if let Ok(way) = parse_history(*timeline, text.as_bytes()) {
                self.ways.insert(*timeline, way);
            }
        }
    }

    /// The ranges that are there.
    pub fn ranges(&self) -> impl Iterator<Item = WalRange> + '_ {
        self.ranges.iter().flat_map(|(timeline, ranges)| {
            ranges.iter().map(|(start, end)| WalRange {
                timeline: *timeline,
                start: *start,
                end: *end,
            })
        })
    }

    /// What is missing between the ranges of each timeline.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (timeline, ranges) in &self.ranges {
            for pair in ranges.windows(2) {
                gaps.push(Gap { timeline: *timeline, start: pair[0].1, end: pair[1].0 });
            }
        }
        gaps
    }

    /// Timelines that are there, in ascending order.
    pub fn timelines(&self) -> impl Iterator<Item = Timeline> + '_ {
        self.ranges.keys().copied()
    }

    /// How far recovery from a base gets on the way to `target`; without one, to the newest
    /// timeline that descends from the base's and that it can get to.
    ///
    /// `None` where the way does not lead over the base.
    #[must_use]
    pub fn reach(&self, base: &BaseFacts, target: Option<Timeline>) -> Option<Reach> {
        if let Some(target) = target {
            return self.reach_on(base, target);
        }
        let newest_first = self.ways.keys().rev().filter(|timeline| **timeline > base.timeline);
        newest_first
            .filter_map(|timeline| self.reach_on(base, *timeline))
            .find(|reach| reach.timeline > base.timeline)
            .or_else(|| self.reach_on(base, base.timeline))
    }

    fn reach_on(&self, base: &BaseFacts, target: Timeline) -> Option<Reach> {
        let size = self.segment.unwrap_or_else(|| base.cluster.segments());
        let own = [Stretch { timeline: target, begin: Lsn(0), end: None }];
        let way: &[Stretch] = match self.ways.get(&target) {
            Some(way) => way,
            None if target == base.timeline => &own,
            None => return None,
        };
        let at = way.iter().position(|stretch| stretch.timeline == base.timeline)?;
        if way[at].end.is_some_and(|end| end < base.stop) {
            return None;
        }
        let mut reach = Reach { timeline: base.timeline, end: base.stop, ranges: Vec::new() };
        for stretch in &way[at..] {
            // The first segment of a timeline repeats its parent's up to where it was left.
            let is_first = stretch.timeline == base.timeline;
            let from = size.start(if is_first { base.start } else { stretch.begin });
            let covered = self.end_of(stretch.timeline, from, size);
            if is_first {
                // The base carries its own log; a primary ends the segment with the backup.
                let own = if base.from_standby { base.stop } else { size.end(base.stop) };
                let joined = covered.filter(|end| *end > base.stop);
                let joined = joined.or_else(|| self.end_of(stretch.timeline, base.stop, size));
                reach.end =
                    joined.or_else(|| self.end_of(stretch.timeline, own, size)).unwrap_or(own);
            } else {
                let Some(covered) = covered.filter(|end| *end >= stretch.begin) else { break };
                reach.timeline = stretch.timeline;
                reach.end = covered.max(stretch.begin);
            }
            let end = stretch.end.unwrap_or(Lsn(u64::MAX));
            let until = reach.end.min(size.end(end));
            if until > from {
                let timeline = stretch.timeline;
                reach.ranges.push(WalRange { timeline, start: from, end: until });
            }
            // Up to the segment in which it was left; what follows is in the next one's first.
            if size.start(end) > reach.end {
                break;
            }
            reach.end = reach.end.min(end);
        }
        Some(reach)
    }

    /// End of the range of that timeline that has `from`.
    fn end_of(&self, timeline: Timeline, from: Lsn, size: SegmentBytes) -> Option<Lsn> {
        let ranges = self.ranges.get(&timeline)?;
        let from = size.start(from);
        ranges.iter().find(|(start, end)| *start <= from && *end > from).map(|(_, end)| *end)
    }
}

/// Adds a range, joining what touches.
fn insert(ranges: &mut Vec<(Lsn, Lsn)>, start: Lsn, end: Lsn) {
    if start >= end {
        return;
    }
    let first = ranges.partition_point(|range| range.1 < start);
    let last = ranges.partition_point(|range| range.0 <= end);
    let joined = ranges[first..last.max(first)]
        .iter()
        .fold((start, end), |all, range| (all.0.min(range.0), all.1.max(range.1)));
    ranges.splice(first..last.max(first), [joined]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::postgres::facts::ClusterFacts;

    const MIB: u64 = 1 << 20;

    fn cluster() -> ClusterFacts {
        ClusterFacts { system: "1".into(), version_number: 170_000, segment_bytes: MIB }
    }

    fn wal(ranges: &[(u32, u64, u64)], histories: &[(u32, &str)]) -> WalFacts {
        let range = |(timeline, start, end): &(u32, u64, u64)| WalRange {
            timeline: Timeline(*timeline),
            start: Lsn(start * MIB),
            end: Lsn(end * MIB),
        };
        WalFacts {
            cluster: cluster(),
            series: "s".into(),
            ranges: ranges.iter().map(range).collect(),
            histories: histories
                .iter()
                .map(|(t, text)| (Timeline(*t), (*text).to_owned()))
                .collect(),
            newest: String::new(),
        }
    }

    fn base(timeline: u32, start: u64, stop: u64) -> BaseFacts {
        BaseFacts {
            cluster: cluster(),
            timeline: Timeline(timeline),
            start: Lsn(start),
            stop: Lsn(stop),
            stop_time: String::new(),
            page_bytes: 8192,
            has_checksums: true,
            from_standby: false,
            changed_since: None,
            tablespaces: Vec::new(),
            bad_pages: Vec::new(),
            bad_pages_count: 0,
            collations: Vec::new(),
            settings: Vec::new(),
        }
    }

    fn coverage(parts: &[WalFacts]) -> Coverage {
        let mut coverage = Coverage::default();
        for part in parts {
            coverage.add(part);
        }
        coverage
    }

    fn reached(coverage: &Coverage, base: &BaseFacts, target: Option<u32>) -> Option<(u32, u64)> {
        let reach = coverage.reach(base, target.map(Timeline))?;
        Some((reach.timeline.0, reach.end.0))
    }

    #[test]
    fn ranges_join_and_gaps_are_seen() {
        let all = coverage(&[wal(&[(1, 1, 3), (1, 5, 6)], &[]), wal(&[(1, 3, 4), (1, 6, 9)], &[])]);
        let ranges: Vec<_> = all.ranges().map(|r| (r.start.0 / MIB, r.end.0 / MIB)).collect();
        assert_eq!(ranges, [(1, 4), (5, 9)]);
        let gaps: Vec<_> = all.gaps().iter().map(|g| (g.start.0 / MIB, g.end.0 / MIB)).collect();
        assert_eq!(gaps, [(4, 5)]);
    }

    #[test]
    fn recovery_ends_at_a_gap() {
        let all = coverage(&[wal(&[(1, 1, 4), (1, 5, 9)], &[])]);
        assert_eq!(reached(&all, &base(1, MIB + 40, MIB + 99), None), Some((1, 4 * MIB)));
        assert_eq!(reached(&all, &base(1, 5 * MIB, 5 * MIB + 9), None), Some((1, 9 * MIB)));
        // Its own log only.
        let (start, stop) = (20 * MIB, 20 * MIB + 9);
        assert_eq!(reached(&all, &base(1, start, stop), None), Some((1, 21 * MIB)));
        let standby = BaseFacts { from_standby: true, ..base(1, start, stop) };
        assert_eq!(reached(&all, &standby, None), Some((1, stop)));
        // What follows on its own last segment is joined.
        assert_eq!(reached(&all, &base(1, 4 * MIB, 4 * MIB + 9), None), Some((1, 9 * MIB)));
        // What the base carries itself closes the gap from its start to its end.
        let carried = base(1, 4 * MIB + 5, 5 * MIB + 9);
        assert_eq!(reached(&all, &carried, None), Some((1, 9 * MIB)));
    }

    #[test]
    fn timelines_are_followed_where_they_were_left() {
        let second = "1\t0/450000\tx\n";
        let third = "1\t0/450000\tx\n2\t0/780000\ty\n";
        let parts = [wal(&[(1, 1, 4), (2, 4, 8), (3, 7, 9)], &[(2, second), (3, third)])];
        let all = coverage(&parts);
        let from = base(1, MIB + 1, MIB + 9);
        assert_eq!(reached(&all, &from, None), Some((3, 9 * MIB)));
        assert_eq!(reached(&all, &from, Some(2)), Some((2, 8 * MIB)));
        assert_eq!(reached(&all, &from, Some(1)), Some((1, 4 * MIB)));
        let ranges: Vec<_> = all.reach(&from, None).unwrap().ranges;
        let ranges: Vec<_> =
            ranges.iter().map(|r| (r.timeline.0, r.start.0 / MIB, r.end.0 / MIB)).collect();
        assert_eq!(ranges, [(1, 1, 4), (2, 4, 8), (3, 7, 9)]);
        // A base that ended after its timeline was left does not lead to the next one.
        let late = base(1, 5 * MIB, 5 * MIB + 9);
        assert_eq!(reached(&all, &late, Some(2)), None);
        assert_eq!(reached(&all, &late, None), Some((1, 6 * MIB)));
        assert_eq!(reached(&all, &from, Some(9)), None);
    }

    #[test]
    fn a_hole_in_an_ancestor_ends_the_way() {
        let second = "1\t0/450000\tx\n";
        let all = coverage(&[wal(&[(1, 1, 3), (2, 4, 8)], &[(2, second)])]);
        assert_eq!(reached(&all, &base(1, MIB, MIB + 9), None), Some((1, 3 * MIB)));
    }
}
