//! Journals of real servers: what was acknowledged comes back, at any moment, whatever is killed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::postgres_base::{done, repository};
use crate::program::{Outcome, Program};
use crate::redis_dump::named;
use crate::redis_server::{KINDS, PATIENCE, RedisServer, public_program};

/// A stream in the background; killed when dropped.
pub struct Stream {
    process: Child,
    log: PathBuf,
}

impl Stream {
    pub fn start(program: &Program, server: &str) -> Self {
        Self::start_with(program, server, &[])
    }

    pub fn start_with(program: &Program, server: &str, more: &[&str]) -> Self {
        let log = program.path("stream.log");
        let words = [&["redis", "stream", server, "--flush-every", "1s"], more].concat();
        let mut command = program.command(&words);
        let log_file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
        Self { process: command.spawn().unwrap(), log }
    }

    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Tells it to stop, which it does without an error.
    pub fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "{}", self.said());
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn wait_for(&mut self, text: &str, count: usize) {
        let begun = Instant::now();
        while self.said().matches(text).count() < count {
            let is_over = self.process.try_wait().unwrap().is_some();
            assert!(!is_over && begun.elapsed() < PATIENCE, "no {text} in\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

pub fn started(program: &Program, server: &RedisServer) -> Stream {
    let mut stream = Stream::start(program, &named(server));
    stream.wait_for("keys saved", 1);
    stream
}

/// Waits until all that the server has done so far is durable, as it says itself.
pub fn durable(server: &RedisServer) {
    let mut connection = server.connect();
    let begun = Instant::now();
    crate::redis_server::ask(&mut connection, "SET durable yes").unwrap();
    loop {
        let replicas = crate::redis_server::ask(&mut connection, "WAIT 1 1000").unwrap();
        if crate::redis_server::shown(replicas) == "1" {
            return;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
}

/// A moment after everything before it and before everything after it.
fn moment() -> String {
    std::thread::sleep(Duration::from_millis(250));
    let moment = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(250));
    moment
}

fn restore(program: &Program, more: &[&str]) -> (TempDir, Outcome) {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let target = folder.path().to_str().unwrap().to_owned();
    let words = [&["restore", "source:cache", "--target", &target], more].concat();
    let outcome = program.run(&words);
    (folder, outcome)
}

/// A server on what is restored at a point.
pub fn restored(program: &Program, kind: &str, more: &[&str]) -> RedisServer {
    let (folder, outcome) = restore(program, more);
    done(&outcome);
    RedisServer::start_in(kind, folder, &["--appendonly", "yes"]).unwrap()
}

pub fn status(program: &Program) -> (i32, serde_json::Value) {
    let outcome = program.run(&["redis", "status", "cache", "--offline", "--json"]);
    let last = outcome.stdout.lines().last().unwrap_or_else(|| panic!("{}", outcome.stderr));
    (outcome.code, serde_json::from_str(last).unwrap())
}

#[test]
fn redis_journal_of_every_server_leads_to_any_moment() {
    for kind in KINDS {
        let Some(server) = RedisServer::start(kind, &[]) else { continue };
        server.ask("SET before 1");
        let program = repository();
        let stream = started(&program, &server);
        server.ask("SET first 1");
        let first = moment();
        let mut connection = server.connect();
        for command in ["SELECT 5", "SET other 5", "PING"] {
            crate::redis_server::ask(&mut connection, command).unwrap();
        }
        // It comes as a transaction.
        let script = b"redis.call('INCR', 'n') return redis.call('INCR', 'n')";
        connection.command(&[b"EVAL", script, b"0"], "running a script").unwrap();
        server.ask("EXPIRE first 1000");
        let second = moment();
        server.ask("FLUSHALL");
        let third = moment();
        server.ask("SET last 1");
        durable(&server);
        let digest = server.digest();
        stream.stop();
        let at_first = restored(&program, kind, &["--to-time", &first]);
        assert_eq!(at_first.ask("GET first") + &at_first.ask("DBSIZE"), "12", "{kind}");
        let at_second = restored(&program, kind, &["--to-time", &second]);
        assert_eq!(at_second.ask("DBSIZE"), "2", "{kind}");
        let mut other = at_second.connect();
        crate::redis_server::ask(&mut other, "SELECT 5").unwrap();
        let n = crate::redis_server::ask(&mut other, "GET n").unwrap();
        assert_eq!(crate::redis_server::shown(n), "2");
        let at_third = restored(&program, kind, &["--to-time", &third]);
        assert_eq!(at_third.ask("DBSIZE"), "0", "{kind}");
        let at_end = restored(&program, kind, &["--to", "latest"]);
        assert_eq!(at_end.digest(), digest, "{kind}");
        let (code, shown) = status(&program);
        assert_eq!((code, shown["gaps"].as_array().unwrap().len()), (0, 0), "{shown}");
    }
}

#[test]
fn redis_append_only_files_are_whole_for_the_servers_own_tools() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    server.fill(1000);
    let mut program = repository();
    let stream = started(&program, &server);
    server.ask("SET a 1");
    durable(&server);
    stream.stop();
    let tools = public_program("redis-7").unwrap();
    program.set("PATH", &format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap()));
    program.set("TMPDIR", "/tmp");
    for (asserted, code) in [("GET a = 1", 0), ("GET a = 2", 4)] {
        let words = ["drill", "source:cache", "--to", "latest", "--assert", asserted];
        let drilled = program.run(&words);
        assert_eq!(drilled.code, code, "{}\n{}", drilled.stdout, drilled.stderr);
        let said = format!("{}{}", drilled.stdout, drilled.stderr);
        assert!(said.contains("commands of the journal"), "{said}");
    }
    let (folder, outcome) = restore(&program, &["--to", "latest"]);
    done(&outcome);
    let manifest = folder.path().join("appendonlydir/appendonly.aof.manifest");
    let output = Command::new("redis-check-aof").arg(manifest).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("All AOF files and manifest are valid"));
    // A second time into the same folder is refused.
    let target = folder.path().to_str().unwrap();
    let again = program.run(&["restore", "source:cache", "--to", "latest", "--target", target]);
    assert!(again.code != 0 && again.stderr.contains("HF-REDIS-016"), "{}", again.stderr);
}

#[test]
fn redis_stream_goes_on_where_it_was_and_says_a_gap() {
    let Some(mut server) = RedisServer::start("redis-7", &[]) else { return };
    let program = repository();
    let stream = started(&program, &server);
    server.ask("SET a 1");
    durable(&server);
    let refused = program.run(&["redis", "stream", "cache"]);
    assert!(refused.stderr.contains("HF-REDIS-011"), "{}", refused.stderr);
    stream.stop();
    server.ask("SET b 2");
    let mut stream = Stream::start(&program, "cache");
    stream.wait_for("goes on at", 1);
    server.ask("SET c 3");
    durable(&server);
    let before = moment();
    server.ask("SET c 4");
    durable(&server);
    assert_eq!(stream.said().matches("keys saved").count(), 1);
    assert_eq!(status(&program).0, 0);
    // Another data set under the same name, without a history.
    server.kill();
    server.start_again();
    stream.wait_for("keys saved", 2);
    assert!(stream.said().contains("HF-REDIS-010"), "{}", stream.said());
    server.ask("SET d 1");
    durable(&server);
    stream.stop();
    let (code, shown) = status(&program);
    assert_eq!((code, shown["gaps"].as_array().unwrap().len()), (4, 1), "{shown}");
    let within = shown["gaps"][0]["from"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let within = (within + Duration::from_millis(1)).to_string();
    let (folder, outcome) = restore(&program, &["--to-time", &within]);
    assert!(outcome.stderr.contains("HF-REDIS-014"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the nearest before it: --to-time"), "{}", outcome.stderr);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let at = restored(&program, "redis-7", &["--to-time", &before]);
    let values = ["GET a", "GET b", "GET c"].map(|command| at.ask(command));
    assert_eq!(values, ["1", "2", "3"]);
    assert_eq!(restored(&program, "redis-7", &["--to", "latest"]).ask("DBSIZE"), "2");
}

#[test]
fn redis_acknowledged_writes_survive_kills_of_the_stream_under_load() {
    let arguments = ["--repl-backlog-size", "100mb"];
    let Some(server) = RedisServer::start("redis-7", &arguments) else { return };
    let program = repository();
    let mut stream = started(&program, &server);
    let mut load = Command::new("redis-benchmark");
    load.args(["-s", server.path("server.sock").to_str().unwrap(), "-t", "set,lpush,incr", "-l"]);
    load.args(["-q", "-r", "1000", "-c", "5"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut load = load.spawn().unwrap();
    let kills = if std::env::var_os("CI").is_some() { 6 } else { 3 };
    let mut connection = server.connect();
    let mut acknowledged = 0;
    for round in 0..kills {
        let (begun, before) = (Instant::now(), acknowledged);
        while acknowledged == before || begun.elapsed() < Duration::from_millis(700 + 200 * round) {
            assert!(begun.elapsed() < PATIENCE, "{}", stream.said());
            let value = acknowledged + 1;
            crate::redis_server::ask(&mut connection, &format!("SET mark {value}")).unwrap();
            let replicas = crate::redis_server::ask(&mut connection, "WAIT 1 500").unwrap();
            if crate::redis_server::shown(replicas) == "1" {
                acknowledged = value;
            }
        }
        stream.kill();
        let at = restored(&program, "redis-7", &["--to", "latest"]);
        let mark: u64 = at.ask("GET mark").parse().unwrap_or(0);
        assert!(mark >= acknowledged, "{mark} {acknowledged}");
        stream = Stream::start(&program, "cache");
    }
    load.kill().unwrap();
    load.wait().unwrap();
    assert!(acknowledged > 0);
    durable(&server);
    stream.stop();
    let at = restored(&program, "redis-7", &["--to", "latest"]);
    assert_eq!(at.digest(), server.digest());
    done(&program.run(&["check", "--read-data"]));
}

#[test]
fn redis_stream_outlives_an_outage_of_the_repository() {
    let Some(server) = RedisServer::start("valkey-9", &[]) else { return };
    let program = repository();
    let mut stream = started(&program, &server);
    server.ask("SET a 1");
    durable(&server);
    let home = program.path("repository");
    let aside = program.path("aside");
    fs::rename(&home, &aside).unwrap();
    server.ask("SET b 2");
    stream.wait_for("the journal is not saved", 1);
    let mut connection = server.connect();
    crate::redis_server::ask(&mut connection, "SET c 3").unwrap();
    let replicas = crate::redis_server::ask(&mut connection, "WAIT 1 300").unwrap();
    assert_eq!(crate::redis_server::shown(replicas), "0");
    fs::rename(&aside, &home).unwrap();
    durable(&server);
    let digest = server.digest();
    stream.stop();
    assert_eq!(restored(&program, "valkey-9", &["--to", "latest"]).digest(), digest);
}

#[test]
fn redis_stream_follows_a_failover_without_a_gap() {
    let Some(first) = RedisServer::start("redis-7", &["--port", "0"]) else { return };
    drop(first);
    let port = crate::redis_server::free_port().to_string();
    let Some(mut primary) = RedisServer::start("redis-7", &["--port", &port]) else { return };
    let Some(replica) = RedisServer::start("redis-7", &["--replicaof", "127.0.0.1", &port]) else {
        return;
    };
    replica.wait_until("the replica follows", |info| info.contains("master_link_status:up"));
    let program = repository();
    let stream = started(&program, &replica);
    primary.ask("SET a 1");
    replica.wait_until("it has one key", |info| info.contains("db0:keys=1"));
    primary.kill();
    replica.ask("REPLICAOF NO ONE");
    replica.ask("SET b 2");
    durable(&replica);
    stream.stop();
    assert_eq!(status(&program).0, 0);
    let at = restored(&program, "redis-7", &["--to", "latest"]);
    assert_eq!(at.ask("GET a") + &at.ask("GET b"), "12");
}

#[test]
fn redis_journal_of_a_replica_is_of_the_databases_of_its_primary() {
    for kind in KINDS {
        let port = crate::redis_server::free_port().to_string();
        let ping = ["--repl-ping-replica-period", "1"];
        let arguments = [&["--port", &port][..], &ping].concat();
        let Some(primary) = RedisServer::start(kind, &arguments) else { continue };
        let follows = [&["--replicaof", "127.0.0.1", &port][..], &ping].concat();
        let replica = RedisServer::start(kind, &follows).unwrap();
        replica.wait_until("the replica follows", |info| info.contains("master_link_status:up"));
        let mut connection = primary.connect();
        let mut write = |commands: &[&str]| {
            for command in commands {
                crate::redis_server::ask(&mut connection, command).unwrap();
            }
        };
        write(&["SELECT 3", "SET before 1"]);
        replica.wait_until("the replica has it", |info| info.contains("db3:keys=1"));
        let program = repository();
        let stream = started(&program, &replica);
        // The primary says no database any more: it is the same one.
        write(&["SET in3 yes", "INCR before"]);
        replica.wait_until("the replica has it", |info| info.contains("db3:keys=2"));
        std::thread::sleep(Duration::from_millis(2500));
        stream.stop();
        // Nothing but signs of life lies behind this dump.
        done(&program.run(&["backup", "--redis", "cache"]));
        let stream = Stream::start(&program, "cache");
        std::thread::sleep(Duration::from_millis(2500));
        stream.stop();
        let mut stream = Stream::start(&program, "cache");
        stream.wait_for("goes on at", 2);
        write(&["SET again 1"]);
        replica.wait_until("the replica has it", |info| info.contains("db3:keys=3"));
        std::thread::sleep(Duration::from_millis(1500));
        let digest = replica.digest();
        stream.stop();
        let at = restored(&program, kind, &["--to", "latest"]);
        assert_eq!(at.digest(), digest, "{kind}");
    }
}

#[test]
fn redis_journal_is_kept_as_long_as_a_dump_needs_it() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    let program = repository();
    let stream = started(&program, &server);
    server.ask("SET a 1");
    durable(&server);
    done(&program.run(&["backup", "--redis", "cache"]));
    server.ask("SET b 2");
    durable(&server);
    stream.stop();
    let plan = program.run(&["forget", "--keep-last", "1"]);
    done(&plan);
    let at = restored(&program, "redis-7", &["--to", "latest"]);
    let (_, shown) = status(&program);
    let snapshots = program.run(&["snapshots", "--json"]).stdout;
    let values = at.ask("GET a") + &at.ask("GET b");
    assert_eq!(values, "12", "{shown}\n{snapshots}\n{}", plan.stdout);
    assert_eq!(shown["dumps"].as_array().unwrap().len(), 1, "{shown}");
}

#[test]
fn redis_stream_takes_a_new_dump_where_none_is_kept_any_more() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    let program = repository();
    let stream = started(&program, &server);
    server.ask("SET a 1");
    durable(&server);
    stream.stop();
    let dump = status(&program).1["dumps"][0]["snapshot"].as_str().unwrap().to_owned();
    done(&program.run(&["forget", &dump]));
    assert_eq!(status(&program).0, 4);
    let mut stream = Stream::start(&program, "cache");
    server.ask("SET b 2");
    stream.wait_for("HF-REDIS-010", 1);
    stream.wait_for("keys saved", 1);
    server.ask("SET c 3");
    durable(&server);
    let digest = server.digest();
    stream.stop();
    assert_eq!(status(&program).1["dumps"].as_array().unwrap().len(), 1);
    assert_eq!(restored(&program, "redis-7", &["--to", "latest"]).digest(), digest);
}

#[test]
fn redis_moment_goes_into_a_server_with_what_was_prolonged_since() {
    for kind in KINDS {
        let Some(server) = RedisServer::start(kind, &[]) else { continue };
        let tools = public_program(kind).unwrap();
        let mut program = repository();
        let path = std::env::var("PATH").unwrap();
        program.set("PATH", &format!("{}:{path}", tools.path().display()));
        // Long enough for the dump, and over before the restore.
        for key in ["persisted", "prolonged", "gone"] {
            server.ask(&format!("SET {key} 1 PX 8000"));
        }
        let stream = started(&program, &server);
        server.ask("PERSIST persisted");
        server.ask("PEXPIRE prolonged 1000000");
        server.ask("INCR prolonged");
        durable(&server);
        stream.stop();
        std::thread::sleep(Duration::from_secs(8));
        let target = RedisServer::start(kind, &[]).unwrap();
        let words = ["restore", "source:cache", "--to", "latest", "--into", &target.uri()];
        done(&program.run(&words));
        let values =
            ["persisted", "prolonged", "gone"].map(|key| target.ask(&format!("GET {key}")));
        assert_eq!(values, ["1", "2", ""], "{kind}");
        assert_eq!(target.ask("PTTL persisted"), "-1");
        // A server that has keys is left alone.
        let refused = program.run(&words);
        assert!(refused.stderr.contains("HF-REDIS-030"), "{}", refused.stderr);
    }
}
