//! Groups, refusals, the floor and lies about the time; the rules themselves are tested against
//! restic's own results in `restic_policies`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::id::{ActorId, ObjectId};
use crate::maintenance::retention::decision::{RetentionInput, Verdict};
use crate::maintenance::retention::policy::{KeepCount, Policy};
use crate::maintenance::retention::{
    Override, Refusal, RetentionContext, RetentionError, plan_retention,
};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn input(number: u8, claimed: &str, first_seen: &str) -> RetentionInput {
    RetentionInput {
        snapshot: ObjectId([number; 32]),
        writer: ActorId([1; 8]),
        source: "shop".into(),
        claimed: time(claimed),
        first_seen: time(first_seen),
        tags: vec![],
    }
}

fn honest(number: u8, at: &str) -> RetentionInput {
    input(number, at, at)
}

fn context() -> RetentionContext {
    RetentionContext {
        zone: TimeZone::UTC,
        now: time("2026-06-30T00:00Z"),
        floor_seconds: 0,
        overrides: vec![],
    }
}

fn daily(count: u32) -> Policy {
    Policy { daily: KeepCount::AtMost(count), ..Policy::default() }
}

fn tagged(tags: &[&str]) -> Policy {
    let tags = vec![tags.iter().map(|tag| (*tag).to_owned()).collect()];
    Policy { tags, ..Policy::default() }
}

/// First byte of every snapshot that is kept, with its reasons, ordered by that byte.
fn kept(
    policy: &Policy,
    inputs: &[RetentionInput],
    context: &RetentionContext,
) -> Vec<(u8, String)> {
    let plans = plan_retention(policy, inputs, context).unwrap();
    let mut kept: Vec<(u8, String)> = plans
        .iter()
        .flat_map(|plan| &plan.decisions)
        .filter_map(|decision| match &decision.verdict {
            Verdict::Remove => None,
            Verdict::Keep(reasons) => {
                let words: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                Some((decision.snapshot.0[0], words.join("; ")))
            }
        })
        .collect();
    kept.sort();
    kept
}

fn kept_ids(policy: &Policy, inputs: &[RetentionInput], context: &RetentionContext) -> Vec<u8> {
    kept(policy, inputs, context).into_iter().map(|(number, _)| number).collect()
}

#[test]
fn a_policy_without_rules_is_an_error() {
    let inputs = [honest(1, "2026-06-01T12:00Z")];
    for policy in [Policy::default(), daily(0)] {
        assert_eq!(plan_retention(&policy, &inputs, &context()), Err(RetentionError::NoRule));
    }
}

#[test]
fn reasons_are_given_in_words() {
    let mut inputs = [
        honest(1, "2026-06-01T09:00Z"),
        honest(2, "2026-06-01T12:00Z"),
        honest(3, "2026-06-02T12:00Z"),
    ];
    inputs[2].tags = vec!["nightly".into(), "db".into()];
    let policy = Policy {
        weekly: KeepCount::Unlimited,
        within: "12h".parse().ok(),
        within_monthly: "1y".parse().ok(),
        tags: vec![
            vec!["nightly".into()],
            vec!["db".into(), "nightly".into()],
            vec![String::new()],
        ],
        ..daily(7)
    };
    let expected = [
        (
            1,
            "no tags; oldest daily snapshot (3 of 7); oldest weekly snapshot; \
             oldest monthly within 1y",
        ),
        (2, "no tags; daily snapshot (2 of 7)"),
        (
            3,
            "tag nightly; tags db,nightly; within 12h; daily snapshot (1 of 7); weekly snapshot; \
             monthly within 1y",
        ),
    ];
    let expected: Vec<(u8, String)> = expected.map(|(n, words)| (n, words.into())).into();
    assert_eq!(kept(&policy, &inputs, &context()), expected);
}

#[test]
fn groups_count_for_themselves() {
    let mut inputs: Vec<RetentionInput> =
        (1..=6).map(|n| honest(n, &format!("2026-06-0{n}T12:00Z"))).collect();
    inputs[0].source = "files".into();
    inputs[1].source = "files".into();
    inputs[2].writer = ActorId([2; 8]);
    inputs[3].writer = ActorId([2; 8]);
    assert_eq!(kept_ids(&daily(1), &inputs, &context()), [2, 4, 6]);
    inputs.reverse();
    assert_eq!(kept_ids(&daily(1), &inputs, &context()), [2, 4, 6]);
}

#[test]
fn days_are_those_of_the_zone() {
    let inputs = [
        honest(1, "2026-06-01T12:00Z"),
        honest(2, "2026-06-01T22:30Z"),
        honest(3, "2026-06-02T10:00Z"),
    ];
    assert_eq!(kept_ids(&daily(2), &inputs, &context()), [2, 3]);
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    assert_eq!(kept_ids(&daily(2), &inputs, &RetentionContext { zone, ..context() }), [1, 3]);
}

#[test]
fn a_group_is_not_emptied_by_a_mistyped_tag() {
    let mut inputs = [honest(1, "2026-06-01T12:00Z"), honest(2, "2026-06-02T12:00Z")];
    inputs[0].tags = vec!["nightly".into()];
    inputs[1].tags = vec!["nightly".into()];
    let plans = plan_retention(&tagged(&["nihgtly"]), &inputs, &context()).unwrap();
    let refusal = Refusal::WouldEmpty { source_name: "shop".into(), snapshots: 2 };
    assert_eq!(plans[0].refusal, Some(refusal));
    assert_eq!(kept_ids(&tagged(&["nihgtly"]), &inputs, &context()), [1, 2]);
    let allowed = RetentionContext { overrides: vec![Override::EmptyGroup], ..context() };
    assert_eq!(kept_ids(&tagged(&["nihgtly"]), &inputs, &allowed), [0; 0]);
    assert_eq!(kept_ids(&tagged(&["nightly"]), &inputs, &context()), [1, 2]);
}

#[test]
fn a_suspicious_snapshot_does_not_hide_that_a_group_is_emptied() {
    let inputs =
        [honest(1, "2026-06-01T12:00Z"), input(2, "2027-06-02T12:00Z", "2026-06-02T12:00Z")];
    let plans = plan_retention(&tagged(&["x"]), &inputs, &context()).unwrap();
    assert!(matches!(plans[0].refusal, Some(Refusal::WouldEmpty { snapshots: 1, .. })));
}

#[test]
fn the_floor_protects_what_was_seen_lately() {
    let inputs = [
        honest(1, "2026-06-01T12:00Z"),
        honest(2, "2026-06-22T23:59:59Z"),
        honest(3, "2026-06-23T00:00:01Z"),
        honest(4, "2026-06-29T12:00Z"),
    ];
    let week = RetentionContext { floor_seconds: 7 * 86_400, ..context() };
    assert_eq!(kept_ids(&daily(1), &inputs, &week), [3, 4]);
    assert!(kept(&daily(1), &inputs, &week)[0].1.contains("retention floor"));
    let clock_went_back = RetentionContext { now: time("2026-06-01T00:00Z"), ..context() };
    assert_eq!(kept_ids(&daily(1), &inputs, &clock_went_back), [1, 2, 3, 4]);
}

#[test]
fn snapshots_dated_in_the_future_push_nothing_out() {
    let mut inputs: Vec<RetentionInput> =
        (1..=3).map(|n| honest(n, &format!("2026-06-0{n}T12:00Z"))).collect();
    for n in 4..=60 {
        inputs.push(input(n, &format!("20{n:02}-12-01T12:00Z", n = n + 23), "2026-06-03T13:00Z"));
    }
    let kept = kept(&daily(3), &inputs, &context());
    let good: Vec<&(u8, String)> = kept.iter().filter(|(n, _)| *n <= 3).collect();
    assert_eq!(good[0].1, "daily snapshot (3 of 3)");
    assert_eq!((good.len(), kept.len()), (3, 60));
    assert!(kept[3].1.starts_with("suspicious"));
}

#[test]
fn a_claimed_time_counts_only_near_the_first_seen_time() {
    // (claimed, kept) where the store saw the second snapshot on 10 June at 12:00 and two honest
    // ones at 23:00 of 9 June and at 06:00 of 10 June are there.
    for (claimed, expected, why) in [
        ("2026-06-10T13:00:00Z", vec![1, 2, 4], "an hour fast: newest of the 10th"),
        ("2026-06-10T13:00:01Z", vec![1, 2, 3, 4], "suspicious: not counted"),
        ("2026-06-09T23:30:00Z", vec![2, 3, 4], "a slow backup: newest of the 9th"),
        ("2026-06-09T00:00:00Z", vec![1, 3, 4], "36 hours: an older one of the 9th"),
        ("2026-06-08T23:59:59Z", vec![1, 2, 4], "more: judged by the first-seen time"),
    ] {
        let inputs = [
            honest(1, "2026-06-09T23:00Z"),
            input(2, claimed, "2026-06-10T12:00Z"),
            honest(3, "2026-06-10T06:00Z"),
            honest(4, "2026-06-11T06:00Z"),
        ];
        assert_eq!(kept_ids(&daily(3), &inputs, &context()), expected, "{claimed}: {why}");
    }
}

#[test]
fn a_repository_that_was_copied_is_not_thinned_by_the_time_of_the_copy() {
    let mut inputs: Vec<RetentionInput> =
        (1..=9).map(|n| input(n, &format!("2026-05-0{n}T12:00Z"), "2026-06-20T12:00Z")).collect();
    let plans = plan_retention(&daily(3), &inputs, &context()).unwrap();
    assert!(matches!(plans[0].refusal, Some(Refusal::TimesDisagree { disagreeing: 9, .. })));
    assert_eq!(kept_ids(&daily(3), &inputs, &context()).len(), 9);
    let allowed = RetentionContext { overrides: vec![Override::DisagreeingTimes], ..context() };
    assert_eq!(kept_ids(&daily(1), &inputs, &allowed), [1]);
    inputs.extend((10..=20).map(|n| honest(n, &format!("2026-06-{n}T12:00Z"))));
    assert_eq!(plan_retention(&daily(3), &inputs, &context()).unwrap()[0].refusal, None);
}

#[test]
fn a_snapshot_that_has_shrunk_and_the_one_before_it_stay() {
    let shrunken = |number, at| {
        let tags = vec![crate::format::redis::server_facts::SHRUNKEN_TAG.to_owned()];
        RetentionInput { tags, ..honest(number, at) }
    };
    let mut inputs = vec![
        honest(1, "2026-06-01T12:00Z"),
        honest(2, "2026-06-02T12:00Z"),
        shrunken(3, "2026-06-03T12:00Z"),
        honest(4, "2026-06-04T12:00Z"),
        honest(5, "2026-06-05T12:00Z"),
    ];
    assert_eq!(kept_ids(&daily(1), &inputs, &context()), [2, 3, 5]);
    // One whose clock is ahead is kept anyway; the one before it is by the store's time.
    inputs[2].claimed = time("2026-07-01T12:00Z");
    assert_eq!(kept_ids(&daily(1), &inputs, &context()), [2, 3, 5]);
    inputs.push(shrunken(6, "2026-06-05T13:00Z"));
    assert_eq!(kept_ids(&daily(1), &inputs, &context()), [2, 3, 5, 6]);
}
