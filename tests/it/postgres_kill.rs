//! Whatever saves a real server under load is killed at random moments: nothing that was committed
//! is missing afterwards, and nothing that is damaged was saved.

use std::process::{Child, Stdio};
use std::time::Duration;

use crate::kill::draw;
use crate::postgres_base::{done, named, nothing_is_saved, repository};
use crate::postgres_faults::{archive_with, waiting};
use crate::postgres_server::PostgresServer;
use crate::postgres_stream::{Stream, durable};
use crate::postgres_wal::{Archive, archived};
use crate::replica_kill::{moments, time_of};

/// Every row of `pgbench`, as numbers that do not depend on their order.
const SUMS: &str = "SELECT count(*), sum(hashtext(t::text)::bigint) FROM pgbench_accounts t; \
                    SELECT count(*), sum(hashtext(t::text)::bigint) FROM pgbench_history t; \
                    SELECT sum(tbalance) FROM pgbench_tellers; \
                    SELECT sum(bbalance) FROM pgbench_branches; \
                    SELECT (SELECT sum(abalance) FROM pgbench_accounts) \
                         = (SELECT sum(delta) FROM pgbench_history)";

/// A load that ends with the value.
struct Load(Child);

impl Load {
    fn on(server: &PostgresServer) -> Self {
        let mut load = server.command("pgbench");
        load.args(["-n", "-c", "2", "-T", "600", "-R", "300", "postgres"]);
        let load = load.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(load.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts the program and kills it after that time; whether it had ended well before.
fn killed_after(archive: &Archive, arguments: &[&str], micros: u64) -> bool {
    let mut command = archive.command(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_micros(micros));
    child.kill().unwrap();
    child.wait().unwrap().success()
}

/// The end of the log has every row of the server, at which nothing happens any more.
fn assert_all_is_there(archive: &Archive, server: &PostgresServer) {
    archive.run(&["check", "--read-data"]).ends(0);
    let status = archive.run(&["pg", "status", "shop", "--offline"]).ends(0);
    assert!(!status.stderr.contains("HF-PG-014"), "{}", status.stderr);
    let recovered = archive.recovered(server.version(), "recovered", &[]);
    let sums = recovered.sql("postgres", SUMS);
    assert!(sums.ends_with("\nt"), "{sums}");
    assert_eq!(sums, server.sql("postgres", SUMS));
    recovered.run("pg_amcheck", &["--install-missing", "--heapallindexed", "postgres"]);
}

/// Ends the segment, and names the oldest that waits to be archived.
fn oldest_waiting(server: &PostgresServer) -> String {
    server.sql("postgres", "SELECT pg_logical_emit_message(false, 'test', 'x')");
    server.sql("postgres", "SELECT pg_switch_wal()");
    let oldest = waiting(server).into_iter().next().unwrap();
    server.data_dir().join("pg_wal").join(oldest).to_str().unwrap().to_owned()
}

#[test]
fn a_push_of_the_log_that_is_killed_costs_nothing() {
    let archive = Archive::new();
    // Without a command the server keeps what it has for us.
    let settings = ["archive_mode=on", "archive_command=", "wal_keep_size=1GB"];
    let server = PostgresServer::with(17, &settings, &["--wal-segsize=1"]);
    server.run("pgbench", &["-i", "-q", "postgres"]);
    archive.base(&server);
    let load = Load::on(&server);
    // What has come together by now goes at once; how long one takes is seen from the next.
    archive.run(&["pg", "wal-push", &oldest_waiting(&server)]).ends(0);
    let first = oldest_waiting(&server);
    let whole = time_of(|| drop(archive.run(&["pg", "wal-push", &first]).ends(0)));
    let (mut seed, mut killed) = (11, 0);
    for moment in 0..moments(100, 25) {
        let segment = oldest_waiting(&server);
        let arguments = ["pg", "wal-push", &segment];
        killed += u64::from(!killed_after(&archive, &arguments, draw(&mut seed, whole)));
        if moment % 5 == 4 {
            archive.run(&arguments).ends(0);
        }
    }
    assert!(killed > 10, "only {killed} were killed");
    drop(load);
    archive_with(&server, &archive);
    archived(&server);
    assert_all_is_there(&archive, &server);
}

#[test]
fn a_stream_that_is_killed_costs_nothing() {
    let archive = Archive::new();
    let server = PostgresServer::with(18, &[], &["--wal-segsize=1"]);
    server.run("pgbench", &["-i", "-q", "postgres"]);
    let stream = Stream::start(&archive, &server);
    server.wait_until("postgres", "SELECT count(*) = 1 FROM pg_replication_slots");
    drop(stream);
    archive.base(&server);
    let load = Load::on(&server);
    let mut seed = 12;
    for _ in 0..moments(60, 8) {
        let stream = Stream::start(&archive, &server);
        std::thread::sleep(Duration::from_micros(draw(&mut seed, 2_500_000)));
        stream.kill();
    }
    drop(load);
    let stream = Stream::start(&archive, &server);
    durable(&server, &server.sql("postgres", "SELECT pg_current_wal_insert_lsn()"));
    stream.kill();
    assert_all_is_there(&archive, &server);
}

#[test]
fn a_base_backup_that_is_killed_costs_nothing() {
    let archive = Archive::new();
    let server = archive.server(15);
    server.run("pgbench", &["-i", "-q", "postgres"]);
    let named = named(&server, "postgres");
    let arguments = ["backup", "--postgres", &named, "--method", "base"];
    let load = Load::on(&server);
    let whole = time_of(|| archive.base(&server));
    let (mut seed, mut killed, mut saved) = (13, 0, 1);
    for _ in 0..moments(30, 4) {
        let is_done = killed_after(&archive, &arguments, draw(&mut seed, whole));
        killed += u64::from(!is_done);
        let bases = archive.run(&["snapshots", "--json"]).ends(0).stdout;
        let bases = bases.matches("\"source\":\"shop\"").count();
        assert!(bases == saved || bases == saved + 1, "{saved} then {bases}");
        assert!(!is_done || bases == saved + 1, "success without a snapshot");
        saved = bases;
    }
    assert!(killed > 0, "none was killed");
    // What the server kept for them it keeps no longer.
    let kept = "SELECT count(*) = 0 FROM pg_replication_slots";
    server.wait_until("postgres", kept);
    archive.base(&server);
    drop(load);
    archived(&server);
    assert_all_is_there(&archive, &server);
}

#[test]
fn a_server_that_is_killed_during_a_base_backup_leaves_nothing() {
    let mut server = PostgresServer::start(18);
    server.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g, repeat(md5(g::text), 20) AS t FROM generate_series(1, 60000) g",
    );
    let program = repository();
    let named = named(&server, "postgres");
    let outcome = std::thread::scope(|scope| {
        let program = &program;
        let arguments = ["backup", "--postgres", &named, "--method", "base"];
        let saving = scope.spawn(move || program.run(&arguments));
        let query = "SELECT count(*) > 0 FROM pg_stat_progress_basebackup \
                     WHERE backup_streamed > 10000000";
        server.wait_until("postgres", query);
        server.kill();
        saving.join().unwrap()
    });
    assert_eq!(outcome.code, 20, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("HF-PG-001"), "{}", outcome.stderr);
    nothing_is_saved(&program);
    server.start_again();
    done(&program.run(&["backup", "--postgres", "shop", "--method", "base"]));
    done(&program.run(&["check", "--read-data"]));
}
