//! Which base backup and which part of the log lead to a point.
//!
//! Pure: what is there is handed in. A point that cannot be reached for certain is refused with
//! what can be, before anything is written.

use jiff::Timestamp;

use crate::format::postgres::coverage::{Coverage, Reach};
use crate::format::postgres::facts::{BaseFacts, WalFacts};
use crate::format::postgres::lsn::{Lsn, Timeline};

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
    /// Nothing in the log lies after the point: the end of the log is the point.
    pub point: Point,
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

/// Plans the recovery. `bases` are in the order of their ends; `log` is what snapshots of the log
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
            return Ok(RecoveryPlan { base: number, reach, point });
        }
        if timeline.is_some_and(|timeline| timeline != reach.timeline) {
            continue;
        }
        match end_of(&point, base, &reach, log) {
            Ok(point) => return Ok(RecoveryPlan { base: number, reach, point }),
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
