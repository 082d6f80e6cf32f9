//! Base backups by `pg_basebackup`: as whole as our own, and refused where they are not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::postgres_base::{done, named, nothing_is_saved, repository};
use crate::postgres_server::{PostgresServer, bin, hand_over, servers_folder};
use crate::program::{Outcome, Program};

fn backup(program: &Program, server: &PostgresServer, tool: &str, more: &[&str]) -> Outcome {
    let named = named(server, "postgres");
    let all = ["backup", "--postgres", &named, "--method", "base", "--via-tool", tool];
    program.run(&[&all[..], more].concat())
}

fn pg_basebackup(version: u32) -> String {
    bin(version, "pg_basebackup").to_str().unwrap().to_owned()
}

/// What the newest snapshot says of a key of its statistics.
fn statistic(outcome: &Outcome, key: &str) -> u64 {
    done(outcome);
    let last = outcome.stdout.lines().last().unwrap();
    let summary: serde_json::Value = serde_json::from_str(last).unwrap();
    summary["statistics"][key].as_u64().unwrap()
}

#[test]
fn what_the_program_sends_under_load_is_a_base_backup_like_any_other() {
    for version in [15, 17] {
        let settings: &[&str] = if version < 17 { &[] } else { &["summarize_wal=on"] };
        let server = PostgresServer::with(version, settings, &[]);
        server.run("createdb", &["shop"]);
        server.run("pgbench", &["-i", "-q", "-s", "2", "shop"]);
        let program = repository();
        let mut load = server.command("pgbench");
        let mut load = load.args(["-n", "-c", "2", "-T", "600", "shop"]).spawn().unwrap();
        server.wait_until("shop", "SELECT count(*) > 50 FROM pgbench_history");
        let tool = pg_basebackup(version);
        let first = backup(&program, &server, &tool, &["--json"]);
        load.kill().unwrap();
        load.wait().unwrap();
        let first = statistic(&first, "stored_bytes");
        let folder = servers_folder();
        let (plain, ready) = (folder.path().join("plain"), folder.path().join("ready"));
        let [plain_text, ready_text] = [&plain, &ready].map(|path| path.to_str().unwrap());
        done(&program.run(&["restore", "source:shop:/shop", "--target", plain_text]));
        hand_over(&plain);
        server.run("pg_verifybackup", &[plain_text]);
        done(&program.run(&["restore", "source:shop", "--target", ready_text]));
        hand_over(&ready);
        let mut restored = PostgresServer::on(version, &ready, &[]);
        restored.wait_for_recovery().unwrap();
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT sum(delta) FROM pgbench_history) AND count(*) > 50 \
                    FROM pgbench_history";
        assert_eq!(restored.sql("shop", sums), "t", "{version}");
        restored.run("pg_amcheck", &["--install-missing", "--heapallindexed", "shop"]);
        // The next one costs what changed, by the program and by ourselves; how much the load has
        // changed after its page was copied nobody knows, so that is saved first.
        server.sql("shop", "CHECKPOINT");
        backup(&program, &server, &tool, &[]);
        let again = backup(&program, &server, &tool, &["--json"]);
        assert!(statistic(&again, "stored_bytes") * 4 < first, "{version}");
        let named = named(&server, "postgres");
        let own = program.run(&["backup", "--postgres", &named, "--method", "base", "--json"]);
        assert!(statistic(&own, "stored_bytes") * 4 < first, "{version}");
        if version >= 17 {
            // Built upon what the program has sent.
            let asked = statistic(&own, "read_bytes") * 3 < statistic(&again, "read_bytes");
            assert!(asked, "{} {}", own.stdout, again.stdout);
        }
    }
}

/// A program that does what `pg_basebackup` does, and then something else.
fn program_of(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_is_not_whole_is_not_saved() {
    let server = PostgresServer::start(17);
    let program = repository();
    let folder = tempfile::tempdir().unwrap();
    let real = bin(17, "pg_basebackup");
    std::os::unix::fs::symlink(bin(17, "psql"), folder.path().join("psql")).unwrap();
    let real = real.display();
    // The program with one of its arguments replaced.
    let instead = |pattern: &str, word: &str| {
        format!(
            "for a; do shift; case $a in {pattern}) set -- \"$@\" {word};; *) set -- \"$@\" \"$a\";; \
             esac; done; exec {real} \"$@\""
        )
    };
    for (name, text, words) in [
        ("late", format!("{real} \"$@\"; echo a late trouble >&2; exit 3"), "a late trouble"),
        ("cut", format!("{real} \"$@\" | head -c 5000000"), "HF-PG-"),
        ("empty", "exit 0".to_owned(), "no backup_manifest"),
        ("nonsense", "head -c 100000 /dev/urandom".to_owned(), "HF-PG-"),
        ("no-list", instead("--manifest-checksums=*", "--no-manifest"), "no backup_manifest"),
        ("no-log", instead("--wal-method=*", "--wal-method=none"), "of the log"),
    ] {
        let tool = program_of(folder.path(), name, &text);
        let failed = backup(&program, &server, &tool, &[]).ends(20);
        assert!(failed.stderr.contains(words), "{name}: {}", failed.stderr);
        nothing_is_saved(&program);
    }
    let missing = backup(&program, &server, "/nonexistent/pg_basebackup", &[]).ends(20);
    assert!(missing.stderr.contains("HF-PG-019"), "{}", missing.stderr);
    let tool = pg_basebackup(17);
    let dump = named(&server, "postgres");
    program.run(&["backup", "--postgres", &dump, "--via-tool", &tool]).ends(2);
    let open = format!("{dump}&password=hush");
    let all = ["backup", "--postgres", &open, "--method", "base", "--via-tool", &tool];
    let refused = program.run(&all).ends(2);
    assert!(!refused.stderr.contains("hush"), "{}", refused.stderr);
    let place = server.socket_dir().join("space");
    fs::create_dir(&place).unwrap();
    hand_over(&place);
    let place = place.display();
    server.sql("postgres", &format!("CREATE TABLESPACE space LOCATION '{place}'"));
    let refused = backup(&program, &server, &tool, &[]).ends(20);
    assert!(refused.stderr.contains("1 tablespaces outside"), "{}", refused.stderr);
    nothing_is_saved(&program);
}

#[test]
fn a_password_comes_from_where_client_programs_look_for_it() {
    let server = PostgresServer::start(17);
    server
        .sql("postgres", "CREATE ROLE backup LOGIN REPLICATION IN ROLE pg_monitor PASSWORD 'hush'");
    let hba = server.data_dir().join("pg_hba.conf");
    let lines = "local all postgres trust\nlocal all backup scram-sha-256\n\
                 local replication backup scram-sha-256\n";
    fs::write(&hba, lines).unwrap();
    hand_over(server.data_dir());
    server.sql("postgres", "SELECT pg_reload_conf()");
    let mut program = repository();
    let connection = server.uri("postgres").replace("user=postgres", "user=backup");
    // A parameter that only the programs know.
    let named = format!("shop={connection}&gssencmode=disable");
    let tool = pg_basebackup(17);
    let all = ["backup", "--postgres", &named, "--method", "base", "--via-tool", &tool];
    let refused = program.run(&all).ends(20);
    assert!(refused.stderr.contains("HF-PG-019"), "{}", refused.stderr);
    let file = program.write("pgpass", "*:*:*:backup:hush\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    program.set("PGPASSFILE", &file);
    done(&program.run(&all));
}
