//! A journal under bad luck: cut off by the server, and without room for what waits.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::kill::Mounted;
use crate::postgres_base::repository;
use crate::redis_server::RedisServer;
use crate::redis_stream::{durable, restored, started, status};

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
