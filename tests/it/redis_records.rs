//! Dumps of real servers, stored as records: what comes back is what was sent, byte for byte.

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast::format::redis::crc64::Crc64;
use holdfast::format::redis::dump_end::Ending;
use holdfast::format::redis::dump_parts::{DumpParts, Next};

use crate::program::Program;
use crate::redis_server::{KINDS, RedisServer};

/// Values of every encoding that a server has, small and large.
pub const FILL: &str = r"
math.randomseed(7)
for i = 1, 400 do
  redis.call('SET', 'k' .. i, string.rep('abcdef', i % 40) .. i)
  redis.call('SET', tostring(i * 7919), i * 31337 - 5000)
  redis.call('SET', 't' .. i, string.rep('x', i), 'PX', 100000000 + i)
end
redis.call('SET', 'long', string.rep('no end in sight ', 20000))
redis.call('SET', string.rep('a long key ', 7000), 'value')
for i = 1, 40 do
  for j = 0, i do
    redis.call('SADD', 'ints' .. i, j * i)
    redis.call('SADD', 'set' .. i, 'member' .. j)
    redis.call('HSET', 'hash' .. i, 'field' .. j, string.rep('v', j * 3))
    redis.call('RPUSH', 'list' .. i, string.rep('item' .. j, i))
    redis.call('ZADD', 'zset' .. i, j * 1.5, 'member' .. j)
    redis.call('XADD', 'stream' .. i, (i * 100 + j) .. '-1', 'a', j, 'b', 'hello')
  end
  redis.call('XGROUP', 'CREATE', 'stream' .. i, 'group', '0')
  redis.call('XREADGROUP', 'GROUP', 'group', 'one', 'COUNT', '2', 'STREAMS', 'stream' .. i, '>')
  redis.call('EXPIRE', 'hash' .. i, 100000 + i)
end
for i = 1, 4000 do
  redis.call('HSET', 'hugehash', 'field:' .. i, string.rep('value ' .. i, 4))
  redis.call('SADD', 'hugeset', 'member number ' .. i)
  redis.call('ZADD', 'hugezset', i / 7, 'member number ' .. i)
  redis.call('RPUSH', 'hugelist', string.rep('element ' .. i, 5))
end
redis.call('HSET', 'hugehash', 'a field that is large', string.rep('0123456789', 9000))
redis.call('SELECT', 5)
redis.call('SET', 'k1', 'of another database')
for i = 1, 3000 do redis.call('HSET', 'hugehash', 'field:' .. i, string.rep('w', 40)) end
";

pub fn script(server: &RedisServer, lua: &str) {
    server.connect().command(&[b"EVAL", lua.as_bytes(), b"0"], "filling").unwrap();
}

/// A program with a repository, and the identity that opens it.
pub fn program() -> Program {
    let mut program = Program::new();
    program.set("HOLDFAST_REPO", &program.arg("repo"));
    let password = program.write("password", "of the tests\n");
    fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    program.set("HOLDFAST_PASSWORD_FILE", &password);
    program.run(&["init"]).ends(0);
    program
}

/// Saves the file as `cache`, restores it, compares; plain bytes that were new.
pub fn there_and_back(program: &Program, file: &Path) -> u64 {
    let named = format!("cache={}", file.display());
    let saved = program.run(&["backup", "--json", "--redis-rdb", &named]).ends(0);
    let summary = saved.events().pop().unwrap();
    let target = tempfile::tempdir().unwrap();
    let to = target.path().to_str().unwrap();
    program.run(&["restore", "source:cache", "--target", to]).ends(0);
    let restored = fs::read(target.path().join("cache.rdb")).unwrap();
    assert!(restored == fs::read(file).unwrap(), "{} came back changed", file.display());
    summary["statistics"]["new_bytes"].as_u64().unwrap_or_else(|| panic!("{summary}"))
}

#[test]
fn every_encoding_comes_back_and_a_restart_costs_little() {
    for kind in KINDS {
        let Some(mut server) = RedisServer::start(kind, &[]) else {
            continue;
        };
        script(&server, FILL);
        server.ask("SAVE");
        let program = program();
        let first = there_and_back(&program, &server.path("dump.rdb"));
        server.ask("SET k7 changed");
        server.ask("SAVE");
        let changed = there_and_back(&program, &server.path("dump.rdb"));
        assert!(changed * 4 < first, "{kind}: {changed} of {first} for one key");
        server.kill();
        server.start_again();
        server.ask("SAVE");
        let restarted = there_and_back(&program, &server.path("dump.rdb"));
        assert!(restarted * 4 < first, "{kind}: {restarted} of {first} after a restart");
    }
}

#[test]
fn last_accesses_and_frequencies_come_back() {
    for policy in ["allkeys-lru", "allkeys-lfu"] {
        let arguments = ["--maxmemory", "1gb", "--maxmemory-policy", policy];
        let Some(mut server) = RedisServer::start("redis-7", &arguments) else { return };
        script(&server, FILL);
        server.ask("SAVE");
        let program = program();
        let first = there_and_back(&program, &server.path("dump.rdb"));
        for key in 1..50 {
            server.ask(&format!("GET k{key}"));
        }
        server.ask("SAVE");
        server.kill();
        server.start_again();
        server.ask("SAVE");
        let later = there_and_back(&program, &server.path("dump.rdb"));
        assert!(later * 3 < first, "{policy}: {later} of {first}");
    }
}

#[test]
fn restore_py_gives_the_dump_back() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    script(&server, FILL);
    restore_py_gives_back(&server);
}

/// The dump of a server, by what the specification says alone.
pub fn restore_py_gives_back(server: &RedisServer) {
    server.ask("SAVE");
    let program = Program::new();
    let key = program.arg("key");
    let made = Command::new("age-keygen").args(["-o", &key]).output().unwrap();
    let said = String::from_utf8(made.stderr).unwrap();
    let recipient = said.trim().rsplit(' ').next().unwrap();
    let repo = program.arg("repo");
    program.run(&["init", "-r", &repo, "--recipient", recipient]).ends(0);
    let bytes = fs::read(server.path("dump.rdb")).unwrap();
    let named = format!("cache={}", server.path("dump.rdb").display());
    program.run(&["backup", "-r", &repo, "--redis-rdb", &named]).ends(0);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/restore.py");
    for words in [["cat", "latest", "redis:cache"], ["restore", "latest", &program.arg("out")]] {
        let mut command = Command::new("python3");
        command.arg(&script).args([&repo, "--identity", &key]).args(words);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let restored = match words[0] {
            "cat" => output.stdout,
            _ => fs::read(program.path("out/cache.rdb")).unwrap(),
        };
        assert!(restored == bytes, "{words:?} gives other bytes\n{said}");
    }
}

/// A dump of a few keys, made by hand.
pub fn small_dump(version: &str, body: &[u8]) -> Vec<u8> {
    let mut dump = [version.as_bytes(), body, &[0xff]].concat();
    let mut sum = Crc64::default();
    sum.update(&dump);
    dump.extend_from_slice(&sum.value().to_le_bytes());
    dump
}

pub const SMALL: &[u8] = b"\xfa\x05ctime\xc2\x01\x02\x03\x04\xfe\x00\xfb\x03\x01\
    \x00\x01a\x02xy\xfc\x01\x02\x03\x04\x05\x06\x07\x08\x04\x01h\x02\x01g\x01w\x01f\x01v\
    \xf8\x05\x02\x01s\x02\xc0\x07\x01m\xfe\x03\x12\x01l\x01\x02\x03abc\x07\x01m\x05\x02\x09\x05\x01q\x00";

#[test]
fn a_dump_cut_anywhere_is_not_taken_for_whole() {
    let dump = small_dump("REDIS0010", SMALL);
    for cut in 0..=dump.len() {
        for step in [1, 7, 1000] {
            let mut parts = DumpParts::default();
            let (mut start, mut end, mut seen) = (0, 0, 0);
            while start < cut || end < cut {
                end = (end + step).min(cut);
                while let Next::Part(_, length) = parts.next(&dump[start..end], end == cut) {
                    start += length;
                    seen += length;
                    if start == end {
                        break;
                    }
                }
            }
            assert_eq!(seen, cut, "every byte belongs to a part");
            let is_whole = cut == dump.len();
            let expected = match cut {
                0..9 => Ending::Unknown,
                _ if is_whole => Ending::Whole,
                _ => Ending::Truncated,
            };
            assert_eq!(parts.ending(), expected, "cut at {cut}, {step} bytes at a time");
        }
    }
}

#[test]
fn what_is_not_whole_saves_nothing_unless_it_is_asked_for() {
    let program = program();
    let dump = small_dump("REDIS0010", SMALL);
    let mut wrong = dump.clone();
    wrong[30] ^= 1;
    for (name, bytes) in [("cut", &dump[..dump.len() - 9]), ("wrong", &wrong[..])] {
        fs::write(program.path(name), bytes).unwrap();
        let named = format!("cache={}", program.arg(name));
        let refused = program.run(&["backup", "--redis-rdb", &named]).ends(20);
        refused.warns("error[HF-SRC-011]…");
    }
    program.run(&["snapshots"]).ends(0).says("0 snapshots");
}

#[test]
fn what_is_not_known_comes_back_too() {
    let program = program();
    let dumps = [
        ("newer", small_dump("REDIS0099", b"\xfe\x00\x00\x01a\x01b\xc8what is this\x00")),
        ("unknown-type", small_dump("REDIS0010", b"\xfe\x00\x00\x01a\x01b\x63\x01c\x01d")),
        ("behind", [small_dump("REDIS0010", SMALL), b"*1\r\n$4\r\nPING\r\n".to_vec()].concat()),
        ("no-sum", b"REDIS0003\xfe\x00\x00\x01a\x01b\xff".to_vec()),
        (
            "valkey",
            small_dump(
                "VALKEY080",
                b"\xfe\x00\x16\x01h\x01\x01f\x01v\x01\x02\x03\x04\x05\x06\x07\x08",
            ),
        ),
        ("our-own-code", small_dump("REDIS0010", b"\xfe\x00\x00\x01a\xc4\x02zz")),
        ("twice", small_dump("REDIS0010", b"\xfe\x00\x00\x01a\x01b\x00\x01a\x01b\x00\x01a\x01c")),
        ("empty", small_dump("REDIS0010", b"")),
    ];
    for (name, dump) in dumps {
        fs::write(program.path(name), dump).unwrap();
        there_and_back(&program, &program.path(name));
    }
}
