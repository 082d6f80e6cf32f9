//! What fails around a real server: the repository is full or away, the server is another one.
//! What the server was not told to be safe it still has, and nothing is taken for what it is not.

use std::fs;

use crate::kill::Mounted;
use crate::postgres_base::named;
use crate::postgres_server::{PostgresServer, hand_over, servers_folder};
use crate::postgres_stream::{Stream, durable, marked};
use crate::postgres_wal::{Archive, archived, mark, marks};

/// Text that does not become smaller, of so many kilobytes.
fn noise(server: &PostgresServer, kilobytes: u32) {
    let statement = format!(
        "INSERT INTO noise SELECT string_agg(md5(random()::text), '') \
         FROM generate_series(1, {kilobytes}) g, generate_series(1, 32) GROUP BY g"
    );
    server.sql("postgres", &statement);
}

fn count(server: &PostgresServer) -> String {
    server.sql("postgres", "SELECT count(*), md5(string_agg(t, '' ORDER BY t)) FROM noise")
}

/// A server with `archive_mode=on` whose command is given later.
fn noisy_server(version: u32, settings: &[&str]) -> PostgresServer {
    let server = PostgresServer::with(version, settings, &[]);
    server.sql("postgres", "CREATE TABLE marks (n int); CREATE TABLE noise (t text)");
    server.sql("postgres", "ALTER TABLE noise ALTER t SET STORAGE EXTERNAL");
    server
}

/// What the server could not give away it gives away now, without waiting for its next try.
pub fn archive_with(server: &PostgresServer, archive: &Archive) {
    let command = archive.archive_command();
    let command = command.split_once('=').unwrap().1;
    server.sql("postgres", &format!("ALTER SYSTEM SET archive_command = '{command}'"));
    server.sql("postgres", "SELECT pg_reload_conf()");
}

#[test]
fn a_full_repository_keeps_the_log_on_the_server() {
    let folder = servers_folder();
    let disk = folder.path().join("disk");
    let Some(mounted) = Mounted::tmpfs(disk.to_str().unwrap(), "20m") else { return };
    hand_over(&disk);
    let archive = Archive::at(disk.join("r").to_str().unwrap(), &[]);
    let server = noisy_server(17, &["archive_mode=on", "archive_command="]);
    archive.base(&server);
    noise(&server, 24_000);
    mark(&server, 1);
    let segments = waiting(&server);
    assert!(!segments.is_empty(), "{segments:?}");
    let path = server.data_dir().join("pg_wal").join(&segments[0]);
    let refused = archive.run(&["pg", "wal-push", path.to_str().unwrap()]).ends(7);
    assert!(refused.stderr.contains("error[HF-STORE-002]"), "{}", refused.stderr);
    // The server itself hears the same, and keeps everything.
    archive_with(&server, &archive);
    server.wait_until("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver");
    assert!(server.log().contains("HF-STORE-002"), "{}", server.log());
    assert_eq!(waiting(&server)[..segments.len()], segments);
    archive.run(&["check", "--read-data"]).ends(0);
    mounted.remount("size=300m");
    mark(&server, 2);
    archived(&server);
    assert_eq!(waiting(&server).len(), 0);
    archive.run(&["check", "--read-data"]).ends(0);
    archive.run(&["pg", "status", "shop", "--offline"]).ends(0);
    let recovered = archive.recovered(17, "data", &[]);
    assert_eq!(marks(&recovered), "1 2");
    assert_eq!(count(&recovered), count(&server));
}

/// Segments that wait to be archived, oldest first.
pub fn waiting(server: &PostgresServer) -> Vec<String> {
    let names = fs::read_dir(server.data_dir().join("pg_wal/archive_status")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let ready = names.filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned()));
    let mut ready: Vec<String> = ready.collect();
    ready.sort();
    ready
}

#[test]
fn a_stream_into_a_full_repository_confirms_nothing_and_goes_on() {
    let folder = servers_folder();
    let disk = folder.path().join("disk");
    let Some(mounted) = Mounted::tmpfs(disk.to_str().unwrap(), "20m") else { return };
    hand_over(&disk);
    let archive = Archive::at(disk.join("r").to_str().unwrap(), &[]);
    let server = noisy_server(18, &[]);
    let mut stream = Stream::start(&archive, &server);
    server.wait_until("postgres", "SELECT count(*) = 1 FROM pg_replication_slots");
    archive.base(&server);
    let before = marked(&server, 1);
    durable(&server, &before);
    noise(&server, 24_000);
    let lsn = marked(&server, 2);
    stream.wait_for("HF-STORE-002");
    let kept = format!("SELECT bool_and(restart_lsn < '{lsn}') FROM pg_replication_slots");
    assert_eq!(server.sql("postgres", &kept), "t");
    assert!(!stream.has_ended());
    // Told to stop while it cannot save it says so, and the server still has everything.
    let (code, said) = stream.stop();
    assert_eq!(code, 143, "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(server.sql("postgres", &kept), "t");
    archive.run(&["check", "--read-data"]).ends(0);
    let stream = Stream::start(&archive, &server);
    stream.wait_for("HF-STORE-002");
    mounted.remount("size=300m");
    durable(&server, &lsn);
    let lsn = marked(&server, 3);
    durable(&server, &lsn);
    drop(stream);
    archive.run(&["check", "--read-data"]).ends(0);
    archive.run(&["pg", "status", "shop", "--offline"]).ends(0);
    let recovered = archive.recovered(18, "data", &[]);
    assert_eq!(marks(&recovered), "1 2 3");
    assert_eq!(count(&recovered), count(&server));
}

#[test]
fn another_cluster_is_refused_until_it_is_said_to_take_the_place() {
    let archive = Archive::new();
    let first = archive.server(17);
    first.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&first);
    // A later position than that of a new cluster.
    for _ in 0..3 {
        archived(&first);
    }
    mark(&first, 1);
    archived(&first);
    let lsn = marked(&first, 2);
    let first_named = named(&first, "postgres");
    archive.run(&["pg", "stream", &first_named, "--until", &lsn]).ends(0);
    let count = || archive.run(&["snapshots"]).ends(0).stdout.lines().count();
    let before = count();
    let second = PostgresServer::with(17, &["archive_mode=on", "archive_command="], &[]);
    second.sql("postgres", "CREATE TABLE marks (n int)");
    mark(&second, 7);
    second.sql("postgres", "SELECT pg_switch_wal()");
    let named = named(&second, "postgres");
    let segment = second.data_dir().join("pg_wal").join(&waiting(&second)[0]);
    let base = ["backup", "--postgres", &named, "--method", "base"];
    for arguments in [
        &["pg", "stream", &named, "--until", "0/1"][..],
        &["pg", "wal-push", segment.to_str().unwrap()],
        &base,
    ] {
        let refused = archive.run(arguments).ends(20);
        assert!(refused.stderr.contains("error[HF-PG-007]"), "{}", refused.stderr);
        assert_eq!(count(), before);
    }
    assert_eq!(second.sql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(marks(&archive.recovered(17, "before", &[])), "1 2");
    // Said to take the place, it does, with its log.
    archive.run(&[&base[..], &["--new-cluster"]].concat()).ends(0);
    archive_with(&second, &archive);
    mark(&second, 8);
    archived(&second);
    let lsn = marked(&second, 9);
    archive.run(&["pg", "stream", "shop", "--until", &lsn]).ends(0);
    archive.run(&["pg", "status", "shop"]).ends(0);
    assert_eq!(marks(&archive.recovered(17, "after", &[])), "7 8 9");
    let refused = archive.run(&["pg", "stream", &first_named, "--until", "0/1"]).ends(20);
    assert!(refused.stderr.contains("error[HF-PG-007]"), "{}", refused.stderr);
}

#[test]
fn recovery_ends_with_the_transaction_that_is_named() {
    let archive = Archive::new();
    let server = archive.server(17);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&server);
    let numbered = |number: u32| {
        let statement = format!(
            "BEGIN; INSERT INTO marks VALUES ({number}); SELECT pg_current_xact_id(); COMMIT"
        );
        server.sql("postgres", &statement)
    };
    numbered(1);
    let named = numbered(2);
    numbered(3);
    archived(&server);
    assert_eq!(marks(&archive.recovered(17, "xid", &["--to-xid", &named])), "1 2");
    assert_eq!(marks(&archive.recovered(17, "all", &[])), "1 2 3");
    // One that never was is refused before anything is written.
    let target = archive.path("never");
    let text = target.to_str().unwrap();
    let refused =
        archive.run(&["restore", "source:shop", "--target", text, "--to-xid", "4000000"]).ends(1);
    assert!(refused.stderr.contains("HF-PG-011"), "{}", refused.stderr);
    assert!(!target.exists());
}
