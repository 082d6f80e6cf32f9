//! Round trips and damage: what a restore brings back, and what it says when it cannot.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::format::node::{Content, Node, NodeKind};
use crate::format::snapshot::Snapshot;
use crate::format::tree::EntryKey;
use crate::progress::Progress;
use crate::repo::pack_map::object_name;
use crate::repo::read_access::ReadAccess;
use crate::repo::tree_reader::TreeReader;
use crate::restore::cat::cat;
use crate::restore::error::RestoreError;
use crate::restore::execute::{Overwrite, RestoreOptions, RestoreReport, restore};
use crate::restore::filter::Filters;
use crate::restore::fixture::{Entries, Fixture, enter, node, noise, snapshot};
use crate::restore::tar::write_tar;
use crate::restore::target::Target;
use crate::restore::target_options::Options;
use crate::restore::verify::{VerifyReport, verify};
use crate::store::Store as _;

fn run(
    access: &Arc<ReadAccess>,
    snapshot: &Snapshot,
    path: &str,
    into: &Path,
    options: &RestoreOptions,
) -> (RestoreReport, Vec<String>) {
    let progress = Progress::default();
    let overwrite = options.overwrite != Overwrite::Never;
    let target = Target::open(into, Options { overwrite, ..Options::default() }).unwrap();
    let report = restore(access, snapshot, path.as_bytes(), &target, options, &progress).unwrap();
    (report, progress.take_messages())
}

fn small_tree(fixture: &mut Fixture) -> Entries {
    let mut entries = Entries::new();
    enter(&mut entries, "", node(NodeKind::Dir, "a"));
    enter(&mut entries, "a", node(NodeKind::Dir, "empty"));
    enter(&mut entries, "", fixture.file("large", &noise(1, 1_700_000)));
    enter(&mut entries, "a", fixture.file("none", b""));
    for n in 0..300 {
        let file = fixture.file(&format!("f{n:03}"), &noise(100 + n, 50 * n as usize));
        enter(&mut entries, "a", file);
    }
    let mut link = node(NodeKind::Symlink, "link");
    link.target = Some(b"a/f001".to_vec());
    enter(&mut entries, "", link);
    let mut first = fixture.file("hard1", b"hard");
    first.link_group = Some(7);
    enter(&mut entries, "a", first.clone());
    enter(&mut entries, "", Node { name: b"z".to_vec(), ..node(NodeKind::Dir, "z") });
    enter(
        &mut entries,
        "z",
        Node { name: b"hard2".to_vec(), content: Content::default(), ..first },
    );
    let mut sparse = fixture.file("sparse", &noise(2, 30_000));
    sparse.size = 1_030_000;
    sparse.holes = vec![(10_000, 900_000), (920_000, 100_000)];
    enter(&mut entries, "z", sparse);
    entries
}

#[test]
fn everything_comes_back_and_again_is_nothing() {
    let mut fixture = Fixture::new();
    let entries = small_tree(&mut fixture);
    let roots =
        vec![fixture.tree("/srv/data", &entries), fixture.stream("s.sql", &noise(3, 99_999))];
    let snapshot = snapshot(roots);
    let access = fixture.access();
    let folder = tempfile::tempdir().unwrap();
    let options = RestoreOptions::default();
    let (report, messages) = run(&access, &snapshot, "", folder.path(), &options);
    assert_eq!(messages, [""; 0]);
    assert_eq!((report.files, report.directories, report.others), (305, 4, 2));
    let at = |path: &str| folder.path().join("srv/data").join(path);
    assert!(fs::read(at("large")).unwrap() == noise(1, 1_700_000));
    assert!(fs::read(folder.path().join("s.sql")).unwrap() == noise(3, 99_999));
    for n in 0..300 {
        assert!(fs::read(at(&format!("a/f{n:03}"))).unwrap() == noise(100 + n, 50 * n as usize));
    }
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("a/f001"));
    assert_eq!(
        fs::metadata(at("a/hard1")).unwrap().ino(),
        fs::metadata(at("z/hard2")).unwrap().ino()
    );
    assert_eq!(fs::metadata(at("a")).unwrap().mtime(), 1_600_000_000);
    assert_eq!(fs::metadata(at("a/empty")).unwrap().mode() & 0o777, 0o755);
    let sparse = fs::read(at("z/sparse")).unwrap();
    let data = noise(2, 30_000);
    assert_eq!(sparse.len(), 1_030_000);
    assert!(sparse[..10_000] == data[..10_000] && sparse[910_000..920_000] == data[10_000..20_000]);
    assert!(sparse[1_020_000..] == data[20_000..]);
    assert!(sparse[10_000..910_000].iter().all(|byte| *byte == 0));
    assert!(fs::metadata(at("z/sparse")).unwrap().blocks() * 512 < 200_000);

    let (again, messages) = run(&access, &snapshot, "", folder.path(), &options);
    assert_eq!(messages, [""; 0]);
    assert_eq!((again.files, again.unchanged), (1, 304), "only the stream has no time");
    assert!(again.is_complete());
}

#[test]
fn what_differs_is_written_and_what_is_extra_goes() {
    let mut fixture = Fixture::new();
    let entries = small_tree(&mut fixture);
    let snapshot = snapshot(vec![fixture.tree("/d", &entries)]);
    let access = fixture.access();
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    run(&access, &snapshot, "/d", folder.path(), &RestoreOptions::default());
    let mut large = noise(1, 1_700_000);
    large[1_000_000] ^= 1;
    large.truncate(1_600_000);
    fs::write(at("large"), &large).unwrap();
    fs::write(at("extra"), b"x").unwrap();
    fs::write(at("a/empty/extra"), b"x").unwrap();
    fs::create_dir(at("a/more")).unwrap();
    fs::write(at("keep.log"), b"x").unwrap();
    fs::remove_file(at("a/f007")).unwrap();
    let mut options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    options.filters = Filters::new(&[], &["*.log".into(), "f008".into()]).unwrap();
    fs::remove_file(at("a/f008")).unwrap();
    options.dry_run = true;
    let (dry, _) = run(&access, &snapshot, "d/", folder.path(), &options);
    assert!(at("extra").exists() && !at("a/f007").exists());
    options.dry_run = false;
    let (report, messages) = run(&access, &snapshot, "d/", folder.path(), &options);
    assert_eq!(messages, [""; 0]);
    assert_eq!((report.files, report.removed), (2, 3));
    assert_eq!((dry.files, dry.bytes, dry.unchanged), (2, report.bytes, report.unchanged));
    assert!(fs::read(at("large")).unwrap() == noise(1, 1_700_000));
    assert!(at("keep.log").exists() && at("a/f007").exists() && !at("a/f008").exists());
    assert!(!at("extra").exists() && !at("a/empty/extra").exists() && !at("a/more").exists());

    let stamp = fs::metadata(at("a/f100")).unwrap().modified().unwrap();
    fs::write(at("a/f100"), vec![0; 5000]).unwrap();
    fs::File::options().write(true).open(at("a/f100")).unwrap().set_modified(stamp).unwrap();
    for (overwrite, expected) in
        [(Overwrite::Never, false), (Overwrite::IfChanged, false), (Overwrite::Always, true)]
    {
        let options = RestoreOptions { overwrite, ..RestoreOptions::default() };
        run(&access, &snapshot, "/d", folder.path(), &options);
        assert_eq!(fs::read(at("a/f100")).unwrap() == noise(200, 5000), expected, "{overwrite:?}");
    }
}

#[test]
fn parts_land_where_they_are_asked_for() {
    let mut fixture = Fixture::new();
    let entries = small_tree(&mut fixture);
    let roots = vec![fixture.tree("/d/e", &entries), fixture.stream("s.sql", b"stream")];
    let snapshot = snapshot(roots);
    let access = fixture.access();
    let only_z = Filters::new(&["/d/e/z/hard2".into()], &[]).unwrap();
    let table: [(&str, Filters, &[&str]); 5] = [
        ("/d/e/a/f005", Filters::default(), &["f005"]),
        ("d/e/z", Filters::default(), &["hard2", "sparse"]),
        ("/d", Filters::new(&[], &["/d/e/a".into()]).unwrap(), &["e/z/hard2", "e/large", "e/link"]),
        ("", only_z, &["d/e/z/hard2"]),
        ("s.sql", Filters::default(), &["s.sql"]),
    ];
    for (path, filters, expected) in table {
        let folder = tempfile::tempdir().unwrap();
        let options = RestoreOptions { filters, ..RestoreOptions::default() };
        let (_, messages) = run(&access, &snapshot, path, folder.path(), &options);
        assert_eq!(messages, [""; 0], "{path}");
        for name in expected {
            let found = folder.path().join(name);
            assert!(found.symlink_metadata().is_ok(), "{path}: {name}");
            if name.ends_with("hard2") {
                assert_eq!(fs::read(found).unwrap(), b"hard");
            }
        }
        assert!(!folder.path().join("e/a").exists() && !folder.path().join("d/e/a").exists());
    }
}

/// Names of the packs, data before tree is not told apart.
fn packs(fixture: &Fixture) -> Vec<String> {
    fixture.store.names().into_iter().filter(|name| name.starts_with("data/")).collect()
}

#[test]
fn every_damage_is_named_and_never_wrong_bytes() {
    let mut fixture = Fixture::new();
    let content = noise(9, 400_000);
    let root = fixture.stream("s", &content);
    let other = fixture.stream("t", &noise(10, 400_000));
    let snapshot = snapshot(vec![root, other]);
    drop(fixture.access());
    fixture.begin_run("spare");
    fixture.stream("s", &content);
    fixture.finish();
    let all = packs(&fixture);
    let first: String = {
        let access = fixture.access();
        let pack = access.pack(&snapshot.roots[0].node.content.runs[0].pack).unwrap();
        object_name(pack.name())
    };
    let another = all.iter().find(|name| **name != first).unwrap();
    let intact = fixture.store.get(&first, u64::MAX).unwrap();
    let mut flipped = intact.clone();
    flipped[intact.len() / 3] ^= 1;
    let damages: [(&str, Option<Vec<u8>>); 5] = [
        ("flip", Some(flipped)),
        ("cut", Some(intact[..intact.len() / 4].to_vec())),
        ("swap", Some(fixture.store.get(another, u64::MAX).unwrap())),
        ("empty", Some(Vec::new())),
        ("delete", None),
    ];
    for has_spare in [false, true] {
        if has_spare {
            fixture.merge_index("spare");
        }
        for (damage, bytes) in &damages {
            match bytes {
                Some(bytes) => fixture.store.overwrite(&first, bytes),
                None => fixture.store.delete(&first).unwrap(),
            }
            let access = fixture.access();
            let folder = tempfile::tempdir().unwrap();
            let options = RestoreOptions::default();
            let (report, messages) = run(&access, &snapshot, "s", folder.path(), &options);
            let restored = fs::read(folder.path().join("s")).unwrap();
            if has_spare {
                assert_eq!(messages, [""; 0], "{damage}");
                assert!(restored == content, "{damage}");
                assert!(*damage == "delete" || report.healed_chunks > 0, "{damage}");
            } else {
                assert_eq!((report.damaged, messages.len()), (1, 1), "{damage}");
                assert!(messages[0].contains("s is damaged"), "{}", messages[0]);
                let wrong = restored.iter().zip(&content).filter(|(a, b)| a != b);
                assert!(wrong.clone().count() > 0 && wrong.clone().all(|(a, _)| *a == 0));
            }
            fixture.store.overwrite(&first, &intact);
        }
    }
}

#[test]
fn trees_are_walked_sought_and_bounded() {
    let mut fixture = Fixture::new();
    let mut entries = Entries::new();
    for dir in 0..40 {
        enter(&mut entries, "", node(NodeKind::Dir, &format!("d{dir:02}")));
        for file in 0..1000 {
            let mut file = node(NodeKind::File, &format!("f{file:04}"));
            file.size = dir;
            enter(&mut entries, &format!("d{dir:02}"), file);
        }
    }
    let root = fixture.tree("/", &entries);
    assert!(root.levels >= 1);
    let access = fixture.access();
    let walked: Vec<_> =
        TreeReader::open(&access, &root).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(walked.iter().map(|(key, node)| (key, node)).eq(entries.iter()));
    for (path, found) in [("d07/f0999", true), ("d07/f1000", false), ("d39", true), ("x", false)] {
        assert_eq!(TreeReader::find(&access, &root, path.as_bytes()).unwrap().is_some(), found);
    }
    let below: Vec<_> = TreeReader::open_below(&access, &root, b"d13").unwrap().collect();
    assert_eq!(below.len(), 1000);
    let mut reader = TreeReader::open(&access, &root).unwrap();
    reader.seek_behind(b"d38").unwrap();
    assert_eq!(
        reader.next().unwrap().unwrap().0,
        EntryKey { dir: b"d39".into(), name: b"f0000".into() }
    );
}

#[test]
fn cat_gives_contents_in_order_and_never_wrong_bytes() {
    let mut fixture = Fixture::new();
    let entries = small_tree(&mut fixture);
    let stream = noise(4, 5_000_003);
    let roots = vec![fixture.tree("/d", &entries), fixture.stream("s", &stream)];
    let snapshot = snapshot(roots);
    let access = fixture.access();
    let progress = Progress::default();
    let read = |path: &str| {
        let mut out = Vec::new();
        let done = cat(&access, &snapshot, path.as_bytes(), &mut out, 3, &progress);
        (out, done)
    };
    let (out, length) = read("/s");
    assert!(out == stream && length.unwrap() == 5_000_003);
    assert_eq!(read("d/z/hard2").0, b"hard", "its content stands with another name");
    assert_eq!(read("d/z/sparse").0.len(), 1_030_000);
    assert!(matches!(read("d/z").1, Err(RestoreError::WrongKind { .. })));
    assert!(matches!(read("d/nothing").1, Err(RestoreError::NotFound { .. })));
    let run = snapshot.roots[1].node.content.runs[0];
    let pack = object_name(access.pack(&run.pack).unwrap().name());
    let mut bytes = fixture.store.get(&pack, u64::MAX).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fixture.store.overwrite(&pack, &bytes);
    let (out, done) = read("s");
    assert!(matches!(done, Err(RestoreError::Content { .. })));
    assert!(out.len() < stream.len() && stream.starts_with(&out));
}

#[test]
fn a_tar_holds_the_same_files() {
    let mut fixture = Fixture::new();
    let mut entries = small_tree(&mut fixture);
    let long = "n".repeat(150);
    let mut file = fixture.file(&long, b"long");
    file.xattrs.insert(b"user.x".to_vec(), b"\0value".to_vec());
    enter(&mut entries, "", file);
    let snapshot = snapshot(vec![fixture.tree("/d", &entries)]);
    let access = fixture.access();
    let (mut out, progress) = (Vec::new(), Progress::default());
    let filters = Filters::default();
    let report = write_tar(&access, &snapshot, b"", &filters, &mut out, 2, &progress).unwrap();
    assert_eq!((report.files, report.directories, report.others), (305, 4, 2));
    assert_eq!((progress.take_messages().len(), out.len() % 512), (0, 0));
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(&out[..]).unpack(folder.path()).unwrap();
    let at = |path: &str| folder.path().join("d").join(path);
    assert!(fs::read(at("large")).unwrap() == noise(1, 1_700_000));
    assert!(fs::read(at("a/f123")).unwrap() == noise(223, 50 * 123));
    assert_eq!(fs::read(at(&long)).unwrap(), b"long");
    assert_eq!(
        fs::metadata(at("a/hard1")).unwrap().ino(),
        fs::metadata(at("z/hard2")).unwrap().ino()
    );
    assert_eq!(fs::read(at("z/sparse")).unwrap()[10_000..910_000], vec![0; 900_000]);
    let mut archive = tar::Archive::new(&out[..]);
    let mut pax = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with(&long) {
            for extension in entry.pax_extensions().unwrap().unwrap() {
                let extension = extension.unwrap();
                pax.push((extension.key().unwrap().to_owned(), extension.value_bytes().to_vec()));
            }
        }
    }
    assert!(pax.contains(&("SCHILY.xattr.user.x".into(), b"\0value".to_vec())), "{pax:?}");
    assert!(pax.contains(&("mtime".into(), b"1600000000.123456789".to_vec())), "{pax:?}");
}

#[test]
fn verification_finds_what_differs() {
    let mut fixture = Fixture::new();
    let mut entries = small_tree(&mut fixture);
    let mut plain = fixture.file("no-hash", &noise(8, 25_000));
    plain.hash = None;
    enter(&mut entries, "", plain);
    let snapshot = snapshot(vec![fixture.tree("/d", &entries)]);
    let access = fixture.access();
    let folder = tempfile::tempdir().unwrap();
    run(&access, &snapshot, "", folder.path(), &RestoreOptions::default());
    let compare = || {
        let target = Target::open(folder.path(), Options::default()).unwrap();
        let (filters, progress) = (Filters::default(), Progress::default());
        verify(&access, &snapshot, b"", &target, &filters, 2, &progress).unwrap()
    };
    assert_eq!(compare(), VerifyReport { good: 306, bad: 0 });
    for (name, at) in [("large", 1_699_999), ("no-hash", 12_345), ("z/sparse", 915_000)] {
        let path = folder.path().join("d").join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
    }
    fs::remove_file(folder.path().join("d/a/f001")).unwrap();
    assert_eq!(compare(), VerifyReport { good: 302, bad: 4 });
}

#[test]
fn an_interrupted_restore_continues() {
    let mut fixture = Fixture::new();
    let entries = small_tree(&mut fixture);
    let snapshot = snapshot(vec![fixture.tree("/d", &entries)]);
    let access = fixture.access();
    let folder = tempfile::tempdir().unwrap();
    let target =
        Target::open(folder.path(), Options { overwrite: true, ..Options::default() }).unwrap();
    let progress = Progress::default();
    progress.cancel();
    let options = RestoreOptions::default();
    let ended = restore(&access, &snapshot, b"", &target, &options, &progress);
    assert!(matches!(ended, Err(RestoreError::Cancelled)));
    let (report, messages) = run(&access, &snapshot, "", folder.path(), &options);
    assert_eq!((report.files, messages.len()), (304, 0));
}
