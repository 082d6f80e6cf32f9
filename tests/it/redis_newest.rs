//! Dumps of Redis 8: streams that know their producers, arrays, hashes of templates, and what modules
//! keep beside a key. All of it is understood, comes back, and is found again in another order.

use holdfast::backup::dump_records::DumpError;
use holdfast::backup::error::BackupError;
use holdfast::format::redis::dump_end::Ending;
use holdfast::format::redis::dump_items::{DumpItems, Head, Item};
use holdfast::format::redis::facts::DumpOrder;
use holdfast::format::redis::text::put_number;

use crate::household::{Household, noise};
use crate::redis_hostile::{ending, newest as restored, save, unknown_bytes};
use crate::redis_records::{
    FILL, program, restore_py_gives_back, script, small_dump, there_and_back,
};
use crate::redis_server::{RedisServer, ask, check_dump};
use crate::redis_vectors::stream;

/// Two templates, as they stand before all keys.
const TEMPLATES: &[u8] = b"\xf2\x07\x02\x01a\x01b\xf2\x08\x03\x01c\x01d\x01e";
/// Metadata of two modules.
const METADATA: &[u8] = b"\xf3\x02abcd\x05\x03xyz\x00efgh\x02\x41\x00\x01\x03\x00";
/// An array that knows where the next element goes.
const ARRAY: &[u8] = b"\x1c\x01y\x04\x01\x07\x00\x03\x01a\x01\x01xxxxxxxx\x02\x02yyyyyyyy\x80\x00\x01\x86\xa0\x00\x02bc";

fn text(out: &mut Vec<u8>, text: &[u8]) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// The body of a dump with a value of every type.
pub fn newest() -> Vec<u8> {
    [
        TEMPLATES,
        b"\xfe\x00\xfb\x09\x01",
        &stream(26, 16),
        &stream(27, 16),
        ARRAY,
        b"\x1c\x01z\x01\x00\x05\x03\x02zz",
        b"\x1e\x01h\x02lp",
        b"\x20\x01i\x07\x01v\xc0\x05",
        METADATA,
        b"\x20\x01j\x08\x01v\xc3\x04\x03\x02aaa\x00",
        b"\xfc\x01\x02\x03\x04\x05\x06\x07\x08\xf9\x07",
        METADATA,
        b"\x00\x01k\x01v",
        b"\xfe\x03",
        ARRAY,
        b"\x00\x01a\x01b",
    ]
    .concat()
}

/// A dump of many keys of these types, in an order that the number names.
fn shuffled(number: u64) -> Vec<u8> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for at in 0..600_u64 {
        let name = |kind: u8| {
            let mut out = vec![kind];
            text(&mut out, format!("key {at} of type {kind}").as_bytes());
            out
        };
        let bytes = noise(at, 60);
        for kind in [26, 27] {
            keys.push([&name(kind)[..], &stream(kind, 16)[3..]].concat());
        }
        let mut array = [&name(28)[..], b"\x02\x01\x02"].concat();
        for place in [at, at * 1000] {
            put_number(&mut array, place);
            array.push(3);
            text(&mut array, &bytes);
        }
        keys.push(array);
        let mut hash = name(30);
        text(&mut hash, &[&bytes[..], &at.to_le_bytes()].concat());
        keys.push([METADATA, &hash].concat());
    }
    let order = noise(number, keys.len() * 4);
    let mut numbered: Vec<_> = order.chunks(4).zip(keys).collect();
    numbered.sort();
    let keys: Vec<u8> = numbered.into_iter().flat_map(|(_, key)| key).collect();
    small_dump("REDIS0015", &[TEMPLATES, b"\xfe\x00", &keys].concat())
}

#[test]
fn every_byte_of_the_newest_dumps_is_understood_and_comes_back() {
    for version in ["REDIS0013", "REDIS0014", "REDIS0015"] {
        let dump = small_dump(version, &newest());
        assert_eq!(ending(&dump), Ending::Whole);
        for order in [DumpOrder::Server, DumpOrder::Keys] {
            let home = Household::new();
            save(&home, &dump, order).unwrap();
            assert_eq!(unknown_bytes(&home), 0);
            let found = restored(&home, None).unwrap();
            assert!(order == DumpOrder::Keys || found == dump);
            let [mut before, mut after] = [&dump, &found].map(|dump| keys(dump).0);
            before.sort();
            after.sort();
            assert_eq!(after, before);
        }
    }
}

#[test]
fn the_newest_dumps_cut_anywhere_save_nothing() {
    let home = Household::new();
    let dump = small_dump("REDIS0015", &newest());
    for cut in 9..dump.len() {
        let failed = save(&home, &dump[..cut], DumpOrder::Server).unwrap_err();
        let is_cut =
            matches!(failed, BackupError::Dump { source: DumpError::Truncated { .. }, .. });
        assert!(is_cut, "{cut}: {failed:?}");
    }
}

#[test]
fn the_same_keys_in_another_order_cost_the_order_only() {
    let program = program();
    let file = program.path("dump.rdb");
    let mut costs = Vec::new();
    for number in [1, 2] {
        std::fs::write(&file, shuffled(number)).unwrap();
        costs.push(there_and_back(&program, &file));
    }
    assert!(costs[1] * 8 < costs[0], "{costs:?}");
}

/// Names, types and lengths of the keys, what stands before their types, and what is not fit.
fn keys(dump: &[u8]) -> (Vec<(String, u8, usize)>, Option<&'static str>) {
    let (mut items, mut found, mut length) = (DumpItems::default(), Vec::new(), 0);
    let mut each = |item: Item<'_>| {
        match item {
            Item::Begin(Head::Key(key), whole) => {
                let name = String::from_utf8(key.name.clone()).unwrap();
                found.push((name, key.value_type, key.metadata.len()));
                length = whole.unwrap_or_default();
            }
            Item::Bytes(bytes) => length = length.wrapping_sub(bytes.len() as u64),
            Item::End => assert!(length == 0 || length > u64::MAX / 2, "{length}"),
            Item::Begin(Head::Function, _) | Item::Script(_) => {}
        }
        Ok::<(), ()>(())
    };
    items.take(dump, &mut each).unwrap();
    assert_eq!(items.finish(&mut each).unwrap(), Ending::Whole);
    (found, items.unfit())
}

#[test]
fn metadata_belongs_to_the_value_that_a_server_is_given() {
    let body = [METADATA, b"\x00\x01a\x01b\xf9\x07", METADATA, ARRAY].concat();
    let (found, unfit) = keys(&small_dump("REDIS0015", &body));
    let key = |name: &str, kind| (name.to_owned(), kind, METADATA.len());
    assert_eq!((found, unfit), (vec![key("a", 0), key("y", 28)], None));
    // Without the template nobody knows what such a hash is.
    let (found, unfit) = keys(&small_dump("REDIS0015", &newest()));
    assert_eq!(found.len(), 10);
    assert!(unfit.unwrap().contains("template"), "{unfit:?}");
}

/// What only Redis 8 has.
const FILL_8: &str = r"
math.randomseed(8)
for i = 1, 200 do
  for j = 1, 5 do
    redis.call('XADD', 'sent' .. i, 'IDMP', 'producer' .. j % 2, 'message' .. j, '*', 'f', i * j)
    redis.call('XADD', 'seen' .. i, j .. '-1', 'field', string.rep('value', j) .. i)
    redis.call('ARINSERT', 'ring' .. i, string.rep('element ' .. i, j * 4))
  end
  redis.call('XGROUP', 'CREATE', 'seen' .. i, 'group', '0')
  redis.call('XREADGROUP', 'GROUP', 'group', 'one', 'COUNT', '4', 'STREAMS', 'seen' .. i, '>')
  redis.call('XNACK', 'seen' .. i, 'group', 'FAIL', 'IDS', '2', '2-1', '3-1')
  redis.call('ARSET', 'array' .. i, i * 20, 'text', -i, i / 4, 'a longer text', string.rep('q', i))
  redis.call('HSETEX', 'timed' .. i, 'EX', 100000 + i, 'FIELDS', '1', 'a', i)
  redis.call('VADD', 'vectors' .. i % 7, 'VALUES', '3', i, i * 2, -i, 'member' .. i)
end
for i = 1, 20000 do redis.call('ARSET', 'large', i * 2, 'element number ' .. i) end
for i = 1, 300 do redis.call('HSETEX', 'fields', 'EX', 1000 + i, 'FIELDS', '1', 'field' .. i, string.rep('v', 300)) end
";

fn filled() -> Option<RedisServer> {
    let server = RedisServer::start("redis-8", &[])?;
    script(&server, FILL);
    script(&server, FILL_8);
    Some(server)
}

/// Hashes that share the names of their fields, with short values and with long ones.
fn add_templates(server: &RedisServer) {
    let mut connection = server.connect();
    let mut told = |words: &str| ask(&mut connection, words).map(drop).unwrap();
    for template in 0..3 {
        told(&format!("HIMPORT PREPARE set{template} name{template} age email"));
        for number in 0..300 {
            told(&format!("HIMPORT SET short{template}:{number} set{template} {number} bob b@c"));
            let long = "long".repeat(30 + number % 7);
            told(&format!("HIMPORT SET long{template}:{number} set{template} {number} {long} d"));
        }
    }
    assert_eq!(server.ask("OBJECT ENCODING short0:7"), "template-listpack");
    assert_eq!(server.ask("OBJECT ENCODING long0:7"), "template-array");
}

fn dump_of(server: &RedisServer) -> Vec<u8> {
    server.ask("SAVE");
    std::fs::read(server.path("dump.rdb")).unwrap()
}

#[test]
fn all_that_redis_8_writes_is_understood_and_a_restart_costs_little() {
    let Some(mut server) = filled() else { return };
    add_templates(&server);
    let digest = server.digest();
    let dump = dump_of(&server);
    assert_eq!((ending(&dump), &dump[..9]), (Ending::Whole, &b"REDIS0015"[..]));
    let program = program();
    let file = server.path("dump.rdb");
    let first = there_and_back(&program, &file);
    server.kill();
    server.start_again();
    assert_eq!(server.digest(), digest);
    assert!(dump_of(&server) != dump);
    let restarted = there_and_back(&program, &file);
    assert!(restarted * 4 < first, "{restarted} of {first} after a restart");
    // By keys: another order, the same data.
    let named = format!("cache={}", file.display());
    program.run(&["backup", "--canonical", "--redis-rdb", &named]).ends(0);
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let target = folder.path().join("dump.rdb");
    program.run(&["restore", "source:cache", "--target", target.to_str().unwrap()]).ends(0);
    check_dump("redis-8", &target);
    let copy = RedisServer::start_in("redis-8", folder, &[]).unwrap();
    assert_eq!((copy.digest(), copy.ask("DBSIZE")), (digest, server.ask("DBSIZE")));
    // By commands nobody can say to which template a hash belongs.
    let empty = RedisServer::start("redis-8", &[]).unwrap();
    let refused = program.run(&["restore", "source:cache", "--into", &empty.uri()]);
    assert!(refused.stderr.contains("HF-REDIS-033"), "{}", refused.stderr);
    assert!(refused.stderr.contains("template"), "{}", refused.stderr);
    assert_eq!(empty.ask("DBSIZE"), "0");
}

#[test]
fn what_redis_8_has_is_loaded_into_an_empty_server() {
    let Some(server) = filled() else { return };
    let program = program();
    dump_of(&server);
    let named = format!("cache={}", server.path("dump.rdb").display());
    program.run(&["backup", "--redis-rdb", &named]).ends(0);
    let target = RedisServer::start("redis-8", &[]).unwrap();
    program.run(&["restore", "source:cache", "--into", &target.uri()]).ends(0);
    assert_eq!(target.digest(), server.digest());
    for asked in ["XINFO STREAM sent7", "XPENDING seen7 group", "ARINFO array9"] {
        assert_eq!(target.ask(asked), server.ask(asked), "{asked}");
    }
}

#[test]
fn restore_py_gives_a_dump_of_redis_8_back() {
    let Some(server) = filled() else { return };
    add_templates(&server);
    restore_py_gives_back(&server);
}

/// A stream without groups has the same bytes in both types, so the server says what it thinks of 26;
/// and of metadata that may be passed over where no module knows it.
#[test]
fn redis_8_reads_what_is_made_by_hand() {
    let Some(server) = RedisServer::start("redis-8", &[]) else { return };
    server.ask("XADD s IDMP p i * f v");
    let (mut items, mut value) = (DumpItems::default(), Vec::new());
    let mut each = |item: Item<'_>| {
        if let Item::Bytes(bytes) = item {
            value.extend_from_slice(bytes);
        }
        Ok::<(), ()>(())
    };
    items.take(&dump_of(&server), &mut each).unwrap();
    items.finish(&mut each).unwrap();
    assert_eq!(value[0], 27);
    let metadata =
        b"\xf3\x02\x0f\x00\x00\x00\x05\x03xyz\x00\x17\x01\x00\x00\x02\x41\x00\x01\x03\x00";
    let body = [
        b"\xfe\x00\x1a\x01s",
        &value[1..],
        b"\xfc\x01\x02\x03\x04\x05\x06\x07\x08",
        metadata,
        b"\x00\x01k\x01v",
        metadata,
        ARRAY,
    ];
    let dump = small_dump("REDIS0014", &body.concat());
    assert_eq!(ending(&dump), Ending::Whole);
    let program = program();
    let file = program.path("dump.rdb");
    std::fs::write(&file, &dump).unwrap();
    there_and_back(&program, &file);
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    std::fs::copy(&file, folder.path().join("dump.rdb")).unwrap();
    let loaded = RedisServer::start_in("redis-8", folder, &[]).unwrap();
    let given = RedisServer::start("redis-8", &[]).unwrap();
    program.run(&["restore", "source:cache", "--into", &given.uri()]).ends(0);
    for other in [&loaded, &given] {
        assert_eq!(other.ask("XINFO STREAM s"), server.ask("XINFO STREAM s"));
        assert_eq!(other.ask("GET k"), "v");
        assert_eq!(other.ask("PEXPIRETIME k"), "578437695752307201");
        assert_eq!(
            (other.ask("ARGET y 100000"), other.ask("ARCOUNT y")),
            ("bc".into(), "4".into())
        );
    }
}
