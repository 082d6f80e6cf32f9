//! Dumps loaded straight into a running server: all of it, or an error that says what is there.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use holdfast::source::redis::reply::Reply;

use crate::postgres_base::{done, repository};
use crate::program::{Outcome, Program};
use crate::redis_dump::named;
use crate::redis_records::{FILL, script};
use crate::redis_server::{KINDS, RedisServer, ask};

/// What only some servers have, or takes its time.
const FUNCTIONS: &str =
    "#!lua name=lib\nredis.register_function('answer', function() return 42 end)";

fn saved(server: &RedisServer) -> Program {
    let program = repository();
    done(&program.run(&["backup", "--redis", &named(server)]));
    program
}

fn into(program: &Program, address: &str) -> Outcome {
    program.run(&["restore", "source:cache", "--into", address])
}

#[track_caller]
fn fails(outcome: &Outcome, id: &str, words: &str) {
    assert!(outcome.stderr.contains(id), "{id}: {}\n{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
    assert_ne!(outcome.code, 0);
}

#[test]
fn redis_dump_of_every_type_is_loaded_into_an_empty_server() {
    for kind in KINDS {
        let Some(source) = RedisServer::start(kind, &[]) else { continue };
        script(&source, FILL);
        let mut commands = source.connect();
        if kind != "redis-6" {
            commands.command(&[b"FUNCTION", b"LOAD", FUNCTIONS.as_bytes()], "filling").unwrap();
            let long = format!("{FUNCTIONS}\n--{}", "no end ".repeat(20_000));
            let long = long.replace("lib", "long").replace("answer", "other");
            commands.command(&[b"FUNCTION", b"LOAD", long.as_bytes()], "filling").unwrap();
        }
        if kind == "valkey-9" {
            source.ask("HSETEX timed PX 100000000 FIELDS 1 a b");
            source.ask("HSETEX gone PX 1 FIELDS 1 a b");
        }
        source.ask("SET soon 1 PX 1");
        source.ask("DEBUG SET-ACTIVE-EXPIRE 0");
        let program = saved(&source);
        let target = RedisServer::start(kind, &["--databases", "6"]).unwrap();
        let loaded = program.run(&["restore", "source:cache", "--into", &target.uri(), "--json"]);
        done(&loaded);
        let said = loaded.events().pop().unwrap();
        assert_eq!(said["keys"]["0"].to_string(), target.ask("DBSIZE"), "{said}");
        // What has expired is in nobody's digest.
        for key in ["DEL soon", "DEL gone"] {
            source.ask(key);
            target.ask(key);
        }
        assert_eq!(target.digest(), source.digest(), "{kind}");
        let expiry = |server: &RedisServer| server.ask("PEXPIRETIME t77");
        if kind != "redis-6" {
            assert_eq!(expiry(&target), expiry(&source));
            assert_eq!(target.ask("FCALL answer 0"), "42");
            assert_eq!(target.ask("FCALL other 0"), "42");
        }
        // A second time there is something.
        let before = target.digest();
        fails(&into(&program, &target.uri()), "HF-REDIS-030", "keys already");
        assert_eq!(target.digest(), before);
    }
}

#[test]
fn redis_values_larger_than_memory_for_them_pass_in_pieces() {
    let Some(source) = RedisServer::start("redis-7", &["--rdbcompression", "no"]) else { return };
    let large = "local s = string.rep('0123456789', 1000) \
         redis.call('SET', 'large', string.rep(s, 7000)) \
         for i = 1, 7000 do redis.call('HSET', 'hash', 'f' .. i, s .. i) end \
         for i = 1, 700 do redis.call('RPUSH', 'list', s .. i) redis.call('ZADD', 'zset', i, s .. i) \
         redis.call('SADD', 'set', s .. i) redis.call('XADD', 'stream', i .. '-1', 'f', s .. i) end";
    script(&source, large);
    source.ask("PEXPIRE hash 100000000");
    let program = saved(&source);
    let small = RedisServer::start("redis-7", &["--proto-max-bulk-len", "50mb"]).unwrap();
    fails(&into(&program, &small.uri()), "HF-REDIS-030", "proto-max-bulk-len");
    assert_eq!(small.ask("DBSIZE"), "0");
    let target = RedisServer::start("redis-7", &[]).unwrap();
    done(&into(&program, &target.uri()));
    assert_eq!(target.digest(), source.digest());
}

#[test]
fn redis_last_accesses_and_frequencies_are_loaded() {
    for (policy, option, asked) in [
        ("allkeys-lru", ["IDLETIME", "1000"], "OBJECT IDLETIME aged"),
        ("allkeys-lfu", ["FREQ", "77"], "OBJECT FREQ aged"),
    ] {
        let arguments = ["--maxmemory", "1gb", "--maxmemory-policy", policy];
        let Some(source) = RedisServer::start("redis-7", &arguments) else { return };
        source.ask("SET fresh value");
        let mut commands = source.connect();
        let Reply::Bulk(Some(dumped)) = ask(&mut commands, "DUMP fresh").unwrap() else { panic!() };
        let words = ["RESTORE", "aged", "0"].map(str::as_bytes);
        let more = option.map(str::as_bytes);
        let command = [&words[..], &[&dumped[..]], &more].concat();
        commands.command(&command, "filling").unwrap();
        let program = saved(&source);
        let target = RedisServer::start("redis-7", &arguments).unwrap();
        done(&into(&program, &target.uri()));
        let said: u64 = target.ask(asked).parse().unwrap();
        let wanted: u64 = option[1].parse().unwrap();
        // A frequency goes down by one a minute.
        assert!((wanted - 5..wanted + 1000).contains(&said), "{policy}: {said}");
    }
}

#[test]
fn redis_servers_that_cannot_take_a_dump_are_refused_before_anything_is_written() {
    let Some(source) = RedisServer::start("valkey-9", &[]) else { return };
    source.fill(50);
    source.ask("SET apart 1");
    let mut commands = source.connect();
    ask(&mut commands, "SELECT 5").unwrap();
    ask(&mut commands, "SET there 1").unwrap();
    let program = saved(&source);
    let Some(older) = RedisServer::start("redis-7", &[]) else { return };
    fails(
        &into(&program, &older.uri()),
        "HF-REDIS-030",
        "cannot read dumps of version 80 of Valkey",
    );
    assert_eq!(older.ask("DBSIZE"), "0");
    let narrow = RedisServer::start("valkey-9", &["--databases", "5"]).unwrap();
    fails(&into(&program, &narrow.uri()), "HF-REDIS-030", "database 5");
    assert_eq!(narrow.ask("DBSIZE"), "0");
    let replica = RedisServer::start("valkey-9", &["--replicaof", "127.0.0.1", "0"]).unwrap();
    fails(&into(&program, &replica.uri()), "HF-REDIS-030", "replica");
    let wrong = program.run(&[
        "restore",
        "source:cache",
        "--into",
        &replica.uri(),
        "--table",
        "public.rows",
    ]);
    fails(&wrong, "HF-USE-001", "PostgreSQL");
    fails(&into(&program, "redis://user:secret@localhost"), "HF-REDIS-005", "password");
}

#[test]
fn redis_cluster_node_takes_a_dump_only_where_all_slots_are_its_own() {
    let Some(source) = RedisServer::start("redis-7", &[]) else { return };
    source.fill(300);
    let program = saved(&source);
    let port = crate::redis_server::free_port().to_string();
    let arguments = ["--cluster-enabled", "yes", "--port", &port, "--cluster-port", "0"];
    let node = RedisServer::start("redis-7", &arguments).unwrap();
    node.ask("CLUSTER ADDSLOTSRANGE 0 9000");
    fails(&into(&program, &node.uri()), "HF-REDIS-030", "9001 of 16384 slots");
    node.ask("CLUSTER ADDSLOTSRANGE 9001 16383");
    node.wait_until("it answers", |_| node.ask("CLUSTER INFO").contains("cluster_state:ok"));
    done(&into(&program, &node.uri()));
    assert_eq!(node.digest(), source.digest());
}

#[test]
fn redis_dump_with_what_no_command_can_say_is_refused() {
    let Some(target) = RedisServer::start("redis-7", &[]) else { return };
    let program = repository();
    let body = b"REDIS0010\xf7\x01\x02\x01\x00\xfe\x00\x00\x01a\x01b\xff\0\0\0\0\0\0\0\0";
    std::fs::write(program.path("module.rdb"), body).unwrap();
    let file = format!("cache={}", program.arg("module.rdb"));
    done(&program.run(&["backup", "--redis-rdb", &file]));
    fails(&into(&program, &target.uri()), "HF-REDIS-033", "what a module keeps");
    assert_eq!(target.ask("DBSIZE"), "0");
    done(&program.run(&["backup", "--stdin", "text", "--command", "x", "--", "true"]));
    let other = program.run(&["restore", "latest", "--into", &target.uri()]);
    fails(&other, "HF-REDIS-037", "no dump");
}

/// Passes bytes on to a server, but no more than so many of ours on the second connection.
fn cutting_proxy(server: &RedisServer, bytes_max: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("redis://{}", listener.local_addr().unwrap());
    let socket = server.path("server.sock");
    std::thread::spawn(move || {
        let mut number = 0;
        while let Ok((client, _)) = listener.accept() {
            number += 1;
            let bytes_max = if number == 2 { bytes_max } else { usize::MAX };
            relay(client, UnixStream::connect(&socket).unwrap(), bytes_max);
        }
    });
    address
}

fn relay(client: TcpStream, server: UnixStream, bytes_max: usize) {
    let (mut down, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut down, &mut to_client));
    std::thread::spawn(move || {
        let (mut client, mut server, mut passed) = (client, server, 0);
        let mut buffer = vec![0; 10_000];
        while passed < bytes_max {
            let Ok(length @ 1..) = client.read(&mut buffer) else { break };
            let length = length.min(bytes_max - passed);
            if server.write_all(&buffer[..length]).is_err() {
                break;
            }
            passed += length;
        }
        drop(client.shutdown(Shutdown::Both));
        drop(server.shutdown(Shutdown::Both));
    });
}

#[test]
fn redis_load_that_is_cut_says_what_is_there_and_what_to_do() {
    let plain = ["--rdbcompression", "no"];
    let Some(source) = RedisServer::start("redis-7", &plain) else { return };
    source.fill(20_000);
    let program = saved(&source);
    let target = RedisServer::start("redis-7", &[]).unwrap();
    for bytes_max in [500_000, 3_000_000] {
        let cut = into(&program, &cutting_proxy(&target, bytes_max));
        fails(&cut, "HF-REDIS-031", "of 20000 keys");
        fails(&cut, "HF-REDIS-031", "FLUSHALL");
        assert_eq!(cut.code, 1);
        assert_ne!(target.ask("DBSIZE"), "0");
        fails(&into(&program, &target.uri()), "HF-REDIS-030", "keys already");
        target.ask("FLUSHALL");
    }
    done(&into(&program, &cutting_proxy(&target, usize::MAX)));
    assert_eq!(target.digest(), source.digest());
}

#[test]
fn redis_server_without_room_is_never_said_to_hold_all() {
    let Some(source) = RedisServer::start("redis-7", &[]) else { return };
    source.fill(20_000);
    let program = saved(&source);
    let full = RedisServer::start("redis-7", &["--maxmemory", "5mb"]).unwrap();
    let refused = into(&program, &full.uri());
    fails(&refused, "HF-REDIS-031", "OOM");
    fails(&refused, "HF-REDIS-031", "FLUSHALL");
    let arguments = ["--maxmemory", "5mb", "--maxmemory-policy", "allkeys-lru"];
    let evicting = RedisServer::start("redis-7", &arguments).unwrap();
    let fewer = into(&program, &evicting.uri());
    fails(&fewer, "HF-REDIS-032", "20000 to 20000 are right");
    assert_eq!(fewer.code, 4);
}

#[test]
fn redis_password_of_the_target_is_its_own() {
    let Some(source) = RedisServer::start("redis-7", &[]) else { return };
    source.fill(10);
    let mut program = saved(&source);
    let target = RedisServer::start("redis-7", &["--requirepass", "tell-nobody"]).unwrap();
    fails(&into(&program, &target.uri()), "HF-REDIS-002", "");
    program.set("REDISCLI_AUTH", "tell-nobody");
    done(&into(&program, &target.uri()));
}
