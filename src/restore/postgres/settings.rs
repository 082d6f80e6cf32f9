//! The lines of `postgresql.auto.conf` that make a server recover.

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
}

/// Settings that say how to recover; those of the backup must not stay.
const OWN: [&str; 5] = [
    "recovery_target",
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "primary_conninfo",
];

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
    if let Some(recovery) = recovery {
        // All of the log is in pg_wal, where the server looks when the command has nothing.
        set("restore_command", recovery.restore_command.as_deref().unwrap_or("false"));
        // These may stand in postgresql.conf, and would reach into the archive of the original.
        set("archive_cleanup_command", "");
        set("recovery_end_command", "");
        set("recovery_target_timeline", &recovery.timeline.to_string());
        if let Some((name, value)) = target(&recovery.point) {
            set(name, &value);
            set("recovery_target_action", recovery.action);
        }
    }
    text
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
        };
        let after = auto_conf(before, Some(&recovery), false);
        let expected = "# auto\nwork_mem = '8MB'\narchive_mode = 'off'\n\
                        max_logical_replication_workers = '0'\n\
                        restore_command = 'it''s'\narchive_cleanup_command = ''\n\
                        recovery_end_command = ''\nrecovery_target_timeline = '2'\n\
                        recovery_target_time = '2026-11-23 01:30:00.5+00'\n\
                        recovery_target_action = 'promote'\n";
        assert_eq!(after, expected);
        assert_eq!(auto_conf("a = 1", None, true), "a = 1\n");
        let latest = Recovery { point: Point::Latest, ..recovery };
        assert!(!auto_conf("", Some(&latest), true).contains("recovery_target_action"));
    }
}
