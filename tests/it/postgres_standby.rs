//! Copies of real servers: a standby as what is saved, and dumps of what was restored beside dumps
//! of what was saved.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::chown;

use crate::postgres_base::{done, named, repository};
use crate::postgres_dump::SCHEMA;
use crate::postgres_server::{PostgresServer, hand_over, server_user, servers_folder};
use crate::postgres_stream::{caught_up, marked, standby_of};
use crate::postgres_wal::{Archive, marks};
use crate::replica_kill::moments;

#[test]
fn a_standby_gives_the_rows_of_its_primary() {
    let archive = Archive::new();
    let first = PostgresServer::with(15, &["wal_keep_size=256MB"], &[]);
    first.sql("postgres", "CREATE TABLE marks (n int)");
    let standby = standby_of(&first, &archive);
    caught_up(&standby, &marked(&first, 1));
    assert_eq!(standby.sql("postgres", "SELECT pg_is_in_recovery()"), "t");
    archive.base(&standby);
    let immediate = archive.recovered(15, "immediate", &["--to", "immediate"]);
    assert_eq!(marks(&immediate), "1");
    let lsn = marked(&first, 2);
    caught_up(&standby, &lsn);
    let named = named(&standby, "postgres");
    archive.run(&["pg", "stream", &named, "--until", &lsn]).ends(0);
    archive.run(&["pg", "status", "shop"]).ends(0);
    let mut recovered = archive.recovered(15, "latest", &[]);
    assert_eq!(marks(&recovered), "1 2");
    recovered.run("pg_amcheck", &["--install-missing", "--heapallindexed", "postgres"]);
    recovered.stop();
    // The primary under the same name is the same cluster, and its log goes on from there.
    archive.base(&first);
    let lsn = marked(&first, 3);
    let named = crate::postgres_base::named(&first, "postgres");
    archive.run(&["pg", "stream", &named, "--until", &lsn]).ends(0);
    assert_eq!(marks(&archive.recovered(15, "primary", &[])), "1 2 3");
}

fn dumped(server: &PostgresServer) -> String {
    let all = server.run("pg_dumpall", &["--restrict-key=tests"]);
    assert!(all.contains("COPY public.large") && all.contains("COPY public.pgbench_accounts"));
    all
}

#[test]
fn a_dump_of_what_was_restored_is_that_of_the_source() {
    for version in [15, 18] {
        let archive = Archive::new();
        let server = PostgresServer::start(version);
        server.run("createdb", &["shop"]);
        server.sql("shop", SCHEMA);
        archive.base(&server);
        server.run("pgbench", &["-i", "-q", "shop"]);
        server.run("pgbench", &["-n", "-c", "2", "-t", "200", "shop"]);
        // Of a sequence the log holds numbers ahead, but for this.
        server.sql(
            "shop",
            "SELECT setval('numbers', 70); DELETE FROM part WHERE a = 3; DROP TABLE none; \
             CREATE ROLE seller; GRANT SELECT ON part TO seller; \
             SELECT lo_unlink(oid) FROM pg_largeobject_metadata LIMIT 1; \
             ALTER TABLE empty ADD b text DEFAULT 'x'; INSERT INTO empty VALUES (1)",
        );
        let lsn = server.sql("shop", "SELECT pg_current_wal_insert_lsn()");
        let expected = dumped(&server);
        server.sql("shop", "DROP TABLE large, pgbench_history; CREATE TABLE late (a int)");
        let end = server.sql("shop", "SELECT pg_current_wal_insert_lsn()");
        archive.run(&["pg", "stream", "shop", "--until", &end]).ends(0);
        let recovered = archive.recovered(version, "data", &["--to-lsn", &lsn]);
        let found = dumped(&recovered);
        assert!(found == expected, "{version}: the dumps differ");
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a skipped test says why")]
fn a_relation_of_more_than_a_gigabyte_comes_back() {
    const GIGABYTE: u64 = 1 << 30;
    if moments(1, 0) == 0 {
        eprintln!("skipped: a gigabyte takes long; CI=true does it");
        return;
    }
    let mut server = PostgresServer::start(17);
    server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n, 'first' AS t; CHECKPOINT");
    let relation = server.sql("postgres", "SELECT pg_relation_filepath('t')");
    let first = server.data_dir().join(&relation);
    server.stop();
    // Pages of zeros are empty ones: a hole makes the first file a whole one.
    OpenOptions::new().write(true).open(&first).unwrap().set_len(GIGABYTE).unwrap();
    let second = server.data_dir().join(format!("{relation}.1"));
    fs::write(&second, [0; 8192]).unwrap();
    let owner = server_user().unzip();
    chown(&second, owner.0, owner.1).unwrap();
    server.start_again();
    server.sql("postgres", "INSERT INTO t SELECT g, md5(g::text) FROM generate_series(2, 9999) g");
    assert_eq!(server.sql("postgres", "SELECT ctid FROM t WHERE n = 2"), "(131072,1)");
    let program = repository();
    let named = named(&server, "postgres");
    let saved = program.run(&["backup", "--postgres", &named, "--method", "base"]);
    done(&saved);
    assert!(!saved.stderr.contains("is damaged"), "{}", saved.stderr);
    let folder = servers_folder();
    let target = folder.path().join("data");
    let text = target.to_str().unwrap();
    done(&program.run(&["restore", "source:shop:/shop", "--target", text]));
    hand_over(&target);
    server.run("pg_verifybackup", &[text]);
    assert_eq!(fs::metadata(target.join(&relation)).unwrap().len(), GIGABYTE);
    let mut restored = PostgresServer::on(17, &target, &[]);
    restored.wait_for_recovery().unwrap();
    let sum = "SELECT count(*), sum(n), md5(string_agg(t, '' ORDER BY n)) FROM t";
    assert_eq!(restored.sql("postgres", sum), server.sql("postgres", sum));
    restored.run("pg_amcheck", &["--install-missing", "-t", "t", "postgres"]);
}
