//! Which snapshots of a database's log are kept: those without which a kept base backup, or the way
//! from it to now, would have a gap. Counting rules do not apply to them.
//!
//! Snapshots of one series build upon each other, so only its newest counts. A series goes when it
//! ended before the oldest base backup that is kept began; without a base backup all are kept.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::format::postgres::facts::WAL_SERIES_TAG;
use crate::id::{ActorId, ObjectId};
use crate::maintenance::retention::decision::{Decision, KeepReason, Verdict};
use crate::maintenance::retention::{GroupPlan, RetentionContext};

/// A snapshot of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSnapshot {
    /// The snapshot object.
    pub snapshot: ObjectId,
    /// Who wrote it.
    pub writer: ActorId,
    /// Its place in the writer's log.
    pub seq: u64,
    /// Its source, `NAME.wal` or `NAME.journal`.
    pub source: String,
    /// The series that it belongs to.
    pub series: String,
    /// When it was committed.
    pub time: Timestamp,
    /// When the store took it in.
    pub first_seen: Timestamp,
}

/// The series that tags name.
#[must_use]
pub fn series_of(tags: &[String]) -> Option<&str> {
    tags.iter().find_map(|tag| tag.strip_prefix(WAL_SERIES_TAG))
}

/// Decides for the snapshots of logs. `oldest` says when the oldest snapshot of a source began that
/// is kept.
#[must_use]
pub fn plan_logs(
    logs: &[LogSnapshot],
    oldest: &dyn Fn(&str) -> Option<Timestamp>,
    context: &RetentionContext,
) -> Vec<GroupPlan> {
    let mut newest: HashMap<(ActorId, &str), u64> = HashMap::new();
    for one in logs {
        let seq = newest.entry((one.writer, &one.series)).or_default();
        *seq = (*seq).max(one.seq);
    }
    let mut groups: Vec<GroupPlan> = Vec::new();
    for one in logs {
        let is_newest = newest[&(one.writer, &*one.series)] == one.seq;
        let of_log = [".wal", ".journal"].iter().find_map(|end| one.source.strip_suffix(end));
        let began = of_log.and_then(oldest);
        // Commits have whole seconds: one of the same second may be later.
        let is_over = began.is_some_and(|began| one.time.as_second() < began.as_second());
        let age = context.now.duration_since(one.first_seen).as_secs();
        let floor_seconds = context.floor_seconds;
        let verdict = if is_newest && !is_over {
            Verdict::Keep(vec![KeepReason::Log])
        } else if age < i64::try_from(floor_seconds).unwrap_or(i64::MAX) {
            Verdict::Keep(vec![KeepReason::Floor { floor_seconds }])
        } else {
            Verdict::Remove
        };
        let decision = Decision { snapshot: one.snapshot, time: one.time, verdict };
        let (writer, source) = (one.writer, &one.source);
        match groups.iter_mut().find(|g| g.writer == writer && g.source == *source) {
            Some(group) => group.decisions.push(decision),
            None => groups.push(GroupPlan {
                writer,
                source: source.clone(),
                decisions: vec![decision],
                refusal: None,
            }),
        }
    }
    for group in &mut groups {
        group.decisions.sort_by_key(|decision| std::cmp::Reverse(decision.time));
    }
    groups
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn log(seq: u64, series: &str, second: i64) -> LogSnapshot {
        let time = Timestamp::from_second(second).unwrap();
        LogSnapshot {
            snapshot: ObjectId([seq as u8; 32]),
            writer: ActorId([1; 8]),
            seq,
            source: "shop.wal".into(),
            series: series.into(),
            time,
            first_seen: time,
        }
    }

    fn kept(logs: &[LogSnapshot], oldest: Option<i64>, floor_seconds: u64) -> Vec<u8> {
        let context = RetentionContext {
            zone: TimeZone::UTC,
            now: Timestamp::from_second(1000).unwrap(),
            floor_seconds,
            overrides: Vec::new(),
        };
        let oldest = |source: &str| {
            assert_eq!(source, "shop");
            oldest.map(|second| Timestamp::from_second(second).unwrap())
        };
        let plans = plan_logs(logs, &oldest, &context);
        let decisions = plans.iter().flat_map(|plan| &plan.decisions);
        let kept = decisions.filter(|decision| decision.verdict != Verdict::Remove);
        let mut kept: Vec<u8> = kept.map(|decision| decision.snapshot.0[0]).collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn the_newest_of_each_series_is_kept_as_long_as_a_base_needs_it() {
        // The clock went back before the fourth: its place in the log decides, not its time.
        let logs = [
            log(1, "a", 100),
            log(2, "a", 200),
            log(3, "b", 300),
            log(4, "b", 290),
            log(5, "c", 400),
        ];
        assert_eq!(kept(&logs, None, 0), [2, 4, 5]);
        assert_eq!(kept(&logs, Some(150), 0), [2, 4, 5]);
        assert_eq!(kept(&logs, Some(250), 0), [4, 5]);
        assert!(kept(&logs, Some(999), 0).is_empty());
        assert_eq!(kept(&logs, Some(999), 750), [3, 4, 5]);
    }

    #[test]
    fn what_was_committed_in_the_second_of_the_base_is_kept() {
        let context = RetentionContext {
            zone: TimeZone::UTC,
            now: Timestamp::from_second(1000).unwrap(),
            floor_seconds: 0,
            overrides: Vec::new(),
        };
        let began = |_: &str| Timestamp::from_millisecond(100_008).ok();
        let plans = plan_logs(&[log(1, "a", 100), log(2, "b", 99)], &began, &context);
        let decisions = &plans[0].decisions;
        assert_eq!(decisions[0].verdict, Verdict::Keep(vec![KeepReason::Log]));
        assert_eq!(decisions[1].verdict, Verdict::Remove);
    }
}
