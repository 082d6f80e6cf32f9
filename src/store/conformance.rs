//! The contract of [`Store`] as one suite, run by every store and every decorator.
//!
//! Each check begins with a new, empty store; it panics with what was violated.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use crate::store::{Entry, Put, Store, StoreError};

/// Threads that race for one name.
const RACERS: usize = 20;
/// Names that no store may take.
const BAD_NAMES: [&str; 16] = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a b", "a\0b", "ä", "a\\b",
    "tmp/a", "reserve",
];

/// A part of the contract that a service may be known not to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excused {
    /// Of several that create one name at once, exactly one succeeds.
    OneOfManyCreates,
}

/// Runs all checks, each on a store of its own.
///
/// # Panics
/// When the store breaks its contract.
pub fn run(make: impl Fn() -> Box<dyn Store>) {
    run_except(&[], make);
}

/// Runs all checks but those of `excused`, each on a store of its own.
///
/// # Panics
/// When the store breaks its contract.
pub fn run_except(excused: &[Excused], make: impl Fn() -> Box<dyn Store>) {
    bytes_come_back_exactly(&*make());
    creates_only_if_absent(&*make());
    if !excused.contains(&Excused::OneOfManyCreates) {
        one_of_many_creates(&*make());
    }
    ranges_are_exact(&*make());
    limits_are_kept(&*make());
    lists_by_folder(&*make());
    missing_is_not_found(&*make());
    deletes_idempotently(&*make());
    refuses_bad_names(&*make());
}

/// Bytes without a pattern that a torn or shifted read could hide in.
fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn put(store: &dyn Store, name: &str, bytes: &[u8]) -> Put {
    store.put(name, bytes).unwrap_or_else(|error| panic!("put {name}: {error:?}"))
}

fn get(store: &dyn Store, name: &str) -> Vec<u8> {
    store.get(name, u64::MAX).unwrap_or_else(|error| panic!("get {name}: {error:?}"))
}

fn list(store: &dyn Store, prefix: &str) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let listed = store.list(prefix, &mut |entry| {
        let name = entry.name.clone();
        assert!(found.insert(name, entry).is_none(), "listed twice below {prefix:?}");
    });
    listed.unwrap_or_else(|error| panic!("list {prefix:?}: {error:?}"));
    found
}

fn bytes_come_back_exactly(store: &dyn Store) {
    for length in [0, 1, 4095, 4096, 65_537, 8 * 1024 * 1024 + 1] {
        let name = format!("data/{length}");
        let bytes = pattern(length);
        assert_eq!(put(store, &name, &bytes), Put::Created, "{length} bytes");
        assert!(get(store, &name) == bytes, "{length} bytes come back otherwise");
        let entry = store.stat(&name).expect("stat of what was put");
        assert_eq!((entry.name.as_str(), entry.size), (name.as_str(), length as u64));
    }
}

fn creates_only_if_absent(store: &dyn Store) {
    assert_eq!(put(store, "log/1", b"first"), Put::Created);
    let seen = store.stat("log/1").expect("stat");
    assert_eq!(put(store, "log/1", b"another text"), Put::Exists);
    assert_eq!(get(store, "log/1"), b"first", "an object was overwritten");
    assert_eq!(store.stat("log/1").expect("stat"), seen, "size or time changed");
}

fn one_of_many_creates(store: &dyn Store) {
    for round in 0..8 {
        let name = format!("race/{round}");
        let barrier = Barrier::new(RACERS);
        let answers: Vec<(usize, Put)> = thread::scope(|scope| {
            let race = |racer: usize| {
                let (name, barrier) = (&name, &barrier);
                move || {
                    let bytes = pattern(1000 + racer);
                    barrier.wait();
                    (racer, put(store, name, &bytes))
                }
            };
            let threads: Vec<_> = (0..RACERS).map(|racer| scope.spawn(race(racer))).collect();
            threads.into_iter().map(|one| one.join().expect("racer panicked")).collect()
        });
        let winners: Vec<usize> =
            answers.iter().filter(|(_, put)| *put == Put::Created).map(|(one, _)| *one).collect();
        assert_eq!(winners.len(), 1, "winners of {name}: {winners:?}");
        assert!(get(store, &name) == pattern(1000 + winners[0]), "not the winner's bytes");
    }
}

fn ranges_are_exact(store: &dyn Store) {
    let bytes = pattern(10_000);
    put(store, "data/a", &bytes);
    for (offset, length) in [(0, 0), (0, 1), (1, 4096), (9_999, 1), (10_000, 0), (0, 10_000)] {
        let mut buffer = vec![0; length];
        store.read_at("data/a", offset as u64, &mut buffer).expect("range inside the object");
        assert!(buffer == bytes[offset..offset + length], "{length} bytes at {offset}");
    }
    for (offset, length) in [(0_u64, 10_001_usize), (10_000, 1), (9_999, 2), (u64::MAX, 1)] {
        match store.read_at("data/a", offset, &mut vec![0; length]) {
            Err(StoreError::WrongSize { name, actual_bytes: 10_000, .. }) => {
                assert_eq!(name, "data/a");
            }
            other => panic!("{length} bytes at {offset} of 10000: {other:?}"),
        }
    }
}

fn limits_are_kept(store: &dyn Store) {
    put(store, "a", &pattern(100));
    assert_eq!(store.get("a", 100).expect("exactly the limit").len(), 100);
    match store.get("a", 99) {
        Err(StoreError::WrongSize { expected_bytes: 99, actual_bytes: 100, .. }) => {}
        other => panic!("longer than allowed: {other:?}"),
    }
}

fn lists_by_folder(store: &dyn Store) {
    let names = ["FORMAT", "data/00/a", "data/00/b", "data/01/c", "data2/d", "log/w/1", ".dot/x"];
    for (length, name) in names.iter().enumerate() {
        put(store, name, &pattern(length));
    }
    let cases: [(&str, &[usize]); 6] = [
        ("", &[0, 1, 2, 3, 4, 5, 6]),
        ("data/", &[1, 2, 3]),
        ("data/00/", &[1, 2]),
        ("log/", &[5]),
        ("absent/", &[]),
        ("data/absent/folder/", &[]),
    ];
    for (prefix, expected) in cases {
        let found = list(store, prefix);
        let expected: BTreeMap<String, usize> =
            expected.iter().map(|index| (names[*index].to_owned(), *index)).collect();
        let sizes: BTreeMap<String, usize> =
            found.iter().map(|(name, entry)| (name.clone(), entry.size as usize)).collect();
        assert_eq!(sizes, expected, "below {prefix:?}");
        for (name, entry) in &found {
            assert_eq!(*entry, store.stat(name).expect("stat"), "list and stat differ");
        }
    }
    assert!(store.list("data", &mut |_| {}).is_err(), "a prefix is a folder");
}

fn missing_is_not_found(store: &dyn Store) {
    put(store, "data/a", b"1");
    let is_missing = |error: StoreError| matches!(error, StoreError::NotFound { .. });
    for name in ["b", "data/b", "absent/b", "data/0/1/2"] {
        assert!(store.get(name, 10).is_err_and(is_missing), "get {name}");
        assert!(store.read_at(name, 0, &mut [0]).is_err_and(is_missing), "read_at {name}");
        assert!(store.stat(name).is_err_and(is_missing), "stat {name}");
    }
}

fn deletes_idempotently(store: &dyn Store) {
    put(store, "data/00/a", b"old");
    put(store, "data/00/b", b"other");
    store.read_at("data/00/a", 0, &mut [0; 3]).expect("read before");
    for _ in 0..2 {
        store.delete("data/00/a").expect("delete");
        assert!(matches!(store.get("data/00/a", 9), Err(StoreError::NotFound { .. })));
        let read = store.read_at("data/00/a", 0, &mut [0; 3]);
        assert!(matches!(read, Err(StoreError::NotFound { .. })), "read after delete: {read:?}");
    }
    store.delete("never/was/there").expect("delete of what never was");
    assert_eq!(list(store, "").len(), 1);
    assert_eq!(put(store, "data/00/a", b"new"), Put::Created);
    let mut buffer = [0; 3];
    store.read_at("data/00/a", 0, &mut buffer).expect("read of the new one");
    assert_eq!(&buffer, b"new");
}

fn refuses_bad_names(store: &dyn Store) {
    let is_bad = |error: StoreError| matches!(error, StoreError::BadName { .. });
    for name in BAD_NAMES {
        assert!(store.put(name, b"x").is_err_and(is_bad), "put {name:?}");
        assert!(store.get(name, 1).is_err_and(is_bad), "get {name:?}");
        assert!(store.read_at(name, 0, &mut [0]).is_err_and(is_bad), "read_at {name:?}");
        assert!(store.stat(name).is_err_and(is_bad), "stat {name:?}");
        assert!(store.delete(name).is_err_and(is_bad), "delete {name:?}");
    }
    assert_eq!(list(store, "").len(), 0);
}
