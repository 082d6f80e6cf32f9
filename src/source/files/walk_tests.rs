//! Tests of the walk on real trees, against a naive reference.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::{ProptestConfig, Strategy, any, prop, proptest};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};

use crate::format::node::{NodeKind, UnixTime};
use crate::source::error::SourceError;
use crate::source::files::entry::{Entry, Root};
use crate::source::files::exclude::{ExcludeOptions, ExcludePattern, ExcludeRules, LetterCase};
use crate::source::files::prefetch::PrefetchedWalk;
use crate::source::files::walk::{WalkEvent, Walker};

fn walk_with(root: &Path, options: ExcludeOptions) -> Vec<WalkEvent> {
    let rules = Arc::new(ExcludeRules::new(options).unwrap());
    let root = Root::open(root).unwrap();
    let mut walk = PrefetchedWalk::start(&root, rules).unwrap();
    std::iter::from_fn(|| walk.next_batch()).flatten().collect()
}

fn entries_of(events: Vec<WalkEvent>) -> Vec<Entry> {
    let entry = |event| match event {
        WalkEvent::Entry(entry) => *entry,
        other => panic!("unexpected {other:?}"),
    };
    events.into_iter().map(entry).collect()
}

fn entries(root: &Path) -> Vec<Entry> {
    entries_of(walk_with(root, ExcludeOptions::default()))
}

fn paths(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.path()).into_owned()).collect()
}

/// All paths by plain recursion, sorted as the format says: parent component-wise, then name.
fn naive(root: &Path) -> Vec<Vec<Vec<u8>>> {
    fn collect(at: &Path, above: &[Vec<u8>], out: &mut Vec<Vec<Vec<u8>>>) {
        for item in fs::read_dir(at).unwrap() {
            let item = item.unwrap();
            let mut path = above.to_vec();
            path.push(item.file_name().as_bytes().to_vec());
            if item.file_type().unwrap().is_dir() {
                collect(&item.path(), &path, out);
            }
            out.push(path);
        }
    }
    let mut out = Vec::new();
    collect(root, &[], &mut out);
    out.sort_by(|a, b| {
        let (a_name, a_parent) = a.split_last().unwrap();
        let (b_name, b_parent) = b.split_last().unwrap();
        a_parent.cmp(b_parent).then(a_name.cmp(b_name))
    });
    out
}

fn assert_like_naive(root: &Path) {
    let walked: Vec<Vec<Vec<u8>>> = entries(root)
        .iter()
        .map(|entry| entry.path().split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect())
        .collect();
    assert_eq!(walked, naive(root));
}

#[test]
fn all_kinds_are_seen_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::write(at("file"), b"12345").unwrap();
    fs::hard_link(at("file"), at("link")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    symlink("dir", at("symlink")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    let entries = entries(root.path());
    let kinds: Vec<_> = entries.iter().map(|e| (e.node.name.clone(), e.node.kind)).collect();
    let expected = [
        ("dir", NodeKind::Dir),
        ("fifo", NodeKind::Fifo),
        ("file", NodeKind::File),
        ("link", NodeKind::File),
        ("socket", NodeKind::Socket),
        ("symlink", NodeKind::Symlink),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.as_bytes().to_vec(), kind)));
    let meta = fs::metadata(at("file")).unwrap();
    let (file, link) = (&entries[2], &entries[3]);
    assert_eq!((file.node.mode, file.node.size), (0o4751, 5));
    assert_eq!((file.node.uid, file.node.gid), (meta.uid(), meta.gid()));
    assert_eq!(file.stat.mtime, UnixTime(meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap()));
    assert_eq!((file.stat.dev, file.stat.ino, file.stat.nlink), (meta.dev(), meta.ino(), 2));
    assert!(file.stat.is_same_file(&link.stat));
    assert_eq!(entries[5].node.size, 0, "a symlink's length is not its node's size");
}

#[test]
fn devices_have_their_numbers() {
    // Making a device needs root; the ones of the system do not.
    let root = Root::open(Path::new("/dev/null")).unwrap();
    assert_eq!(root.node.kind, NodeKind::Chardev);
    assert_eq!(root.node.device, Some((1, 3)));
    assert!(root.directory().is_none());
    let mut events = Vec::new();
    assert!(!Walker::new(&root, Arc::new(ExcludeRules::none())).next_batch(&mut events));
    assert!(events.is_empty());
}

#[test]
fn order_is_that_of_components_not_of_paths() {
    let root = tempfile::tempdir().unwrap();
    for directory in ["a/b", "a-b", "a.d"] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    for file in ["a/b/z", "a/z", "a-b/z", "a0", "A", "a.d/z"] {
        fs::write(root.path().join(file), b"").unwrap();
    }
    fs::write(root.path().join(OsStr::from_bytes(b"\xff\xfe")), b"").unwrap();
    let expected =
        ["A", "a", "a-b", "a.d", "a0", "\u{fffd}\u{fffd}", "a/b", "a/z", "a/b/z", "a-b/z", "a.d/z"];
    assert_eq!(paths(&entries(root.path())), expected);
    assert_eq!(entries(root.path())[5].node.name, b"\xff\xfe");
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b" -.0Aa\x01\x7f\xc3\xa9\xff".to_vec()), 1..4)
        .prop_filter("not a name", |name| name != b"." && name != b"..")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_trees_come_in_order(
        files in prop::collection::vec(
            (prop::collection::vec(any_name(), 1..6), any::<bool>()), 0..40),
    ) {
        let root = tempfile::tempdir().unwrap();
        for (components, is_dir) in &files {
            let mut path = root.path().to_owned();
            path.extend(components.iter().map(|name| OsStr::from_bytes(name)));
            // A file may stand where another path wants a directory: then that one is not made.
            if *is_dir {
                drop(fs::create_dir_all(&path));
            } else if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
                fs::write(&path, b"x").unwrap();
            }
        }
        assert_like_naive(root.path());
    }
}

/// A place for many small items: memory where there is some, for the disk is slow at them.
fn roomy_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Makes `levels` nested directories "d", each with a sibling directory "e" that holds a file.
fn make_deep(root: &Path, levels: usize) {
    let mut at: OwnedFd = fs::File::open(root).unwrap().into();
    let open = |parent: &OwnedFd, name: &str| {
        mkdirat(parent, name, Mode::RWXU).unwrap();
        openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    for _ in 0..levels {
        let sibling = open(&at, "e");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        openat(&sibling, "f", flags, Mode::RUSR).unwrap();
        at = open(&at, "d");
    }
}

fn remove_deep(root: &Path, levels: usize) {
    let mut chain: Vec<OwnedFd> = vec![fs::File::open(root).unwrap().into()];
    for _ in 0..levels {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // Flattens: what is below moves up, so that few descriptors are open.
        let below = openat(&chain[0], "d", flags, Mode::empty()).unwrap();
        let sibling = openat(&chain[0], "e", flags, Mode::empty()).unwrap();
        unlinkat(&sibling, "f", AtFlags::empty()).unwrap();
        unlinkat(&chain[0], "e", AtFlags::REMOVEDIR).unwrap();
        rustix::fs::renameat(&chain[0], "d", rustix::fs::CWD, root.with_extension("up")).unwrap();
        chain[0] = below;
        fs::remove_dir_all(root).unwrap();
        fs::rename(root.with_extension("up"), root).unwrap();
    }
}

#[test]
fn three_thousand_levels_beyond_path_max() {
    const LEVELS: usize = 3000;
    let above = roomy_directory();
    let root = above.path().join("root");
    fs::create_dir(&root).unwrap();
    make_deep(&root, LEVELS);
    let entries = entries(&root);
    assert_eq!(entries.len(), 3 * LEVELS);
    let deepest = entries.iter().max_by_key(|entry| entry.path().len()).unwrap();
    assert!(deepest.path().len() > 4096);
    let files: Vec<_> = entries.iter().filter(|e| e.node.kind == NodeKind::File).collect();
    // Their directories were closed long ago: each must be found again, from any depth.
    for at in [0, 1, LEVELS / 2, LEVELS - 1] {
        files[at].handle().open().unwrap();
    }
    drop(entries);
    remove_deep(&root, LEVELS);
}

#[test]
fn deeper_than_the_format_is_said_not_skipped() {
    let levels = usize::try_from(crate::format::limits::TREE_DEPTH_MAX).unwrap() + 1;
    let above = roomy_directory();
    let root = above.path().join("root");
    fs::create_dir(&root).unwrap();
    make_deep(&root, levels);
    let events = walk_with(&root, ExcludeOptions::default());
    let troubles: Vec<_> =
        events.iter().filter(|event| !matches!(event, WalkEvent::Entry(_))).collect();
    // The directories "d" and "e" on the level that is one too deep.
    assert_eq!(troubles.len(), 2);
    for trouble in troubles {
        assert!(matches!(
            trouble,
            WalkEvent::Error(SourceError::LimitExceeded { actual: 4097, .. })
        ));
    }
    drop(events);
    remove_deep(&root, levels);
}

#[test]
fn two_hundred_thousand_entries_in_one_directory() {
    const COUNT: usize = 200_000;
    let root = roomy_directory();
    let fd = fs::File::open(root.path()).unwrap();
    for at in 0..COUNT {
        let name = format!("{:08x}", at.wrapping_mul(2_654_435_761) % 0xffff_ffff);
        rustix::fs::symlinkat("t", fd.as_fd(), name).unwrap();
    }
    let entries = entries(root.path());
    assert_eq!(entries.len(), COUNT);
    assert!(entries.is_sorted_by(|a, b| a.node.name < b.node.name));
    let directories: BTreeSet<_> = entries.iter().map(|e| Arc::as_ptr(&e.parent)).collect();
    assert_eq!(directories.len(), 1, "all entries share one parent");
}

/// Runs `work` on a thread without root's powers, where this is root.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::fs::Uid::from_raw(65_534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            work()
        };
        scope.spawn(run).join().unwrap()
    })
}

#[test]
fn what_cannot_be_read_is_an_error_and_the_rest_goes_on() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (directory, mode) in [("closed", 0o000), ("listable", 0o744), ("open", 0o755)] {
        let path = root.path().join(directory);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("f"), b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let events = unprivileged(|| {
        let root = Root::open(root.path()).unwrap();
        let mut walker = Walker::new(&root, Arc::new(ExcludeRules::none()));
        let mut events = Vec::new();
        while walker.next_batch(&mut events) {}
        events
    });
    let shown: Vec<String> = events
        .iter()
        .map(|event| match event {
            WalkEvent::Entry(entry) => String::from_utf8(entry.path()).unwrap(),
            WalkEvent::Vanished(error) => format!("vanished: {error}"),
            WalkEvent::Error(error) => {
                error.to_string().replace(root.path().to_str().unwrap(), "ROOT")
            }
        })
        .collect();
    let closed = root.path().join("closed");
    fs::set_permissions(closed, fs::Permissions::from_mode(0o700)).unwrap();
    let expected = [
        "closed",
        "listable",
        "open",
        "cannot open ROOT/closed",
        "cannot lstat ROOT/listable/f",
        "open/f",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn what_vanishes_or_changes_between_list_and_descent_is_told() {
    let root = tempfile::tempdir().unwrap();
    for directory in ["gone", "replaced", "stays"] {
        fs::create_dir(root.path().join(directory)).unwrap();
        fs::write(root.path().join(directory).join("f"), b"").unwrap();
    }
    // Enough entries that the first batch ends before the descent.
    for at in 0..600 {
        fs::write(root.path().join(format!("zz{at:04}")), b"").unwrap();
    }
    let opened = Root::open(root.path()).unwrap();
    let mut walker = Walker::new(&opened, Arc::new(ExcludeRules::none()));
    let mut events = Vec::new();
    assert!(walker.next_batch(&mut events));
    assert_eq!(events.len(), 603);
    fs::remove_dir_all(root.path().join("gone")).unwrap();
    fs::remove_dir_all(root.path().join("replaced")).unwrap();
    symlink("stays", root.path().join("replaced")).unwrap();
    events.clear();
    while walker.next_batch(&mut events) {}
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(matches!(&events[0], WalkEvent::Vanished(error) if error.to_string().contains("gone")));
    assert!(matches!(&events[1], WalkEvent::Error(SourceError::Io { action: "open", .. })));
    assert!(matches!(&events[2], WalkEvent::Entry(entry) if entry.path() == b"stays/f"));
}

#[test]
fn one_root_can_be_walked_several_times_at_once() {
    let root = tempfile::tempdir().unwrap();
    make_files(root.path(), &[("a/x", ""), ("b", "")]);
    let opened = Root::open(root.path()).unwrap();
    let mut walkers = [0; 3].map(|_| Walker::new(&opened, Arc::new(ExcludeRules::none())));
    for walker in &mut walkers {
        let mut events = Vec::new();
        while walker.next_batch(&mut events) {}
        assert_eq!(paths(&entries_of(events)), ["a", "b", "a/x"]);
    }
}

#[test]
fn other_file_systems_are_not_entered() {
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
    fs::write(elsewhere.path().join("f"), b"").unwrap();
    let dev = |path: &str| fs::metadata(path).unwrap().dev();
    if dev("/dev") == dev("/dev/shm") {
        // Not a mount point here: nothing to be tested.
        return;
    }
    let options = ExcludeOptions { one_file_system: true, ..ExcludeOptions::default() };
    let shm_of = |events: Vec<WalkEvent>| {
        let below = |event: WalkEvent| match event {
            WalkEvent::Entry(entry) => Some(String::from_utf8_lossy(&entry.path()).into_owned()),
            _ => None,
        };
        let mut paths: Vec<_> = events.into_iter().filter_map(below).collect();
        paths.retain(|path| path.starts_with("shm"));
        paths
    };
    assert_eq!(shm_of(walk_with(Path::new("/dev"), options)), ["shm"]);
    assert!(shm_of(walk_with(Path::new("/dev"), ExcludeOptions::default())).len() > 2);
}

#[test]
fn a_missing_root_is_an_error() {
    let error = Root::open(Path::new("/nonexistent-root")).unwrap_err();
    assert!(matches!(error, SourceError::Vanished { .. }));
}

#[test]
fn a_file_replaced_after_the_walk_is_not_opened() {
    let root = tempfile::tempdir().unwrap();
    for name in ["file", "fifo", "link", "gone", "same"] {
        fs::write(root.path().join(name), b"x").unwrap();
    }
    let entries = entries(root.path());
    let replace = |name: &str, make: &dyn Fn(&Path)| {
        // The old file lives on elsewhere, so that its inode number is not given out again.
        fs::rename(root.path().join(name), root.path().join(format!("{name}.old"))).unwrap();
        make(&root.path().join(name));
    };
    replace("file", &|path| fs::write(path, b"y").unwrap());
    replace("link", &|path| symlink("same", path).unwrap());
    replace("gone", &|_| {});
    replace("fifo", &|path| {
        let mode = Mode::from_raw_mode(0o600);
        let cwd = rustix::fs::CWD;
        rustix::fs::mknodat(cwd, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    });
    for entry in &entries {
        let opened = entry.handle().open();
        match &entry.node.name[..] {
            b"same" => assert!(opened.is_ok()),
            b"gone" => assert!(matches!(opened, Err(SourceError::Vanished { .. }))),
            _ => assert!(matches!(opened, Err(SourceError::Replaced { .. })), "{opened:?}"),
        }
    }
}

fn make_files(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path: PathBuf = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn excluded_directories_are_not_descended() {
    let root = tempfile::tempdir().unwrap();
    make_files(root.path(), &[("a/x.o", ""), ("a/x.c", ""), ("tmp/x.c", ""), ("b/tmp", "")]);
    let pattern = |glob: &str| ExcludePattern {
        glob: glob.to_owned(),
        case: LetterCase::Exact,
        origin: "--exclude".to_owned(),
    };
    let absolute = format!("!{}/a/x.o", root.path().display());
    let patterns = vec![pattern("*.o"), pattern("tmp/"), pattern(&absolute)];
    let options = ExcludeOptions { patterns, ..ExcludeOptions::default() };
    let entries = entries_of(walk_with(root.path(), options));
    assert_eq!(paths(&entries), ["a", "b", "a/x.c", "a/x.o", "b/tmp"]);
}

#[test]
fn markers_and_sizes_leave_out() {
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n";
    let root = tempfile::tempdir().unwrap();
    make_files(
        root.path(),
        &[
            ("cache/CACHEDIR.TAG", tag),
            ("cache/data", ""),
            ("cache/sub/data", ""),
            ("fake/CACHEDIR.TAG", "Signature: no"),
            ("fake/data", ""),
            ("marked/.nobackup", ""),
            ("marked/data", ""),
            ("big", "12345"),
            ("small", "1234"),
        ],
    );
    let options = ExcludeOptions {
        caches: true,
        if_present: vec![b".nobackup".to_vec()],
        larger_than: Some(4),
        ..ExcludeOptions::default()
    };
    let kept =
        ["cache", "fake", "marked", "small", "cache/CACHEDIR.TAG", "fake/data", "marked/.nobackup"];
    let found = paths(&entries_of(walk_with(root.path(), options)));
    // The tags themselves are larger than the four bytes allowed.
    let kept: Vec<_> = kept.into_iter().filter(|path| *path != "cache/CACHEDIR.TAG").collect();
    assert_eq!(found, kept);
}

#[test]
fn ignore_files_rule_their_directory_and_below() {
    let root = tempfile::tempdir().unwrap();
    make_files(
        root.path(),
        &[
            (".ignore", "*.log\n/build\n# note\n"),
            ("a.log", ""),
            ("build/x", ""),
            ("sub/.ignore", "!keep.log\n*.tmp\n"),
            ("sub/keep.log", ""),
            ("sub/other.log", ""),
            ("sub/deep/x.tmp", ""),
            ("sub/deep/keep.log", ""),
            ("sub/build/x", ""),
            ("x.tmp", ""),
        ],
    );
    let names = vec![b".ignore".to_vec()];
    let options = ExcludeOptions { ignore_file_names: names, ..ExcludeOptions::default() };
    let found = paths(&entries_of(walk_with(root.path(), options.clone())));
    let expected = [
        ".ignore",
        "sub",
        "x.tmp",
        "sub/.ignore",
        "sub/build",
        "sub/deep",
        "sub/keep.log",
        "sub/build/x",
        "sub/deep/keep.log",
    ];
    assert_eq!(found, expected);
    fs::write(root.path().join(".ignore"), b"\xff\n[z-a]\n*.log\n").unwrap();
    let events = walk_with(root.path(), options);
    let bad: Vec<_> = events
        .iter()
        .filter(|event| matches!(event, WalkEvent::Error(SourceError::BadPattern { .. })))
        .collect();
    assert_eq!(bad.len(), 2, "{bad:?}");
    let logs = |event: &&WalkEvent| matches!(event, WalkEvent::Entry(e) if e.path() == b"a.log");
    assert_eq!(events.iter().filter(logs).count(), 0, "the good line still counts");
}
