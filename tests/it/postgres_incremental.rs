//! Base backups that ask the server only for what changed: against the server's own programs, and
//! where they cannot be had.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::postgres_base::{done, named, repository};
use crate::postgres_server::{ON_LOOPBACK, PostgresServer, hand_over, servers_folder};
use crate::program::{Outcome, Program};

/// What every server here has: summaries of its log, and nothing that changes pages by itself.
const SETTINGS: [&str; 2] = ["summarize_wal=on", "autovacuum=off"];
/// Small segments of the log, which comes whole with each base backup.
const SMALL_SEGMENTS: [&str; 1] = ["--wal-segsize=1"];
const WHOLE: &str = "the whole cluster is read, not only changes";

/// What a base backup has read of the server, and what it is of.
#[derive(Debug)]
struct Saved {
    read_bytes: u64,
    content_bytes: u64,
    outcome: Outcome,
}

impl Saved {
    fn of(outcome: Outcome) -> Self {
        done(&outcome);
        let last = outcome.stdout.lines().last().unwrap();
        let summary: serde_json::Value = serde_json::from_str(last).unwrap();
        let figure = |name: &str| summary["statistics"][name].as_u64().unwrap();
        Self { read_bytes: figure("read_bytes"), content_bytes: figure("content_bytes"), outcome }
    }

    #[track_caller]
    fn whole(self) -> Self {
        assert!(self.read_bytes >= self.content_bytes, "{self:?}");
        self
    }

    #[track_caller]
    fn increment(self) -> Self {
        assert!(self.read_bytes * 4 < self.content_bytes, "{self:?}");
        self.says_not(WHOLE)
    }

    #[track_caller]
    fn says(self, why: &str) -> Self {
        assert!(self.outcome.stdout.contains(why), "no {why:?} in {self:?}");
        self
    }

    #[track_caller]
    fn says_not(self, what: &str) -> Self {
        assert!(!self.outcome.stdout.contains(what), "{what:?} in {self:?}");
        self
    }
}

fn backup(program: &Program, server: &PostgresServer, more: &[&str]) -> Outcome {
    let named = named(server, "postgres");
    let arguments = ["backup", "--postgres", &named, "--method", "base", "--json"];
    program.run(&[&arguments[..], more].concat())
}

fn save(program: &Program, server: &PostgresServer) -> Saved {
    Saved::of(backup(program, server, &[]))
}

fn restore(program: &Program, target: &Path) {
    let text = target.to_str().unwrap();
    done(&program.run(&["restore", "source:shop:/shop", "--target", text]));
    hand_over(target);
}

/// The files of relations in a data directory.
fn relations(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![data.join("global"), data.join("base")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(!name.starts_with("INCREMENTAL"), "{}", path.display());
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with(|c: char| c.is_ascii_digit()) {
                let bytes = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(data).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

#[track_caller]
fn assert_same(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (relations(ours), relations(theirs));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for ((path, ours), theirs) in ours.iter().zip(theirs.values()) {
        let pages = ours.chunks(8192).zip(theirs.chunks(8192));
        let differ: Vec<_> =
            pages.enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
        let path = path.display();
        assert_eq!((ours.len(), &differ[..]), (theirs.len(), &[][..]), "{path}");
    }
}

/// A sum of the rows of every table that outlives a crash.
fn sums(server: &PostgresServer) -> String {
    let tables = "SELECT string_agg(format('%I', relname), ' ' ORDER BY relname) FROM pg_class \
                  WHERE relkind = 'r' AND relpersistence = 'p' \
                  AND relnamespace = 'public'::regnamespace";
    let tables = server.sql("shop", tables);
    let sum = |table: &str| {
        let query = format!("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t");
        format!("{table} {}\n", server.sql("shop", &query))
    };
    tables.split(' ').map(sum).collect()
}

const BEGIN: &str = "
    CREATE TABLE tail AS SELECT g, repeat('t', 500) AS t FROM generate_series(1, 4000) g;
    CREATE TABLE grown AS SELECT g, md5(g::text) AS t FROM generate_series(1, 2000) g;
    CREATE INDEX ON grown (t);
    CREATE TABLE emptied AS SELECT g FROM generate_series(1, 9000) g;
    CREATE TABLE packed AS SELECT g, md5(g::text) AS t FROM generate_series(1, 9000) g;
    CREATE TABLE gone AS SELECT g FROM generate_series(1, 9000) g;
    CREATE UNLOGGED TABLE unlogged AS SELECT g FROM generate_series(1, 9000) g;";
/// What happens between one base backup and the next.
const ROUNDS: [&str; 3] = [
    "DELETE FROM tail WHERE g > 1000; VACUUM tail;
     INSERT INTO grown SELECT g, md5(g::text) FROM generate_series(2001, 9000) g;
     TRUNCATE emptied;
     DELETE FROM packed WHERE g % 3 = 0; VACUUM FULL packed;
     DROP TABLE gone;
     CREATE TABLE fresh AS SELECT g, md5(g::text) AS t FROM generate_series(1, 5000) g;
     CREATE DATABASE other;",
    "INSERT INTO tail SELECT g, repeat('u', 500) FROM generate_series(2000, 9000) g;
     UPDATE grown SET t = 'x' WHERE g % 700 = 0;
     INSERT INTO emptied SELECT g FROM generate_series(1, 100) g;
     DELETE FROM fresh WHERE g > 10; VACUUM (FREEZE) fresh;
     DROP DATABASE other;",
    "UPDATE pgbench_accounts SET abalance = 7 WHERE aid = 77;",
];

#[test]
fn what_is_put_together_is_what_the_servers_own_programs_put_together() {
    for version in [17, 18] {
        let server = PostgresServer::with(version, &SETTINGS, &SMALL_SEGMENTS);
        server.run("createdb", &["shop"]);
        server.run("pgbench", &["-i", "-q", "-s", "2", "shop"]);
        server.sql("shop", BEGIN);
        let program = repository();
        let folder = servers_folder();
        let stock = |number: usize| folder.path().join(format!("stock{number}"));
        save(&program, &server).whole();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        server.run("pg_basebackup", &["-c", "fast", "-D", &text(&stock(0))]);
        let mut chain = vec![text(&stock(0))];
        for (number, changes) in (1..).zip(ROUNDS) {
            server.run("pgbench", &["-n", "-t", "100", "shop"]);
            server.sql("shop", changes);
            let before = sums(&server);
            // What looks at pages may change them: once before both.
            server.run("pg_basebackup", &["-c", "fast", "-D", &text(&folder.path().join("x"))]);
            fs::remove_dir_all(folder.path().join("x")).unwrap();
            save(&program, &server).increment();
            let last = format!("{}/backup_manifest", text(&stock(number - 1)));
            let next = text(&stock(number));
            server.run("pg_basebackup", &["-c", "fast", "--incremental", &last, "-D", &next]);
            chain.push(next);
            let combined = text(&folder.path().join(format!("combined{number}")));
            server
                .run("pg_combinebackup", &[&chain[..], &["-o".into(), combined.clone()]].concat());
            let ours = folder.path().join(format!("ours{number}"));
            restore(&program, &ours);
            assert_same(&ours, Path::new(&combined));
            server.run("pg_verifybackup", &[text(&ours)]);
            if number < ROUNDS.len() {
                continue;
            }
            let mut restored = PostgresServer::on(version, &ours, &[]);
            restored.wait_for_recovery().unwrap();
            assert_eq!(sums(&restored), before, "{version}, {number}");
            restored.run("pg_amcheck", &["--install-missing", "--heapallindexed", "shop"]);
        }
    }
}

fn shop(version: u32, settings: &[&str]) -> PostgresServer {
    let settings = [&SETTINGS[..], settings].concat();
    let server = PostgresServer::with(version, &settings, &SMALL_SEGMENTS);
    server.run("createdb", &["shop"]);
    server.run("pgbench", &["-i", "-q", "-s", "3", "shop"]);
    server
}

/// The files of local state with that extension.
fn state_files(program: &Program, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![program.home().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// Removes what is remembered.
fn forget(program: &Program, extension: &str) {
    let found = state_files(program, extension);
    assert_eq!(found.len(), 1, "{found:?}");
    fs::remove_file(&found[0]).unwrap();
}

fn snapshots(program: &Program) -> usize {
    let events = program.run(&["snapshots", "--json"]).ends(0).events();
    events.iter().filter(|event| event["type"] == "item").count()
}

#[test]
fn where_changes_are_not_to_be_had_everything_is_read() {
    let server = shop(17, &[]);
    let program = repository();
    save(&program, &server).whole().says_not(WHOLE);
    save(&program, &server).increment();
    Saved::of(backup(&program, &server, &["--force"])).whole();
    save(&program, &server).increment();
    forget(&program, "manifest");
    save(&program, &server).whole().says(WHOLE);
    save(&program, &server).increment();
    forget(&program, "entries");
    save(&program, &server).whole();
    save(&program, &server).increment();
    let manifest = &state_files(&program, "manifest")[0];
    let mut text = fs::read(manifest).unwrap();
    let place = text.windows(7).position(|part| part == b"\"Size\":").unwrap() + 8;
    text[place] ^= 1;
    fs::write(manifest, text).unwrap();
    save(&program, &server).whole().says(WHOLE);
    let here = server.sql("shop", "SELECT pg_current_wal_lsn()");
    server.sql("shop", "CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
    let is_summarized = "SELECT count(*) > 0 FROM pg_available_wal_summaries() WHERE end_lsn >";
    server.wait_until("shop", &format!("{is_summarized} '{here}'"));
    let summaries = server.data_dir().join("pg_wal/summaries");
    for entry in fs::read_dir(&summaries).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    save(&program, &server).whole().says("WAL summaries are required");
    save(&program, &server).increment();
    server.sql("postgres", "ALTER SYSTEM SET summarize_wal = off");
    server.sql("postgres", "SELECT pg_reload_conf()");
    server.wait_until("postgres", "SELECT current_setting('summarize_wal') = 'off'");
    save(&program, &server).whole().says_not(WHOLE);
    let folder = servers_folder();
    let target = folder.path().join("data");
    restore(&program, &target);
    server.run("pg_verifybackup", &[target.to_str().unwrap()]);
}

#[test]
fn after_a_promotion_everything_is_read() {
    let mut server = shop(18, &[]);
    let program = repository();
    save(&program, &server).whole();
    server.stop();
    fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    hand_over(server.data_dir());
    server.start_again();
    server.promote();
    save(&program, &server).whole().says("on another timeline");
    save(&program, &server).increment();
}

#[test]
fn damage_is_found_by_reading_everything_which_then_goes_on() {
    let mut server = shop(17, &[]);
    let program = repository();
    save(&program, &server).whole();
    server.sql("shop", "CHECKPOINT");
    let relation = server.sql("shop", "SELECT pg_relation_filepath('pgbench_accounts')");
    server.stop();
    let path = server.data_dir().join(&relation);
    let mut bytes = fs::read(&path).unwrap();
    bytes[3 * 8192 + 5000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    server.start_again();
    let named = format!("page 3 of {relation} is damaged on the server");
    // It did not change, so it is not sent.
    save(&program, &server).increment().says_not(&named);
    Saved::of(backup(&program, &server, &["--force"])).whole().says(&named);
    save(&program, &server).whole().says(&named).says(WHOLE);
    bytes[3 * 8192 + 5000] ^= 1;
    server.stop();
    fs::write(&path, &bytes).unwrap();
    server.start_again();
    save(&program, &server).whole().says_not(&named);
    server.sql("shop", "UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 9000 = 0");
    save(&program, &server).increment();
}

#[test]
fn tablespaces_are_put_together_too() {
    let server = shop(18, &[]);
    let folder = servers_folder();
    let place = folder.path().join("fast");
    fs::create_dir(&place).unwrap();
    hand_over(&place);
    server.sql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    let make = "CREATE TABLE t TABLESPACE fast AS SELECT g, md5(g::text) FROM generate_series(1, \
                20000) g";
    server.sql("shop", make);
    let program = repository();
    save(&program, &server).whole();
    server.sql("shop", "UPDATE t SET md5 = 'x' WHERE g % 5000 = 0");
    save(&program, &server).increment();
    server.sql("shop", "CHECKPOINT");
    let relation = server.sql("shop", "SELECT pg_relation_filepath('t')");
    assert!(relation.starts_with("pg_tblspc/"), "{relation}");
    let saved = program.path("saved");
    done(&program.run(&["restore", "source:shop:/shop", "--target", saved.to_str().unwrap()]));
    let now = fs::read(server.data_dir().join(&relation)).unwrap();
    assert_eq!(fs::read(saved.join(&relation)).unwrap(), now);
}

/// Passes everything on to a port, but for one bit of the first place where the server sends
/// these bytes.
fn flipping_proxy(port: u16, wanted: &'static [u8]) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let flipped = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flipped);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) =
                (client, TcpStream::connect(("127.0.0.1", port)))
            else {
                return;
            };
            let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                drop(std::io::copy(&mut up, &mut to));
                drop(to.shutdown(std::net::Shutdown::Write));
            });
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while let Ok(length @ 1..) = server.read(&mut buffer) {
                    let found = buffer[..length].windows(wanted.len()).position(|at| at == wanted);
                    if let Some(at) = found
                        && !seen.swap(true, Ordering::Relaxed)
                    {
                        buffer[at + wanted.len() - 1] ^= 0x10;
                    }
                    if client.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                drop(client.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    (own, flipped)
}

#[test]
fn what_does_not_go_together_saves_nothing_and_the_next_run_reads_everything() {
    let server = shop(17, &[ON_LOOPBACK]);
    let program = repository();
    save(&program, &server).whole();
    let refused = |outcome: Outcome, count: usize| {
        assert_eq!(outcome.code, 20, "{outcome:?}");
        assert!(outcome.stdout.contains("HF-PG-018"), "{outcome:?}");
        assert_eq!(snapshots(&program), count);
    };
    // The magic number of an increment, and the name of one in the list of files.
    for (count, wanted) in
        (1..).step_by(2).zip([&b"\x0D\x1F\xAE\xD3"[..], b"\"base/1/INCREMENTAL.1"])
    {
        server.sql("shop", "UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 9000 = 0");
        let (port, flipped) = flipping_proxy(server.port(), wanted);
        let named = format!("shop=postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
        let arguments = ["backup", "--postgres", &named, "--method", "base", "--json"];
        refused(program.run(&arguments), count);
        assert!(flipped.load(Ordering::Relaxed));
        save(&program, &server).whole().says(WHOLE);
        save(&program, &server).increment();
    }
    // What is remembered of a file of the system's catalog.
    let entries = &state_files(&program, "entries")[0];
    let mut bytes = fs::read(entries).unwrap();
    let record = b"base/51249";
    let place = bytes.windows(record.len()).position(|part| part == record).unwrap();
    bytes[place + record.len() + 40] ^= 1;
    fs::write(entries, bytes).unwrap();
    refused(backup(&program, &server, &[]), 5);
    save(&program, &server).whole().says(WHOLE);
    save(&program, &server).increment();
}
