//! Which snapshots of each (writer, source) a retention policy keeps, and why.
//!
//! The rules are those of `restic forget`: snapshots are walked from the newest to the oldest; each
//! rule keeps the newest snapshot of every hour, day, ISO week, month or year until its count is
//! used up; the oldest snapshot is kept by every rule that has count left, so that a history that
//! is still growing reaches back as far as it can; durations run back from the newest snapshot of
//! the group, so that a host that has stopped does not lose its last backups as time goes by.
//!
//! # Invariants
//! * A group is never emptied by mistake: a policy without a rule is an error, and a group of which
//!   no rule keeps anything is refused ([`Refusal::WouldEmpty`]), nothing of it being removed.
//! * A snapshot younger than the retention floor, counted from the store's first-seen time, is
//!   never removed, whatever its writer claims.
//! * A writer that lies about the time can displace snapshots of the last day and a half at most.
//!   Both times are known: the claimed one, from the snapshot, and the first-seen one, from the
//!   store. A claim counts only from [`CLAIM_EARLIER_MAX`] before to [`CLAIM_LATER_MAX`] after the
//!   first-seen time: 36 hours cover a backup that ran for long before its commit, one hour covers
//!   a clock that is fast.
//!   A claim that is *later* makes the snapshot suspicious: it is never removed, and counts for no
//!   rule, so that snapshots "of next year" push no good one out. A claim that is *earlier* is
//!   replaced by the first-seen time, so that a snapshot "of last Monday" made today cannot take
//!   the place of Monday's.
//!   Making many snapshots now still uses up `keep-last`; what protects there is the floor, and
//!   that forgetting can be recalled for the grace time.
//! * A snapshot that is tagged as having lost most of what the one before it had, and the one before
//!   it, are never removed by a rule.
//! * Where more than half of a group would be judged by the first-seen time, the store has probably
//!   been moved or copied, which gives all objects the time of the copy; bucketing by it would
//!   remove nearly everything. The group is refused ([`Refusal::TimesDisagree`]).

pub mod decision;
pub mod policy;
#[cfg(test)]
mod restic_policies;
mod rules;

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::format::redis::server_facts::SHRUNKEN_TAG;
use crate::id::ActorId;
use crate::maintenance::retention::decision::{Decision, KeepReason, RetentionInput, Verdict};
use crate::maintenance::retention::policy::Policy;
use crate::maintenance::retention::rules::{Judged, apply_rules};

/// How much earlier than first seen a claimed time may be and still count.
pub const CLAIM_EARLIER_MAX: SignedDuration = SignedDuration::from_hours(36);
/// How much later than first seen a claimed time may be before the snapshot is suspicious.
pub const CLAIM_LATER_MAX: SignedDuration = SignedDuration::from_hours(1);

/// What a plan depends on besides policy and snapshots.
#[derive(Debug, Clone)]
pub struct RetentionContext {
    /// Zone in which hours, days, weeks, months and years are counted.
    pub zone: TimeZone,
    /// The time by the store's clock.
    pub now: Timestamp,
    /// Snapshots first seen less than this many seconds ago are kept (roster:
    /// `retention-floor-seconds`).
    pub floor_seconds: u64,
    /// Refusals that the user has explicitly lifted.
    pub overrides: Vec<Override>,
}

/// A refusal that the user may lift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Lifts [`Refusal::WouldEmpty`].
    EmptyGroup,
    /// Lifts [`Refusal::TimesDisagree`].
    DisagreeingTimes,
}

/// A policy that no group can be planned with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// It would remove everything.
    #[error("the retention policy has no rule that keeps anything")]
    NoRule,
}

/// Why nothing is removed from a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No rule keeps any of its snapshots (a tag that does not exist, for instance).
    #[error("the policy would remove all {snapshots} snapshots of source {source_name:?}")]
    WouldEmpty {
        /// The source.
        source_name: String,
        /// Snapshots that no rule keeps.
        snapshots: usize,
    },
    /// Most claimed times are far earlier than the first-seen times.
    #[error(
        "{disagreeing} of {snapshots} snapshots of source {source_name:?} are dated long before \
         the store first saw them; was the repository moved or copied?"
    )]
    TimesDisagree {
        /// The source.
        source_name: String,
        /// Snapshots whose claimed time does not count.
        disagreeing: usize,
        /// Snapshots that the rules look at.
        snapshots: usize,
    },
}

/// The plan for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlan {
    /// Who wrote the snapshots.
    pub writer: ActorId,
    /// Their source.
    pub source: String,
    /// One decision per snapshot: suspicious ones first, then from the newest to the oldest.
    pub decisions: Vec<Decision>,
    /// Set: nothing of the group is removed, and this is why.
    pub refusal: Option<Refusal>,
}

/// Decides for every snapshot; groups come sorted by writer and source.
///
/// The order of `snapshots` does not matter. Groups are independent of each other.
///
/// # Errors
/// [`RetentionError::NoRule`]. What concerns one group only is its [`GroupPlan::refusal`].
pub fn plan_retention(
    policy: &Policy,
    snapshots: &[RetentionInput],
    context: &RetentionContext,
) -> Result<Vec<GroupPlan>, RetentionError> {
    if policy.is_empty() {
        return Err(RetentionError::NoRule);
    }
    let mut groups: BTreeMap<(ActorId, &str), Vec<&RetentionInput>> = BTreeMap::new();
    for input in snapshots {
        groups.entry((input.writer, &input.source)).or_default().push(input);
    }
    Ok(groups
        .into_iter()
        .map(|((writer, source), group)| plan_group(policy, writer, source, &group, context))
        .collect())
}

fn plan_group(
    policy: &Policy,
    writer: ActorId,
    source: &str,
    group: &[&RetentionInput],
    context: &RetentionContext,
) -> GroupPlan {
    let (suspicious, plain): (Vec<_>, Vec<_>) =
        group.iter().copied().partition(|input| ahead(input));
    let counted = judged(&plain, &context.zone);
    let mut reasons = apply_rules(policy, &counted);
    let refusal = refusal(source, &counted, &reasons, &context.overrides);
    keep_around_shrunken(group, &counted, &mut reasons);
    let mut decisions: Vec<Decision> = suspicious.into_iter().map(keep_suspicious).collect();
    decisions.sort_by_key(|decision| (decision.time, decision.snapshot));
    for (snapshot, reasons) in counted.iter().zip(&mut reasons) {
        if refusal.is_some() {
            *reasons = vec![KeepReason::GroupRefused];
        } else if reasons.is_empty() && below_floor(snapshot.input, context) {
            reasons.push(KeepReason::Floor { floor_seconds: context.floor_seconds });
        }
        decisions.push(Decision {
            snapshot: snapshot.input.snapshot,
            time: snapshot.time.timestamp(),
            verdict: match std::mem::take(reasons) {
                reasons if reasons.is_empty() => Verdict::Remove,
                reasons => Verdict::Keep(reasons),
            },
        });
    }
    GroupPlan { writer, source: source.to_owned(), decisions, refusal }
}

/// A snapshot that lost most of what the one before it had may be the damage itself: no rule removes
/// it or the one before.
fn keep_around_shrunken(
    group: &[&RetentionInput],
    counted: &[Judged<'_>],
    reasons: &mut [Vec<KeepReason>],
) {
    let is_shrunken =
        |input: &RetentionInput| input.tags.iter().any(|tag| tag.as_str() == SHRUNKEN_TAG);
    for input in group.iter().filter(|input| is_shrunken(input)) {
        let time = counted.iter().find(|one| one.input.snapshot == input.snapshot);
        let time = time.map_or(input.first_seen, |one| one.time.timestamp());
        let is_before =
            |one: &Judged<'_>| one.time.timestamp() <= time && one.input.snapshot != input.snapshot;
        // The newest come first.
        let before = counted.iter().position(is_before);
        let itself = counted.iter().position(|one| one.input.snapshot == input.snapshot);
        for at in before.into_iter().chain(itself) {
            if !reasons[at].contains(&KeepReason::Shrunken) {
                reasons[at].push(KeepReason::Shrunken);
            }
        }
    }
}

fn ahead(input: &RetentionInput) -> bool {
    input.claimed.duration_since(input.first_seen) > CLAIM_LATER_MAX
}

fn backdated(input: &RetentionInput) -> bool {
    input.first_seen.duration_since(input.claimed) > CLAIM_EARLIER_MAX
}

/// An age below zero (first seen "later" than now: the clock went back) is below every floor.
fn below_floor(input: &RetentionInput, context: &RetentionContext) -> bool {
    let age = context.now.duration_since(input.first_seen).as_secs();
    u64::try_from(age).map_or(true, |age| age < context.floor_seconds)
}

fn keep_suspicious(input: &RetentionInput) -> Decision {
    let ahead_seconds = input.claimed.duration_since(input.first_seen).as_secs();
    Decision {
        snapshot: input.snapshot,
        time: input.first_seen,
        verdict: Verdict::Keep(vec![KeepReason::Suspicious { ahead_seconds }]),
    }
}

/// The snapshots with the time that counts, newest first; equal times by id, so that the order of
/// the input makes no difference.
fn judged<'a>(group: &[&'a RetentionInput], zone: &TimeZone) -> Vec<Judged<'a>> {
    let mut list: Vec<Judged<'_>> = group
        .iter()
        .map(|input| {
            let time = if backdated(input) { input.first_seen } else { input.claimed };
            Judged { input, time: time.to_zoned(zone.clone()) }
        })
        .collect();
    list.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.input.snapshot.cmp(&b.input.snapshot)));
    list
}

fn refusal(
    source: &str,
    counted: &[Judged<'_>],
    reasons: &[Vec<KeepReason>],
    overrides: &[Override],
) -> Option<Refusal> {
    let source_name = source.to_owned();
    let snapshots = counted.len();
    let disagreeing = counted.iter().filter(|judged| backdated(judged.input)).count();
    if 2 * disagreeing > snapshots && !overrides.contains(&Override::DisagreeingTimes) {
        return Some(Refusal::TimesDisagree { source_name, disagreeing, snapshots });
    }
    let would_empty = snapshots > 0 && reasons.iter().all(Vec::is_empty);
    (would_empty && !overrides.contains(&Override::EmptyGroup))
        .then_some(Refusal::WouldEmpty { source_name, snapshots })
}

#[cfg(test)]
mod tests;
