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

/// Inserts a mark; the number of the transaction.
fn mark_of(server: &PostgresServer, number: u32) -> String {
    server.sql("postgres", &format!("INSERT INTO marks VALUES ({number}) RETURNING xmin"))
}

#[test]
fn a_transaction_or_a_name_is_looked_for_and_the_base_before_it_taken() {
    for &version in versions() {
        let archive = Archive::new();
        let command = archive.archive_command();
        let settings = ["archive_mode=on", &command, "max_prepared_transactions=2"];
        let server = PostgresServer::with(version, &settings, &[]);
        server.sql("postgres", "CREATE TABLE marks (n int)");
        archive.base(&server);
        let first = mark_of(&server, 1);
        server.sql("postgres", "SELECT pg_create_restore_point('early')");
        server.sql("postgres", "SELECT pg_create_restore_point('nightly')");
        mark(&server, 2);
        // What it drops, its subtransactions and what it makes known stand before its number.
        let prepared = server.sql(
            "postgres",
            "CREATE TABLE gone AS SELECT generate_series(1, 1000) n; SELECT count(*) > 0 FROM gone; \
             BEGIN; DROP TABLE gone; SAVEPOINT s; INSERT INTO marks VALUES (3); \
             RELEASE s; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'two';",
        );
        let prepared = prepared.lines().last().unwrap().to_owned();
        mark(&server, 4);
        server.sql("postgres", "COMMIT PREPARED 'two'");
        mark(&server, 5);
        archived(&server);
        archive.base(&server);
        mark(&server, 6);
        server.sql("postgres", "SELECT pg_create_restore_point('nightly')");
        mark(&server, 7);
        archived(&server);
        let at = |target: &str, arguments: &[&str]| {
            marks(&archive.recovered(version, target, arguments))
        };
        assert_eq!(at("prepared", &["--to-xid", &prepared]), "1 2 3 4", "{version}");
        if version != 17 {
            continue;
        }
        assert_eq!(at("first", &["--to-xid", &first]), "1");
        assert_eq!(at("early", &["--to-name", "early"]), "1");
        // Of two points of one name the last, also from the base before both.
        assert_eq!(at("nightly", &["--to-name", "nightly"]), "1 2 3 4 5 6");
        let listed = archive.run(&["snapshots", "--json"]).ends(0);
        let bases = listed.events().into_iter().filter(|one| one["source"] == "shop");
        let oldest = bases.map(|one| one["id"].as_str().unwrap().to_owned()).next().unwrap();
        let target = archive.path("from-oldest");
        let text = target.to_str().unwrap();
        archive.run(&["restore", &oldest, "--to-name", "nightly", "--target", text]).ends(0);
        let mut server = PostgresServer::on(version, &target, &[]);
        server.wait_for_recovery().unwrap();
        assert_eq!(marks(&server), "1 2 3 4 5 6");
    }
}

#[test]
fn a_transaction_or_a_name_that_is_nowhere_is_refused_before_anything_is_written() {
    let archive = Archive::new();
    let server = archive.server(17);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    let before = mark_of(&server, 1);
    server.sql("postgres", "SELECT pg_create_restore_point('too early')");
    archive.base(&server);
    server.sql("postgres", "SELECT pg_create_restore_point('there')");
    let inside = server.sql(
        "postgres",
        "BEGIN; INSERT INTO marks VALUES (2); SAVEPOINT s; \
         INSERT INTO marks VALUES (3) RETURNING xmin; COMMIT",
    );
    archived(&server);
    let target = archive.path("none");
    let restore = |arguments: &[&str]| {
        let all = [&["restore", "source:shop", "--target", target.to_str().unwrap()], arguments];
        archive.run(&all.concat())
    };
    for (arguments, words) in [
        (["--to-name", "nowhere"], "restore points that are there: there"),
        (["--to-name", "too early"], "is nowhere in the saved log"),
        (["--to-xid", &before], "that a base backup leads to"),
        (["--to-xid", "4000000000"], "transactions that ended there"),
        // A part of a transaction has no end of its own.
        (["--to-xid", &inside], "what can be reached: from"),
    ] {
        let refused = restore(&arguments).ends(1);
        assert!(refused.stderr.contains("HF-PG-011"), "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{arguments:?}: {}", refused.stderr);
        assert!(!target.exists());
    }
}

#[test]
fn numbers_that_two_timelines_have_are_those_of_the_way() {
    let archive = Archive::new();
    let first = archive.server(17);
    first.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&first);
    mark(&first, 1);
    let fork = first.sql("postgres", "SELECT pg_current_wal_insert_lsn()");
    mark(&first, 2);
    let number = mark_of(&first, 3);
    first.sql("postgres", "SELECT pg_create_restore_point('only here')");
    archived(&first);
    drop(first);
    let target = archive.path("second");
    let text = target.to_str().unwrap();
    let all = ["restore", "source:shop", "--keep-archiving", "--target", text, "--to-lsn", &fork];
    archive.run(&all).ends(0);
    let mut second = PostgresServer::on(17, &target, &[]);
    second.wait_for_recovery().unwrap();
    // The first record of mark 2, whose position was asked for, has taken a number already.
    assert_eq!(mark_of(&second, 4), number);
    mark(&second, 5);
    archived(&second);
    let at = |target: &str, arguments: &[&str]| marks(&archive.recovered(17, target, arguments));
    assert_eq!(at("new", &["--to-xid", &number]), "1 4");
    assert_eq!(at("old", &["--to-xid", &number, "--timeline", "1"]), "1 2 3");
    let none = archive.path("none");
    let all =
        ["restore", "source:shop", "--target", none.to_str().unwrap(), "--to-name", "only here"];
    let refused = archive.run(&all).ends(1);
    assert!(refused.stderr.contains("--timeline 1"), "{}", refused.stderr);
    assert!(!none.exists());
}
