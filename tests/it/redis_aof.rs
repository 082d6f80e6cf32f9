//! Append-only files of real servers: what is restored is what a server starts from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use holdfast::format::redis::command_stream::encode_command;

use crate::postgres_base::{done, nothing_is_saved, repository};
use crate::program::{Outcome, Program};
use crate::redis_server::{RedisServer, ask, public_program, server_program};

const AOF: [&str; 2] = ["--appendonly", "yes"];
/// Each write is on the disk before it is answered.
const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn backup(program: &Program, path: &Path) -> Outcome {
    let named = format!("cache={}", path.display());
    program.run(&["backup", "--json", "--redis-aof", &named])
}

/// Plain bytes that were new.
fn new_bytes(outcome: &Outcome) -> u64 {
    done(outcome);
    let summary = outcome.events().pop().unwrap();
    summary["statistics"]["new_bytes"].as_u64().unwrap()
}

#[track_caller]
fn fails(outcome: &Outcome, id: &str) {
    assert_eq!(outcome.code, 20, "{}\n{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains(id), "{id}: {}", outcome.stdout);
}

/// The newest snapshot as the folder of a server.
fn restored(program: &Program) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    done(&program.run(&["restore", "source:cache", "--target", folder.path().to_str().unwrap()]));
    folder
}

/// Whether the files are whole, by the server's own tool.
fn check_aof(list: &Path) {
    let output = Command::new("redis-check-aof").arg(list).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let is_cut = said.lines().any(|line| line.contains("diff=") && !line.contains("diff=0"));
    assert!(output.status.success() && !is_cut, "{said}");
}

/// A server that takes the files as they are, or not at all.
fn start_strictly(kind: &str, folder: tempfile::TempDir) -> RedisServer {
    let strict = ["--appendonly", "yes", "--aof-load-truncated", "no"];
    RedisServer::start_in(kind, folder, &strict).unwrap()
}

fn load(server: &RedisServer, words: &[&str]) -> Child {
    let mut load = Command::new("redis-benchmark");
    load.args(["-s", server.path("server.sock").to_str().unwrap(), "-q", "-l", "-r", "20000"]);
    load.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Writes of every database, in and out of transactions.
fn write_some(server: &RedisServer, from: u32, to: u32) {
    let mut connection = server.connect();
    for number in from..to {
        let key = format!("key:{number}");
        let value = format!("value {number} ").repeat(number as usize % 30);
        let db = if number % 7 == 0 { "3" } else { "0" };
        let commands: [&[&str]; 5] = [
            &["SELECT", db],
            &["MULTI"],
            &["SET", &key, &value],
            &["RPUSH", "list", &key],
            &["EXEC"],
        ];
        for words in commands {
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            connection.send(&encode_command(&words)).unwrap();
        }
        for _ in 0..4 {
            connection.answer("writing").unwrap();
        }
        // The answer to EXEC is a list, which is taken from the bytes.
        let mut buffer = [0; 4096];
        connection.read(&mut buffer, "writing").unwrap();
    }
}

#[test]
fn redis_aof_of_a_running_server_is_what_a_server_starts_from() {
    for (kind, stamps) in [("redis-7", "yes"), ("redis-7", "no"), ("valkey-9", "yes")] {
        let more = ["--aof-timestamp-enabled", stamps];
        let Some(server) = RedisServer::start(kind, &[&ALWAYS[..], &more].concat()) else {
            continue;
        };
        let program = repository();
        write_some(&server, 0, 300);
        server.ask("BGREWRITEAOF");
        server.wait_until("it is written anew", |info| {
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrites:1")
        });
        write_some(&server, 300, 500);
        let digest = server.digest();
        new_bytes(&backup(&program, &server.path("appendonlydir")));
        let folder = restored(&program);
        if kind == "redis-7" {
            check_aof(&folder.path().join("appendonlydir/appendonly.aof.manifest"));
        }
        let names = names_in(&folder.path().join("appendonlydir"));
        assert_eq!(names.len(), 3, "{names:?}");
        drop(server);
        let copy = start_strictly(kind, folder);
        assert_eq!(copy.digest(), digest, "{kind}");
        assert_ne!(copy.ask("DBSIZE"), "0");
    }
}

#[test]
fn redis_aof_is_drilled_and_goes_into_a_running_server() {
    let named = ["--appendfilename", "other.aof", "--databases", "40"];
    let single = ["--aof-use-rdb-preamble", "no"];
    for (kind, more) in [("redis-7", &named[..]), ("redis-6", &single[..]), ("valkey-9", &[])] {
        let Some(server) = RedisServer::start(kind, &[&ALWAYS[..], more].concat()) else {
            continue;
        };
        let mut program = repository();
        let path = std::env::var("PATH").unwrap();
        let tools = public_program(kind).unwrap();
        program.set("PATH", &format!("{}:{path}", tools.path().display()));
        program.set("TMPDIR", "/tmp");
        write_some(&server, 0, 200);
        if more.contains(&"40") {
            let mut connection = server.connect();
            for command in ["SELECT 33", "SET far 1"] {
                ask(&mut connection, command).unwrap();
            }
        }
        let place = if kind == "redis-6" { "appendonly.aof" } else { "appendonlydir" };
        new_bytes(&backup(&program, &server.path(place)));
        let asserted = ["--assert", "GET key:1 = \"value 1 \"", "--assert", "LLEN list = 171"];
        let drilled = program.run(&[&["drill", "source:cache"][..], &asserted].concat());
        assert_eq!(drilled.code, 0, "{kind}: {}\n{}", drilled.stdout, drilled.stderr);
        let failed = program.run(&["drill", "source:cache", "--assert", "GET key:1 = 2"]);
        assert_eq!(failed.code, 4, "{}", failed.stderr);
        let refused = program.run(&["drill", "source:cache", "--to", "latest"]);
        assert!(refused.stderr.contains("no other point in time"), "{}", refused.stderr);
        let target = RedisServer::start(kind, &["--databases", "40"]).unwrap();
        done(&program.run(&["restore", "source:cache", "--into", &target.uri()]));
        assert_eq!(target.digest(), server.digest(), "{kind}");
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn redis_aof_increments_cost_what_was_appended_and_a_rewrite_costs_little() {
    let Some(server) = RedisServer::start("redis-7", &AOF) else { return };
    server.fill(20_000);
    server.ask("BGREWRITEAOF");
    server.wait_until("it is written anew", |info| info.contains("aof_rewrites:1"));
    server.wait_until("it is done", |info| info.contains("aof_rewrite_in_progress:0"));
    let program = repository();
    let folder = server.path("");
    let first = new_bytes(&backup(&program, &folder));
    assert!(first > 5_000_000, "{first}");
    write_some(&server, 0, 200);
    let second = new_bytes(&backup(&program, &folder));
    assert!(second < 300_000, "{second}");
    let third = new_bytes(&backup(&program, &folder));
    assert!(third < 100_000, "{third}");
    // The base is a new file of another name then, and its keys are the same.
    server.ask("BGREWRITEAOF");
    server.wait_until("it is written anew", |info| info.contains("aof_rewrites:2"));
    server.wait_until("it is done", |info| info.contains("aof_rewrite_in_progress:0"));
    let outcome = backup(&program, &folder);
    let fourth = new_bytes(&outcome);
    assert!(fourth < first / 10, "{fourth} of {first}");
    // No commands have come since, which is nothing to warn of; of other streams it is.
    assert!(!outcome.stdout.contains("nothing came out"), "{}", outcome.stdout);
    let empty = program.run_with(&["backup", "--json", "--stdin", "empty"], "");
    assert!(empty.stdout.contains("nothing came out"), "{}", empty.stdout);
}

#[test]
fn redis_aof_of_commands_only_and_of_an_old_server_come_back() {
    for (kind, preamble) in [("redis-7", "no"), ("redis-6", "yes"), ("redis-6", "no")] {
        let more = ["--aof-use-rdb-preamble", preamble];
        let Some(server) = RedisServer::start(kind, &[&ALWAYS[..], &more].concat()) else {
            continue;
        };
        write_some(&server, 0, 200);
        server.ask("BGREWRITEAOF");
        std::thread::sleep(std::time::Duration::from_millis(50));
        server.wait_until("it is written anew", |info| {
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
        });
        write_some(&server, 200, 300);
        let digest = server.digest();
        let program = repository();
        let outcome = backup(&program, &server.path(""));
        done(&outcome);
        assert!(!outcome.stdout.contains("not known"), "{}", outcome.stdout);
        let folder = restored(&program);
        if kind == "redis-6" {
            let written = fs::read(server.path("appendonly.aof")).unwrap();
            assert!(fs::read(folder.path().join("appendonly.aof")).unwrap() == written);
            assert_eq!(written.starts_with(b"REDIS"), preamble == "yes");
        } else {
            assert!(folder.path().join("appendonlydir/appendonly.aof.2.base.aof").exists());
        }
        drop(server);
        assert_eq!(start_strictly(kind, folder).digest(), digest, "{kind} {preamble}");
    }
}

#[test]
fn redis_aof_is_consistent_while_it_is_written_and_written_anew() {
    let Some(server) = RedisServer::start("redis-7", &AOF) else { return };
    server.fill(30_000);
    let program = repository();
    let mut loads = [
        load(&server, &["-t", "set,lpush,incr", "-d", "700"]),
        load(&server, &["-P", "5", "eval", TRANSFER, "2", "from:__rand_int__", "to"]),
    ];
    for round in 0..4 {
        // It may be at work on one of its own accord.
        while ask(&mut server.connect(), "BGREWRITEAOF").is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if round % 2 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        done(&backup(&program, &server.path("appendonlydir")));
        let folder = restored(&program);
        check_aof(&folder.path().join("appendonlydir/appendonly.aof.manifest"));
        let copy = start_strictly("redis-7", folder);
        // Both halves of a script are there, or neither.
        let sum = copy.ask(&format!("EVAL {SUM} 0"));
        assert_eq!(sum, "0", "round {round}");
    }
    for load in &mut loads {
        load.kill().unwrap();
        load.wait().unwrap();
    }
}

/// Takes from one key and gives to another.
const TRANSFER: &str = "redis.call('decrby',KEYS[1],3);redis.call('incrby',KEYS[2],3)";
const SUM: &str = "local\ts=tonumber(redis.call('get','to')or'0');\
    for\t_,k\tin\tipairs(redis.call('keys','from:*'))do\ts=s+redis.call('get',k)end;return\ts";

/// A folder as a killed server leaves it, with the end of its last file.
fn folder_with(tail: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let files = folder.path().join("appendonlydir");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("appendonly.aof.manifest"), LIST).unwrap();
    fs::write(files.join("appendonly.aof.1.incr.aof"), SET).unwrap();
    fs::write(files.join("appendonly.aof.2.incr.aof"), [SET, tail].concat()).unwrap();
    (folder, files)
}

const LIST: &str = "file appendonly.aof.1.incr.aof seq 1 type i\n\
    file appendonly.aof.2.incr.aof seq 2 type i\n";
const SET: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n";

#[test]
fn redis_aof_that_ends_within_a_command_is_cut_and_damage_saves_nothing() {
    if server_program("redis-7").is_none() {
        return;
    }
    let program = repository();
    for tail in [&b"*2\r\n$4\r\nINCR\r\n$1\r\n"[..], b"*1\r\n$5\r\nMULTI\r\n", b"#TS:16282174"] {
        let (folder, _) = folder_with(tail);
        let outcome = backup(&program, folder.path());
        done(&outcome);
        let said = format!("{} bytes are left out (HF-REDIS-023)", tail.len());
        assert!(outcome.stdout.contains(&said), "{}", outcome.stdout);
        let copy = restored(&program);
        check_aof(&copy.path().join("appendonlydir/appendonly.aof.manifest"));
        assert_eq!(start_strictly("redis-7", copy).ask("GET k"), "2");
    }
    let program = repository();
    let (folder, files) = folder_with(b"not a command\r\n");
    fails(&backup(&program, folder.path()), "HF-REDIS-021");
    let last = files.join("appendonly.aof.2.incr.aof");
    fs::write(&last, SET).unwrap();
    let manifest = files.join("appendonly.aof.manifest");
    for damaged in ["", "file", "file ../x seq 1 type i\n", "\0\0\0"] {
        fs::write(&manifest, damaged).unwrap();
        fails(&backup(&program, &files), "HF-REDIS-021");
    }
    fs::write(&manifest, LIST).unwrap();
    let earlier = files.join("appendonly.aof.1.incr.aof");
    fs::write(&earlier, &SET[..30]).unwrap();
    fails(&backup(&program, &files), "HF-REDIS-021");
    fs::remove_file(&earlier).unwrap();
    fails(&backup(&program, &files), "HF-REDIS-021");
    fs::remove_file(&manifest).unwrap();
    fails(&backup(&program, &files), "HF-REDIS-020");
    fails(&backup(&program, Path::new("/nowhere")), "HF-REDIS-020");
    // A base that is a dump, and not a whole one.
    fs::write(&manifest, "file b.rdb seq 1 type b\n").unwrap();
    fs::write(files.join("b.rdb"), b"REDIS0010\xfe\x00\x00\x01k\x01").unwrap();
    fails(&backup(&program, &files), "HF-SRC-011");
    // The same in front of commands.
    fs::rename(files.join("b.rdb"), files.join("b")).unwrap();
    fs::write(&manifest, "file b seq 1 type b\n").unwrap();
    fails(&backup(&program, &files), "HF-REDIS-021");
    nothing_is_saved(&program);
    fs::write(&earlier, SET).unwrap();
    fs::write(&manifest, LIST).unwrap();
    done(&backup(&program, &files));
}

#[test]
fn redis_aof_base_of_an_old_server_and_restore_py() {
    let Some(old) = RedisServer::start("redis-6", &ALWAYS) else { return };
    write_some(&old, 0, 100);
    old.ask("BGREWRITEAOF");
    std::thread::sleep(std::time::Duration::from_millis(50));
    old.wait_until("it is written anew", |info| {
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    write_some(&old, 100, 150);
    // A newer server takes the file as its base: a dump, and commands.
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    fs::copy(old.path("appendonly.aof"), folder.path().join("appendonly.aof")).unwrap();
    drop(old);
    let Some(server) = RedisServer::start_in("redis-7", folder, &ALWAYS) else { return };
    write_some(&server, 150, 200);
    let (digest, files) = (server.digest(), server.path("appendonlydir"));
    assert!(fs::read(files.join("appendonly.aof")).unwrap().starts_with(b"REDIS"));
    let program = Program::new();
    let (key, repo) = (program.arg("key"), program.arg("repo"));
    let made = Command::new("age-keygen").args(["-o", &key]).output().unwrap();
    let said = String::from_utf8(made.stderr).unwrap();
    let recipient = said.trim().rsplit(' ').next().unwrap();
    program.run(&["init", "-r", &repo, "--recipient", recipient]).ends(0);
    let named = format!("cache={}", files.display());
    program.run(&["backup", "-r", &repo, "--redis-aof", &named]).ends(0);
    let target = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/restore.py");
    let mut python = Command::new("python3");
    python.arg(&script).args([&repo, "--identity", &key, "restore", "latest"]).arg(target.path());
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in names_in(&files) {
        let same = fs::read(files.join(&name)).unwrap();
        assert!(
            fs::read(target.path().join("appendonlydir").join(&name)).unwrap() == same,
            "{name}"
        );
    }
    drop(server);
    assert_eq!(start_strictly("redis-7", target).digest(), digest);
}
