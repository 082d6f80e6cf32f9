//! Damage of every kind to every kind of object is found, with and without keys.

use std::sync::Arc;

use holdfast::maintenance::finding::Problem;
use holdfast::maintenance::repair::{RepairKeys, drop_local_index, repair_segments};
use holdfast::progress::Progress;
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::store::Store;
use holdfast::store::memory::MemoryStore;

use crate::hooked::Hooked;
use crate::household::{Household, Keys, noise};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    Flip,
    Truncate,
    Delete,
    Swap,
    Replay,
}

pub const DAMAGES: [Damage; 5] =
    [Damage::Flip, Damage::Truncate, Damage::Delete, Damage::Swap, Damage::Replay];
pub const KINDS: [&str; 9] =
    ["data/", "index/", "snap/", "refs/", "log/", "tomb/", "roster/", "keys/", "recovery/"];

/// Damages the last object of a kind; false where there is nothing to do it with.
pub fn damage(store: &MemoryStore, kind: &str, damage: Damage) -> Option<String> {
    let names: Vec<String> =
        store.names().into_iter().filter(|name| name.starts_with(kind)).collect();
    let victim = names.last()?.clone();
    let bytes = store.get(&victim, 1 << 30).unwrap();
    match damage {
        Damage::Flip => {
            let mut changed = bytes.clone();
            changed[bytes.len() / 2] ^= 1;
            store.overwrite(&victim, &changed);
        }
        Damage::Truncate => store.overwrite(&victim, &bytes[..bytes.len() - 7]),
        Damage::Delete => store.delete(&victim).unwrap(),
        Damage::Swap | Damage::Replay => {
            let other = if damage == Damage::Swap {
                names.get(names.len().checked_sub(2)?)?
            } else {
                &names[0]
            };
            if *other == victim {
                return None;
            }
            let older = store.get(other, 1 << 30).unwrap();
            if damage == Damage::Swap {
                store.overwrite(other, &bytes);
            }
            store.overwrite(&victim, &older);
        }
    }
    Some(victim)
}

#[test]
fn all_damage_is_found() {
    let home = Household::new();
    for seed in 0..3 {
        home.backup("a", &[], &noise(seed, 300_000));
    }
    let repository = home.open();
    for nth in 0..2 {
        home.forget(&repository, nth).unwrap();
    }
    // Nothing is announced yet: the loss of what is about to be deleted would be no damage.
    home.assert_sound(&repository, "before");
    let keyless = home.check(&repository, Keys::None);
    assert!(keyless.findings.is_empty(), "{:#?}", keyless.findings);
    for kind in KINDS {
        for how in DAMAGES {
            let image = Arc::new(home.store.image());
            let Some(victim) = damage(&image, kind, how) else { continue };
            if kind == "keys/" && how == Damage::Delete {
                continue; // nothing says which key files there should be
            }
            let opened = Repository::open(image.clone(), home.states.path(), Some(home.id));
            let Ok(repository) = opened else { continue };
            for keys in [Keys::All, Keys::None] {
                let report = home.check(&repository, keys);
                assert!(!report.findings.is_empty(), "{kind} {how:?} {keys:?} of {victim}");
            }
        }
    }
}

#[test]
fn a_finding_names_the_object_and_the_snapshots() {
    let home = Household::new();
    home.backup("a", &[], &noise(1, 200_000));
    home.backup("b", &[], &noise(2, 200_000));
    let repository = home.open();
    let history = holdfast::repo::history::History::read(&repository).unwrap();
    let pack = history.snapshots[1].seq;
    let log = &history.logs[&history.snapshots[1].name.writer];
    let victim = log[pack as usize - 1].commit.puts[0].name.to_string();
    let mut bytes = home.store.get(&victim, 1 << 30).unwrap();
    bytes[5000] ^= 4;
    home.store.overwrite(&victim, &bytes);
    for keys in [Keys::All, Keys::None] {
        let report = home.check(&repository, keys);
        let found = report.findings.iter().find(|finding| finding.object == victim).unwrap();
        assert_eq!(found.problem, Problem::WrongName);
        assert_eq!(found.snapshots, [history.snapshots[1].name], "{keys:?}");
    }
    let coverage = home.check(&repository, Keys::All).coverage;
    assert_eq!((coverage.never, coverage.recent), (1, coverage.packs - 1));
}

#[test]
fn a_lost_index_segment_is_built_anew_from_the_packs() {
    let home = Household::new();
    let content = noise(1, 700_000);
    home.backup("a", &[], &content);
    let segment = home.store.names().into_iter().find(|name| name.starts_with("index/")).unwrap();
    home.store.delete(&segment).unwrap();
    let repository = home.open();
    assert!(drop_local_index(&repository).unwrap() > 0);
    let report = home.check(&repository, Keys::All);
    let has = |problem| report.findings.iter().any(|finding| finding.problem == problem);
    assert!(has(Problem::Missing) && has(Problem::NotIndexed) && has(Problem::Reference));
    let keys = RepairKeys { read: home.reads.clone().into(), domains: &home.domains };
    let progress = Progress::default();
    let report =
        home.maintain(&repository, |m| repair_segments(m, &keys, false, &progress)).unwrap();
    assert_eq!((report.unindexed, report.findings.len()), (report.indexed, 0));
    assert!(report.indexed > 0);
    let history = holdfast::repo::history::History::read(&repository).unwrap();
    assert_eq!(home.read(&repository, &history.snapshots[0]), content);
    let before = home.store.names().iter().filter(|name| name.starts_with("data/")).count();
    home.backup("a", &[], &content);
    let after = home.store.names().iter().filter(|name| name.starts_with("data/")).count();
    assert_eq!(before, after, "the writer believes the new segment");
}

#[test]
fn texts_that_this_host_has_kept_hide_no_damage() {
    let home = Household::new();
    home.backup("db", &[], b"some content");
    let states = home.fresh_states();
    let open = || home.open_in(Arc::new(Hooked::costly(&home.store)), states.path());
    let log = home.store.names().into_iter().find(|name| name.starts_with("log/")).unwrap();
    let whole = home.store.get(&log, u64::MAX).unwrap();
    assert!(History::read(&open()).unwrap().findings.is_empty());
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    home.store.overwrite(&log, &damaged);
    assert!(History::read(&open()).unwrap().findings.is_empty(), "nothing was kept");
    let findings = home.check(&open(), Keys::None).findings;
    assert!(findings.iter().any(|finding| finding.object == log), "{findings:?}");
}

#[test]
fn another_format_is_found_where_nobody_asks_for_it() {
    let home = Household::new();
    let states = home.fresh_states();
    let open = || home.open_in(Arc::new(Hooked::costly(&home.store)), states.path());
    drop(open());
    home.store.overwrite("FORMAT", b"holdfast 2 something\n");
    let findings = home.check(&open(), Keys::None).findings;
    assert!(findings.iter().any(|finding| finding.object == "FORMAT"), "{findings:?}");
}
