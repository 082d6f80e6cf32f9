//! The lines of `postgresql.auto.conf` that make a server recover.
//!
//! Of several lines for one setting the server takes the last, and those of this file come after
//! `postgresql.conf` and all that it includes, wherever that lies. So each setting that could lead
//! elsewhere is given here. Targets are settings of different names: the server refuses to start
//! with two of them, and up to version 18 also with an empty one that comes after another, so the
//! empty ones come first.

use crate::format::postgres::lsn::Timeline;
use crate::restore::postgres::plan::Point;

/// How a restored server is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Up to where.
    pub point: Point,
    /// On the way to this timeline.
    pub timeline: Timeline,
    /// Where the log comes from beside `pg_wal`: a command, where it is not all there.
    pub restore_command: Option<String>,
    /// What the server does when it is there: `promote`, `pause`, `shutdown`.
    pub action: &'static str,
    /// Major version of the server.
    pub major: u32,
}

/// Settings that say how to recover; those of the backup must not stay.
const OWN: [&str; 8] = [
    "recovery_target",
    "recovery_min_apply_delay",
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
];
/// Ways to say where recovery ends; the server takes one of them.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
];
/// The last major version with `promote_trigger_file`.
const TRIGGER_FILE_LAST: u32 = 15;

/// The new content of `postgresql.auto.conf`.
///
/// Lines about recovery that were there go; all others stay. With `keeps_archiving` the server
/// goes on to archive with the command that it had.
#[must_use]
pub fn auto_conf(before: &str, recovery: Option<&Recovery>, keeps_archiving: bool) -> String {
    let is_own = |line: &&str| {
        let name = line.trim_start().split(['=', ' ']).next().unwrap_or_default().to_lowercase();
        OWN.iter().any(|own| name.starts_with(own))
    };
    let mut text: String =
        before.lines().filter(|line| !is_own(line)).flat_map(|line| [line, "\n"]).collect();
    let mut set = |name: &str, value: &str| {
        for part in [name, " = '", &value.replace('\'', "''"), "'\n"] {
            text.push_str(part);
        }
    };
    if !keeps_archiving {
        // A restored copy must not write into the log that it came from.
        set("archive_mode", "off");
        // Nor take from a publisher what the original's subscriptions are to get.
        set("max_logical_replication_workers", "0");
    }
    let target = recovery.and_then(|recovery| target(&recovery.point));
    for name in TARGETS {
        if target.as_ref().is_none_or(|(own, _)| *own != name) {
            set(name, "");
        }
    }
    if let Some(recovery) = recovery {
        neutral(recovery, &mut set);
        set("recovery_target_timeline", &recovery.timeline.to_string());
        if let Some((name, value)) = target {
            set(name, &value);
            set("recovery_target_inclusive", "on");
            set("recovery_target_action", recovery.action);
        }
        if recovery.action == "pause" {
            // Without it the server ends instead of waiting for questions.
            set("hot_standby", "on");
        }
    }
    text
}

/// What would make the server run commands of the original, ask the original for its log, wait, or
/// end recovery early.
fn neutral(recovery: &Recovery, set: &mut dyn FnMut(&str, &str)) {
    // All of the log is in pg_wal, where the server looks when the command has nothing.
    set("restore_command", recovery.restore_command.as_deref().unwrap_or("false"));
    set("archive_cleanup_command", "");
    set("recovery_end_command", "");
    set("primary_conninfo", "");
    set("primary_slot_name", "");
    set("recovery_min_apply_delay", "0");
    if recovery.major <= TRIGGER_FILE_LAST {
        set("promote_trigger_file", "");
    }
}

fn target(point: &Point) -> Option<(&'static str, String)> {
    Some(match point {
        Point::Latest => return None,
        Point::Immediate => ("recovery_target", "immediate".to_owned()),
        Point::Time(time) => {
            ("recovery_target_time", time.strftime("%Y-%m-%d %H:%M:%S%.f+00").to_string())
        }
        Point::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
        Point::Transaction(number) => ("recovery_target_xid", number.to_string()),
        Point::Name(name) => ("recovery_target_name", name.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_targets_go_and_other_settings_stay() {
        let before =
            "# auto\nwork_mem = '8MB'\nrecovery_target_lsn = '0/1'\n restore_command='x'\n";
        let recovery = Recovery {
            point: Point::Time("2026-11-23T01:30:00.5Z".parse().unwrap()),
            timeline: Timeline(2),
            restore_command: Some("it's".to_owned()),
            action: "promote",
            major: 15,
        };
        let after = auto_conf(before, Some(&recovery), false);
        let expected = "# auto\nwork_mem = '8MB'\narchive_mode = 'off'\n\
                        max_logical_replication_workers = '0'\nrecovery_target = ''\n\
                        recovery_target_lsn = ''\nrecovery_target_xid = ''\n\
                        recovery_target_name = ''\n\
                        restore_command = 'it''s'\narchive_cleanup_command = ''\n\
                        recovery_end_command = ''\nprimary_conninfo = ''\n\
                        primary_slot_name = ''\nrecovery_min_apply_delay = '0'\n\
                        promote_trigger_file = ''\nrecovery_target_timeline = '2'\n\
                        recovery_target_time = '2026-11-23 01:30:00.5+00'\n\
                        recovery_target_inclusive = 'on'\n\
                        recovery_target_action = 'promote'\n";
        assert_eq!(after, expected);
        let alone = auto_conf("a = 1", None, true);
        assert!(alone.starts_with("a = 1\nrecovery_target = ''\n"), "{alone}");
        assert_eq!(alone.lines().count(), 1 + TARGETS.len());
        let latest = Recovery { point: Point::Latest, action: "pause", major: 16, ..recovery };
        let latest = auto_conf("", Some(&latest), true);
        assert!(!latest.contains("recovery_target_action"), "{latest}");
        assert!(!latest.contains("promote_trigger_file"), "{latest}");
        assert!(latest.ends_with("hot_standby = 'on'\n"), "{latest}");
    }
}
