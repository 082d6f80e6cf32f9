//! The log streamed from real servers: nothing that was acknowledged is missing afterwards.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::postgres_base::named;
use crate::postgres_server::PostgresServer;
use crate::postgres_wal::{Archive, mark, marks};

/// A stream in the background; killed when dropped.
pub struct Stream {
    process: Child,
    log: PathBuf,
}

impl Stream {
    pub fn start(archive: &Archive, server: &PostgresServer) -> Self {
        let log = archive.path("stream.log");
        let named = named(server, "postgres");
        let mut command = archive.command(&["pg", "stream", &named, "--flush-every", "1s"]);
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { process: command.spawn().unwrap(), log }
    }

    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Tells it to stop; how it has ended, and what it has said.
    pub fn stop(mut self) -> (i32, String) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = self.process.wait().unwrap();
        (status.code().unwrap_or(-1), self.said())
    }

    /// What it has said.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it says that.
    pub fn wait_for(&self, text: &str) {
        let begun = Instant::now();
        while !self.said().contains(text) {
            assert!(begun.elapsed() < Duration::from_mins(1), "{text} is not in\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Writes a mark; where the log is after it.
pub fn marked(server: &PostgresServer, number: u32) -> String {
    mark(server, number);
    server.sql("postgres", "SELECT pg_current_wal_lsn()")
}

/// Waits until the slot says that the log up to a position is durable.
pub fn durable(server: &PostgresServer, lsn: &str) {
    let query = format!(
        "SELECT coalesce(bool_or(restart_lsn >= '{lsn}'), false) FROM pg_replication_slots"
    );
    server.wait_until("postgres", &query);
}

#[test]
fn what_the_slot_says_is_durable_comes_back_though_everything_is_killed() {
    let archive = Archive::new();
    let mut server = PostgresServer::start(17);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    let stream = Stream::start(&archive, &server);
    server.wait_until("postgres", "SELECT count(*) = 1 FROM pg_replication_slots");
    archive.base(&server);
    server.run("pgbench", &["-i", "-q", "postgres"]);
    let mut load = server.command("pgbench");
    let mut load = load.args(["-n", "-c", "2", "-T", "600", "postgres"]).spawn().unwrap();
    let mut stream = stream;
    for number in 1..=4_u32 {
        std::thread::sleep(Duration::from_millis(u64::from(number) * 130));
        stream.kill();
        stream = Stream::start(&archive, &server);
        let lsn = marked(&server, number);
        durable(&server, &lsn);
    }
    load.kill().unwrap();
    load.wait().unwrap();
    // The server restarts under the stream, which finds it again.
    server.stop();
    server.start_again();
    let lsn = marked(&server, 5);
    durable(&server, &lsn);
    stream.kill();
    server.kill();
    let recovered = archive.recovered(17, "data", &[]);
    assert_eq!(marks(&recovered), "1 2 3 4 5");
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";
    assert_eq!(recovered.sql("postgres", sums), "t");
    let status = archive.run(&["pg", "status", "shop", "--offline"]);
    assert_eq!(status.code, 0, "{}", status.stderr);
}

/// A standby of a server of version 15, which is the one whose client library fits its server.
pub fn standby_of(first: &PostgresServer, archive: &Archive) -> PostgresServer {
    let folder = archive.path("standby");
    let text = folder.to_str().unwrap();
    let place = format!("host={} port={}", first.socket_dir().display(), first.port());
    first.run("pg_basebackup", &["-D", text, "-R", "-c", "fast", "-d", &place, "-U", "postgres"]);
    PostgresServer::on(15, &folder, &[])
}

pub fn caught_up(standby: &PostgresServer, lsn: &str) {
    let query = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    standby.wait_until("postgres", &query);
}

#[test]
fn a_stream_ends_where_it_is_told_and_goes_on_over_a_promotion() {
    let archive = Archive::new();
    let mut first = PostgresServer::with(15, &["wal_keep_size=256MB"], &[]);
    first.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&first);
    let mut second = standby_of(&first, &archive);
    let lsn = marked(&first, 1);
    archive.run(&["pg", "stream", "shop", "--until", &lsn]).ends(0);
    let lsn = marked(&first, 2);
    caught_up(&second, &lsn);
    first.kill();
    second.promote();
    let lsn = marked(&second, 3);
    archive.run(&["pg", "stream", &named(&second, "postgres"), "--until", &lsn]).ends(0);
    let recovered = archive.recovered(15, "data", &[]);
    assert_eq!(marks(&recovered), "1 2 3");
    assert_eq!(recovered.sql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "3");
}

#[test]
fn a_log_that_the_server_has_removed_is_a_gap_and_the_stream_goes_on() {
    let archive = Archive::new();
    let server = PostgresServer::start(17);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&server);
    let lsn = marked(&server, 1);
    archive.run(&["pg", "stream", "shop", "--until", &lsn]).ends(0);
    // Somebody drops the slot, and the server removes what it held.
    server.sql("postgres", "SELECT pg_drop_replication_slot('holdfast_shop')");
    for _ in 0..4 {
        server.sql("postgres", "SELECT pg_logical_emit_message(false, 'test', 'x')");
        server.sql("postgres", "SELECT pg_switch_wal()");
        server.sql("postgres", "CHECKPOINT");
    }
    let lsn = marked(&server, 2);
    let streamed = archive.run(&["pg", "stream", "shop", "--until", &lsn]).ends(0);
    assert!(streamed.stderr.contains("HF-PG-014"), "{}", streamed.stderr);
    let status = archive.run(&["pg", "status", "shop"]).ends(4);
    assert!(status.stderr.contains("HF-PG-014"), "{}", status.stderr);
    assert_eq!(marks(&archive.recovered(17, "before", &[])), "1");
    archive.base(&server);
    assert_eq!(marks(&archive.recovered(17, "after", &[])), "1 2");
}
