//! Dumps whose order is not kept: another file, which a server takes for the same data.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program::Program;
use crate::redis_records::{FILL, program, script};
use crate::redis_server::{KINDS, RedisServer, check_dump};

/// What FILL has beyond what can be sorted: an element that is too long.
const LONG_FIELD: &str = "return redis.call('HDEL', 'hugehash', 'a field that is large')";
/// What only some servers have.
const TIMED_FIELDS: &str = r"
for i = 1, 40 do redis.call('HEXPIRE', 'hash' .. i, 100000, 'FIELDS', 1, 'field1') end
for i = 1, 3000 do
  redis.call('HSETEX', 'timed', 'EX', 90000 + i, 'FIELDS', 1, 'field' .. i, string.rep('v', 20))
end";
const FUNCTION: &str = "#!lua name=mylib\nredis.register_function('one', function() return 1 end)";

/// Plain bytes that were new.
fn backup(program: &Program, words: &[&str]) -> u64 {
    let words = [&["backup", "--json", "--canonical"], words].concat();
    let saved = program.run(&words).ends(0);
    let summary = saved.events().pop().unwrap();
    summary["statistics"]["new_bytes"].as_u64().unwrap()
}

/// The newest dump, in a folder of its own as a server looks for it.
fn restored(program: &Program) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let target = folder.path().join("dump.rdb");
    program.run(&["restore", "source:cache", "--target", target.to_str().unwrap()]).ends(0);
    folder
}

fn filled(kind: &str, arguments: &[&str]) -> Option<RedisServer> {
    let server = RedisServer::start(kind, arguments)?;
    script(&server, FILL);
    script(&server, LONG_FIELD);
    if kind != "redis-6" {
        let mut connection = server.connect();
        connection.command(&[b"FUNCTION", b"LOAD", FUNCTION.as_bytes()], "loading").unwrap();
    }
    if kind == "valkey-9" {
        script(&server, TIMED_FIELDS);
    }
    server.ask("SAVE");
    Some(server)
}

#[test]
fn a_canonical_dump_is_the_same_data_to_a_server() {
    for kind in KINDS {
        let Some(mut server) = filled(kind, &[]) else { continue };
        let program = program();
        let named = format!("cache={}", server.path("dump.rdb").display());
        let first = backup(&program, &["--redis-rdb", &named]);
        let folder = restored(&program);
        let dump = fs::read(folder.path().join("dump.rdb")).unwrap();
        assert_eq!(dump.len() as u64, listed_bytes(&program));
        assert!(dump != fs::read(server.path("dump.rdb")).unwrap(), "{kind}: not sorted");
        if kind != "valkey-9" {
            check_dump(kind, &folder.path().join("dump.rdb"));
        }
        let (digest, count) = (server.digest(), server.ask("DBSIZE"));
        let copy = RedisServer::start_in(kind, folder, &[]).unwrap();
        assert_eq!((copy.digest(), copy.ask("DBSIZE")), (digest, count), "{kind}");
        // After a restart little is new: values of more than 64 KiB have the order of the server.
        server.kill();
        server.start_again();
        server.ask("SAVE");
        let restarted = backup(&program, &["--redis-rdb", &named]);
        assert!(restarted * 15 < first, "{kind}: {restarted} of {first} after a restart");
        let digest = server.digest();
        drop(server);
        let copy = RedisServer::start_in(kind, restored(&program), &[]).unwrap();
        assert_eq!(copy.digest(), digest, "{kind}");
    }
}

#[test]
fn a_restart_costs_a_canonical_dump_next_to_nothing() {
    let Some(mut server) = RedisServer::start("redis-7", &[]) else { return };
    server.fill(5000);
    script(
        &server,
        "for i = 1, 600 do for j = 1, 60 do redis.call('SADD', 's' .. i, 'm' .. i * j % 97) end end",
    );
    server.ask("SAVE");
    let program = program();
    let named = format!("cache={}", server.path("dump.rdb").display());
    let first = backup(&program, &["--redis-rdb", &named]);
    let before = fs::read(restored(&program).path().join("dump.rdb")).unwrap();
    server.kill();
    server.start_again();
    server.ask("SAVE");
    let restarted = backup(&program, &["--redis-rdb", &named]);
    assert!(restarted < 2000, "{restarted} of {first}");
    let after = fs::read(restored(&program).path().join("dump.rdb")).unwrap();
    let keys = |dump: &[u8]| {
        let first = dump.windows(2).rposition(|window| window == b"\xfe\0").unwrap();
        dump[first..dump.len() - 8].to_vec()
    };
    assert!(keys(&before) == keys(&after), "the keys have another order");
}

fn listed_bytes(program: &Program) -> u64 {
    let cat = program.command(&["cat", "latest:cache.rdb"]).output().unwrap();
    assert!(cat.status.success(), "{}", String::from_utf8_lossy(&cat.stderr));
    cat.stdout.len() as u64
}

#[test]
fn a_canonical_dump_over_the_network_and_by_restore_py() {
    let Some(server) = filled("redis-7", &["--rdbchecksum", "no"]) else { return };
    let program = Program::new();
    let key = program.arg("key");
    let made = Command::new("age-keygen").args(["-o", &key]).output().unwrap();
    let said = String::from_utf8(made.stderr).unwrap();
    let recipient = said.trim().rsplit(' ').next().unwrap();
    let mut program = program;
    program.set("HOLDFAST_REPO", &program.arg("repo"));
    program.set("HOLDFAST_IDENTITY_FILE", &key);
    program.run(&["init", "--recipient", recipient]).ends(0);
    for words in [
        ["--redis".to_owned(), format!("cache={}", server.uri())],
        ["--redis-rdb".to_owned(), format!("cache={}", server.path("dump.rdb").display())],
    ] {
        backup(&program, &[&words[0], &words[1]]);
        let folder = restored(&program);
        check_dump("redis-7", &folder.path().join("dump.rdb"));
        let dump = fs::read(folder.path().join("dump.rdb")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/restore.py");
        let mut command = Command::new("python3");
        command.arg(&script).args([&program.arg("repo"), "--identity", &key]);
        let output = command.args(["cat", "latest", "redis:cache"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout == dump, "{words:?} {said}");
        let copy = RedisServer::start_in("redis-7", folder, &[]).unwrap();
        assert_eq!(copy.digest(), server.digest());
    }
}

#[test]
fn what_depends_on_its_order_keeps_it() {
    // An element of more than 64 KiB.
    let Some(server) = RedisServer::start("redis-7", &["--rdbcompression", "no"]) else { return };
    script(&server, FILL);
    server.ask("SAVE");
    let program = program();
    let named = format!("cache={}", server.path("dump.rdb").display());
    let saved = program.run(&["backup", "--canonical", "--redis-rdb", &named]).ends(0);
    assert!(saved.stderr.contains("depends on its order"), "{}", saved.stderr);
    let folder = restored(&program);
    let dump = fs::read(folder.path().join("dump.rdb")).unwrap();
    assert!(dump == fs::read(server.path("dump.rdb")).unwrap(), "it came back changed");
}
