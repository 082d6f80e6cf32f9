//! Points that a recovery ends at: reached exactly, whatever the original's configuration says.

use std::fs;

use crate::postgres_server::{PostgresServer, hand_over, versions};
use crate::postgres_wal::{Archive, archived, mark, marks};

/// Settings that an earlier recovery, or a life as a standby, has left.
fn leave_settings(archive: &Archive, server: &PostgresServer, target: &str) {
    let flag = archive.path("command-ran").display().to_string();
    let lines = format!(
        "recovery_target_timeline = 'current'\n\
         recovery_target_action = 'shutdown'\n\
         recovery_target_inclusive = off\n\
         recovery_min_apply_delay = '1d'\n\
         hot_standby = off\n\
         restore_command = 'touch {flag}; false'\n\
         recovery_end_command = 'touch {flag}'\n\
         archive_cleanup_command = 'touch {flag}'\n\
         primary_conninfo = 'host={flag}'\n\
         primary_slot_name = 'of_the_original'\n"
    );
    let data = server.data_dir();
    let included = data.join("conf.d");
    fs::create_dir(&included).unwrap();
    fs::write(included.join("recovery.conf"), format!("{lines}{target}\n")).unwrap();
    hand_over(data);
    let path = data.join("postgresql.conf");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("include_dir = 'conf.d'\n");
    fs::write(&path, text).unwrap();
}

#[test]
fn what_the_original_says_of_recovery_does_not_lead_elsewhere() {
    for &version in versions() {
        let archive = Archive::new();
        let mut server = archive.server(version);
        server.sql("postgres", "CREATE TABLE marks (n int)");
        server.stop();
        // Without a signal file the server passes over it.
        leave_settings(&archive, &server, "recovery_target_name = 'elsewhere'");
        server.start_again();
        archive.base(&server);
        server.sql("postgres", "SELECT pg_create_restore_point('elsewhere')");
        mark(&server, 1);
        let lsn = server.sql("postgres", "SELECT pg_current_wal_insert_lsn()");
        mark(&server, 2);
        server.sql("postgres", "SELECT pg_create_restore_point('before three')");
        let last = server.sql("postgres", "INSERT INTO marks VALUES (3) RETURNING xmin");
        mark(&server, 4);
        archived(&server);
        let at = |target: &str, arguments: &[&str]| archive.recovered(version, target, arguments);
        assert_eq!(marks(&at("lsn", &["--to-lsn", &lsn])), "1", "{version}");
        // Its own transaction is in it: `inclusive` was off.
        assert_eq!(marks(&at("xid", &["--to-xid", &last])), "1 2 3", "{version}");
        assert!(!archive.path("command-ran").exists(), "{version}");
        if version != 17 {
            continue;
        }
        assert_eq!(marks(&at("latest", &[])), "1 2 3 4", "{version}");
        let immediate = at("immediate", &["--to", "immediate"]);
        assert_eq!(immediate.sql("postgres", "SELECT count(*) FROM marks"), "0", "{version}");
        assert_eq!(marks(&at("name", &["--to-name", "before three"])), "1 2", "{version}");
        assert!(!archive.path("command-ran").exists(), "{version}");
    }
}

#[test]
fn a_server_that_is_to_wait_waits_at_the_point() {
    for version in [15, 18] {
        let archive = Archive::new();
        let mut server = archive.server(version);
        server.sql("postgres", "CREATE TABLE marks (n int)");
        server.stop();
        leave_settings(&archive, &server, "recovery_target = 'immediate'");
        server.start_again();
        archive.base(&server);
        mark(&server, 1);
        let lsn = server.sql("postgres", "SELECT pg_current_wal_insert_lsn()");
        mark(&server, 2);
        archived(&server);
        let paused = "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused'";
        for (place, arguments, rows) in
            [("lsn", ["--to-lsn", &lsn], "1"), ("immediate", ["--to", "immediate"], "0")]
        {
            let target = archive.path(place);
            let text = target.to_str().unwrap();
            let all = ["restore", "source:shop", "--then", "pause", "--target", text];
            archive.run(&[&all[..], &arguments].concat()).ends(0);
            let waiting = PostgresServer::on(version, &target, &[]);
            waiting.wait_until("postgres", paused);
            assert_eq!(waiting.sql("postgres", "SELECT count(*) FROM marks"), rows, "{version}");
        }
    }
}
