//! Healing from copies: every kind of object, and what must not be fetched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use holdfast::crypto::ids::object_id;
use holdfast::maintenance::finding::{Finding, Problem};
use holdfast::progress::Progress;
use holdfast::replica::error::ReplicaError;
use holdfast::replica::heal::texts::heal_texts;
use holdfast::replica::heal::{Copy, heal};
use holdfast::replica::promote::promote;
use holdfast::repo::error::RepoError;
use holdfast::repo::history::History;
use holdfast::repo::unlock::Unlocked;
use holdfast::store::memory::MemoryStore;
use holdfast::store::recording::OperationKind;
use holdfast::store::{Store, StoreError};
use tempfile::TempDir;

use crate::hooked::Hooked;
use crate::household::{GRACE, Household, Keys};
use crate::replica::{contents, copy_to, elsewhere, open_at, world};

/// Turns one bit of an object.
pub fn flip(store: &MemoryStore, name: &str) {
    let mut bytes = store.get(name, u64::MAX).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.overwrite(name, &bytes);
}

fn as_copy(home: &Household, store: Arc<dyn Store>) -> (Copy, TempDir) {
    let (repository, states) = open_at(home, store);
    let history = History::read(&repository).unwrap();
    (Copy { name: "west".into(), repository, history }, states)
}

#[test]
fn every_kind_of_object_is_healed() {
    let (home, all) = world();
    home.forget(&home.open(), 0).unwrap();
    home.wait(GRACE);
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let (copy, _states) = as_copy(&home, west.clone());
    let kinds = ["data/", "index/", "snap/", "refs/", "log/", "tomb/", "roster/", "recovery/"];
    for kind in kinds {
        for damage in ["flip", "cut", "lose"] {
            let name = home.store.names().into_iter().find(|name| name.starts_with(kind)).unwrap();
            let whole = home.store.get(&name, u64::MAX).unwrap();
            match damage {
                "flip" => flip(&home.store, &name),
                "cut" => home.store.overwrite(&name, &whole[..whole.len() / 2]),
                _ => home.store.delete(&name).unwrap(),
            }
            let copies = std::slice::from_ref(&copy);
            let mut healed = heal_texts(&*home.store, None, copies).unwrap();
            let repository = home.open();
            let findings = home.check(&repository, Keys::None).findings;
            let history = History::read(&repository).unwrap();
            let done = heal(&repository, &history, findings, copies, &Progress::default()).unwrap();
            healed.extend(done.healed);
            assert!(done.left.is_empty(), "{kind} {damage}: {:?}", done.left);
            assert_eq!(healed.len(), 1, "{kind} {damage}");
            assert_eq!((healed[0].object.as_str(), healed[0].from.as_str()), (&*name, "west"));
            assert!(home.store.get(&name, u64::MAX).unwrap() == whole, "{kind} {damage}");
            assert_eq!(healed[0].kept_aside, damage != "lose");
            home.assert_sound(&home.open(), &format!("{kind} {damage}"));
        }
    }
    let aside = home.store.names().into_iter().filter(|name| name.starts_with("aside/")).count();
    assert_eq!(aside, 2 * kinds.len());
    assert_eq!(contents(&home, &home.open()), all[1..]);
}

#[test]
fn a_damaged_copy_heals_nothing() {
    let (home, _) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let (copy, _states) = as_copy(&home, west.clone());
    let pack = home.store.names().into_iter().find(|name| name.starts_with("data/")).unwrap();
    flip(&home.store, &pack);
    flip(&west, &pack);
    let repository = home.open();
    let findings = home.check(&repository, Keys::None).findings;
    let history = History::read(&repository).unwrap();
    let none = Progress::default();
    let done = heal(&repository, &history, findings.clone(), &[copy], &none).unwrap();
    assert!(done.healed.is_empty());
    assert_eq!(done.left.len(), 1);
    // Neither is it healed by what it is already.
    let (own, _states) = as_copy(&home, home.store.clone());
    let format = Finding::new("FORMAT", Problem::Missing, "it is not missing at all");
    let done = heal(&repository, &history, vec![format], &[own], &none).unwrap();
    assert_eq!((done.healed.len(), done.left.len()), (0, 1));
    assert!(!home.store.names().iter().any(|name| name.starts_with("aside/")));
}

/// The names of what was fetched.
fn fetched(store: &dyn Store, copy: &Copy) -> Result<Vec<String>, ReplicaError> {
    let healed = heal_texts(store, None, std::slice::from_ref(copy))?;
    Ok(healed.into_iter().map(|one| one.object).collect())
}

fn first(home: &Household, start: &str) -> String {
    home.store.names().into_iter().find(|name| name.starts_with(start)).unwrap()
}

#[test]
fn keys_come_back_only_where_none_is_left() {
    let (home, _) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let (copy, _states) = as_copy(&home, west);
    let key = first(&home, "keys/operator-");
    let other = format!("keys/operator-{}.age", &object_id(b"another").to_string()[..16]);
    home.store.put(&other, b"another").unwrap();
    home.store.delete(&key).unwrap();
    assert!(fetched(&*home.store, &copy).unwrap().is_empty(), "it was removed here");
    home.store.delete(&other).unwrap();
    let findings = home.check(&home.open(), Keys::None).findings;
    assert!(findings.iter().any(|finding| finding.object == "keys/"), "{findings:?}");
    assert_eq!(fetched(&*home.store, &copy).unwrap(), [key]);
    home.assert_sound(&home.open(), "with its key");
}

#[test]
fn help_that_is_there_stays_as_it_is() {
    let (home, _) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let (copy, _states) = as_copy(&home, west);
    home.store.overwrite("RECOVERY.md", b"as another version writes it");
    assert!(fetched(&*home.store, &copy).unwrap().is_empty());
    for name in ["RECOVERY.md", "FORMAT"] {
        home.store.delete(name).unwrap();
        if name != "FORMAT" {
            let findings = home.check(&home.open(), Keys::None).findings;
            assert!(findings.iter().any(|finding| finding.object == name), "{findings:?}");
        }
        assert_eq!(fetched(&*home.store, &copy).unwrap(), [name]);
    }
}

#[test]
fn a_copy_of_another_repository_overwrites_nothing() {
    let (home, _) = world();
    let (other, _) = world();
    let west = elsewhere(&other);
    copy_to(&other, &*west).unwrap();
    let (copy, _states) = as_copy(&other, west);
    // A flipped digit of FORMAT is damage, not another repository: the rosters are signed.
    let format = home.store.get("FORMAT", 4096).unwrap();
    let own = elsewhere(&home);
    copy_to(&home, &*own).unwrap();
    let (own, _own_states) = as_copy(&home, own);
    let mut flipped = format.clone();
    flipped[20] = if flipped[20] == b'0' { b'1' } else { b'0' };
    home.store.overwrite("FORMAT", &flipped);
    assert_eq!(fetched(&*home.store, &own).unwrap(), ["FORMAT"]);
    assert!(home.store.get("FORMAT", 4096).unwrap() == format);
    for lost in ["", "FORMAT"] {
        if !lost.is_empty() {
            home.store.delete(lost).unwrap();
        }
        let before = home.store.names();
        let refused = fetched(&*home.store, &copy).unwrap_err();
        let is_right = match refused {
            ReplicaError::OtherRepository { found, .. } => found == home.id && lost.is_empty(),
            ReplicaError::Occupied { .. } => !lost.is_empty(),
            _ => false,
        };
        assert!(is_right, "{lost}");
        assert_eq!(home.store.names(), before);
    }
    // Nothing is there: only who has seen the repository there may bring it back.
    let empty = elsewhere(&other);
    let refused = fetched(&*empty, &copy).unwrap_err();
    assert!(matches!(refused, ReplicaError::Repo(RepoError::NotThere { .. })));
    heal_texts(&*empty, Some(home.id), std::slice::from_ref(&copy)).unwrap_err();
    assert!(empty.names().is_empty());
    let copies = std::slice::from_ref(&copy);
    assert!(!heal_texts(&*empty, Some(other.id), copies).unwrap().is_empty());
}

#[test]
fn the_old_primary_and_the_new_one_do_not_heal_each_other() {
    let (home, _) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let (old, _old_states) = as_copy(&home, home.store.clone());
    let (mut replica, _states) = open_at(&home, west.clone());
    let unlocked = Unlocked::open(&replica, std::slice::from_ref(&home.owner)).unwrap();
    promote(&mut replica, &unlocked).unwrap();
    let (new, _new_states) = as_copy(&home, west.clone());
    let before = (home.store.names(), west.names());
    for (store, copy) in [(&*west, &old), (&*home.store, &new)] {
        let refused = fetched(store, copy).unwrap_err();
        assert!(matches!(refused, ReplicaError::OtherGeneration { .. }), "{refused}");
    }
    let history = History::read(&new.repository).unwrap();
    let refused = heal(&new.repository, &history, Vec::new(), &[old], &Progress::default());
    assert!(matches!(refused, Err(ReplicaError::OtherGeneration { .. })));
    assert_eq!((home.store.names(), west.names()), before);
    // Without its rosters the old primary would come back as a second new one.
    for roster in before.0.iter().filter(|name| name.starts_with("roster/")) {
        home.store.delete(roster).unwrap();
    }
    let refused = fetched(&*home.store, &new).unwrap_err();
    assert!(matches!(refused, ReplicaError::OtherGeneration { own: 0, .. }), "{refused}");
}

#[test]
fn a_replica_is_given_no_commit_before_its_objects() {
    let (home, all) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    home.backup("db", &[], b"not copied yet");
    let (primary, _states) = as_copy(&home, home.store.clone());
    let log = west.names().into_iter().find(|name| name.starts_with("log/")).unwrap();
    west.delete(&log).unwrap();
    assert_eq!(fetched(&*west, &primary).unwrap(), [log]);
    let (replica, _states) = open_at(&home, west);
    assert_eq!(contents(&home, &replica), all);
}

#[test]
fn a_bad_sector_is_damage_of_one_object() {
    let (home, all) = world();
    let west = elsewhere(&home);
    copy_to(&home, &*west).unwrap();
    let (copy, _states) = as_copy(&home, west);
    let objects = ["data/", "snap/", "log/"].map(|kind| first(&home, kind));
    for object in &objects {
        // It cannot be read until it is made anew.
        let (of, is_gone) = (object.clone(), AtomicBool::new(false));
        let bad: Arc<dyn Store> = Arc::new(Hooked::new(&home.store, move |kind, name| {
            match kind {
                OperationKind::Delete if name == of => is_gone.store(true, Relaxed),
                OperationKind::Get | OperationKind::ReadAt
                    if name == of && !is_gone.load(Relaxed) =>
                {
                    let errno = rustix::io::Errno::IO.raw_os_error();
                    let source = std::io::Error::from_raw_os_error(errno);
                    return Err(StoreError::Io { action: "read", path: name.into(), source });
                }
                _ => {}
            }
            Ok(())
        }));
        let broken = home.open_in(bad.clone(), home.states.path());
        let findings = home.check(&broken, Keys::None).findings;
        assert!(findings.iter().any(|finding| finding.object == *object), "{findings:?}");
        let copies = std::slice::from_ref(&copy);
        let mut healed = heal_texts(&*bad, None, copies).unwrap();
        let history = History::read(&broken).unwrap();
        healed.extend(
            heal(&broken, &history, findings, copies, &Progress::default()).unwrap().healed,
        );
        assert_eq!(healed.len(), 1, "{object}");
        assert_eq!((&healed[0].object, healed[0].kept_aside), (object, false));
    }
    assert_eq!(contents(&home, &home.open()), all);
}
