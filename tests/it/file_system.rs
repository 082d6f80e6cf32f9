//! Snapshots as a file system, without a kernel: what happens to it when the repository changes.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use holdfast::mount::attributes::Owner;
use holdfast::mount::catalog::Catalog;
use holdfast::mount::error::VfsError;
use holdfast::mount::file_system::{FileSystem, Options};
use holdfast::mount::inode::{Ino, TOP};
use holdfast::progress::Progress;
use holdfast::repo::history::History;
use holdfast::repo::unlock::Unlocked;

use crate::household::{GRACE, Household, noise};
use crate::prune::repack_now;

/// Longer than a list of snapshots counts as new.
const NO_LONGER_FRESH: Duration = Duration::from_millis(2200);

/// A file system that keeps next to nothing.
fn file_system(home: &Household) -> (FileSystem, Arc<Progress>) {
    let repository = home.open();
    let history = History::read(&repository).unwrap();
    let unlocked = Unlocked::open(&repository, std::slice::from_ref(&home.owner)).unwrap();
    let access = home.access(&repository);
    let progress = Arc::new(Progress::default());
    let catalog = Catalog::new(repository, &history, unlocked, Vec::new(), progress.clone());
    let options = Options { cache_bytes: 1, threads: 1, owner: Owner { uid: 0, gid: 0 } };
    (FileSystem::new(catalog, access, options, progress.clone()), progress)
}

fn names(file_system: &FileSystem, ino: Ino) -> Vec<String> {
    let directory = file_system.open_directory(ino).unwrap();
    let mut names = Vec::new();
    // One at a time: each is a listing of its own.
    let mut place = 0;
    loop {
        let (before, from) = (names.len(), place);
        let mut take = |next: u64, name: &[u8], _: &_| {
            if names.len() > before {
                return ControlFlow::Break(());
            }
            names.push(String::from_utf8(name.to_vec()).unwrap());
            place = next;
            ControlFlow::Continue(())
        };
        file_system.list(&directory, from, &mut take).unwrap();
        if names.len() == before {
            return names;
        }
    }
}

fn walk(file_system: &FileSystem, path: &[&str]) -> Result<Ino, VfsError> {
    path.iter().try_fold(TOP, |ino, name| file_system.lookup(ino, name.as_bytes()))
}

fn read(file_system: &FileSystem, ino: Ino) -> Result<Vec<u8>, VfsError> {
    let file = file_system.open(ino)?;
    let mut bytes = Vec::new();
    let result = file_system.read(ino, &file, 0, u64::MAX, &mut bytes);
    file_system.close(&file);
    result.map(|()| bytes)
}

#[test]
fn a_pack_that_was_repacked_is_found_by_its_chunks() {
    let home = Household::new();
    let (both, own) = (noise(1, 2 << 20), noise(2, 2 << 20));
    let first = [&noise(3, 300_000)[..], &both].concat();
    home.backup("a", &[], &first);
    home.backup("b", &[], &[&both[..], &own].concat());
    let (file_system, progress) = file_system(&home);
    let time = names(&file_system, walk(&file_system, &["b"]).unwrap()).remove(0);
    let ino = walk(&file_system, &["b", &time, "b"]).unwrap();
    assert!(read(&file_system, ino).unwrap() == [&both[..], &own].concat());
    let repository = home.open();
    home.forget(&repository, 0).unwrap();
    home.wait(GRACE);
    let before = home.store.names();
    assert!(repack_now(&home, &home.open()).unwrap().old.objects > 0);
    home.prune_fully();
    let gone = |name: &&String| name.starts_with("data/") && !home.store.names().contains(name);
    assert!(before.iter().any(|name| gone(&name)), "no pack was deleted");
    std::thread::sleep(NO_LONGER_FRESH);
    assert!(read(&file_system, ino).unwrap() == [&both[..], &own].concat());
    assert_eq!(progress.take_messages(), Vec::<String>::new());
    assert_eq!(names(&file_system, TOP), ["b"], "a forgotten source is no longer listed");
}

#[test]
fn what_was_forgotten_and_deleted_is_an_error_and_never_other_bytes() {
    let home = Household::new();
    home.backup("a", &[], &noise(1, 1 << 20));
    home.backup("b", &[], &noise(2, 1 << 20));
    let (file_system, progress) = file_system(&home);
    let time = names(&file_system, walk(&file_system, &["a"]).unwrap()).remove(0);
    let ino = walk(&file_system, &["a", &time, "a"]).unwrap();
    home.forget(&home.open(), 0).unwrap();
    home.prune_fully();
    home.prune_fully();
    std::thread::sleep(NO_LONGER_FRESH);
    assert_eq!(read(&file_system, ino).unwrap_err(), VfsError::Damaged);
    assert_eq!(read(&file_system, ino).unwrap_err(), VfsError::Damaged);
    let told = progress.take_messages();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("/a in snapshot ") && told[0].contains(" of a at "), "{told:?}");
    assert_eq!(walk(&file_system, &["a"]).unwrap_err(), VfsError::NotFound);
    let time = names(&file_system, walk(&file_system, &["b"]).unwrap()).remove(0);
    let other = walk(&file_system, &["b", &time, "b"]).unwrap();
    assert!(read(&file_system, other).unwrap() == noise(2, 1 << 20));
}

#[test]
fn numbers_lead_back_and_wrong_ones_lead_nowhere() {
    let home = Household::new();
    home.backup("a", &[], b"content");
    let (file_system, _) = file_system(&home);
    assert_eq!(names(&file_system, TOP), ["a"]);
    let source = walk(&file_system, &["a"]).unwrap();
    let times = names(&file_system, source);
    assert_eq!(times.len(), 2);
    assert_eq!(times[1], "latest");
    let link = walk(&file_system, &["a", "latest"]).unwrap();
    assert_eq!(file_system.link_target(link).unwrap(), times[0].as_bytes());
    let file = walk(&file_system, &["a", &times[0], "a"]).unwrap();
    assert_eq!(walk(&file_system, &["a", &times[0], "a"]).unwrap(), file);
    assert_eq!(file_system.attributes(file).unwrap().size, 7);
    for path in [&["none"][..], &["a", "none"], &["a", &times[0], "none"]] {
        assert_eq!(walk(&file_system, path).unwrap_err(), VfsError::NotFound, "{path:?}");
    }
    assert_eq!(walk(&file_system, &["a", "latest", "a"]).unwrap_err(), VfsError::NotDirectory);
    assert_eq!(file_system.open(source).err(), Some(VfsError::WrongKind));
    for ino in [0, 99, file + 1, file + (1 << 40), u64::MAX] {
        assert!(file_system.attributes(ino).is_err(), "{ino}");
    }
}

#[test]
fn an_older_snapshot_is_not_the_latest_while_a_newer_one_cannot_be_read() {
    let home = Household::new();
    home.backup("a", &[], b"older");
    let before = home.store.names();
    home.backup("a", &[], b"newer");
    let is_new = |name: &String| name.starts_with("snap/") && !before.contains(name);
    let newest = home.store.names().into_iter().find(is_new).unwrap();
    home.store.overwrite(&newest, b"damaged");
    let (first, progress) = file_system(&home);
    let listed = names(&first, walk(&first, &["a"]).unwrap());
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(walk(&first, &["a", "latest"]).unwrap_err(), VfsError::NotFound);
    assert_eq!(progress.take_messages().len(), 1);
    let older = walk(&first, &["a", &listed[0], "a"]).unwrap();
    assert_eq!(read(&first, older).unwrap(), b"older");
    home.backup("a", &[], b"newest");
    let (then, _) = file_system(&home);
    let latest = walk(&then, &["a", "latest"]).unwrap();
    let target = String::from_utf8(then.link_target(latest).unwrap().clone()).unwrap();
    let newest = walk(&then, &["a", &target, "a"]).unwrap();
    assert_eq!(read(&then, newest).unwrap(), b"newest");
}
