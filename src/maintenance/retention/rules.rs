//! The walk of a policy's rules over one group, from the newest snapshot to the oldest.
//!
//! A rule sees the snapshots in order and remembers only the last period of which it kept one; what
//! it keeps depends on nothing but the times, their order and which one is the oldest.

use jiff::{Timestamp, Zoned};

use crate::maintenance::retention::decision::{KeepReason, Place, RetentionInput};
use crate::maintenance::retention::policy::{CalendarSpan, KeepCount, Period, Policy};

/// A snapshot with the time that it is judged by.
pub struct Judged<'a> {
    /// As given.
    pub input: &'a RetentionInput,
    /// The claimed or the first-seen time, in the zone of the plan.
    pub time: Zoned,
}

/// The reasons for each snapshot of a list that is sorted newest first; none: no rule keeps it.
pub fn apply_rules(policy: &Policy, list: &[Judged<'_>]) -> Vec<Vec<KeepReason>> {
    let Some(newest) = list.first().map(|judged| &judged.time) else {
        return Vec::new();
    };
    let within = policy.within.map(|span| (span, span.before(newest)));
    let mut rules = rules(policy, newest);
    list.iter()
        .enumerate()
        .map(|(number, judged)| {
            let mut reasons = tag_reasons(policy, &judged.input.tags);
            if let Some((span, after)) = within
                && judged.time.timestamp() > after
            {
                reasons.push(KeepReason::Within(span));
            }
            let is_oldest = number + 1 == list.len();
            reasons.extend(
                rules.iter_mut().filter_map(|rule| rule.judge(&judged.time, number, is_oldest)),
            );
            reasons
        })
        .collect()
}

/// One rule while the snapshots pass by.
struct Rule {
    period: Period,
    limit: Limit,
    last: Option<BucketKey>,
}

enum Limit {
    Count { kept: u32, count: KeepCount },
    Span { span: CalendarSpan, after: Timestamp },
}

/// Year, month or week, day, hour, as far as the period goes; for [`Period::Last`] a number.
type BucketKey = (i64, i8, i8, i8);

fn rules(policy: &Policy, newest: &Zoned) -> Vec<Rule> {
    let counts =
        Period::ALL.map(|period| (period, Limit::Count { kept: 0, count: policy.count(period) }));
    let spans = Period::ALL.into_iter().filter_map(|period| {
        let span = policy.span(period)?;
        Some((period, Limit::Span { span, after: span.before(newest) }))
    });
    counts
        .into_iter()
        .chain(spans)
        .map(|(period, limit)| Rule { period, limit, last: None })
        .collect()
}

impl Rule {
    fn judge(&mut self, time: &Zoned, number: usize, is_oldest: bool) -> Option<KeepReason> {
        if !self.has_room(time.timestamp()) {
            return None;
        }
        let key = bucket_key(self.period, time, number);
        let place = match self.last {
            Some(last) if last == key && is_oldest => Place::Oldest,
            Some(last) if last == key => return None,
            _ => Place::Newest,
        };
        self.last = Some(key);
        let period = self.period;
        Some(match &mut self.limit {
            Limit::Span { span, .. } => KeepReason::PeriodWithin { period, place, span: *span },
            Limit::Count { kept, count } => {
                *kept += 1;
                KeepReason::Counted { period, place, nth: *kept, count: *count }
            }
        })
    }

    fn has_room(&self, time: Timestamp) -> bool {
        match self.limit {
            Limit::Count { kept, count: KeepCount::AtMost(count) } => kept < count,
            Limit::Count { count: KeepCount::Unlimited, .. } => true,
            Limit::Span { after, .. } => time > after,
        }
    }
}

fn bucket_key(period: Period, time: &Zoned, number: usize) -> BucketKey {
    let (year, month) = (i64::from(time.year()), time.month());
    match period {
        Period::Last => (i64::try_from(number).unwrap_or(i64::MAX), 0, 0, 0),
        Period::Hourly => (year, month, time.day(), time.hour()),
        Period::Daily => (year, month, time.day(), 0),
        Period::Weekly => {
            let week = time.date().iso_week_date();
            (i64::from(week.year()), week.week(), 0, 0)
        }
        Period::Monthly => (year, month, 0, 0),
        Period::Yearly => (year, 0, 0, 0),
    }
}

fn tag_reasons(policy: &Policy, tags: &[String]) -> Vec<KeepReason> {
    let matches = |list: &&Vec<String>| {
        list.iter().all(|tag| tags.contains(tag) || (tag.is_empty() && tags.is_empty()))
    };
    policy.tags.iter().filter(matches).cloned().map(KeepReason::Tags).collect()
}
