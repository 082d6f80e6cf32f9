//! Dumps of real servers: the same bytes as `pg_dump` writes, restored by `pg_restore`, and refused
//! where they would not be whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::postgres_base::{done, named, nothing_is_saved, repository};
use crate::postgres_server::{PostgresServer, bin, hand_over, servers_folder, versions};
use crate::program::{Outcome, Program};

/// Everything that a dump has to get right, by the names it has to get right.
pub const SCHEMA: &str = r#"
CREATE SCHEMA "odd ""na me";
CREATE TABLE "odd ""na me"."new
line" (id int PRIMARY KEY, "we ird" text, g int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO "odd ""na me"."new
line" SELECT g, E'tab\t, line\n, back\\slash ' || g FROM generate_series(1, 1000) g;
CREATE TABLE empty (a int);
CREATE TABLE part (a int, b text) PARTITION BY RANGE (a);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (10) TO (20);
INSERT INTO part SELECT g, 'row ' || g FROM generate_series(0, 19) g;
CREATE TABLE parent (a int);
CREATE TABLE child (b int) INHERITS (parent);
INSERT INTO child VALUES (1, 2);
CREATE TABLE none ();
INSERT INTO none DEFAULT VALUES;
CREATE SEQUENCE numbers;
SELECT nextval('numbers') FROM generate_series(1, 7);
CREATE TABLE identity (id bigint GENERATED ALWAYS AS IDENTITY, t text);
INSERT INTO identity (t) VALUES ('a'), (NULL), ('');
CREATE TABLE precise (f float8, d date, i interval, b bytea);
INSERT INTO precise VALUES (0.1::float8 + 0.2, '2026-03-01', '1 day 2 s', '\x00ff');
CREATE TABLE large AS SELECT g AS id, md5(g::text) AS hash FROM generate_series(1, 60000) g;
CREATE INDEX ON large (hash);
SELECT lo_from_bytea(0, decode(repeat('ab', 5000000), 'hex')), lo_from_bytea(0, 'hello'),
    lo_from_bytea(0, '');
CREATE MATERIALIZED VIEW seen AS SELECT * FROM part;
"#;

/// Arguments of a backup of database `shop`.
fn save(program: &Program, server: &PostgresServer, more: &[&str]) -> Outcome {
    Outcome::of(&saving(program, server, more).output().unwrap())
}

fn saving(program: &Program, server: &PostgresServer, more: &[&str]) -> Command {
    let bin = bin(server.version(), "pg_dump");
    let folder = bin.parent().unwrap().to_str().unwrap();
    let named = named(server, "shop");
    let first = ["backup", "--json", "--postgres", &named, "--pg-bin", folder];
    program.command(&[&first[..], more].concat())
}

fn shop(version: u32, settings: &[&str]) -> PostgresServer {
    let server = PostgresServer::with(version, settings, &[]);
    server.run("createdb", &["shop"]);
    server
}

/// The files of a folder, with their content.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// The table of contents without the time at which it was made: seconds to years, five bytes each.
fn without_time(mut toc: Vec<u8>) -> Vec<u8> {
    let first = if toc[6] >= 15 { 12 } else { 16 };
    toc[first..first + 30].fill(0);
    toc
}

/// All rows of all tables, as one number for each.
fn content(server: &PostgresServer, database: &str) -> String {
    let queries = server.sql(
        database,
        "SELECT format('SELECT %L, count(*), md5(string_agg(t::text, e''\\n'' ORDER BY t::text)) \
         FROM %s AS t;', oid::regclass, oid::regclass) FROM pg_class WHERE relkind IN ('r', 'm') \
         AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) \
         ORDER BY 1",
    );
    let objects = "SELECT count(*), sum(length(lo_get(oid))) FROM pg_largeobject_metadata;";
    server.sql(database, &format!("{queries}\n{objects}\nSELECT last_value FROM numbers"))
}

fn summary(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn the_bytes_are_those_of_pg_dump_and_pg_restore_takes_them() {
    for &version in versions() {
        let server = shop(version, &[]);
        server.sql("shop", SCHEMA);
        let program = repository();
        done(&save(&program, &server, &[]));
        let folder = servers_folder();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let text = ours.to_str().unwrap();
        done(&program.run(&["restore", "source:shop:/shop", "--target", text]));
        hand_over(&ours);
        let theirs_text = theirs.to_str().unwrap();
        server.run("pg_dump", &["-Fd", "-Z0", "-f", theirs_text, "shop"]);
        let (mut found, mut expected) = (files(&ours), files(&theirs));
        let toc =
            |files: &mut BTreeMap<String, Vec<u8>>| without_time(files.remove("toc.dat").unwrap());
        assert!(toc(&mut found) == toc(&mut expected), "{version}: the tables of contents differ");
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{version}");
        assert!(found == expected, "{version}: the files differ");
        server.run("createdb", &["again"]);
        server.run("pg_restore", &["-j4", "-e", "-d", "again", text]);
        assert_eq!(content(&server, "again"), content(&server, "shop"), "{version}");

        let tables = program.run(&["cat", "source:shop:/shop.tables.json"]);
        let tables: serde_json::Value = serde_json::from_str(&tables.stdout).unwrap();
        let tables = tables["tables"].as_array().unwrap();
        let large = tables.iter().find(|table| table["name"] == "large").unwrap();
        assert_eq!(large["rows"], 60_000);
        let globals = program.run(&["cat", "source:shop:/shop.globals.sql"]);
        assert!(globals.stdout.contains("CREATE ROLE postgres"), "{}", globals.stdout);
        assert!(program.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
    }
}

#[test]
fn a_second_dump_costs_what_changed_and_sums_do_not_depend_on_order() {
    let server = shop(17, &[]);
    server.sql("shop", SCHEMA);
    server.sql("shop", "CREATE TABLE big AS SELECT g AS id, md5(g::text) || md5((g+1)::text) AS h FROM generate_series(1, 200000) g");
    let program = repository();
    let first = save(&program, &server, &[]);
    done(&first);
    let sums = || {
        let tables = program.run(&["cat", "source:shop:/shop.tables.json"]);
        let tables: serde_json::Value = serde_json::from_str(&tables.stdout).unwrap();
        let of = |name: &str| {
            let mut all = tables["tables"].as_array().unwrap().iter();
            all.find(|table| table["name"] == name).unwrap()["sum"].clone()
        };
        (of("big"), of("large"))
    };
    let before = sums();
    // The first row moves to the end of the table; another one changes.
    server.sql("shop", "UPDATE large SET id = id WHERE id = 1; UPDATE big SET id = 0 WHERE id = 7");
    let second = save(&program, &server, &["--jobs", "1"]);
    done(&second);
    let after = sums();
    assert_eq!(before.1, after.1);
    assert_ne!(before.0, after.0);
    let stored =
        |outcome: &Outcome| summary(outcome)["statistics"]["stored_bytes"].as_u64().unwrap();
    assert!(stored(&second) * 20 < stored(&first), "{} {}", stored(&first), stored(&second));
}

#[test]
fn a_role_that_does_not_see_every_row_is_refused() {
    let server = shop(17, &[]);
    server.sql(
        "shop",
        "CREATE ROLE backup LOGIN; CREATE TABLE secret (a int); \
         INSERT INTO secret VALUES (1); GRANT SELECT ON secret TO backup; ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
    );
    let program = repository();
    let bin = bin(17, "pg_dump");
    let connection = named(&server, "shop").replace("user=postgres", "user=backup");
    let bin = bin.parent().unwrap().to_str().unwrap();
    let save = || program.run(&["backup", "--postgres", &connection, "--pg-bin", bin]);
    let refused = save();
    assert_eq!(refused.code, 20, "{}", refused.stderr);
    assert!(refused.stderr.contains("HF-PG-031"), "{}", refused.stderr);
    assert!(refused.stderr.contains("backup does not see every row of public.secret"));
    nothing_is_saved(&program);
    server.sql("shop", "ALTER ROLE backup BYPASSRLS");
    let saved = save();
    done(&saved);
    assert!(saved.stderr.contains("passwords of roles are not saved"), "{}", saved.stderr);
    let globals = program.run(&["cat", "source:shop:/shop.globals.sql"]);
    assert!(globals.stdout.contains("CREATE ROLE backup"), "{}", globals.stdout);
}

#[test]
fn an_older_pg_dump_is_refused() {
    let server = shop(17, &[]);
    let program = repository();
    let old = bin(15, "pg_dump");
    let old = old.parent().unwrap().to_str().unwrap();
    let named = named(&server, "shop");
    let refused = program.run(&["backup", "--postgres", &named, "--pg-bin", old]);
    assert_eq!(refused.code, 20, "{}", refused.stderr);
    assert!(refused.stderr.contains("HF-PG-030"), "{}", refused.stderr);
    assert!(refused.stderr.contains("the newest found is 15"), "{}", refused.stderr);
    let missing = program.arg("nowhere");
    let refused = program.run(&["backup", "--postgres", &named, "--pg-bin", &missing]);
    assert!(refused.stderr.contains("HF-PG-030"), "{}", refused.stderr);
    nothing_is_saved(&program);
}

/// Waits until somebody copies, as the workers do, in at least `count` sessions.
fn wait_for_copies(server: &PostgresServer, count: u32) {
    let query = format!(
        "SELECT count(*) >= {count} FROM pg_stat_activity WHERE query LIKE 'COPY %' \
         AND state = 'active'"
    );
    server.wait_until("postgres", &query);
}

/// Tables whose rows come slowly enough to do something meanwhile.
fn slow_tables(server: &PostgresServer) {
    server.sql(
        "shop",
        "CREATE FUNCTION slow_out(text) RETURNS text LANGUAGE sql AS 'SELECT $1'; \
         CREATE TABLE a AS SELECT g, repeat(md5(g::text), 20) AS t FROM generate_series(1, 200000) g; \
         CREATE TABLE b AS SELECT g, repeat(md5(g::text), 20) AS t FROM generate_series(1, 200000) g; \
         CREATE TABLE c AS SELECT g FROM generate_series(1, 1000) g",
    );
}

#[test]
fn tables_dropped_and_made_during_the_dump_do_not_change_it() {
    let server = shop(18, &[]);
    slow_tables(&server);
    let program = repository();
    let saving = saving(&program, &server, &["--jobs", "2"]).spawn().unwrap();
    wait_for_copies(&server, 1);
    // It stands still in the middle: the rest of the rows fits into no buffer.
    let pid = Pid::from_raw(i32::try_from(saving.id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    server.sql("shop", "CREATE TABLE late (a int); DELETE FROM c; UPDATE b SET t = 'new'");
    let refused = server.try_sql("shop", "SET lock_timeout = 100; DROP TABLE c");
    kill_process(pid, Signal::CONT).unwrap();
    assert!(refused.unwrap_err().contains("lock timeout"));
    done(&Outcome::of(&saving.wait_with_output().unwrap()));
    let tables = program.run(&["cat", "source:shop:/shop.tables.json"]);
    let tables: serde_json::Value = serde_json::from_str(&tables.stdout).unwrap();
    let rows: Vec<_> = tables["tables"].as_array().unwrap().iter().collect();
    assert_eq!(rows.iter().map(|table| &table["name"]).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(
        rows.iter().map(|table| &table["rows"]).collect::<Vec<_>>(),
        [200_000, 200_000, 1000]
    );
}

#[test]
fn a_table_that_is_replaced_before_it_is_locked_is_not_taken_for_empty() {
    let server = shop(17, &[]);
    for change in [
        "TRUNCATE t; INSERT INTO t VALUES (3)",
        "DROP TABLE t; CREATE TABLE t AS SELECT 3 AS a",
        "ALTER TABLE t ALTER a TYPE bigint; DELETE FROM t; INSERT INTO t VALUES (3)",
    ] {
        server.sql("shop", "DROP TABLE IF EXISTS t, u");
        server.sql("shop", "CREATE TABLE t AS SELECT 1 AS a UNION SELECT 2");
        server.sql("shop", "CREATE TABLE u AS SELECT 1 AS b");
        let program = repository();
        let mut psql = server.command("psql");
        let mut psql = psql.args(["-Xq", "shop"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut session = psql.stdin.take().unwrap();
        writeln!(session, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;").unwrap();
        let held = "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' \
                    AND granted AND relation = 't'::regclass";
        server.wait_until("shop", held);
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| save(&program, &server, &[]));
            server.wait_until("shop", "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted");
            writeln!(session, "{change}; UPDATE u SET b = 3; COMMIT;").unwrap();
            drop(session);
            assert!(psql.wait().unwrap().success());
            done(&saving.join().unwrap());
        });
        let restored = program.arg("restored");
        done(&program.run(&["restore", "source:shop:/shop", "--target", &restored]));
        let rows = |name: &str| {
            let files = fs::read_dir(&restored).unwrap().map(|entry| entry.unwrap().path());
            let texts = files.filter(|path| path.extension().is_some_and(|e| e == "dat"));
            let texts = texts.filter(|path| path.file_name().is_some_and(|n| n != "toc.dat"));
            let mut texts: Vec<String> = texts.map(|p| fs::read_to_string(p).unwrap()).collect();
            texts.sort();
            assert_eq!(texts.len(), 2, "{name}");
            texts
        };
        assert_eq!(rows(change), ["3\n\\.\n\n\n", "3\n\\.\n\n\n"], "{change}");
    }
}

#[test]
fn a_server_that_is_killed_during_the_dump_leaves_nothing() {
    let mut server = shop(17, &[]);
    slow_tables(&server);
    let program = repository();
    let (code, said) = std::thread::scope(|scope| {
        let named = named(&server, "shop");
        let bin = bin(17, "pg_dump");
        let program = &program;
        let saving = scope.spawn(move || {
            let bin = bin.parent().unwrap().to_str().unwrap();
            program.run(&["backup", "--postgres", &named, "--pg-bin", bin])
        });
        wait_for_copies(&server, 1);
        server.kill();
        let outcome = saving.join().unwrap();
        (outcome.code, outcome.stderr)
    });
    assert_eq!(code, 20, "{said}");
    assert!(said.contains("HF-PG-00"), "{said}");
    nothing_is_saved(&program);
    assert!(program.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
}

#[test]
fn a_worker_whose_session_is_ended_fails_the_dump() {
    let server = shop(17, &[]);
    slow_tables(&server);
    let program = repository();
    let outcome = std::thread::scope(|scope| {
        let saving = scope.spawn(|| save(&program, &server, &["--jobs", "2"]));
        let begun = Instant::now();
        let end = "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity \
                   WHERE state = 'idle in transaction' AND application_name = 'holdfast'";
        wait_for_copies(&server, 1);
        while server.sql("postgres", end) != "t" {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        saving.join().unwrap()
    });
    assert_eq!(outcome.code, 20, "{}", outcome.stderr);
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(said.contains("HF-PG-00"), "{said}");
    nothing_is_saved(&program);
}

/// Restores the newest dump into a database of a server.
fn restore_into(
    program: &Program,
    server: &PostgresServer,
    database: &str,
    more: &[&str],
) -> Outcome {
    let bin = bin(server.version(), "pg_restore");
    let bin = bin.parent().unwrap().to_str().unwrap();
    let uri = server.uri(database);
    let first = ["restore", "source:shop", "--into", &uri, "--pg-bin", bin];
    program.run(&[&first[..], more].concat())
}

fn databases(server: &PostgresServer) -> String {
    let query = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database \
                 WHERE NOT datistemplate AND datname <> 'postgres'";
    server.sql("postgres", query)
}

#[test]
fn a_dump_goes_into_a_new_database_that_is_named_at_the_end() {
    for &version in versions() {
        let server = shop(version, &[]);
        server.sql("shop", SCHEMA);
        let program = repository();
        done(&save(&program, &server, &[]));
        done(&restore_into(&program, &server, "again", &[]));
        assert_eq!(content(&server, "again"), content(&server, "shop"), "{version}");
        let refused = restore_into(&program, &server, "again", &[]);
        assert_eq!(refused.code, 15, "{}", refused.stderr);
        assert!(refused.stderr.contains("HF-PG-033"), "{}", refused.stderr);
        assert_eq!(databases(&server), "again,shop");
        assert!(program.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
    }
}

#[test]
fn the_rows_of_one_table_come_with_the_definitions_of_all() {
    let server = shop(17, &[]);
    server.sql("shop", SCHEMA);
    server.sql("shop", "CREATE TABLE of (id int REFERENCES \"odd \"\"na me\".\"new\nline\")");
    let program = repository();
    done(&save(&program, &server, &[]));
    done(&restore_into(&program, &server, "one", &["--table", "public.large", "--jobs", "2"]));
    assert_eq!(server.sql("one", "SELECT count(*) FROM large"), "60000");
    let counts = "SELECT (SELECT count(*) FROM part), (SELECT count(*) FROM pg_indexes \
                  WHERE tablename = 'large')";
    assert_eq!(server.sql("one", counts), "0|1");
    let unknown = restore_into(&program, &server, "two", &["--table", "nowhere"]);
    assert_ne!(unknown.code, 0);
    assert_eq!(databases(&server), "one,shop");
}

#[test]
fn what_cannot_be_restored_leaves_no_database() {
    let server = shop(18, &[]);
    server.sql("shop", "CREATE ROLE owner; CREATE TABLE t (a int); ALTER TABLE t OWNER TO owner");
    let program = repository();
    done(&save(&program, &server, &[]));
    let other = PostgresServer::start(18);
    let failed = restore_into(&program, &other, "shop", &[]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("HF-PG-034"), "{}", failed.stderr);
    assert!(failed.stderr.contains("role \"owner\" does not exist"), "{}", failed.stderr);
    assert_eq!(databases(&other), "");
    done(&restore_into(&program, &other, "shop", &["--no-owner"]));
    assert_eq!(databases(&other), "shop");
    let older = PostgresServer::start(17);
    let refused = restore_into(&program, &older, "shop", &["--pg-bin", "/nowhere"]);
    assert_ne!(refused.code, 0);
    let bin = bin(18, "pg_restore");
    let bin = bin.parent().unwrap().to_str().unwrap();
    let arguments = ["restore", "source:shop", "--into", &older.uri("shop"), "--pg-bin", bin];
    let refused = program.run(&arguments);
    assert!(refused.stderr.contains("HF-PG-004"), "{}", refused.stderr);
}

#[test]
fn a_database_without_tables_is_saved_and_restored() {
    let server = shop(15, &[]);
    let program = repository();
    let saved = save(&program, &server, &[]);
    done(&saved);
    assert_eq!(saved.stderr, "");
    done(&restore_into(&program, &server, "again", &[]));
    // The name is known now, and another database is no other cluster.
    let bin = bin(15, "pg_dump");
    let bin = bin.parent().unwrap().to_str().unwrap();
    done(&program.run(&["backup", "--postgres", "shop", "--pg-bin", bin]));
}
