//! A journal under bad luck: cut off by the server, and without room for what waits.

use std::process::Command;
use std::time::Instant;

use holdfast::source::redis::replication::{Wanted, begin};
use rustix::process::{Pid, Signal, kill_process};

use crate::kill::Mounted;
use crate::postgres_base::repository;
use crate::redis_dump::named;
use crate::redis_server::{PATIENCE, RedisServer, ask, shown};
use crate::redis_stream::{Stream, durable, restored, started, status};

/// Writes so many values of 100 kB, none of which can be compressed.
fn write_much(server: &RedisServer, first: u32, count: u32) {
    let mut connection = server.connect();
    let mut value = vec![0; 100_000];
    for number in first..first + count {
        getrandom::fill(&mut value).unwrap();
        let key = format!("much:{number}");
        connection.command(&[b"SET", key.as_bytes(), &value], "writing").unwrap();
    }
}

#[test]
fn redis_stream_that_was_cut_off_says_a_gap_and_goes_on() {
    let limit =
        ["--client-output-buffer-limit", "replica 1mb 1mb 1", "--repl-backlog-size", "16kb"];
    let Some(server) = RedisServer::start("redis-7", &limit) else { return };
    let program = repository();
    let mut stream = started(&program, &server);
    server.ask("SET before 1");
    durable(&server);
    let pid = Pid::from_raw(i32::try_from(stream.id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    write_much(&server, 0, 200);
    server.wait_until("it cuts us off", |info| info.contains("connected_slaves:0"));
    kill_process(pid, Signal::CONT).unwrap();
    stream.wait_for("keys saved", 2);
    assert!(stream.said().contains("HF-REDIS-010"), "{}", stream.said());
    server.ask("SET after 1");
    durable(&server);
    let digest = server.digest();
    stream.stop();
    assert_eq!(status(&program).0, 4);
    let at = restored(&program, "redis-7", &["--to", "latest"]);
    assert_eq!(at.digest(), digest);
}

#[test]
fn redis_stream_without_room_for_what_waits_loses_nothing() {
    let arguments = ["--repl-backlog-size", "200mb"];
    let Some(server) = RedisServer::start("redis-7", &arguments) else { return };
    let mut program = repository();
    let disk = program.arg("disk");
    let Some(_mounted) = Mounted::tmpfs(&disk, "48m") else { return };
    let state = program.path(".local/state/holdfast");
    let copied = Command::new("cp").args(["-r", state.to_str().unwrap(), &disk]).status().unwrap();
    assert!(copied.success());
    program.set("HOLDFAST_STATE_DIR", &format!("{disk}/holdfast"));
    let mut stream = started(&program, &server);
    server.ask("SET before 1");
    durable(&server);
    let (place, aside) = (program.path("repository"), program.path("aside"));
    std::fs::rename(&place, &aside).unwrap();
    write_much(&server, 0, 600);
    stream.wait_for("No space left on device", 1);
    std::fs::rename(&aside, &place).unwrap();
    durable(&server);
    let digest = server.digest();
    stream.stop();
    assert_eq!(status(&program).0, 0);
    assert_eq!(restored(&program, "redis-7", &["--to", "latest"]).digest(), digest);
}

#[test]
fn redis_writes_are_acknowledged_when_the_dump_before_them_is_saved() {
    let Some(mut server) = RedisServer::start("redis-7", &[]) else { return };
    server.fill(50_000);
    let program = repository();
    let mut stream = None;
    for dumps in 1..=2 {
        // A server without a history counts everybody for what was written before.
        begin(&mut server.connect(), Wanted::DumpAndStream).unwrap();
        let stream = stream.get_or_insert_with(|| Stream::start(&program, &named(&server)));
        let mut connection = server.connect();
        let begun = Instant::now();
        ask(&mut connection, "SET a 1").unwrap();
        while shown(ask(&mut connection, "WAIT 1 500").unwrap()) != "1" {
            assert!(begun.elapsed() < PATIENCE, "{}", stream.said());
        }
        assert_eq!(stream.said().matches("keys saved").count(), dumps, "{}", stream.said());
        // A history that is shorter than what was durable of the one before.
        write_much(&server, 0, 20);
        durable(&server);
        server.kill();
        server.start_again();
        server.fill(50_000);
    }
}

#[test]
fn redis_stream_on_an_older_local_state_loses_nothing() {
    let Some(server) = RedisServer::start("redis-7", &["--repl-backlog-size", "10mb"]) else {
        return;
    };
    let program = repository();
    let stream = started(&program, &server);
    server.ask("SET a 1");
    durable(&server);
    stream.stop();
    let (state, older) = (program.path(".local/state"), program.path("older"));
    let copied = Command::new("cp").arg("-r").args([&state, &older]).status().unwrap();
    assert!(copied.success());
    let stream = Stream::start(&program, "cache");
    for number in 0..100 {
        server.ask(&format!("INCRBY sum {number}"));
    }
    durable(&server);
    stream.stop();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&older, &state).unwrap();
    let stream = Stream::start(&program, "cache");
    server.ask("INCRBY sum 1000");
    durable(&server);
    let digest = server.digest();
    stream.stop();
    assert_eq!(status(&program).0, 0);
    assert_eq!(restored(&program, "redis-7", &["--to", "latest"]).digest(), digest);
}

#[test]
fn redis_databases_beyond_the_usual_are_said_and_kept_apart() {
    let Some(server) = RedisServer::start("redis-7", &["--databases", "64"]) else { return };
    let program = repository();
    let stream = started(&program, &server);
    server.ask("SET kept 1");
    let mut connection = server.connect();
    for command in ["SELECT 20", "SET gone 1", "FLUSHDB"] {
        ask(&mut connection, command).unwrap();
    }
    durable(&server);
    stream.stop();
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let target = folder.path().to_str().unwrap().to_owned();
    let words = ["restore", "source:cache", "--to", "latest", "--target", &target];
    let outcome = program.run(&words);
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(said.contains("--appendonly yes --databases 21"), "{said}");
    let arguments = ["--appendonly", "yes", "--databases", "21"];
    let at = RedisServer::start_in("redis-7", folder, &arguments).unwrap();
    assert_eq!(at.ask("GET kept"), "1");
}

#[test]
fn redis_spool_that_a_crash_has_torn_takes_nothing_of_what_was_saved() {
    for damage in [&b""[..], b"x"] {
        let Some(server) = RedisServer::start("redis-7", &[]) else { return };
        let program = repository();
        let stream = started(&program, &server);
        for number in 0..20 {
            server.ask(&format!("SET key{number} 1"));
        }
        durable(&server);
        stream.kill();
        let mut spools = Vec::new();
        files_below(&program.path(".local/state"), &mut spools);
        let segments = spools.iter().filter(|path| {
            let folder = path.parent().unwrap().extension();
            folder.is_some_and(|one| one == "spool")
                && path.file_name().unwrap().len() > "reserve".len()
        });
        for path in segments {
            let bytes = std::fs::read(path).unwrap();
            let half = bytes.len() / 2;
            let torn = if damage.is_empty() {
                bytes[..half].to_vec()
            } else {
                [&bytes[..bytes.len() - 20], damage, &bytes[bytes.len() - 19..]].concat()
            };
            std::fs::write(path, torn).unwrap();
        }
        let stream = Stream::start(&program, "cache");
        durable(&server);
        let digest = server.digest();
        stream.stop();
        let at = restored(&program, "redis-7", &["--to", "latest"]);
        assert_eq!(at.digest(), digest);
    }
}

#[test]
fn redis_spool_that_is_damaged_before_it_was_saved_is_gone_on_with() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    let program = repository();
    let stream = started(&program, &server);
    server.ask("SET before 1");
    durable(&server);
    let (place, aside) = (program.path("repository"), program.path("aside"));
    std::fs::rename(&place, &aside).unwrap();
    for number in 0..100 {
        server.ask(&format!("INCRBY damaged {number}"));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    stream.kill();
    std::fs::rename(&aside, &place).unwrap();
    let mut spools = Vec::new();
    files_below(&program.path(".local/state"), &mut spools);
    let mut damaged = 0;
    let segments = spools.iter().filter(|path| {
        let folder = path.parent().unwrap().extension();
        folder.is_some_and(|one| one == "spool")
            && path.file_name().unwrap().len() > "reserve".len()
    });
    for path in segments {
        let mut bytes = std::fs::read(path).unwrap();
        let command = b"*3\r\n$6\r\nINCRBY";
        let places: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at..].starts_with(command)).collect();
        if let Some(at) = places.get(places.len() / 2) {
            bytes[*at..at + 10].fill(0);
            std::fs::write(path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "{spools:?}");
    let stream = Stream::start(&program, "cache");
    durable(&server);
    let digest = server.digest();
    stream.stop();
    assert_eq!(status(&program).0, 0);
    assert_eq!(restored(&program, "redis-7", &["--to", "latest"]).digest(), digest);
}

fn files_below(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}
