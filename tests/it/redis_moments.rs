//! A moment that can be restored is right, however late the commands came; else it is refused.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast::source::redis::connection::Connection;
use holdfast::source::redis::replication::{Wanted, begin};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

use crate::delay_proxy;
use crate::postgres_base::{done, repository};
use crate::program::Program;
use crate::redis_dump::named;
use crate::redis_server::{RedisServer, free_port};
use crate::redis_stream::{Stream, durable, started, status};

/// A moment is known to a second.
const SECOND_MS: i64 = 1000;
const WRITE_EVERY: Duration = Duration::from_millis(20);

/// Writes the time into a key, again and again.
struct Writer {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(i64, i64)>>,
}

impl Writer {
    /// With so many bytes beside the time.
    fn start(server: &RedisServer, more: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, mut connection) = (Arc::clone(&is_over), server.connect());
        let thread = std::thread::spawn(move || {
            let mut written = Vec::new();
            let mut bytes = vec![0; more];
            while !over.load(Ordering::Relaxed) {
                let before = Timestamp::now().as_millisecond();
                getrandom::fill(&mut bytes).unwrap();
                let value = [format!("at {before} ").as_bytes(), &bytes].concat();
                connection.command(&[b"SET", b"key", &value], "writing").unwrap();
                written.push((before, Timestamp::now().as_millisecond()));
                std::thread::sleep(WRITE_EVERY);
            }
            written
        });
        Self { is_over, thread }
    }

    /// When each write was begun, and when it was done.
    fn stop(self) -> Vec<(i64, i64)> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The last time that was written in what is restored of a moment; nothing where it is refused.
fn last_write(program: &Program, moment: i64) -> Option<i64> {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let target = folder.path().to_str().unwrap();
    let moment = Timestamp::from_millisecond(moment).unwrap().to_string();
    let words = ["restore", "source:cache", "--to-time", &moment, "--target", target];
    let outcome = program.run(&words);
    if outcome.code != 0 {
        assert!(outcome.stderr.contains("HF-REDIS-014"), "{}", outcome.stderr);
        return None;
    }
    let mut last = 0;
    for entry in fs::read_dir(folder.path().join("appendonlydir")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for value in bytes.windows(16).filter(|value| value.starts_with(b"at 1")) {
            let digits = std::str::from_utf8(&value[3..]);
            last = last.max(digits.ok().and_then(|digits| digits.parse().ok()).unwrap_or(0));
        }
    }
    Some(last)
}

/// Whether the moment can be restored; if so, it must be right.
fn is_right(program: &Program, written: &[(i64, i64)], moment: i64) -> bool {
    let Some(last) = last_write(program, moment) else { return false };
    let done = written.iter().rev().find(|(_, done)| *done <= moment - SECOND_MS);
    assert!(done.is_none_or(|(begun, _)| last >= *begun), "{moment}: {last}, missing {done:?}");
    assert!(last <= moment, "{moment}: {last} is younger");
    true
}

/// The exact moments, as `redis status` has them.
fn moments(program: &Program) -> Vec<(i64, i64)> {
    let ms = |value: &serde_json::Value| {
        value.as_str().unwrap().parse::<Timestamp>().unwrap().as_millisecond()
    };
    let shown = status(program).1;
    let moments = shown["moments"].as_array().unwrap();
    moments.iter().map(|one| (ms(&one["from"]), ms(&one["until"]))).collect()
}

fn pause(time: Duration) -> i64 {
    std::thread::sleep(time);
    Timestamp::now().as_millisecond()
}

#[test]
fn redis_moments_at_which_the_stream_stood_still_are_not_known() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    let program = repository();
    let stream = started(&program, &server);
    let writer = Writer::start(&server, 0);
    let begun = pause(Duration::from_secs(3));
    let pid = Pid::from_raw(i32::try_from(stream.id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = Timestamp::now().as_millisecond();
    let goes_on = pause(Duration::from_secs(4));
    kill_process(pid, Signal::CONT).unwrap();
    let ended = pause(Duration::from_secs(3));
    let written = writer.stop();
    durable(&server);
    stream.stop();
    for moment in [begun - 1000, stopped - 300, goes_on + 1500, ended - 500] {
        is_right(&program, &written, moment);
    }
    for moment in [stopped + 1300, goes_on - 1500, goes_on - 100] {
        assert!(!is_right(&program, &written, moment), "{moment} {stopped} {goes_on}");
    }
    let known = moments(&program);
    assert!(known.iter().any(|(from, _)| *from < stopped), "{known:?} {stopped}");
    assert!(known.iter().any(|(_, until)| *until > goes_on), "{known:?} {goes_on}");
    assert_eq!(status(&program).1["gaps"].as_array().unwrap().len(), 0);
}

#[test]
fn redis_moments_of_a_link_that_is_too_slow_are_right_or_refused() {
    let port = free_port().to_string();
    let Some(server) = RedisServer::start("redis-7", &["--port", &port]) else { return };
    let program = repository();
    let target = format!("127.0.0.1:{port}");
    let link = delay_proxy::start("127.0.0.1:0", &target, Duration::from_millis(40), 2.0).unwrap();
    let mut stream = Stream::start(&program, &format!("cache=redis://{link}"));
    stream.wait_for("keys saved", 1);
    // Four times what the link takes.
    let writer = Writer::start(&server, 20_000);
    let begun = pause(Duration::from_secs(2));
    let ended = pause(Duration::from_secs(2));
    let written = writer.stop();
    durable(&server);
    let caught_up = Instant::now();
    while moments(&program).last().is_none_or(|(_, until)| *until < ended) {
        assert!(caught_up.elapsed() < crate::redis_server::PATIENCE, "{:?}", moments(&program));
        durable(&server);
    }
    stream.stop();
    for moment in [begun - 1000, begun - 300, begun, begun + 500, ended - 1000, ended] {
        is_right(&program, &written, moment);
    }
    let last = moments(&program).last().unwrap().1;
    assert!(is_right(&program, &written, last));
}

#[test]
fn redis_moments_between_two_connections_are_known() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    let program = repository();
    let mut stream = started(&program, &server);
    let writer = Writer::start(&server, 0);
    let mut cut = Vec::new();
    for number in 1..=3 {
        cut.push(pause(Duration::from_secs(2)));
        server.ask("CLIENT KILL TYPE replica");
        stream.wait_for("goes on at", number);
    }
    pause(Duration::from_secs(2));
    let written = writer.stop();
    durable(&server);
    stream.stop();
    // The connection comes a second later. A busy machine may miss the server once or twice.
    let known = cut.iter().filter(|cut| is_right(&program, &written, **cut + 500));
    assert!(known.count() > 0, "{cut:?} {:?}", moments(&program));
    assert_eq!(status(&program).1["gaps"].as_array().unwrap().len(), 0);
}

/// A server whose dumps take three seconds, at work on one for somebody who wants that.
fn at_work(wanted: Wanted<'_>) -> Option<(RedisServer, Connection)> {
    let slow = ["--repl-diskless-sync", "no", "--rdb-key-save-delay", "3000"];
    let server = RedisServer::start("redis-7", &slow)?;
    server.fill(1000);
    let mut first = server.connect();
    begin(&mut first, wanted).unwrap();
    server.ask("SET later 1");
    Some((server, first))
}

#[test]
fn redis_dump_that_was_begun_for_somebody_else_is_no_exact_moment() {
    let Some((server, first)) = at_work(Wanted::DumpOnly) else { return };
    let program = repository();
    done(&program.run(&["backup", "--redis", &named(&server)]));
    let shown = status(&program).1;
    let dump = &shown["dumps"][0];
    assert_eq!((&dump["inexact"], moments(&program)), (&true.into(), Vec::new()));
    let moment: Timestamp = dump["moment"].as_str().unwrap().parse().unwrap();
    assert_eq!(last_write(&program, moment.as_millisecond()), None);
    // The same where the server is at work for nobody.
    drop(first);
    server.ask("CONFIG SET rdb-key-save-delay 0");
    server.wait_until("it is at no dump", |info| info.contains("rdb_bgsave_in_progress:0"));
    done(&program.run(&["backup", "--redis", "cache"]));
    let shown = status(&program).1;
    assert_eq!((&shown["dumps"][1]["inexact"], moments(&program).len()), (&false.into(), 1));
}

#[test]
fn redis_journal_behind_a_dump_that_was_begun_for_somebody_else_is_exact() {
    let Some((server, _first)) = at_work(Wanted::DumpAndStream) else { return };
    let program = repository();
    let writer = Writer::start(&server, 0);
    std::thread::sleep(Duration::from_millis(500));
    let begun = Timestamp::now().as_millisecond();
    let stream = started(&program, &server);
    let ended = pause(Duration::from_secs(1));
    let written = writer.stop();
    durable(&server);
    stream.stop();
    let shown = status(&program).1;
    assert_eq!(shown["dumps"][0]["inexact"], true);
    // Nobody has seen the server at the moment of the dump; what was done while it came is known.
    assert!(!is_right(&program, &written, begun - 300));
    let known = moments(&program);
    let (from, until) = known[0];
    assert!(from < ended - 1500 && until >= ended, "{begun} {ended} {known:?}");
    for moment in [from, from + 100, until] {
        assert!(is_right(&program, &written, moment));
    }
}
