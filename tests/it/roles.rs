//! What each role can do with all the keys it has, and what it cannot.

use std::path::Path;

use holdfast::crypto::ids::DomainKeys;
use holdfast::crypto::recipient::{Identity, ReadIdentity, Recipient};
use holdfast::crypto::small::{open_text, seal_text};
use holdfast::crypto::unseal::{OpenError, open_whole};
use holdfast::format::keyfile::{EpochFile, MaintainerFile, WriterFile, epoch_name};
use holdfast::format::signed_text::NO_PREVIOUS;
use holdfast::format::tombstone::{Declaration, Remark, Tombstone};
use holdfast::repo::bundle::install;
use holdfast::repo::error::RepoError;
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::repo::roles::{
    NewDomain, add_key, add_writer, draw_writer, find_writer, last_commit, remove_key,
    revoke_writer, rotate,
};
use holdfast::repo::unlock::{Unlocked, maintainer_keys};
use holdfast::restore::error::with_causes;
use holdfast::store::Store;
use tempfile::TempDir;

use crate::household::{Household, noise, stream};

const OBJECT_BYTES_MAX: u64 = 64 << 20;

fn unlock(home: &Household) -> Unlocked {
    Unlocked::open(&home.open(), std::slice::from_ref(&home.owner)).unwrap()
}

/// A second host with a writer of its own, and its state folder.
fn second_host(home: &Household, name: &str, domain: NewDomain) -> (WriterFile, TempDir) {
    let mut repository = home.open();
    let unlocked = unlock(home);
    let keys = draw_writer(&repository, &unlocked, name.parse().unwrap(), domain).unwrap();
    add_writer(&mut repository, &unlocked, &keys).unwrap();
    let states = tempfile::tempdir().unwrap();
    install(&open_at(home, states.path()), &keys).unwrap();
    (keys, states)
}

fn open_at(home: &Household, states: &Path) -> Repository {
    home.open_in(home.store.clone(), states)
}

fn backup_at(home: &Household, states: &Path, data: &[u8]) -> Result<(), String> {
    let root = Box::new(stream("s", data));
    let done = home.backup_roots(open_at(home, states), "s", &[], vec![root]);
    done.map(drop).map_err(|error| with_causes(&error))
}

fn objects(home: &Household, prefixes: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut names = home.store.names();
    names.retain(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let read = |name: String| {
        let bytes = home.store.get(&name, OBJECT_BYTES_MAX).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

fn opens(identities: &[&Identity], sealed: &[u8]) -> bool {
    match open_whole(identities, sealed, &mut Vec::new()) {
        Ok(()) => true,
        Err(OpenError::NoMatchingKey) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_writer_with_all_its_keys_reads_nothing() {
    let home = Household::new();
    home.backup("first", &[], &noise(1, 300_000));
    let (keys, states) = second_host(&home, "web1", NewDomain::Own);
    backup_at(&home, states.path(), &noise(2, 300_000)).unwrap();
    // Whoever takes over the host has what is in its state folder, and what follows from it.
    let stolen = open_at(&home, states.path()).state.writer().unwrap().unwrap();
    let index = DomainKeys::derive(&stolen.secret).index_identity();
    let seed = ReadIdentity::from_secret(&stolen.key.seed()).to_identity();
    let secret = ReadIdentity::from_secret(&stolen.secret).to_identity();
    let identities = [&index, &seed, &secret];
    let closed = objects(&home, &["data/", "snap/", "refs/", "keys/operator-", "keys/domain-"]);
    for kind in ["data/", "snap/", "refs/", "keys/operator-", "keys/domain-"] {
        assert!(closed.iter().filter(|(name, _)| name.starts_with(kind)).count() > 0, "{kind}");
    }
    for (name, sealed) in &closed {
        assert!(!opens(&identities, sealed), "{name}");
    }
    let own = keys.domain.to_string();
    let of_domains = objects(&home, &["index/", "keys/epoch-"]);
    for own_domain in [true, false] {
        assert!(of_domains.iter().any(|(name, _)| name.contains(&own) == own_domain));
    }
    for (name, sealed) in &of_domains {
        assert_eq!(opens(&identities, sealed), name.contains(&own), "{name}");
    }
    let files = std::fs::read_dir(open_at(&home, states.path()).state.path()).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "maintainer.key"), "{names:?}");
}

#[test]
fn a_writer_cannot_sign_tombstones_nor_the_roster() {
    let home = Household::new();
    home.backup("first", &[], b"data");
    let (keys, states) = second_host(&home, "web1", NewDomain::Own);
    let repository = open_at(&home, states.path());
    let no_key = maintainer_keys(&repository, None);
    assert!(matches!(no_key, Err(RepoError::NoKey { role: "maintainer", .. })));
    let history = History::read(&repository).unwrap();
    let snapshot = history.snapshots[0].name;
    for maintainer in [home.maintainer.id, keys.id] {
        let tomb = Tombstone {
            repository: home.id,
            seq: 1,
            prev: NO_PREVIOUS,
            roster: repository.roster_reference(),
            maintainer,
            time: jiff::Timestamp::UNIX_EPOCH,
            declarations: vec![Declaration::Forget { snapshot, reason: Remark::lossy("mine") }],
        };
        let signed = tomb.encode_and_sign(&keys.key).unwrap();
        home.store.put(&Tombstone::object_name(1), &signed).unwrap();
        let history = History::read(&home.open()).unwrap();
        assert_eq!(history.live().count(), 1, "the snapshot is still there");
        assert_eq!(history.findings.len(), 1);
        home.store.delete(&Tombstone::object_name(1)).unwrap();
    }
    let next = repository.roster.next(repository.roster_hash);
    let name = holdfast::format::roster::Roster::object_name(next.seq);
    if let Ok(signed) = next.encode_and_sign(&keys.key) {
        home.store.put(&name, &signed).unwrap();
        let opened = Repository::open(home.store.clone(), states.path(), Some(home.id));
        assert!(matches!(opened, Err(RepoError::Text { .. })));
    }
}

#[test]
fn a_revoked_writer_writes_no_more_and_its_past_stays() {
    let home = Household::new();
    let (keys, states) = second_host(&home, "web1", NewDomain::Own);
    backup_at(&home, states.path(), b"one").unwrap();
    backup_at(&home, states.path(), b"two").unwrap();
    let mut repository = home.open();
    let unlocked = unlock(&home);
    assert_eq!(find_writer(&repository, &unlocked, "web1").unwrap(), keys.id);
    assert_eq!(find_writer(&repository, &unlocked, &keys.id.to_string()).unwrap(), keys.id);
    let unknown = find_writer(&repository, &unlocked, "web2");
    assert!(matches!(unknown, Err(RepoError::NotFound { .. })));
    let history = History::read(&repository).unwrap();
    assert_eq!(last_commit(&history, keys.id), 2);
    revoke_writer(&mut repository, &unlocked, keys.id, 2).unwrap();
    assert_eq!(History::read(&home.open()).unwrap().live().count(), 2);
    let error = backup_at(&home, states.path(), b"three").unwrap_err();
    assert!(error.contains("does not list writer"), "{error}");
    // Distrusting a commit that was seen is no rollback.
    revoke_writer(&mut repository, &unlocked, keys.id, 1).unwrap();
    let history = History::read(&home.open()).unwrap();
    assert!(history.findings.is_empty(), "{:?}", history.findings);
    assert_eq!(history.live().count(), 1);
    let again = install(&home.open(), &keys);
    assert!(matches!(again, Err(RepoError::NotInRoster { .. })));
}

#[test]
fn two_hosts_that_change_the_roster_at_once() {
    let home = Household::new();
    let unlocked = unlock(&home);
    let (mut one, mut other) = (home.open(), home.open());
    let draw = |repository: &Repository, name: &str| {
        draw_writer(repository, &unlocked, name.parse().unwrap(), NewDomain::Own).unwrap()
    };
    let (first, second) = (draw(&one, "a"), draw(&other, "b"));
    add_writer(&mut one, &unlocked, &first).unwrap();
    let error = add_writer(&mut other, &unlocked, &second).unwrap_err();
    assert!(matches!(error, RepoError::RosterTaken { .. }), "{error}");
    let repository = home.open();
    assert!(repository.roster.writer(first.id).is_some());
    assert!(repository.roster.writer(second.id).is_none());
    assert_eq!(repository.roster.seq, 2);
}

#[test]
fn a_shared_domain_has_one_secret_and_both_labels() {
    let home = Household::new();
    let first = home.open().roster.writers[0].id;
    let (keys, states) = second_host(&home, "web1", NewDomain::Of(first));
    let unlocked = unlock(&home);
    assert_eq!(unlocked.domains.len(), 1);
    assert_eq!(unlocked.domains[0].secret.expose_secret(), keys.secret.expose_secret());
    assert_eq!(unlocked.label(keys.id).unwrap().as_str(), "web1");
    assert_eq!(unlocked.label(first).unwrap().as_str(), "host");
    backup_at(&home, states.path(), b"data").unwrap();
}

#[test]
fn installing_does_not_replace_another_writer() {
    let home = Household::new();
    let unlocked = unlock(&home);
    let mut repository = home.open();
    let name = || "web1".parse().unwrap();
    let keys = draw_writer(&repository, &unlocked, name(), NewDomain::Own).unwrap();
    let early = install(&repository, &keys);
    assert!(matches!(early, Err(RepoError::NotInRoster { .. })), "it is not in the roster yet");
    add_writer(&mut repository, &unlocked, &keys).unwrap();
    let taken = install(&repository, &keys);
    assert!(matches!(taken, Err(RepoError::OtherWriter { .. })));
    let states = tempfile::tempdir().unwrap();
    let elsewhere = open_at(&home, states.path());
    install(&elsewhere, &keys).unwrap();
    install(&elsewhere, &keys).unwrap();
    let forged = WriterFile { key: home.maintainer.key.clone(), ..keys };
    assert!(matches!(install(&elsewhere, &forged), Err(RepoError::NotInRoster { .. })));
}

#[test]
fn keys_are_added_and_removed_but_never_the_last() {
    let home = Household::new();
    let repository = home.open();
    let unlocked = unlock(&home);
    let old = unlocked.opened[0].clone();
    let new = ReadIdentity::generate().unwrap();
    let name = add_key(&repository, &unlocked, &[new.recipient().into()]).unwrap();
    let by_new = Unlocked::open(&repository, &[new.to_identity()]).unwrap();
    assert_eq!(by_new.opened, std::slice::from_ref(&name));
    assert!(by_new.root().is_ok());
    let id = |name: &str| holdfast::repo::key_files::key_id(name).to_owned();
    for wrong in ["", "ffffffffffffffff", &id(&old)[..3]] {
        assert!(matches!(remove_key(&repository, wrong), Err(RepoError::NotFound { .. })));
    }
    remove_key(&repository, &id(&old)).unwrap();
    let closed = Unlocked::open(&repository, std::slice::from_ref(&home.owner));
    assert!(matches!(closed, Err(RepoError::WrongKey { tried: 1 })));
    assert!(matches!(remove_key(&repository, &id(&name)), Err(RepoError::LastKey)));
    assert!(Unlocked::open(&repository, &[new.to_identity()]).is_ok());
}

#[test]
fn a_new_epoch_shuts_the_old_key_out_of_what_follows() {
    let home = Household::new();
    home.backup("s", &[], &noise(1, 100_000));
    let mut repository = home.open();
    let old = unlock(&home);
    let before = objects(&home, &["data/", "snap/"]);
    let new = ReadIdentity::generate().unwrap();
    let epoch = rotate(&mut repository, &old, &[vec![new.recipient().into()]]).unwrap();
    assert_eq!(epoch, 2);
    home.backup("s", &[], &noise(2, 100_000));
    let reopened = Unlocked::open(&home.open(), &[new.to_identity()]).unwrap();
    assert_eq!(reopened.operator.reads.len(), 2);
    let (old_reads, new_reads) = (old.read_identities(), reopened.read_identities());
    let (old_reads, new_reads): (Vec<_>, Vec<_>) =
        (old_reads.iter().collect(), new_reads.iter().collect());
    let after = objects(&home, &["data/", "snap/"]);
    assert!(after.len() > before.len());
    for (name, sealed) in &after {
        let is_old = before.iter().any(|(known, _)| known == name);
        assert_eq!(opens(&old_reads, sealed), is_old, "{name}");
        assert!(opens(&new_reads, sealed), "{name}");
    }
    let closed = Unlocked::open(&home.open(), std::slice::from_ref(&home.owner));
    assert!(matches!(closed, Err(RepoError::WrongKey { tried: 1 })));
    let nobody = rotate(&mut repository, &reopened, &[]);
    assert!(matches!(nobody, Err(RepoError::LastKey)));
}

#[test]
fn a_swapped_recipient_is_refused() {
    let home = Household::new();
    let mut repository = home.open();
    let unlocked = unlock(&home);
    let new = ReadIdentity::generate().unwrap();
    rotate(&mut repository, &unlocked, &[vec![new.recipient().into()]]).unwrap();
    // The store puts its own recipient in the place of the one for the new epoch.
    let domain = &unlocked.domains[0];
    for (name, _) in objects(&home, &["keys/epoch-2-"]) {
        home.store.delete(&name).unwrap();
    }
    let hostile = ReadIdentity::generate().unwrap();
    let file = EpochFile { repository: home.id, epoch: 2, recipient: hostile.recipient() };
    let index: Recipient = DomainKeys::derive(&domain.secret).index_recipient().into();
    let sealed = seal_text(&[&index], &file.print()).unwrap();
    home.store.put(&epoch_name(2, domain.domain, &sealed), &sealed).unwrap();
    let before = home.store.names().len();
    let error = backup_at(&home, home.states.path(), b"secret").unwrap_err();
    assert!(error.contains("no recipient fits the active epoch 2"), "{error}");
    assert_eq!(home.store.names().len(), before, "nothing was stored");
}

#[test]
fn keys_that_the_roster_does_not_vouch_for_are_passed_over() {
    let home = Household::new();
    let other = Household::new();
    let recipient = ReadIdentity::generate().unwrap();
    let identity = recipient.to_identity();
    let recipients = vec![recipient.recipient().into()];
    // Key files of another repository, and of this one with keys of that one.
    let mut keys = unlock(&other).operator;
    let repository = home.open();
    for id in [other.id, home.id] {
        keys.repository = id;
        let name = holdfast::repo::create::put_operator_file(&*home.store, &keys, &recipients);
        name.unwrap();
    }
    let refused = Unlocked::open(&repository, std::slice::from_ref(&identity));
    assert!(matches!(refused, Err(RepoError::WrongKey { tried: 3 })));
    add_key(&repository, &unlock(&home), &recipients).unwrap();
    let unlocked = Unlocked::open(&repository, &[identity]).unwrap();
    assert_eq!(unlocked.opened.len(), 1);
    assert_eq!(unlocked.operator.reads.len(), 1);
    let expected = unlock(&home).active_recipient(&repository.roster).unwrap();
    assert_eq!(unlocked.active_recipient(&repository.roster).unwrap(), expected);
}

#[test]
fn a_maintainer_that_is_not_in_the_roster_is_none() {
    let home = Household::new();
    let repository = home.open();
    assert_eq!(maintainer_keys(&repository, None).unwrap().id, home.maintainer.id);
    let mut forged = home.maintainer.clone();
    forged.identity = ReadIdentity::generate().unwrap();
    let file = MaintainerFile { repository: home.id, keys: forged };
    repository.state.set_maintainer(&file).unwrap();
    assert!(matches!(maintainer_keys(&repository, None), Err(RepoError::NoKey { .. })));
    let unlocked = unlock(&home);
    assert_eq!(maintainer_keys(&repository, Some(&unlocked)).unwrap().id, home.maintainer.id);
}

#[test]
fn a_reader_has_labels_and_no_root_where_the_root_is_elsewhere() {
    let home = Household::new();
    let mut unlocked = unlock(&home);
    unlocked.operator.root = None;
    let reader = ReadIdentity::generate().unwrap();
    add_key(&home.open(), &unlocked, &[reader.recipient().into()]).unwrap();
    let reading = Unlocked::open(&home.open(), &[reader.to_identity()]).unwrap();
    assert!(matches!(reading.root(), Err(RepoError::NoKey { role: "root", .. })));
    let error = add_writer(
        &mut home.open(),
        &reading,
        &draw_writer(&home.open(), &reading, "x".parse().unwrap(), NewDomain::Own).unwrap(),
    );
    assert!(matches!(error, Err(RepoError::NoKey { role: "root", .. })));
    let writer = home.open().roster.writers[0].id;
    assert_eq!(reading.label(writer).unwrap().as_str(), "host");
    let file = objects(&home, &["keys/domain-"]);
    let reads = reading.read_identities();
    let reads: Vec<&Identity> = reads.iter().collect();
    assert!(open_text(&reads, &file[0].1, 65_536).is_ok());
}
