//! Damage of every kind to every kind of object: a restore gives the right bytes or says no.

use std::sync::Arc;

use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::store::memory::MemoryStore;

use crate::check::{DAMAGES, KINDS, damage};
use crate::household::{Contents, Household, noise, stream, tree};

/// Two snapshots of a tree and a stream, and what they hold.
fn world() -> (Household, Vec<Contents>) {
    let home = Household::new();
    let source = tempfile::tempdir().unwrap();
    for seed in 0..2 {
        std::fs::write(source.path().join("file"), noise(seed, 500_000)).unwrap();
        std::fs::write(source.path().join(format!("small-{seed}")), b"small").unwrap();
        let dump: Box<_> = Box::new(stream("dump", &noise(seed + 10, 300_000)));
        let roots = vec![tree(source.path()), dump];
        home.backup_roots(home.open(), "host", &[], roots).unwrap();
        home.wait(std::time::Duration::from_mins(1));
    }
    let repository = home.open();
    let history = History::read(&repository).unwrap();
    let contents = history.snapshots.iter().map(|one| home.contents(&repository, one)).collect();
    (home, contents)
}

#[derive(Debug, PartialEq, Eq)]
enum Restored {
    Right,
    Refused,
}

/// Restores all snapshots through a new index; wrong bytes that nobody noticed are a panic.
fn restore_all(
    home: &Household,
    store: Arc<MemoryStore>,
    contents: &[Contents],
    when: &str,
) -> Restored {
    let states = home.fresh_states();
    let Ok(repository) = Repository::open(store, states.path(), Some(home.id)) else {
        return Restored::Refused;
    };
    let Ok(history) = History::read(&repository) else { return Restored::Refused };
    let mut result = Restored::Right;
    if history.snapshots.len() < contents.len() {
        // That the last commit has gone is told by the witness only, which a new host has not.
        let is_told = !history.findings.is_empty() || when.contains("log/");
        assert!(is_told, "{when}: a snapshot has vanished without a word");
        result = Restored::Refused;
    }
    for record in &history.snapshots {
        let expected = &contents[record.seq as usize - 1];
        let target = tempfile::tempdir().unwrap();
        if home.try_restore(&repository, record, target.path()).is_err() {
            result = Restored::Refused;
        } else {
            let found = crate::household::files_below(target.path());
            assert!(found == *expected, "{when}: wrong bytes were restored in silence");
        }
    }
    result
}

#[test]
fn a_restore_never_gives_wrong_bytes_in_silence() {
    let (home, contents) = world();
    let image = Arc::new(home.store.image());
    assert_eq!(restore_all(&home, image, &contents, "no damage"), Restored::Right);
    let mut refused = 0;
    for kind in KINDS {
        for how in DAMAGES {
            let image = Arc::new(home.store.image());
            let Some(victim) = damage(&image, kind, how) else { continue };
            let when = format!("{how:?} of {victim}");
            let result = restore_all(&home, image, &contents, &when);
            refused += usize::from(result == Restored::Refused);
            let needs_it = matches!(kind, "data/" | "index/" | "snap/" | "roster/");
            // What a restore does not read cannot spoil it.
            assert!(!needs_it || result == Restored::Refused, "{when}");
        }
    }
    assert!(refused > 15, "only {refused}");
}

/// Nothing says which key files and which texts for people there should be.
fn is_unnamed(name: &str) -> bool {
    name.starts_with("keys/") || name == "RECOVERY.md"
}

#[test]
fn every_object_of_a_snapshot_is_missed_when_it_is_gone() {
    let (home, contents) = world();
    for victim in home.store.names() {
        let image = Arc::new(home.store.image());
        holdfast::store::Store::delete(&*image, &victim).unwrap();
        let opened = Repository::open(image.clone(), home.states.path(), Some(home.id));
        let report = opened
            .ok()
            .map(|repository| (home.check(&repository, crate::household::Keys::All), repository));
        if let Some((report, _)) = &report {
            let is_told = !report.findings.is_empty() || is_unnamed(&victim);
            assert!(is_told, "{victim} is gone and check is content");
        }
        restore_all(&home, image, &contents, &format!("without {victim}"));
    }
}
