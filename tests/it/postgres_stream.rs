//! The log streamed from real servers: nothing that was acknowledged is missing afterwards.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::postgres_base::named;
use crate::postgres_server::{PostgresServer, server_user};
use crate::postgres_wal::Archive;

/// A stream in the background; killed when dropped.
struct Stream(Child);

impl Stream {
    fn start(archive: &Archive, server: &PostgresServer) -> Self {
        let run = archive.path("run");
        let mut command = match server_user() {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user.to_string(), "--regid", &group.to_string()]);
                command.args(["--clear-groups", "--"]).arg(run);
                command
            }
            None => Command::new(run),
        };
        command.args(["pg", "stream", &named(server, "postgres"), "--flush-every", "1s"]);
        let child = command.current_dir(archive.path("")).stdin(Stdio::null());
        Self(child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn mark(server: &PostgresServer, number: u32) -> String {
    server.sql("postgres", &format!("INSERT INTO marks VALUES ({number})"));
    server.sql("postgres", "SELECT pg_current_wal_lsn()")
}

fn marks(server: &PostgresServer) -> String {
    server.sql("postgres", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM marks")
}

/// Waits until the slot says that the log up to a position is durable.
fn durable(server: &PostgresServer, lsn: &str) {
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
        let lsn = mark(&server, number);
        durable(&server, &lsn);
    }
    load.kill().unwrap();
    load.wait().unwrap();
    // The server restarts under the stream, which finds it again.
    server.stop();
    server.start_again();
    let lsn = mark(&server, 5);
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
fn standby_of(first: &PostgresServer, archive: &Archive) -> PostgresServer {
    let folder = archive.path("standby");
    let text = folder.to_str().unwrap();
    let place = format!("host={} port={}", first.socket_dir().display(), first.port());
    first.run("pg_basebackup", &["-D", text, "-R", "-c", "fast", "-d", &place, "-U", "postgres"]);
    PostgresServer::on(15, &folder, &[])
}

fn caught_up(standby: &PostgresServer, lsn: &str) {
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
    let lsn = mark(&first, 1);
    archive.run(&["pg", "stream", "shop", "--until", &lsn]).ends(0);
    let lsn = mark(&first, 2);
    caught_up(&second, &lsn);
    first.kill();
    second.promote();
    let lsn = mark(&second, 3);
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
    let lsn = mark(&server, 1);
    archive.run(&["pg", "stream", "shop", "--until", &lsn]).ends(0);
    // Somebody drops the slot, and the server removes what it held.
    server.sql("postgres", "SELECT pg_drop_replication_slot('holdfast_shop')");
    for _ in 0..4 {
        server.sql("postgres", "SELECT pg_logical_emit_message(false, 'test', 'x')");
        server.sql("postgres", "SELECT pg_switch_wal()");
        server.sql("postgres", "CHECKPOINT");
    }
    let lsn = mark(&server, 2);
    let streamed = archive.run(&["pg", "stream", "shop", "--until", &lsn]).ends(0);
    assert!(streamed.stderr.contains("HF-PG-014"), "{}", streamed.stderr);
    let status = archive.run(&["pg", "status", "shop"]).ends(4);
    assert!(status.stderr.contains("HF-PG-014"), "{}", status.stderr);
    assert_eq!(marks(&archive.recovered(17, "before", &[])), "1");
    archive.base(&server);
    assert_eq!(marks(&archive.recovered(17, "after", &[])), "1 2");
}
