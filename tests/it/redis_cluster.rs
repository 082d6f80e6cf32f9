//! Real clusters: a dump of each primary, and whether they are one state.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::postgres_base::{done, nothing_is_saved, repository};
use crate::program::{Outcome, Program};
use crate::redis_server::{PATIENCE, RedisServer, free_port};

/// Servers that are a cluster.
struct Cluster {
    nodes: Vec<(RedisServer, u16)>,
}

const RANGES: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

fn node() -> Option<(RedisServer, u16)> {
    let port = free_port();
    let words = [
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "3000",
    ];
    Some((RedisServer::start("redis-7", &words)?, port))
}

impl Cluster {
    /// Three primaries with all slots.
    fn start() -> Option<Self> {
        let nodes = vec![node()?, node()?, node()?];
        for (index, ((server, _), (first, last))) in nodes.iter().zip(RANGES).enumerate() {
            server.ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            server.ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
            server.ask(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[0].1));
        }
        let this = Self { nodes };
        this.wait_until("all are met", |said| {
            said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:3")
        });
        Some(this)
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !self.nodes.iter().all(|(server, _)| is_so(&server.ask("CLUSTER INFO"))) {
            assert!(begun.elapsed() < PATIENCE, "never came: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn fill(&self, keys: u32) {
        let port = self.nodes[0].1.to_string();
        let mut client = Command::new("redis-cli");
        client.args(["-c", "-p", &port]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut client = client.spawn().unwrap();
        let command = |number: u32| {
            let value = format!("{:x}", u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            format!("SET key:{number} {}\n", value.repeat(9))
        };
        let commands: Vec<String> = (0..keys).map(command).collect();
        client.stdin.take().unwrap().write_all(commands.concat().as_bytes()).unwrap();
        assert!(client.wait().unwrap().success());
    }

    fn id(&self, index: usize) -> String {
        self.nodes[index].0.ask("CLUSTER MYID")
    }

    fn uri(&self) -> String {
        let gone = free_port();
        format!("redis+cluster://127.0.0.1:{gone},127.0.0.1:{}", self.nodes[1].1)
    }

    fn backup(&self, program: &Program) -> Outcome {
        program.run(&["backup", "--json", "--redis", &format!("cache={}", self.uri())])
    }

    /// Gives a slot without keys from the first node to the second.
    fn move_a_slot(&self) {
        let first = &self.nodes[0].0;
        let is_empty = |slot: &u16| first.ask(&format!("CLUSTER COUNTKEYSINSLOT {slot}")) == "0";
        let slot = (0..5460).find(is_empty).unwrap();
        let to = self.id(1);
        for index in [1, 0, 2] {
            self.nodes[index].0.ask(&format!("CLUSTER SETSLOT {slot} NODE {to}"));
        }
    }
}

fn new_bytes(outcome: &Outcome) -> u64 {
    done(outcome);
    outcome.events().pop().unwrap()["statistics"]["new_bytes"].as_u64().unwrap()
}

#[track_caller]
fn is_inconsistent(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.code, 3, "{}\n{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("HF-REDIS-026"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains(why), "{why}: {}", outcome.stdout);
}

/// The dumps of the newest snapshot, each in a server; the digests.
fn digests(program: &Program) -> Vec<(String, String)> {
    let target = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    done(&program.run(&["restore", "source:cache", "--target", target.path().to_str().unwrap()]));
    let names = fs::read_dir(target.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "cache.cluster.json").collect();
    names.sort();
    let views = fs::read_to_string(target.path().join("cache.cluster.json")).unwrap();
    assert!(views.contains("\"before\"") && views.contains("\"after\""), "{views}");
    let digest = |name: String| {
        let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
        fs::rename(target.path().join(&name), folder.path().join("dump.rdb")).unwrap();
        let copy = RedisServer::start_in("redis-7", folder, &[]).unwrap();
        assert_ne!(copy.ask("DBSIZE"), "0");
        (name, copy.digest())
    };
    names.into_iter().map(digest).collect()
}

#[test]
fn redis_cluster_is_saved_primary_by_primary_over_failovers() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.fill(6000);
    let program = repository();
    let first = new_bytes(&cluster.backup(&program));
    let names = ["cache.00000.rdb", "cache.05461.rdb", "cache.10923.rdb"];
    let servers = cluster.nodes.iter().map(|(server, _)| server.digest());
    let expected: Vec<(String, String)> =
        names.iter().map(|name| (*name).to_owned()).zip(servers).collect();
    assert_eq!(digests(&program), expected);
    // The way to it is remembered.
    done(&program.run(&["backup", "--redis", "cache"]));
    let replica = node().unwrap();
    replica.0.ask(&format!("CLUSTER MEET 127.0.0.1 {}", cluster.nodes[0].1));
    let begun = Instant::now();
    while !replica.0.ask("CLUSTER NODES").contains(&cluster.id(0)) {
        assert!(begun.elapsed() < PATIENCE);
    }
    replica.0.ask(&format!("CLUSTER REPLICATE {}", cluster.id(0)));
    replica.0.wait_until("it follows", |info| info.contains("master_link_status:up"));
    let begun = Instant::now();
    while !cluster.nodes[0].0.ask("CLUSTER NODES").contains("slave") {
        assert!(begun.elapsed() < PATIENCE);
    }
    replica.0.ask("CLUSTER FAILOVER TAKEOVER");
    replica.0.wait_until("it is the primary", |info| info.contains("role:master"));
    cluster.nodes[0].0.wait_until("it is none any more", |info| info.contains("role:slave"));
    cluster.nodes.push(replica);
    cluster.wait_until("all know", |said| said.contains("cluster_state:ok"));
    let after = new_bytes(&cluster.backup(&program));
    assert!(after < first / 4, "{after} of {first}");
    assert_eq!(digests(&program), expected);
}

#[test]
fn redis_cluster_that_changes_meanwhile_is_kept_and_said_to_be_inconsistent() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.fill(3000);
    let program = repository();
    // The last dump takes some time.
    let last = &cluster.nodes[2].0;
    last.ask("CONFIG SET rdb-key-save-delay 2000");
    let outcome = std::thread::scope(|scope| {
        let run = scope.spawn(|| cluster.backup(&program));
        last.wait_until("it is dumped", |info| info.contains("rdb_bgsave_in_progress:1"));
        cluster.move_a_slot();
        run.join().unwrap()
    });
    is_inconsistent(&outcome, "1 slots have another primary than before");
    let listed = program.run(&["snapshots", "--json"]).stdout;
    assert!(listed.contains("holdfast:inconsistent"), "{listed}");
    last.ask("CONFIG SET rdb-key-save-delay 0");
    // The lowest slot of the first may be another one now.
    let outcome = cluster.backup(&program);
    done(&outcome);
    let (from, to) = (cluster.id(0), cluster.id(1));
    cluster.nodes[1].0.ask(&format!("CLUSTER SETSLOT 5000 IMPORTING {from}"));
    cluster.nodes[0].0.ask(&format!("CLUSTER SETSLOT 5000 MIGRATING {to}"));
    is_inconsistent(&cluster.backup(&program), "slot 5000 was being moved");
    for index in [0, 1] {
        cluster.nodes[index].0.ask("CLUSTER SETSLOT 5000 STABLE");
    }
    done(&cluster.backup(&program));
    cluster.nodes[2].0.ask("CLUSTER DELSLOTS 16000");
    is_inconsistent(&cluster.backup(&program), "1 slots had no primary");
}

#[test]
fn redis_cluster_that_is_none_or_has_lost_a_primary_saves_nothing() {
    let Some(mut cluster) = Cluster::start() else { return };
    let program = repository();
    let port = free_port();
    let words = ["--port", &port.to_string(), "--bind", "127.0.0.1"];
    let _single = RedisServer::start("redis-7", &words).unwrap();
    let named = format!("cache=redis+cluster://127.0.0.1:{port}");
    let outcome = program.run(&["backup", "--redis", &named]);
    assert_eq!(outcome.code, 20, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("HF-REDIS-025"), "{}", outcome.stderr);
    cluster.nodes[2].0.kill();
    let outcome = cluster.backup(&program);
    assert_eq!(outcome.code, 20, "{}", outcome.stdout);
    assert!(outcome.stdout.contains("HF-REDIS-001"), "{}", outcome.stdout);
    nothing_is_saved(&program);
}
