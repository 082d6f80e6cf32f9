//! The rules against an independent oracle: the snapshots of restic's own policy test and the times
//! that restic keeps of them (its `policy_keep_snapshots_*` files, by their numbers), as facts.
//!
//! Times are written compactly: `2014-08: 08 13 13.1` are the 8th and the 13th at 10:20:30 UTC, and
//! the 13th a tenth of a second later; `04T1223` is the 4th at 12:23:03.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::id::{ActorId, ObjectId};
use crate::maintenance::retention::decision::{RetentionInput, Verdict};
use crate::maintenance::retention::policy::Policy;
use crate::maintenance::retention::{Override, RetentionContext, plan_retention};

const SNAPSHOTS: &[(&str, &str)] = &[
    ("", "2014-08: 08 10 12 13 13.1 15 18 20 21 22"),
    ("", "2014-09: 01 02 05 06 08 09 10 11 20 22"),
    ("foo", "2014-10: 01 02 05 06 08 09 10 11 20 22"),
    ("foo", "2014-11: 08 10 12 13"),
    ("bar", "2014-11: 13.1"),
    ("foo bar", "2014-11: 15"),
    ("", "2014-11: 18 20 21 22"),
    ("", "2015-08: 08 10 12 13 13.1 15 18 20 21 22"),
    ("", "2015-09: 01 02 05 06 08 09 10 11 20 22"),
    ("", "2015-10: 01 02 05 06 08 09 10 11 20 22 22"),
    ("foo bar", "2015-10: 22 22 22"),
    ("", "2015-11: 08 10 12 13 13.1 15 18 20 21 22"),
    (
        "",
        "2016-01: 01T0102 01T0103 01T0708 03T0702 04T1023 04T1123 04T1223 04T1224 04T1228 04T1230",
    ),
    ("", "2016-01: 04T1623 05T0902 06T0802 07T1002 08T2002 09T2102 12T2102 12T2108 18T1202"),
];

const DAYS_OF_2015_AND_LATER: &[&str] = &[
    "2016-01: 18T1202 12T2108 09T2102 08T2002 07T1002 06T0802 05T0902 04T1623 03T0702 01T0708",
    "2015-11: 22 21 20 18 15 13.1 12 10 08",
    "2015-10: 22 20 11 10 09 08 06 05 02 01",
    "2015-09: 22 20 11 10 09 08 06 05 02 01",
    "2015-08: 22 21 20 18 15 13.1 12 10 08",
];

const JANUARY_2016: &str = "2016-01: 18T1202 12T2108 12T2102 09T2102 08T2002 07T1002 06T0802 \
    05T0902 04T1623 04T1230 04T1228 04T1224 04T1223 04T1123 04T1023 03T0702 01T0708 01T0103 \
    01T0102";

/// Number of restic's file, the policy, the times that are kept (each as often as it occurs).
///
/// Files 35 and 39 show that the oldest snapshot is kept by a rule that has count left.
const CASES: &[(u32, &str, &[&str])] = &[
    (6, "daily=3", &["2016-01: 18T1202 12T2108 09T2102"]),
    (9, "last=5 daily=5", &["2016-01: 18T1202 12T2108 12T2102 09T2102 08T2002 07T1002"]),
    (
        10,
        "last=2 daily=10",
        &[
            "2016-01: 18T1202 12T2108 09T2102 08T2002 07T1002 06T0802 05T0902 04T1623 03T0702",
            "2016-01: 01T0708",
        ],
    ),
    (11, "weekly=2", &["2016-01: 18T1202 12T2108"]),
    (12, "weekly=4", &["2016-01: 18T1202 12T2108 09T2102 03T0702"]),
    (13, "daily=3 weekly=4", &["2016-01: 18T1202 12T2108 09T2102 03T0702"]),
    (19, "tag=foo,bar", &["2015-10: 22 22 22", "2014-11: 15"]),
    (23, "within=7d", &["2016-01: 18T1202 12T2108 12T2102"]),
    (25, "within=1m14d", &[JANUARY_2016]),
    (28, "within=2m2h", &[JANUARY_2016, "2015-11: 22 21 20 18"]),
    (
        31,
        "within-daily=1y2m3d3h",
        &[
            DAYS_OF_2015_AND_LATER[0],
            DAYS_OF_2015_AND_LATER[1],
            DAYS_OF_2015_AND_LATER[2],
            DAYS_OF_2015_AND_LATER[3],
            DAYS_OF_2015_AND_LATER[4],
            "2014-11: 22 21 20 18 15",
        ],
    ),
    (34, "within-yearly=1y2m3d3h", &["2016-01: 18T1202", "2015-11: 22", "2014-11: 22"]),
    (
        35,
        "within=1h within-hourly=1d within-daily=7d within-weekly=1m within-monthly=1y \
         within-yearly=9999y",
        &[
            "2016-01: 18T1202 12T2108 09T2102 03T0702",
            "2015-11: 22",
            "2015-10: 22",
            "2015-09: 22",
            "2015-08: 22",
            "2014-11: 22",
            "2014-08: 08",
        ],
    ),
    (
        38,
        "hourly=unlimited",
        &[
            "2016-01: 18T1202 12T2108 09T2102 08T2002 07T1002 06T0802 05T0902 04T1623 04T1230 \
             04T1123 04T1023 03T0702 01T0708 01T0103",
            DAYS_OF_2015_AND_LATER[1],
            DAYS_OF_2015_AND_LATER[2],
            DAYS_OF_2015_AND_LATER[3],
            DAYS_OF_2015_AND_LATER[4],
            "2014-11: 22 21 20 18 15 13.1 12 10 08",
            "2014-10: 22 20 11 10 09 08 06 05 02 01",
            "2014-09: 22 20 11 10 09 08 06 05 02 01",
            "2014-08: 22 21 20 18 15 13.1 12 10 08",
        ],
    ),
    (
        39,
        "daily=3 weekly=2 monthly=unlimited yearly=-1",
        &[
            "2016-01: 18T1202 12T2108 09T2102",
            "2015-11: 22",
            "2015-10: 22",
            "2015-09: 22",
            "2015-08: 22",
            "2014-11: 22",
            "2014-10: 22",
            "2014-09: 22",
            "2014-08: 22 08",
        ],
    ),
];

fn times(line: &str) -> Vec<Timestamp> {
    let (month, days) = line.split_once(": ").unwrap();
    let time = |day: &str| {
        let text = match (day.split_once('T'), day.split_once('.')) {
            (Some((day, at)), _) => format!("{month}-{day}T{}:{}:03Z", &at[..2], &at[2..]),
            (None, Some((day, tenths))) => format!("{month}-{day}T10:20:30.{tenths}Z"),
            (None, None) => format!("{month}-{day}T10:20:30Z"),
        };
        text.parse().unwrap()
    };
    days.split_whitespace().map(time).collect()
}

fn snapshots() -> Vec<RetentionInput> {
    let mut list = Vec::new();
    for (tags, line) in SNAPSHOTS {
        for time in times(line) {
            list.push(RetentionInput {
                snapshot: ObjectId([list.len() as u8; 32]),
                writer: ActorId([7; 8]),
                source: "test".into(),
                claimed: time,
                first_seen: time,
                tags: tags.split_whitespace().map(str::to_owned).collect(),
            });
        }
    }
    list
}

fn policy(text: &str) -> Policy {
    let mut policy = Policy::default();
    for rule in text.split_whitespace() {
        let (name, value) = rule.split_once('=').unwrap();
        match name {
            "last" => policy.last = value.parse().unwrap(),
            "hourly" => policy.hourly = value.parse().unwrap(),
            "daily" => policy.daily = value.parse().unwrap(),
            "weekly" => policy.weekly = value.parse().unwrap(),
            "monthly" => policy.monthly = value.parse().unwrap(),
            "yearly" => policy.yearly = value.parse().unwrap(),
            "within" => policy.within = value.parse().ok(),
            "within-hourly" => policy.within_hourly = value.parse().ok(),
            "within-daily" => policy.within_daily = value.parse().ok(),
            "within-weekly" => policy.within_weekly = value.parse().ok(),
            "within-monthly" => policy.within_monthly = value.parse().ok(),
            "within-yearly" => policy.within_yearly = value.parse().ok(),
            "tag" => policy.tags.push(value.split(',').map(str::to_owned).collect()),
            _ => panic!("{name}"),
        }
    }
    policy
}

fn kept(policy_text: &str, snapshots: &[RetentionInput]) -> Vec<Timestamp> {
    let context = RetentionContext {
        zone: TimeZone::UTC,
        now: "2020-01-01T00:00Z".parse().unwrap(),
        floor_seconds: 0,
        overrides: vec![Override::EmptyGroup],
    };
    let plans = plan_retention(&policy(policy_text), snapshots, &context).unwrap();
    let kept = plans[0].decisions.iter().filter(|decision| decision.verdict != Verdict::Remove);
    kept.map(|decision| decision.time).collect()
}

#[test]
fn keeps_what_restic_keeps() {
    let snapshots = snapshots();
    assert_eq!(snapshots.len(), 103);
    for (number, policy_text, lines) in CASES {
        let mut expected: Vec<Timestamp> = lines.iter().flat_map(|line| times(line)).collect();
        expected.sort_by(|a, b| b.cmp(a));
        assert_eq!(kept(policy_text, &snapshots), expected, "policy {number}: {policy_text}");
    }
}

/// Files 1 to 5, 16, 17, 36 and 37 follow from the list itself or from cases above.
#[test]
fn keeps_as_many_as_restic_keeps() {
    let snapshots = snapshots();
    let all = snapshots.len();
    for (policy_text, count) in [
        ("last=10", 10),
        ("last=15", 15),
        ("last=99", 99),
        ("last=200", all),
        ("last=unlimited", all),
        ("last=-1 hourly=-1", all),
        ("hourly=20", 20),
        ("daily=30", 30),
        ("tag=absent", 0),
    ] {
        assert_eq!(kept(policy_text, &snapshots).len(), count, "{policy_text}");
    }
    let yearly: BTreeSet<Timestamp> = kept("yearly=10", &snapshots).into_iter().collect();
    let expected = ["2016-01: 18T1202", "2015-11: 22", "2014-11: 22", "2014-08: 08"];
    assert_eq!(yearly, expected.iter().flat_map(|line| times(line)).collect());
}
