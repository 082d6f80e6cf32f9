//! The folder against a plain file of the same history.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::mount::overlay::blocks::OriginName;
use crate::mount::overlay::folder::{Changes, Folder, Handle, Maker};
use crate::mount::overlay::hydrate::{Hydration, complete};
use crate::mount::overlay::lazy_file::LazyFile;
use crate::mount::overlay::nodes::TOP;
use crate::mount::overlay::origin::{Origin, OriginFile};

const BLOCK: usize = 64 * 1024;

/// Contents in memory.
#[derive(Default)]
struct Contents {
    files: HashMap<Vec<u8>, Vec<u8>>,
    is_gone: Arc<AtomicBool>,
    given: Arc<AtomicU64>,
}

struct OpenContent(Vec<u8>, Arc<AtomicBool>, Arc<AtomicU64>);

impl Origin for Contents {
    fn open(&self, name: &OriginName) -> io::Result<Box<dyn OriginFile>> {
        let bytes = self.files[&name.path].clone();
        Ok(Box::new(OpenContent(bytes, self.is_gone.clone(), self.given.clone())))
    }
}

impl OriginFile for OpenContent {
    fn read(&self, offset: u64, length: u64, out: &mut Vec<u8>) -> io::Result<()> {
        if self.1.load(Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.2.fetch_add(length, Relaxed);
        out.extend_from_slice(&self.0[offset as usize..][..length as usize]);
        Ok(())
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at / BLOCK) as u8 | 1).collect()
}

fn us() -> Maker {
    Maker { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
}

/// A folder with one file `a` of that content.
fn laid_out(folder: &Path, bytes: &[u8]) -> Contents {
    let file = File::create(folder.join("a")).unwrap();
    let name = OriginName { snapshot: 0, path: b"x/a".to_vec() };
    LazyFile::lay_out(&file, &name, bytes.len() as u64).unwrap();
    Contents { files: HashMap::from([(b"x/a".to_vec(), bytes.to_vec())]), ..Contents::default() }
}

fn shown(folder: &Path, origin: Contents) -> Folder {
    Folder::new(folder.to_owned(), Arc::new(origin), "seal", us())
}

fn opened(folder: &Folder, name: &str) -> (u64, Arc<Handle>) {
    let ino = folder.lookup(TOP, OsStr::new(name)).unwrap().ino();
    (ino, folder.open(ino).unwrap())
}

fn read_all(folder: &Folder, handle: &Handle) -> Vec<u8> {
    let mut bytes = Vec::new();
    folder.read(handle, 0, 100 * BLOCK, &mut bytes).unwrap();
    bytes
}

/// Numbers that look random, the same in each run.
fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |most| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % most
    }
}

#[test]
fn any_reads_writes_and_cuts_are_those_of_a_plain_file() {
    for seed in 0..25 {
        let place = tempfile::tempdir().unwrap();
        let mut number = numbers(seed);
        let mut model = content(5 * BLOCK + number(BLOCK as u64) as usize);
        let mut folder = shown(place.path(), laid_out(place.path(), &model));
        let (mut ino, mut handle) = opened(&folder, "a");
        for _ in 0..40 {
            let at = number(model.len() as u64 + 2 * BLOCK as u64) as usize;
            match number(10) {
                0..4 => {
                    let length = 1 + number(3 * BLOCK as u64) as usize;
                    let mut bytes = Vec::new();
                    folder.read(&handle, at as u64, length, &mut bytes).unwrap();
                    let end = model.len().min(at + length);
                    assert_eq!(bytes, model.get(at..end).unwrap_or_default(), "{seed}");
                }
                4..7 => {
                    let length = [8192, 100, BLOCK, 2 * BLOCK + 1][number(4) as usize];
                    let data = vec![number(256) as u8; length];
                    folder.write(&handle, at as u64, &data).unwrap();
                    model.resize(model.len().max(at + length), 0);
                    model[at..at + length].copy_from_slice(&data);
                }
                7 => {
                    let changes = Changes { size: Some(at as u64), ..Changes::default() };
                    folder.change(ino, changes).unwrap();
                    model.resize(at, 0);
                }
                8 => folder.sync(&handle).unwrap(),
                // Another process shows the folder again, after what was not durable was made so.
                _ => {
                    folder.sync(&handle).unwrap();
                    let origin = laid_origin(seed);
                    folder = shown(place.path(), origin);
                    (ino, handle) = opened(&folder, "a");
                }
            }
        }
        assert!(read_all(&folder, &handle) == model, "{seed}");
        assert!(Hydration::default().run(&folder, 2).unwrap());
        drop(handle);
        std::fs::write(place.path().join(".holdfast.seal"), "17").unwrap();
        complete(&folder, "seal").unwrap();
        assert!(std::fs::read(place.path().join("a")).unwrap() == model, "{seed}");
        let mut names: Vec<_> =
            std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "seal"]);
        let file = File::open(place.path().join("a")).unwrap();
        assert!(LazyFile::read(&file).unwrap().is_none());
    }
}

/// The origin of the folder of that seed once more.
fn laid_origin(seed: u64) -> Contents {
    let mut number = numbers(seed);
    let bytes = content(5 * BLOCK + number(BLOCK as u64) as usize);
    Contents { files: HashMap::from([(b"x/a".to_vec(), bytes)]), ..Contents::default() }
}

#[test]
fn only_what_is_asked_for_is_fetched_and_only_once() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(50 * BLOCK);
    let origin = laid_out(place.path(), &bytes);
    let given = origin.given.clone();
    let folder = shown(place.path(), origin);
    let (_, handle) = opened(&folder, "a");
    let mut out = Vec::new();
    for _ in 0..2 {
        out.clear();
        folder.read(&handle, 10, 8192, &mut out).unwrap();
    }
    assert_eq!(given.load(Relaxed), BLOCK as u64);
    // A whole block that is written is not fetched at all, and a part of one takes that one.
    folder.write(&handle, 2 * BLOCK as u64, &vec![7; BLOCK]).unwrap();
    folder.write(&handle, 4 * BLOCK as u64 + 8192, &[7; 8192]).unwrap();
    assert_eq!(given.load(Relaxed), 2 * BLOCK as u64);
}

#[test]
fn what_cannot_be_fetched_is_an_error_and_comes_later() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(3 * BLOCK);
    let origin = laid_out(place.path(), &bytes);
    let is_gone = origin.is_gone.clone();
    let folder = shown(place.path(), origin);
    let (_, handle) = opened(&folder, "a");
    is_gone.store(true, Relaxed);
    let mut out = Vec::new();
    assert!(folder.read(&handle, 0, 10, &mut out).is_err());
    assert!(folder.write(&handle, 5, &[1]).is_err());
    folder.write(&handle, 0, &vec![9; BLOCK]).unwrap();
    assert!(Hydration::default().run(&folder, 2).is_err());
    std::fs::write(place.path().join(".holdfast.seal"), "17").unwrap();
    // Nobody can take it for the whole.
    assert!(complete(&folder, "seal").is_err());
    assert!(!place.path().join("seal").exists());
    is_gone.store(false, Relaxed);
    let read = read_all(&folder, &handle);
    assert!(read[..BLOCK] == vec![9; BLOCK] && read[BLOCK..] == bytes[BLOCK..]);
}

#[test]
fn what_was_not_made_durable_is_fetched_again() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(4 * BLOCK);
    let origin = laid_out(place.path(), &bytes);
    let files = origin.files.clone();
    let folder = shown(place.path(), origin);
    let (_, handle) = opened(&folder, "a");
    folder.write(&handle, 0, &vec![1; BLOCK]).unwrap();
    folder.sync(&handle).unwrap();
    folder.write(&handle, BLOCK as u64, &vec![2; BLOCK]).unwrap();
    drop((folder, handle));
    let folder = shown(place.path(), Contents { files, ..Contents::default() });
    let (_, handle) = opened(&folder, "a");
    let read = read_all(&folder, &handle);
    assert!(read[..BLOCK] == vec![1; BLOCK] && read[BLOCK..] == bytes[BLOCK..]);
}

#[test]
fn names_change_and_a_new_file_is_not_what_had_its_number() {
    let place = tempfile::tempdir().unwrap();
    let bytes = content(2 * BLOCK);
    let folder = shown(place.path(), laid_out(place.path(), &bytes));
    let (ino, handle) = opened(&folder, "a");
    folder.make_folder(TOP, OsStr::new("d"), 0o700, us()).unwrap();
    let below = folder.lookup(TOP, OsStr::new("d")).unwrap().ino();
    folder.rename((TOP, OsStr::new("a")), (below, OsStr::new("b"))).unwrap();
    assert_eq!(folder.lookup(below, OsStr::new("b")).unwrap().ino(), ino);
    assert!(folder.lookup(TOP, OsStr::new("a")).is_err());
    assert!(read_all(&folder, &handle) == bytes);
    folder.remove(below, OsStr::new("b")).unwrap();
    // It is open still.
    assert_eq!(folder.metadata(ino).unwrap().len(), bytes.len() as u64);
    folder.close(&handle);
    drop(handle);
    let (made, handle) = folder.create(TOP, OsStr::new("c"), 0o600, us()).unwrap();
    folder.write(&handle, BLOCK as u64 + 5, b"x").unwrap();
    assert_eq!(read_all(&folder, &handle)[..BLOCK], vec![0; BLOCK][..], "{}", made.ino());
    for hidden in [".holdfast.x", ".holdfast.seal"] {
        assert!(folder.create(TOP, OsStr::new(hidden), 0o600, us()).is_err());
    }
    folder.create(TOP, OsStr::new("seal"), 0o600, us()).unwrap();
    assert!(!place.path().join("seal").exists());
    let names: Vec<_> = folder.list(TOP).unwrap().into_iter().map(|(_, _, name)| name).collect();
    assert!(names.contains(&"seal".into()) && names.len() == 3, "{names:?}");
}
