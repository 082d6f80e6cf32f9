//! Dumps that are not whole, mean harm, or are of tomorrow; snapshots of dumps that a hostile writer
//! made. What is damaged is refused, what is not understood comes back, nothing wrong is called good.

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};

use data_encoding::BASE64;
use holdfast::backup::dump_records::{DumpError, RedisRecords};
use holdfast::backup::error::BackupError;
use holdfast::backup::item::Item;
use holdfast::backup::ordered::Giver;
use holdfast::backup::run::{RootSource, SnapshotLabel};
use holdfast::backup::stream::Reading;
use holdfast::backup::successor::Successor;
use holdfast::chunker::{ChunkSizes, Chunker};
use holdfast::format::redis::dump_end::Ending;
use holdfast::format::redis::dump_parts::{DumpParts, Next};
use holdfast::format::redis::facts::{DumpOrder, RecordFacts};
use holdfast::format::snapshot::{Facts, Root};
use holdfast::maintenance::listing::read_snapshot;
use holdfast::repo::content_bytes::ContentBytes;
use holdfast::repo::history::History;
use holdfast::repo::session::WriteSession;
use holdfast::repo::tree_reader::TreeReader;
use holdfast::restore::error::RestoreError;
use holdfast::restore::redis_dump::read_dump;
use holdfast::source::stream::ReaderStream;

use crate::household::{Household, noise, tree};
use crate::program::Program;
use crate::redis_records::{SMALL, program, small_dump};

/// A dump as a root, from memory.
fn root(dump: &[u8], order: DumpOrder) -> Box<dyn RootSource> {
    let bytes = Cursor::new(dump.to_vec());
    let open = move || Ok(Box::new(ReaderStream::new("dump", bytes)) as _);
    let (root, name) = ("redis:cache".to_owned(), "cache.rdb".to_owned());
    Box::new(RedisRecords::new(root, name, order, Box::new(open), Box::new(Facts::new)))
}

pub fn save(home: &Household, dump: &[u8], order: DumpOrder) -> Result<(), BackupError> {
    home.backup_roots(home.open(), "cache", &[], vec![root(dump, order)])?;
    home.clock.advance(std::time::Duration::from_mins(1));
    Ok(())
}

/// The only root of the newest snapshot, put together by `facts`, or those of the root.
pub fn newest(home: &Household, facts: Option<&RecordFacts>) -> Result<Vec<u8>, RestoreError> {
    let repository = home.open();
    let record = History::read(&repository).unwrap().snapshots.last().unwrap().clone();
    let snapshot = read_snapshot(&repository, &record, &home.reads).unwrap();
    let [root] = &snapshot.roots[..] else { panic!("{} roots", snapshot.roots.len()) };
    let found = RecordFacts::of(root.facts.as_ref())?.unwrap();
    let mut dump = Vec::new();
    read_dump(&home.access(&repository), root, facts.unwrap_or(&found), &mut |bytes| {
        dump.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(dump)
}

/// Bytes of the newest dump that were not understood.
pub fn unknown_bytes(home: &Household) -> u64 {
    let (_, root) = stored(home);
    RecordFacts::of(root.facts.as_ref()).unwrap().unwrap().unknown_bytes
}

#[test]
fn a_dump_cut_or_changed_anywhere_saves_nothing() {
    let home = Household::new();
    for version in ["REDIS0010", "REDIS0013", "VALKEY080"] {
        let dump = small_dump(version, SMALL);
        for cut in 9..dump.len() {
            let failed = save(&home, &dump[..cut], DumpOrder::Server).unwrap_err();
            assert!(
                matches!(&failed, BackupError::Dump { source: DumpError::Truncated { .. }, .. }),
                "{version}, {cut}: {failed:?}"
            );
        }
        for at in 9..dump.len() {
            for mask in [1, 0x40, 0xff] {
                let mut changed = dump.clone();
                changed[at] ^= mask;
                let ending = ending(&changed);
                assert!(
                    matches!(ending, Ending::Truncated | Ending::WrongSum),
                    "{version}, {at}, {mask}: {ending:?}"
                );
            }
        }
    }
    assert!(History::read(&home.open()).unwrap().snapshots.is_empty());
}

pub fn ending(dump: &[u8]) -> Ending {
    let mut parts = DumpParts::default();
    let mut at = 0;
    while at < dump.len() {
        let Next::Part(_, length) = parts.next(&dump[at..], true) else { panic!("at {at}") };
        at += length;
    }
    parts.ending()
}

#[test]
fn a_cut_dump_is_refused_however_it_comes() {
    let program = program();
    let dump = small_dump("REDIS0013", SMALL);
    for cut in [9, 30, dump.len() - 9, dump.len() - 1] {
        let file = program.path("cut.rdb");
        std::fs::write(&file, &dump[..cut]).unwrap();
        let named = format!("cache={}", file.display());
        program.run(&["backup", "--redis-rdb", &named]).ends(20).warns("error[HF-SRC-011]…");
        let (code, said) = piped(&program, &["backup", "--stdin", "cache"], &dump[..cut]);
        assert!(code == 20 && said.contains("HF-SRC-011"), "{code}: {said}");
    }
    program.run(&["snapshots"]).ends(0).says("0 snapshots");
    let (code, said) = piped(&program, &["backup", "--stdin", "cache", "--plain"], &dump[..30]);
    assert_eq!(code, 0, "{said}");
}

fn piped(program: &Program, arguments: &[&str], input: &[u8]) -> (i32, String) {
    let mut child = program.command(arguments).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A length of 8 bytes.
fn long(value: u64) -> Vec<u8> {
    [&[0x81][..], &value.to_be_bytes()].concat()
}

#[test]
fn lengths_that_lie_cost_nothing() {
    let home = Household::new();
    let lengths = [1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63, u64::MAX - 9, u64::MAX];
    let mut count = 0;
    for length in lengths.map(long) {
        let packed = |first: &[u8], second: &[u8]| [b"\xc3", first, second, b"abc"].concat();
        let mut bodies = vec![
            [b"\xfa", &length[..]].concat(),
            [b"\xfa\x01a", &length[..]].concat(),
            [b"\xf5", &length[..]].concat(),
            [b"\xfb", &length[..], &length].concat(),
            [b"\xfe", &length[..]].concat(),
            [b"\xf8", &length[..]].concat(),
            [b"\xf7\x05\x05", &length[..]].concat(),
            [b"\xf3\x01abcd\x05", &length[..]].concat(),
            [b"\xf3", &length[..]].concat(),
            [b"\x00", &length[..]].concat(),
            [&b"\x00\x01a"[..], &packed(&length, b"\x09")].concat(),
            [&b"\x00\x01a"[..], &packed(b"\x03", &length)].concat(),
            [&b"\x00\x01a"[..], &packed(&length, &length)].concat(),
            [b"\x07\x01a", &length[..], b"\x05", &length].concat(),
            [b"\x0f\x01a\x00\x01\x01\x01", &length[..]].concat(),
            [b"\x15\x01a\x00\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01g\x01\x01\x01", &length[..]]
                .concat(),
            [b"\xf2", &length[..]].concat(),
            [b"\xf2\x05", &length[..], b"\x01a"].concat(),
            [&b"\xf2\x05"[..], &length, b"\x20\x01a\x05\x01b\x01c"].concat(),
            [&b"\xf2\x05\x02\x01a\x01b\x20\x01a\x05\x01b"[..], &length].concat(),
            [&b"\x20\x01a"[..], &length, b"\x01b"].concat(),
            [&b"\x1e\x01a"[..], &length].concat(),
            [&b"\x1c\x01a"[..], &length, b"\x00\x01\x03\x01b"].concat(),
            [&b"\x1c\x01a\x01"[..], &length, b"\x01\x03\x01b"].concat(),
            [&b"\x1c\x01a\x01\x01\x05\x07"[..], &length].concat(),
            [&b"\x1c\x01a\x01\x00\x05\x03"[..], &length].concat(),
            [b"\x1a\x01a\x00\x01\x01\x01\x01\x01\x01\x01\x01\x00\x01\x01", &length[..]].concat(),
            [b"\x1a\x01a\x00\x01\x01\x01\x01\x01\x01\x01\x01\x00\x01\x01\x01\x01p", &length[..]]
                .concat(),
            [
                b"\x1b\x01a\x00\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01g\x01\x01\x01\x00\x00",
                &length[..],
            ]
            .concat(),
        ];
        for table in [1, 2, 3, 4, 5, 14, 18, 22] {
            bodies.push([&[table, 1, b'a'], &length[..]].concat());
            bodies.push([&[table, 1, b'a'], &length[..], b"\x01a\x01b\x01c\x01d"].concat());
            bodies.push([&[table, 1, b'a'], &b"\x01"[..], &length[..]].concat());
        }
        for body in bodies {
            for version in ["REDIS0012", "VALKEY080"] {
                // Cut off, and with an end that fits.
                let ending = ending(&[version.as_bytes(), &body].concat());
                assert!(ending != Ending::Whole, "{version} {body:?}");
                for order in [DumpOrder::Server, DumpOrder::Keys] {
                    let dump = small_dump(version, &body);
                    count += 1;
                    // As many as there is time for.
                    if count % 23 == 0 {
                        save(&home, &dump, order).unwrap();
                        let found = newest(&home, None).unwrap();
                        // One that is not understood keeps its order.
                        let is_sorted =
                            order == DumpOrder::Keys && self::ending(&dump) == Ending::Whole;
                        assert!(is_sorted || found == dump, "{version} {body:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_of_tomorrow_comes_back() {
    let home = Household::new();
    let before = b"\xfa\x05ctime\xc2\x01\x02\x03\x04\xfe\x00\x00\x01a\x01b";
    let behind = b"\x00\x01y\x01z";
    // Types and codes that some later server writes; none of them is understood.
    let mut bodies: Vec<Vec<u8>> = (33..=40)
        .chain([6, 8, 23, 29, 31, 60, 120, 200, 241, 246])
        .map(|kind| [&before[..], &[kind, 1, b'k', 2, 9, 9], b"\xff\xfe\xfd", behind].concat())
        .collect();
    // Metadata before a key, as since version 13.
    bodies.push([&before[..], b"\xf3\x01abcd\x02\x07\x00\x00\x01k\x01v", behind].concat());
    bodies.push([&before[..], b"\xfc\x01\x02\x03\x04\x05\x06\x07\x08\xf3\x02abcd\x05\x03xyz\x00efgh\x00\x04\x01k\x01\x01f\x01v"].concat());
    let versions = ["REDIS0012", "REDIS0013", "VALKEY080", "REDIS0099", "REDIS0014", "VALKEY081"];
    for (number, body) in bodies.iter().enumerate() {
        for version in [versions[number % 6], versions[(number + 3) % 6]] {
            let mut dump = small_dump(version, body);
            if number % 4 == 3 {
                let sum = dump.len() - 8;
                dump[sum..].fill(0);
            }
            save(&home, &dump, DumpOrder::Server).unwrap();
            assert!(newest(&home, None).unwrap() == dump, "{version} {body:?}");
        }
    }
}

#[test]
fn what_is_not_understood_is_counted_and_said() {
    let program = program();
    let body = b"\xfe\x00\x00\x01a\x01b\x21\x01k\x01v\x00\x01y\x01z";
    std::fs::write(program.path("dump"), small_dump("REDIS0014", body)).unwrap();
    let named = format!("cache={}", program.arg("dump"));
    for form in [&[][..], &["--canonical"]] {
        let words = [&["backup", "--redis-rdb", &named], form].concat();
        let saved = program.run(&words).ends(0);
        assert!(saved.stderr.contains("19 of 35 bytes are of a form"), "{}", saved.stderr);
        let out = program.arg("out.rdb");
        program
            .run(&["restore", "source:cache", "--target", &out, "--overwrite", "always"])
            .ends(0);
        assert_eq!(std::fs::read(&out).unwrap(), small_dump("REDIS0014", body));
    }
}

/// A folder as what a dump is stored as.
struct Told {
    folder: Box<dyn RootSource>,
    facts: Facts,
}

impl RootSource for Told {
    fn name(&self) -> String {
        "redis:cache".into()
    }

    fn path(&self) -> Vec<u8> {
        b"cache.rdb".to_vec()
    }

    fn chunk_sizes(&self) -> ChunkSizes {
        self.folder.chunk_sizes()
    }

    fn previous(
        &mut self,
        session: &mut WriteSession,
        label: &SnapshotLabel,
    ) -> Result<Option<Successor>, BackupError> {
        self.folder.previous(session, label)
    }

    fn facts(&self) -> Option<Facts> {
        Some(self.facts.clone())
    }

    fn read(&mut self, reading: &Reading, chunker: &Chunker, items: &mut Giver<Item>) {
        self.folder.read(reading, chunker, items);
    }
}

/// The files that a dump is stored as, and its root.
fn stored(home: &Household) -> (BTreeMap<String, Vec<u8>>, Root) {
    let repository = home.open();
    let record = History::read(&repository).unwrap().snapshots.last().unwrap().clone();
    let snapshot = read_snapshot(&repository, &record, &home.reads).unwrap();
    let root = snapshot.roots[0].clone();
    let access = home.access(&repository);
    let mut files = BTreeMap::new();
    for name in ["frame", "ties", "order.0000", "records.00.0000", "column.00.0000"] {
        if let Some(node) = TreeReader::find(&access, &root, name.as_bytes()).unwrap() {
            let bytes = ContentBytes::read_all(&access, &node.content, 1 << 30).unwrap();
            files.insert(name.to_owned(), bytes);
        }
    }
    (files, root)
}

/// What a restore makes of these files.
fn told(
    home: &Household,
    files: &BTreeMap<String, Vec<u8>>,
    facts: &Facts,
) -> Result<Vec<u8>, RestoreError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let told = Told { folder: tree(folder.path()), facts: facts.clone() };
    home.backup_roots(home.open(), "cache", &[], vec![Box::new(told)]).unwrap();
    home.clock.advance(std::time::Duration::from_mins(1));
    newest(home, None)
}

/// The dump that a vector's headers stand for.
pub fn put_together(header: impl Fn(&str) -> String) -> Result<Vec<u8>, String> {
    let facts: RecordFacts = serde_json::from_str(&header("facts")).unwrap();
    let file = |name: &str| BASE64.decode(header(name).as_bytes()).unwrap();
    let files = [
        ("frame".to_owned(), file("frame")),
        ("records.00.0000".to_owned(), file("records")),
        ("column.00.0000".to_owned(), file("column")),
    ];
    let mut told_facts = Facts::new();
    facts.put(&mut told_facts);
    told(&Household::new(), &files.into(), &told_facts).map_err(|error| error.to_string())
}

/// Every way in which a file is damaged here.
fn damages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![
        Vec::new(),
        bytes[..bytes.len() / 2].to_vec(),
        bytes[..bytes.len().saturating_sub(1)].to_vec(),
        [bytes, &[0]].concat(),
        [bytes, bytes].concat(),
        noise(3, bytes.len() + 20),
        vec![0xff; 40],
        [&[0x81; 9][..], bytes].concat(),
    ];
    for (number, at) in (0..bytes.len()).step_by(bytes.len() / 8 + 1).enumerate() {
        let mut changed = bytes.to_vec();
        changed[at] ^= [1, 0x80][number % 2];
        all.push(changed);
    }
    all
}

#[test]
fn a_hostile_writer_gives_no_wrong_dump() {
    for order in [DumpOrder::Server, DumpOrder::Keys] {
        let home = Household::new();
        let body = [SMALL, b"\x04\x01i\x03\x01c\x013\x01a\x011\x01b\x012", SMALL].concat();
        save(&home, &small_dump("REDIS0010", &body), order).unwrap();
        let dump = newest(&home, None).unwrap();
        let (files, root) = stored(&home);
        let facts = root.facts.clone().unwrap();
        assert_eq!(files.len(), if order == DumpOrder::Server { 5 } else { 3 });
        assert_eq!(told(&home, &files, &facts).unwrap(), dump);
        let mut refused = 0;
        let mut judge = |what: &str, found: Result<Vec<u8>, RestoreError>| match found {
            Err(_) => refused += 1,
            Ok(found) => assert!(found == dump, "{order:?}: {what} gives another dump"),
        };
        for (name, bytes) in &files {
            // A short history is read faster.
            let home = Household::new();
            let mut without = files.clone();
            without.remove(name);
            judge(name, told(&home, &without, &facts));
            for damaged in damages(bytes) {
                let mut changed = files.clone();
                changed.insert(name.clone(), damaged);
                judge(name, told(&home, &changed, &facts));
            }
        }
        let right = RecordFacts::of(Some(&facts)).unwrap().unwrap();
        for (what, wrong) in wrong_facts(&right) {
            let mut facts = Facts::new();
            wrong.put(&mut facts);
            let read = RecordFacts::of(Some(&facts)).map_err(RestoreError::from);
            judge(what, read.and_then(|facts| newest(&home, facts.as_ref())));
        }
        assert!(refused > files.len() * 10, "{refused}");
    }
}

fn wrong_facts(right: &RecordFacts) -> Vec<(&'static str, RecordFacts)> {
    let other = |change: &dyn Fn(&mut RecordFacts)| {
        let mut facts = right.clone();
        change(&mut facts);
        facts
    };
    vec![
        ("bytes", other(&|facts| facts.bytes += 1)),
        ("bytes", other(&|facts| facts.bytes = u64::MAX)),
        ("bytes", other(&|facts| facts.bytes = 0)),
        ("atoms", other(&|facts| facts.atoms += 1)),
        ("atoms", other(&|facts| facts.atoms = 0)),
        ("dialect", other(&|facts| facts.dialect = "valkey".into())),
        ("salt", other(&|facts| facts.salt = "00".repeat(16))),
        ("salt", other(&|facts| facts.salt = "zz".into())),
        ("bits", other(&|facts| facts.order_bits = 48)),
        ("bits", other(&|facts| facts.order_bits = 64)),
        ("parts", other(&|facts| facts.part_bits = 10)),
        ("parts", other(&|facts| facts.part_bits = 40)),
        ("order", other(&|facts| facts.order_files = 0)),
        ("order", other(&|facts| facts.order_files = u32::MAX)),
        ("made", other(&|facts| facts.made ^= 1)),
        ("order", other(&|facts| facts.order = DumpOrder::Keys)),
        ("order", other(&|facts| facts.order = DumpOrder::Server)),
        ("form", other(&|facts| facts.form = 2)),
    ]
}
