//! Which base backup and which part of the log lead to a point.
//!
//! Pure: what is there is handed in. A point that cannot be reached for certain is refused with
//! what can be, before anything is written.

use jiff::Timestamp;

use crate::format::postgres::coverage::{Coverage, Reach};
use crate::format::postgres::facts::{BaseFacts, WalFacts};
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::wal_records::{Mark, MarkKind};

/// Where a recovery is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// The end of all that is there.
    Latest,
    /// As soon as the base backup is consistent.
    Immediate,
    /// The last transaction before a moment, or at it.
    Time(Timestamp),
    /// A position in the log.
    Lsn(Lsn),
    /// A transaction.
    Transaction(u64),
    /// A restore point that was given a name.
    Name(String),
}

/// The way to a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Number of the base in the list that was given.
    pub base: usize,
    /// What of the log is needed, and how far it leads.
    pub reach: Reach,
    /// The point as the server is to be told it.
    pub point: Point,
    /// The record that it is, where one was asked for.
    pub mark: Option<Mark>,
}

/// Why a point cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no base backup.
    #[error("there is no base backup")]
    NoBase,
    /// All base backups end after it.
    #[error("the oldest base backup is complete at {oldest}, after that point")]
    TooEarly {
        /// Where or when.
        oldest: String,
    },
    /// The log ends before it.
    #[error("the log that was saved ends at {end}, before that point")]
    TooLate {
        /// Where or when.
        end: String,
    },
    /// No base backup lies on the way to the timeline.
    #[error("no base backup lies on the way to timeline {timeline}")]
    NoWay {
        /// The timeline.
        timeline: Timeline,
    },
}

impl Point {
    /// Whether it is that record. Numbers of transactions come again after 2^32, and the server
    /// compares so much of them.
    #[must_use]
    pub fn is_mark(&self, kind: &MarkKind) -> bool {
        match (self, kind) {
            (Self::Transaction(sought), MarkKind::TransactionEnd(number)) => {
                number.is_some_and(|number| u64::from(number) == *sought & u64::from(u32::MAX))
            }
            (Self::Name(sought), MarkKind::RestorePoint(name)) => sought == name,
            _ => false,
        }
    }
}

/// Base backups that lead to the timeline, else to the newest that each can get to, and how far;
/// the newest first.
pub fn ways(
    bases: &[BaseFacts],
    coverage: &Coverage,
    timeline: Option<Timeline>,
) -> impl Iterator<Item = (usize, Reach)> {
    bases.iter().enumerate().rev().filter_map(move |(number, base)| {
        let reach = coverage.reach(base, timeline)?;
        timeline.is_none_or(|timeline| timeline == reach.timeline).then_some((number, reach))
    })
}

/// The point as the server is to be told it, and the record that it is. `marks` are those on the
/// way from the base that could be meant, in the order of the log.
///
/// Of several the last is meant; the server would take the first. `None` where there is none after
/// the base is consistent.
#[must_use]
pub fn point_of_marks(base: &BaseFacts, marks: &[&Mark], point: &Point) -> Option<(Point, Mark)> {
    let last = *marks.last().filter(|mark| mark.start >= base.stop)?;
    let first = marks.iter().find(|mark| mark.start >= base.start)?;
    let is_first = first.start == last.start;
    // The server ends after the record that begins there.
    let point = if is_first { point.clone() } else { Point::Lsn(last.start) };
    Some((point, last.clone()))
}

/// Plans the recovery, but for records, which have to be looked for: [`point_of_marks`]. `bases` are in the order of their ends; `log` is what snapshots of the log
/// say.
///
/// # Errors
/// [`PlanError`].
pub fn plan_recovery(
    bases: &[BaseFacts],
    log: &[&WalFacts],
    coverage: &Coverage,
    point: Point,
    timeline: Option<Timeline>,
) -> Result<RecoveryPlan, PlanError> {
    let oldest = bases.first().ok_or(PlanError::NoBase)?;
    let is_before = |base: &&BaseFacts| match &point {
        Point::Time(time) => complete_at(base).is_some_and(|complete| complete <= *time),
        Point::Lsn(lsn) => base.stop <= *lsn,
        _ => true,
    };
    if !bases.iter().any(|base| is_before(&base)) {
        let oldest = match point {
            Point::Lsn(_) => oldest.stop.to_string(),
            _ => oldest.stop_time.clone(),
        };
        return Err(PlanError::TooEarly { oldest });
    }
    let mut nearest: Option<PlanError> = None;
    for (number, base) in bases.iter().enumerate().rev().filter(|(_, base)| is_before(base)) {
        let Some(reach) = coverage.reach(base, timeline) else { continue };
        if point == Point::Immediate {
            let reach = Reach { timeline: base.timeline, end: base.stop, ranges: Vec::new() };
            return Ok(RecoveryPlan { base: number, reach, point, mark: None });
        }
        if timeline.is_some_and(|timeline| timeline != reach.timeline) {
            continue;
        }
        match end_of(&point, base, &reach, log) {
            Ok(point) => {
                return Ok(RecoveryPlan { base: number, reach, point, mark: None });
            }
            Err(error) => drop(nearest.get_or_insert(error)),
        }
    }
    Err(nearest.unwrap_or(PlanError::NoWay { timeline: timeline.unwrap_or_default() }))
}

/// The point as the server is to be told it, where the log leads there.
fn end_of(
    point: &Point,
    base: &BaseFacts,
    reach: &Reach,
    log: &[&WalFacts],
) -> Result<Point, PlanError> {
    match point {
        Point::Time(time) => {
            let newest = newest_within(base, reach, log);
            if newest.is_some_and(|newest| newest < *time) {
                let end = newest.map_or_else(String::new, |newest| newest.to_string());
                return Err(PlanError::TooLate { end });
            }
            Ok(point.clone())
        }
        Point::Lsn(lsn) if *lsn > reach.end => {
            Err(PlanError::TooLate { end: reach.end.to_string() })
        }
        _ => Ok(point.clone()),
    }
}

/// The youngest moment of which it is certain that the log up to the end of the reach has it.
fn newest_within(base: &BaseFacts, reach: &Reach, log: &[&WalFacts]) -> Option<Timestamp> {
    let is_within = |facts: &&&WalFacts| {
        facts.ranges.iter().all(|range| {
            range.timeline < reach.timeline
                || (range.timeline == reach.timeline && range.end <= reach.end)
        })
    };
    let times = log.iter().filter(is_within).filter_map(|facts| facts.newest.parse().ok());
    times.chain(complete_at(base)).max()
}

fn complete_at(base: &BaseFacts) -> Option<Timestamp> {
    base.stop_time.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::postgres::facts::{ClusterFacts, WalRange};

    const MIB: u64 = 1 << 20;

    fn cluster() -> ClusterFacts {
        ClusterFacts { system: "1".into(), version_number: 170_000, segment_bytes: MIB }
    }

    fn base(stop: u64, minute: u32) -> BaseFacts {
        BaseFacts {
            cluster: cluster(),
            timeline: Timeline(1),
            start: Lsn(stop - 10),
            stop: Lsn(stop),
            stop_time: format!("2026-01-01T00:{minute:02}:00Z"),
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

    fn log(start: u64, end: u64, minute: u32) -> WalFacts {
        WalFacts {
            cluster: cluster(),
            series: start.to_string(),
            ranges: vec![WalRange {
                timeline: Timeline(1),
                start: Lsn(start * MIB),
                end: Lsn(end * MIB),
            }],
            histories: Vec::new(),
            newest: format!("2026-01-01T00:{minute:02}:00Z"),
        }
    }

    fn time(minute: u32) -> Point {
        Point::Time(format!("2026-01-01T00:{minute:02}:00Z").parse().unwrap())
    }

    fn plan(
        bases: &[BaseFacts],
        log: &[WalFacts],
        point: Point,
    ) -> Result<(usize, u64), PlanError> {
        let mut coverage = Coverage::default();
        for facts in log {
            coverage.add(facts);
        }
        let log: Vec<&WalFacts> = log.iter().collect();
        let plan = plan_recovery(bases, &log, &coverage, point, None)?;
        Ok((plan.base, plan.reach.end.0 / MIB))
    }

    #[test]
    fn the_newest_base_before_the_point_is_taken() {
        let bases = [base(2 * MIB, 10), base(6 * MIB, 20), base(9 * MIB, 40)];
        let log = [log(1, 12, 50)];
        assert_eq!(plan(&bases, &log, time(10)), Ok((0, 12)));
        assert_eq!(plan(&bases, &log, time(39)), Ok((1, 12)));
        assert_eq!(plan(&bases, &log, time(50)), Ok((2, 12)));
        assert_eq!(plan(&bases, &log, Point::Latest), Ok((2, 12)));
        assert_eq!(plan(&bases, &log, Point::Lsn(Lsn(7 * MIB))), Ok((1, 12)));
        assert_eq!(plan(&bases, &log, Point::Immediate), Ok((2, 9)));
    }

    #[test]
    fn of_several_records_the_last_is_told_the_server_by_its_position() {
        let base = base(5000, 10);
        let at = |start: u64| Mark {
            start: Lsn(start),
            microseconds: 0,
            kind: MarkKind::RestorePoint("x".into()),
        };
        let name = Point::Name("x".into());
        let told = |starts: &[u64]| {
            let marks: Vec<Mark> = starts.iter().map(|start| at(*start)).collect();
            let marks: Vec<&Mark> = marks.iter().collect();
            point_of_marks(&base, &marks, &name).map(|(point, mark)| (point, mark.start.0))
        };
        assert_eq!(told(&[]), None);
        // The base begins at 4990 and is consistent from 5000 on.
        assert_eq!(told(&[4995]), None);
        assert_eq!(told(&[5000]), Some((name.clone(), 5000)));
        assert_eq!(told(&[4000, 5008]), Some((name.clone(), 5008)));
        assert_eq!(told(&[4995, 5008]), Some((Point::Lsn(Lsn(5008)), 5008)));
        assert_eq!(told(&[5000, 5008]), Some((Point::Lsn(Lsn(5008)), 5008)));
        let ended = |number| MarkKind::TransactionEnd(Some(number));
        assert!(Point::Transaction(7 + (3 << 32)).is_mark(&ended(7)));
        assert!(!Point::Transaction(8).is_mark(&ended(7)));
        assert!(!Point::Transaction(7).is_mark(&MarkKind::TransactionEnd(None)));
        assert!(!name.is_mark(&ended(7)));
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_what_can() {
        let bases = [base(2 * MIB, 10), base(6 * MIB, 20)];
        let with_gap = [log(1, 4, 15), log(8, 12, 50)];
        let too_late = |end: &str| Err(PlanError::TooLate { end: end.to_owned() });
        assert_eq!(plan(&[], &[], time(1)), Err(PlanError::NoBase));
        let too_early = plan(&bases, &with_gap, time(9));
        assert_eq!(too_early, Err(PlanError::TooEarly { oldest: "2026-01-01T00:10:00Z".into() }));
        assert_eq!(plan(&bases, &with_gap, time(12)), Ok((0, 4)));
        // From the base at minute 20 nothing leads on: the log begins again after a gap.
        assert_eq!(plan(&bases, &with_gap, time(45)), too_late("2026-01-01T00:20:00Z"));
        assert_eq!(plan(&bases, &with_gap, Point::Lsn(Lsn(11 * MIB))), too_late("0/600000"));
        assert_eq!(plan(&bases, &with_gap, Point::Lsn(Lsn(3 * MIB))), Ok((0, 4)));
    }
}
