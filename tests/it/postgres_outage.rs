//! The store does not answer while the log of a real server comes, and while it is read again.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use crate::fault_proxy::{Fault, FaultProxy};
use crate::postgres_faults::waiting;
use crate::postgres_server::{PostgresServer, hand_over};
use crate::postgres_stream::{Stream, durable, marked};
use crate::postgres_wal::{Archive, archived, mark, marks};
use crate::servers::S3Server;

/// A repository in a store that can be taken away.
struct Place {
    proxy: FaultProxy,
    archive: Archive,
    _store: S3Server,
}

fn place() -> Place {
    let store = S3Server::in_process();
    let proxy = FaultProxy::before(&store.endpoint, Duration::from_secs(1));
    let repository = format!("s3://{}/r?endpoint={}", store.bucket, proxy.endpoint);
    let variables = [
        ("AWS_ACCESS_KEY_ID", &*store.access_key),
        ("AWS_SECRET_ACCESS_KEY", &*store.secret_key),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let archive = Archive::at(&repository, &variables);
    Place { proxy, archive, _store: store }
}

impl Place {
    /// Every connection breaks from now on.
    fn take_away(&self) {
        self.proxy.random(1, 1.0, &[Fault::DropBefore]);
    }

    fn server(&self, version: u32) -> PostgresServer {
        let settings = ["archive_mode=on", &self.archive.archive_command()];
        let server = PostgresServer::with(version, &settings, &["--wal-segsize=1"]);
        server.sql("postgres", "CREATE TABLE marks (n int)");
        server
    }
}

#[test]
fn a_push_of_the_log_fails_while_the_store_is_away() {
    let place = place();
    let server = place.server(15);
    place.archive.base(&server);
    mark(&server, 1);
    archived(&server);
    place.take_away();
    mark(&server, 2);
    server.sql("postgres", "SELECT pg_switch_wal()");
    server.wait_until("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver");
    let segment = waiting(&server).remove(0);
    let path = server.data_dir().join("pg_wal").join(&segment);
    let refused = place.archive.run(&["pg", "wal-push", path.to_str().unwrap()]).ends(14);
    assert!(refused.stderr.contains("error[HF-STORE-"), "{}", refused.stderr);
    assert_eq!(waiting(&server)[0], segment);
    place.proxy.heal();
    mark(&server, 3);
    archived(&server);
    place.archive.run(&["pg", "status", "shop", "--offline"]).ends(0);
    assert_eq!(marks(&place.archive.recovered(15, "data", &[])), "1 2 3");
}

#[test]
fn a_stream_outlives_an_outage_of_the_store_and_of_the_server_at_once() {
    let place = place();
    let mut server = PostgresServer::with(17, &[], &["--wal-segsize=1"]);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    let mut stream = Stream::start(&place.archive, &server);
    server.wait_until("postgres", "SELECT count(*) = 1 FROM pg_replication_slots");
    place.archive.base(&server);
    let before = marked(&server, 1);
    durable(&server, &before);
    // When the server comes back the store is away.
    server.kill();
    place.take_away();
    server.start_again();
    let lsn = marked(&server, 2);
    stream.wait_for("the log is not saved");
    let kept = format!("SELECT bool_and(restart_lsn < '{lsn}') FROM pg_replication_slots");
    assert_eq!(server.sql("postgres", &kept), "t");
    // And once more, while it tries.
    server.kill();
    server.start_again();
    mark(&server, 3);
    assert_eq!(server.sql("postgres", &kept), "t");
    assert!(!stream.has_ended(), "{}", stream.said());
    place.proxy.heal();
    let lsn = marked(&server, 4);
    durable(&server, &lsn);
    drop(stream);
    place.archive.run(&["pg", "status", "shop", "--offline"]).ends(0);
    assert_eq!(marks(&place.archive.recovered(17, "data", &[])), "1 2 3 4");
}

#[test]
fn recovery_does_not_take_an_outage_for_the_end_of_the_log() {
    let place = place();
    let server = place.server(18);
    place.archive.base(&server);
    for number in 1..=3 {
        mark(&server, number);
        server.sql("postgres", "SELECT pg_switch_wal()");
    }
    archived(&server);
    let target = place.archive.path("data");
    let text = target.to_str().unwrap();
    place.archive.run(&["restore", "source:shop:/shop", "--target", text]).ends(0);
    let fetch = place.archive.path("run");
    let mut settings = OpenOptions::new().append(true).open(target.join("postgresql.auto.conf"));
    let settings = settings.as_mut().unwrap();
    writeln!(settings, "restore_command = '{} pg wal-fetch %f %p'", fetch.display()).unwrap();
    File::create(target.join("recovery.signal")).unwrap();
    hand_over(&target);
    // It answers as soon as it is consistent, long before the end.
    let mut recovering = PostgresServer::on(18, &target, &["archive_mode=off"]);
    recovering.wait_until("postgres", "SELECT count(*) >= 1 FROM marks");
    place.take_away();
    let log = recovering.wait_for_recovery().unwrap_err();
    assert!(log.contains("exited with exit code 255"), "{log}");
    assert!(!log.contains("archive recovery complete"), "{log}");
    assert!(target.join("recovery.signal").exists());
    place.proxy.heal();
    recovering.start_again();
    recovering.wait_for_recovery().unwrap();
    assert_eq!(marks(&recovering), "1 2 3");
}
