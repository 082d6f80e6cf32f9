//! Drills of Redis: what comes back passes, what does not is found, and nothing is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use holdfast::source::redis::local_server::{LocalServer, ServerOptions};
use holdfast::source::redis::server_program::ServerProgram;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::postgres_base::{done, repository};
use crate::program::Program;
use crate::redis_dump::named;
use crate::redis_records::{FILL, script};
use crate::redis_server::{KINDS, PATIENCE, RedisServer, server_program};

/// A folder that everybody can pass through.
fn workspace() -> TempDir {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs a drill with the program of a server, as our own user: exit code, record, all that was said.
fn drill(program: &Program, server: &Path, arguments: &[&str]) -> (i32, Value, String) {
    let workspace = workspace();
    let place = workspace.path().to_str().unwrap();
    let words = ["drill", "source:cache", "--json", "--workspace", place, "--redis-server"];
    let server = [server.to_str().unwrap(), "--user", "root"];
    let outcome = program.run(&[&words[..], &server, arguments].concat());
    // Whatever happened, nothing is left.
    assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0);
    let last = outcome.stdout.lines().last().unwrap_or_default();
    let said = serde_json::from_str(last).unwrap_or_default();
    (outcome.code, said, format!("{}{}", outcome.stdout, outcome.stderr))
}

fn outcomes(said: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = said["drill"]["checks"].as_array().expect("a drill has checks");
    checks.iter().map(|check| (text(&check["name"]), text(&check["outcome"]))).collect()
}

fn of(name: &str, outcome: &str) -> (String, String) {
    (name.to_owned(), outcome.to_owned())
}

#[test]
fn redis_drill_passes_where_all_came_back_and_an_assertion_can_fail() {
    for kind in KINDS {
        let Some(server) = RedisServer::start(kind, &[]) else { continue };
        script(&server, FILL);
        server.ask("SET gone 1 PX 1");
        server.ask("DEBUG SET-ACTIVE-EXPIRE 0");
        server.ask("SET moment 1767323045");
        let program = repository();
        let digest = ["backup", "--redis", &named(&server), "--redis-digest"];
        done(&program.run(&digest));
        let asked = ["EXISTS hugehash = 1", "DBSIZE > 1000", "GET k40 != \"some value\""];
        let mut arguments = vec!["--newest", "GET moment"];
        arguments.extend(asked.iter().flat_map(|asked| ["--assert", asked]));
        let path = server_program(kind).unwrap();
        let (code, said, all) = drill(&program, &path, &arguments);
        assert_eq!(code, 0, "{said} {all}");
        let mut wanted = vec!["keys of each database", "digest of all data"];
        wanted.extend(asked);
        let wanted: Vec<_> = wanted.iter().map(|name| of(name, "passed")).collect();
        assert_eq!(outcomes(&said), wanted, "{said}");
        let record = &said["drill"];
        let keys = record["checks"][0]["detail"].as_str().unwrap();
        assert!(keys.contains("of 2 databases, of which 1 have expired since"), "{keys}");
        assert_eq!((&record["method"], &record["passed"]), (&"redis".into(), &true.into()));
        assert!(record["server"].as_str().unwrap().starts_with(&kind[..5]), "{record}");
        assert_eq!(record["newest"], "2026-01-02T03:04:05Z");
        assert!(record["data_age_seconds"].as_f64().unwrap() > 1e6);
        assert!(record["ready_seconds"].as_f64().unwrap() > 0.0);
        let phases = record["phases"].as_array().unwrap();
        let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["restore", "load", "check", "clean up"]);
        // Of the other database, and what has expired is not there.
        let arguments = ["--quick", "--database", "5", "--assert", "GET k1 = other"];
        let (code, said, all) = drill(&program, &path, &arguments);
        assert_eq!((code, &outcomes(&said)[1]), (4, &of("GET k1 = other", "failed")), "{said}");
        assert!(all.contains("HF-REDIS-039"), "{all}");
        let (code, _, _) = drill(&program, &path, &["--quick", "--assert", "EXISTS gone"]);
        assert_eq!(code, 4);
        let listed = program.run(&["drill", "report", "cache", "--json"]);
        let records = listed.events();
        let passed = records.iter().filter_map(|it| it["drill"]["passed"].as_bool());
        assert_eq!(passed.collect::<Vec<_>>(), [true, false, false], "{}", listed.stdout);
        let table = program.run(&["drill", "report"]).stdout;
        assert!(table.contains("redis") && table.contains("FAILED"), "{table}");
    }
}

#[test]
fn redis_digest_is_kept_only_of_what_the_dump_holds() {
    let Some(server) = RedisServer::start("redis-7", &["--rdb-key-save-delay", "200"]) else {
        return;
    };
    server.fill(5000);
    let program = repository();
    let named = named(&server);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| program.run(&["backup", "--redis", &named, "--redis-digest"]));
        server.wait_until("the dump has begun", |info| info.contains("rdb_bgsave_in_progress:1"));
        server.ask("SET later 1");
        let outcome = run.join().unwrap();
        done(&outcome);
        assert!(outcome.stderr.contains("HF-REDIS-038"), "{}", outcome.stderr);
    });
    let path = server_program("redis-7").unwrap();
    let (code, said, _) = drill(&program, &path, &[]);
    assert_eq!((code, &outcomes(&said)[1]), (0, &of("digest of all data", "skipped")), "{said}");
    let wrong = program.run(&["backup", "/etc/hostname", "--redis-digest"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}

#[test]
fn redis_drill_of_what_no_server_loads_fails() {
    let Some(path) = server_program("redis-7") else { return };
    let program = repository();
    let save = |body: &[u8]| {
        fs::write(program.path("file.rdb"), body).unwrap();
        let file = format!("cache={}", program.arg("file.rdb"));
        done(&program.run(&["backup", "--redis-rdb", &file]));
    };
    // A list that is said to be packed and is none.
    save(b"REDIS0010\xfe\x00\x12\x01a\x01\x02\x05abcde\xff\0\0\0\0\0\0\0\0");
    let (code, said, all) = drill(&program, &path, &[]);
    assert_eq!(code, 4, "{said} {all}");
    assert!(said["drill"]["failure"].as_str().unwrap().contains("has ended"), "{said}");
    // One that it has to leave out while it says nothing of it to its clients.
    save(b"REDIS0010\xfe\x00\x00\x01a\x01b\x00\x01c\x01d\xff\0\0\0\0\0\0\0\0");
    let (code, said, _) = drill(&program, &path, &["--assert", "GET c = d"]);
    assert_eq!(code, 0, "{said}");
    save(b"REDIS0099\xfe\x00\x00\x01a\x01b\xff\0\0\0\0\0\0\0\0");
    let (code, said, _) = drill(&program, &path, &[]);
    let failure = said["drill"]["failure"].as_str().unwrap_or_default();
    assert_eq!(code, 4, "{said}");
    assert!(
        failure.contains("does not read the dump: a newer Redis than 8.10 is needed"),
        "{said}"
    );
    for wrong in [
        &["--assert", "GET 'a"][..],
        &["--database", "shop"],
        &["--method", "base"],
        &["--to-time", "2026-01-01"],
    ] {
        assert_eq!(drill(&program, &path, wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn redis_drill_runs_as_somebody_else_where_we_are_root() {
    let Some(path) = server_program("redis-7") else { return };
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: this is for root");
        return;
    }
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    server.fill(100);
    let program = repository();
    done(&program.run(&["backup", "--redis", &named(&server)]));
    let folder = workspace();
    let copy = folder.path().join("redis-server");
    fs::copy(fs::canonicalize(path).unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |more: &[&str]| {
        let words = ["drill", "source:cache", "--no-record", "--redis-server"];
        let place = ["--workspace", folder.path().to_str().unwrap()];
        let asked = ["--assert", "CONFIG GET dir", "--assert", "DBSIZE = 100"];
        program.run(&[&words[..], &[copy.to_str().unwrap()], &place, &asked, more].concat())
    };
    let other = run(&["--user", "nobody"]);
    done(&other);
    done(&run(&[]));
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = run(&["--user", "nobody"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
}

#[test]
fn redis_drill_that_is_told_to_stop_leaves_nothing() {
    let Some(path) = server_program("redis-7") else { return };
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    server.fill(50_000);
    let program = repository();
    done(&program.run(&["backup", "--redis", &named(&server)]));
    let workspace = workspace();
    let mut run = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for (name, file) in
        [("HOLDFAST_PASSWORD_FILE", "password"), ("HOLDFAST_REPO", "repository"), ("HOME", "")]
    {
        run.env(name, program.path(file));
    }
    run.args(["drill", "source:cache", "--user", "root", "--set", "key-load-delay=1000"]);
    run.args(["--set", "loading-process-events-interval-bytes=1024", "--redis-server"]);
    run.arg(&path).arg("--workspace").arg(workspace.path());
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let servers = || servers_in(workspace.path());
    while servers().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "the server never came");
        assert!(run.try_wait().unwrap().is_none(), "the drill has ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(143));
    assert_eq!(servers(), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0);
    let listed = program.run(&["drill", "report"]);
    assert!(!listed.stdout.contains("cache"), "{}", listed.stdout);
}

/// Processes that work in that folder.
fn servers_in(folder: &Path) -> Vec<PathBuf> {
    let is_server = |process: &PathBuf| {
        fs::read_link(process.join("cwd")).is_ok_and(|place| place.starts_with(folder))
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes.filter(is_server).collect()
}

#[test]
fn redis_server_of_a_drill_starts_on_an_append_only_file_too() {
    for kind in ["redis-7", "valkey-9"] {
        let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
        let Some(mut server) = RedisServer::start(kind, &arguments) else { return };
        for number in 0..100 {
            server.ask(&format!("SET key{number} value PX 100000000"));
        }
        server.kill();
        let folder = workspace();
        let log = folder.path().join("log");
        let run = folder.path().join("run");
        fs::create_dir(&run).unwrap();
        let from = server.path("appendonlydir");
        fs::rename(from, run.join("appendonlydir")).unwrap();
        let program = ServerProgram::ask(&server_program(kind).unwrap()).unwrap();
        let options = ServerOptions {
            program,
            folder: run,
            log,
            user: None,
            settings: Vec::new(),
            database_max: 3,
        };
        let mut started = LocalServer::start(&options).unwrap();
        let state = started.wait_until_loaded(&|| false).unwrap().unwrap();
        assert_eq!(state.keys().get("0"), Some(&100), "{}", started.log_tail());
    }
}
