//! What a restore target must withstand: hostile names, planted links, races, old files; and what
//! it must bring back: attributes, holes, further names.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::fs::{CWD, IFlags, Mode, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::format::node::{Node, NodeKind, UnixTime};
use crate::progress::Progress;
use crate::restore::target::Target;
use crate::restore::target_error::TargetError;
use crate::restore::target_options::Options;
use crate::restore::target_path::TargetPath;

/// A directory with the target `in` and the sentinel `out`, whose only file nobody may touch.
struct Ground {
    dir: TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/sentinel"), b"untouched").unwrap();
        Self { dir }
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.dir.path().join("in").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn target(&self, options: Options) -> Target {
        Target::open(&self.inside(""), options).unwrap()
    }

    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(self.outside()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["sentinel"]);
        assert_eq!(fs::read(self.outside().join("sentinel")).unwrap(), b"untouched");
    }
}

fn overwriting() -> Options {
    Options { overwrite: true, ..Options::default() }
}

fn path(text: &str) -> TargetPath {
    TargetPath::parse(text.as_bytes()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A node of our own user, as a backup of this process's file would have it.
fn node(kind: NodeKind, mode: u32) -> Node {
    let mut node = Node::new(kind, b"n".to_vec());
    node.mode = mode;
    node.uid = rustix::process::geteuid().as_raw();
    node.gid = rustix::process::getegid().as_raw();
    node.mtime = UnixTime(1_234_567_890, 123_456_789);
    node
}

fn file_node(size: usize) -> Node {
    Node { size: size as u64, ..node(NodeKind::File, 0o640) }
}

fn restore_file(target: &Target, at: &str, content: &[u8]) -> Result<(), TargetError> {
    let node = file_node(content.len());
    let file = target.create_file(&path(at), &node)?;
    file.write_at(0, content)?;
    target.apply_file_metadata(&file, &node, &Progress::default())
}

#[test]
fn planted_parents_are_refused() {
    for options in [Options::default(), overwriting()] {
        let ground = Ground::new();
        let target = ground.target(options);
        symlink(ground.outside(), ground.inside("link")).unwrap();
        symlink("../out", ground.inside("relative")).unwrap();
        fs::write(ground.inside("file"), b"").unwrap();
        for parent in ["link", "relative", "file"] {
            let below = path(&format!("{parent}/sentinel"));
            let refused = [
                target.create_file(&below, &file_node(1)).err(),
                target.make_dir(&below).err(),
                target.symlink(&below, b"x").err(),
                target.fifo(&below).err(),
                target.find(&below).err(),
                target.open_file(&below).err(),
                target.schedule_directory(&path(parent), &node(NodeKind::Dir, 0o777)).err(),
                target.remove_extra(&path(parent), &|_| false, &Progress::default()).err(),
            ];
            for (number, error) in refused.into_iter().enumerate() {
                assert!(
                    matches!(error, Some(TargetError::NotBeneath { .. })),
                    "{parent} {number}: {error:?}"
                );
            }
        }
        ground.assert_untouched();
    }
}

#[test]
fn a_link_in_the_place_of_an_entry_is_replaced_and_never_followed() {
    let ground = Ground::new();
    for name in ["file", "dir", "link", "fifo"] {
        symlink(ground.outside().join("sentinel"), ground.inside(name)).unwrap();
    }
    let careful = ground.target(Options::default());
    let exists = |error| matches!(error, Some(TargetError::Exists { .. }));
    assert!(exists(restore_file(&careful, "file", b"new").err()));
    assert!(exists(careful.make_dir(&path("dir")).err()));
    assert!(exists(careful.symlink(&path("link"), b"t").err()));
    assert!(exists(careful.fifo(&path("fifo")).err()));

    let target = ground.target(overwriting());
    restore_file(&target, "file", b"new").unwrap();
    target.make_dir(&path("dir")).unwrap();
    restore_file(&target, "dir/sentinel", b"new").unwrap();
    target.symlink(&path("link"), b"../out/sentinel").unwrap();
    target.fifo(&path("fifo")).unwrap();
    assert_eq!(fs::read(ground.inside("file")).unwrap(), b"new");
    assert!(fs::symlink_metadata(ground.inside("dir")).unwrap().is_dir());
    assert_eq!(target.read_link(&path("link")).unwrap(), b"../out/sentinel");
    assert!(fs::symlink_metadata(ground.inside("fifo")).unwrap().file_type().is_fifo());
    ground.assert_untouched();
}

#[test]
fn a_full_directory_is_never_removed_for_a_file() {
    let ground = Ground::new();
    fs::create_dir_all(ground.inside("full/x")).unwrap();
    fs::create_dir_all(ground.inside("empty")).unwrap();
    let target = ground.target(overwriting());
    let error = restore_file(&target, "full", b"new").unwrap_err();
    assert!(matches!(error, TargetError::NotEmpty { .. }), "{error:?}");
    restore_file(&target, "empty", b"new").unwrap();
    assert_eq!(fs::read(ground.inside("empty")).unwrap(), b"new");
}

#[test]
fn an_attacker_swapping_directories_gains_nothing() {
    let ground = Ground::new();
    let target = ground.target(overwriting());
    target.make_dir(&path("dir")).unwrap();
    symlink(ground.outside(), ground.inside("swap")).unwrap();
    let done = AtomicBool::new(false);
    let (mut written, mut swaps) = (0, 0_u64);
    thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut swaps = 0_u64;
            while !done.load(Relaxed) {
                let (dir, swap) = (ground.inside("dir"), ground.inside("swap"));
                renameat_with(CWD, dir, CWD, swap, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        });
        for number in 0..2000 {
            target.dirs.forget(b"dir"); // else one open directory would serve them all
            let name = format!("dir/{}", if number % 2 == 0 { "sentinel" } else { "other" });
            written += u32::from(restore_file(&target, &name, b"hostile").is_ok());
            let _ = target.make_dir(&path("dir/made"));
            let _ = target.symlink(&path("dir/link"), b"x");
            let _ = target.remove_extra(&path("dir"), &|_| false, &Progress::default());
            let _ = target.schedule_directory(&path("dir"), &node(NodeKind::Dir, 0o700));
        }
        done.store(true, Relaxed);
        swaps = attacker.join().unwrap();
    });
    target.finish_directories(&Progress::default()).unwrap();
    assert!(swaps > 0 && written > 0, "{swaps} swaps, {written} files: nothing was tried");
    ground.assert_untouched();
}

#[test]
fn hard_links_lead_only_to_what_was_restored() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    let file = target.create_file(&path("a"), &file_node(3)).unwrap();
    file.write_at(0, b"abc").unwrap();
    target.hard_link(&file.restored(), &path("b")).unwrap();
    target.hard_link(&file.restored(), &path("b")).unwrap();
    let inode = |name: &str| fs::symlink_metadata(ground.inside(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));

    // A symbolic link gets a second name itself; what it names does not.
    let outside = ground.outside().join("sentinel");
    let link = target.symlink(&path("l"), outside.to_str().unwrap().as_bytes()).unwrap();
    target.hard_link(&link, &path("m")).unwrap();
    assert_eq!(inode("l"), inode("m"));

    // Exchanged since: by a link, by another file.
    fs::remove_file(ground.inside("a")).unwrap();
    symlink(&outside, ground.inside("a")).unwrap();
    let error = target.hard_link(&file.restored(), &path("c")).unwrap_err();
    assert!(matches!(error, TargetError::Exchanged { .. }), "{error:?}");
    assert!(fs::symlink_metadata(ground.inside("c")).is_err());
    assert_eq!(fs::metadata(&outside).unwrap().nlink(), 1);
    ground.assert_untouched();
}

#[test]
fn devices_and_sockets_only_when_asked() {
    let ground = Ground::new();
    let target = ground.target(overwriting());
    let mut device = node(NodeKind::Chardev, 0o600);
    device.device = Some((1, 3));
    let not_asked = |error| matches!(error, Some(TargetError::NotAsked { .. }));
    assert!(not_asked(target.device(&path("null"), &device).err()));
    assert!(not_asked(target.socket(&path("sock")).err()));
    assert_eq!(fs::read_dir(ground.inside("")).unwrap().count(), 0);

    let target = ground.target(Options { devices: true, sockets: true, ..Options::default() });
    target.socket(&path("sock")).unwrap();
    assert!(fs::symlink_metadata(ground.inside("sock")).unwrap().file_type().is_socket());
    device.device = None;
    assert!(target.device(&path("null"), &device).is_err(), "a device without a number");
    device.device = Some((1, 3));
    match target.device(&path("null"), &device) {
        Ok(restored) => {
            target.apply_metadata(&restored, &device, &Progress::default()).unwrap();
            let found = fs::symlink_metadata(ground.inside("null")).unwrap();
            assert!(found.file_type().is_char_device());
            assert_eq!((found.rdev(), found.mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o600));
        }
        Err(error) => assert!(!is_root(), "{error:?}"),
    }
}

#[test]
fn an_existing_file_is_updated_in_place() {
    let ground = Ground::new();
    fs::write(ground.inside("f"), vec![7; 100_000]).unwrap();
    fs::set_permissions(ground.inside("f"), fs::Permissions::from_mode(0o4644)).unwrap();
    let inode = fs::metadata(ground.inside("f")).unwrap().ino();
    let target = ground.target(overwriting());
    let file = target.create_file(&path("f"), &file_node(50_000)).unwrap();
    assert!(!file.is_new());
    assert_eq!(target.find(&path("f")).unwrap().unwrap().mode, 0o600, "closed to others");
    let mut buffer = [0; 10];
    assert_eq!(file.read_at(49_995, &mut buffer).unwrap(), 5);
    assert_eq!(buffer[..5], [7; 5]);
    file.write_at(10, b"ten").unwrap();
    file.punch_hole(20_000, 20_000).unwrap();
    let content = fs::read(ground.inside("f")).unwrap();
    assert_eq!(content.len(), 50_000);
    assert_eq!(content[9..14], *b"\x07ten\x07");
    assert!(content[20_000..40_000].iter().all(|byte| *byte == 0));
    assert_eq!((content[19_999], content[40_000]), (7, 7));
    assert_eq!(fs::metadata(ground.inside("f")).unwrap().ino(), inode);
    let error = file.write_at(49_999, b"ab").unwrap_err();
    assert!(matches!(error, TargetError::TooLong { end_bytes: 50_001, .. }), "{error:?}");
}

#[test]
fn a_file_with_another_name_gives_way_to_a_new_one() {
    let ground = Ground::new();
    fs::hard_link(ground.outside().join("sentinel"), ground.inside("f")).unwrap();
    let target = ground.target(overwriting());
    restore_file(&target, "f", b"new").unwrap();
    assert_eq!(fs::read(ground.inside("f")).unwrap(), b"new");
    ground.assert_untouched();
}

#[test]
fn a_read_only_file_is_replaced() {
    let ground = Ground::new();
    fs::write(ground.inside("f"), b"old").unwrap();
    fs::set_permissions(ground.inside("f"), fs::Permissions::from_mode(0o400)).unwrap();
    let target = ground.target(overwriting());
    restore_file(&target, "f", b"new").unwrap();
    assert_eq!(fs::read(ground.inside("f")).unwrap(), b"new");
}

#[test]
fn what_is_never_written_is_a_hole() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    let file = target.create_file(&path("f"), &file_node(64 << 20)).unwrap();
    thread::scope(|scope| {
        for part in 0..4_u64 {
            let file = &file;
            scope.spawn(move || file.write_at(part << 24, &[part as u8 + 1; 4096]).unwrap());
        }
    });
    let found = fs::metadata(ground.inside("f")).unwrap();
    assert_eq!(found.len(), 64 << 20);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    let mut byte = [0];
    for part in 0..4_u64 {
        file.read_at((part << 24) + 4095, &mut byte).unwrap();
        assert_eq!(byte, [part as u8 + 1]);
    }
}

#[test]
fn attributes_come_back() {
    let ground = Ground::new();
    let target = ground.target(Options { numeric_ids: true, ..Options::default() });
    let progress = Progress::default();
    let mut wanted = file_node(1);
    if is_root() {
        (wanted.uid, wanted.gid) = (12_345, 54_321);
    }
    wanted.xattrs.insert(b"user.\xff".to_vec(), b"\0value".to_vec());
    wanted.xattrs.insert(b"system.posix_acl_access".to_vec(), acl());
    wanted.flags = IFlags::NODUMP.bits();
    let file = target.create_file(&path("f"), &wanted).unwrap();
    let has_flags = rustix::fs::ioctl_getflags(&file.file).is_ok();
    target.apply_file_metadata(&file, &wanted, &progress).unwrap();

    let found = target.find(&path("f")).unwrap().unwrap();
    assert_eq!((found.uid, found.gid), (wanted.uid, wanted.gid));
    assert_eq!(found.mtime, wanted.mtime);
    assert_eq!(found.mode, 0o640);
    let mut value = [0; 100];
    let bytes =
        rustix::fs::getxattr(ground.inside("f"), &b"user.\xff"[..], &mut value[..]).unwrap();
    assert_eq!(value[..bytes], *b"\0value");
    let name = "system.posix_acl_access";
    let bytes = rustix::fs::getxattr(ground.inside("f"), name, &mut value[..]).unwrap();
    assert_eq!(value[..bytes], acl());
    if has_flags {
        let flags = rustix::fs::ioctl_getflags(&file.file).unwrap();
        assert!(flags.contains(IFlags::NODUMP));
        assert_eq!(progress.take_messages(), Vec::<String>::new());
    }
}

/// `user::rw-, user:1000:r--, group::r--, mask::r--, other::---`
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, 4, 1000),
        (0x04, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn attributes_of_an_older_file_go() {
    let ground = Ground::new();
    fs::write(ground.inside("f"), b"old").unwrap();
    let set = |name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(ground.inside("f"), name, value, flags).unwrap();
    };
    let old = fs::File::open(ground.inside("f")).unwrap();
    let has_flags = rustix::fs::ioctl_setflags(&old, IFlags::NODUMP).is_ok();
    set("user.old", b"x");
    set("system.posix_acl_access", &acl());
    let target = ground.target(overwriting());
    restore_file(&target, "f", b"new").unwrap();
    let mut names = [0; 200];
    let bytes = rustix::fs::listxattr(ground.inside("f"), &mut names[..]).unwrap();
    let names = String::from_utf8_lossy(&names[..bytes]).into_owned();
    let flags = rustix::fs::ioctl_getflags(&old);
    assert!(!has_flags || flags.is_ok_and(|flags| !flags.contains(IFlags::NODUMP)));
    assert!(!names.contains("user.old") && !names.contains("posix_acl"), "{names:?}");
    assert_eq!(target.find(&path("f")).unwrap().unwrap().mode, 0o640);
}

#[test]
fn privileges_come_back_only_when_asked() {
    for special_bits in [false, true] {
        let ground = Ground::new();
        let target = ground.target(Options { special_bits, ..Options::default() });
        let progress = Progress::default();
        let mut wanted = file_node(1);
        wanted.mode = 0o7755;
        // cap_net_bind_service, revision 2
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        if is_root() {
            wanted.xattrs.insert(b"security.capability".to_vec(), capability);
        }
        let file = target.create_file(&path("f"), &wanted).unwrap();
        file.write_at(0, b"x").unwrap();
        target.apply_file_metadata(&file, &wanted, &progress).unwrap();
        let mode = target.find(&path("f")).unwrap().unwrap().mode;
        assert_eq!(mode, if special_bits { 0o7755 } else { 0o1755 });
        let mut value = [0; 20];
        let name = "security.capability";
        let found = rustix::fs::getxattr(ground.inside("f"), name, &mut value[..]).is_ok();
        assert_eq!(found, special_bits && is_root());
        let stripped = if special_bits { 0 } else { 1 + usize::from(is_root()) };
        assert_eq!(progress.take_messages().len(), stripped);
    }
}

#[test]
fn links_and_pipes_have_attributes_of_their_own() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    let progress = Progress::default();
    let before = fs::metadata(ground.outside().join("sentinel")).unwrap();
    let link = target.symlink(&path("l"), b"../out/sentinel").unwrap();
    let mut wanted = node(NodeKind::Symlink, 0o777);
    if is_root() {
        (wanted.uid, wanted.gid) = (777, 778);
    }
    target.apply_metadata(&link, &wanted, &progress).unwrap();
    let fifo = target.fifo(&path("p")).unwrap();
    target.apply_metadata(&fifo, &node(NodeKind::Fifo, 0o624), &progress).unwrap();

    let found = target.find(&path("l")).unwrap().unwrap();
    assert_eq!((found.kind, found.mtime), (NodeKind::Symlink, wanted.mtime));
    assert_eq!((found.uid, found.gid), (wanted.uid, wanted.gid));
    let found = target.find(&path("p")).unwrap().unwrap();
    assert_eq!((found.kind, found.mode), (NodeKind::Fifo, 0o624));
    assert_eq!(found.mtime, UnixTime(1_234_567_890, 123_456_789));
    assert_eq!(progress.take_messages(), Vec::<String>::new());
    let after = fs::metadata(ground.outside().join("sentinel")).unwrap();
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));

    fs::remove_file(ground.inside("l")).unwrap();
    symlink("../out/sentinel", ground.inside("other")).unwrap();
    fs::hard_link(ground.outside().join("sentinel"), ground.inside("l")).unwrap();
    let error = target.apply_metadata(&link, &wanted, &progress).unwrap_err();
    assert!(matches!(error, TargetError::Exchanged { .. }), "{error:?}");
    ground.assert_untouched();
}

#[test]
fn directories_get_theirs_after_their_entries() {
    for later_bytes_max in [1, 1 << 20] {
        let ground = Ground::new();
        let target = ground.target(Options { later_bytes_max, ..Options::default() });
        let mut at = String::new();
        for depth in 0..50 {
            at.push_str(if depth == 0 { "d" } else { "/d" });
            target.make_dir(&path(&at)).unwrap();
            let mut wanted = node(NodeKind::Dir, 0o500);
            wanted.mtime = UnixTime(1000 + depth, 5);
            target.schedule_directory(&path(&at), &wanted).unwrap();
            restore_file(&target, &format!("{at}/file"), b"x").unwrap();
        }
        let progress = Progress::default();
        target.finish_directories(&progress).unwrap();
        assert_eq!(progress.take_messages(), Vec::<String>::new());
        for depth in (0..50).rev() {
            let found = target.find(&path(&at)).unwrap().unwrap();
            assert_eq!((found.mode, found.mtime), (0o500, UnixTime(1000 + depth, 5)), "{at}");
            fs::set_permissions(ground.inside(&at), fs::Permissions::from_mode(0o700)).unwrap();
            at.truncate(at.len().saturating_sub(2));
        }
    }
}

#[test]
fn immutable_files_may_still_get_their_other_names() {
    let ground = Ground::new();
    let target = ground.target(overwriting());
    let progress = Progress::default();
    let mut wanted = file_node(1);
    wanted.flags = IFlags::IMMUTABLE.bits();
    wanted.link_group = Some(1);
    let file = target.create_file(&path("a"), &wanted).unwrap();
    target.apply_file_metadata(&file, &wanted, &progress).unwrap();
    target.hard_link(&file.restored(), &path("b")).unwrap();
    target.finish_directories(&progress).unwrap();
    let is_set =
        rustix::fs::ioctl_getflags(&file.file).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE));
    if is_set {
        assert_eq!(progress.take_messages(), Vec::<String>::new());
        assert_eq!(target.find(&path("a")).unwrap().unwrap().mtime, wanted.mtime);
        // Two names: the flag is not ours to take. One: it is.
        let error = target.create_file(&path("b"), &file_node(1)).unwrap_err();
        assert!(matches!(error, TargetError::Io { .. }), "{error:?}");
        rustix::fs::ioctl_setflags(&file.file, IFlags::empty()).unwrap();
        fs::remove_file(ground.inside("b")).unwrap();
        rustix::fs::ioctl_setflags(&file.file, IFlags::IMMUTABLE).unwrap();
        restore_file(&target, "a", b"new").unwrap();
        assert_eq!(fs::read(ground.inside("a")).unwrap(), b"new");
    } else {
        assert!(!progress.take_messages().is_empty(), "a flag was lost in silence");
    }
}

#[test]
fn delete_stays_beneath() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    fs::create_dir_all(ground.inside("dir/gone/deep/er")).unwrap();
    fs::create_dir_all(ground.inside("dir/kept/deep")).unwrap();
    for name in ["dir/gone/file", "dir/gone/deep/er/file", "dir/kept/deep/file", "dir/file", "top"]
    {
        fs::write(ground.inside(name), b"x").unwrap();
    }
    symlink(ground.outside(), ground.inside("dir/link")).unwrap();
    symlink(ground.outside(), ground.inside("dir/gone/deep/link")).unwrap();
    fs::hard_link(ground.outside().join("sentinel"), ground.inside("dir/gone/hard")).unwrap();
    rustix::fs::mkfifoat(CWD, ground.inside("dir/gone/pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let progress = Progress::default();
    let removed = target.remove_extra(&path("dir"), &|name| name == b"kept", &progress).unwrap();
    assert_eq!(progress.take_messages(), Vec::<String>::new());
    assert_eq!(removed, 10);
    let left: Vec<_> = fs::read_dir(ground.inside("dir")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
    assert!(ground.inside("dir/kept/deep/file").exists() && ground.inside("top").exists());
    ground.assert_untouched();
}

#[test]
fn paths_beyond_path_max_work() {
    let ground = Ground::new();
    let target = ground.target(overwriting());
    let name = "d".repeat(255);
    let mut at = TargetPath::root();
    for _ in 0..60 {
        at = at.join(name.as_bytes()).unwrap();
        target.make_dir(&at).unwrap();
        target.schedule_directory(&at, &node(NodeKind::Dir, 0o750)).unwrap();
    }
    let file = at.join(b"file").unwrap();
    assert!(file.as_bytes().len() > 15_000);
    let opened = target.create_file(&file, &file_node(1)).unwrap();
    opened.write_at(0, b"x").unwrap();
    drop(target);
    let target = ground.target(Options::default()); // nothing kept open: the whole way at once
    assert_eq!(target.find(&file).unwrap().unwrap().size, 1);
    let progress = Progress::default();
    assert_eq!(target.remove_extra(&TargetPath::root(), &|_| false, &progress).unwrap(), 61);
    assert_eq!(progress.take_messages(), Vec::<String>::new());
    assert_eq!(fs::read_dir(ground.inside("")).unwrap().count(), 0);
}

#[test]
fn a_target_is_made_only_when_asked() {
    let ground = Ground::new();
    let missing = ground.inside("a/b");
    let refused = Target::open(&missing, Options::default()).err();
    assert!(matches!(refused, Some(TargetError::Unusable { .. })));
    Target::open(&missing, Options { create: true, ..Options::default() }).unwrap();
    assert!(missing.is_dir());
    let file = ground.inside("file");
    fs::File::create(&file).unwrap().write_all(b"x").unwrap();
    let refused = Target::open(&file, Options { create: true, ..Options::default() }).err();
    assert!(matches!(refused, Some(TargetError::Unusable { .. })));
}

#[test]
fn impossible_values_are_reported_not_obeyed() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    let progress = Progress::default();
    let mut wanted = file_node(1);
    (wanted.uid, wanted.gid) = (u32::MAX, u32::MAX);
    wanted.mtime = UnixTime(5, 0x3fff_ffff); // the kernel's "now"
    wanted.xattrs.insert(Vec::new(), b"x".to_vec());
    wanted.xattrs.insert(b"user.a\0b".to_vec(), b"x".to_vec());
    let file = target.create_file(&path("f"), &wanted).unwrap();
    target.apply_file_metadata(&file, &wanted, &progress).unwrap();
    assert_eq!(progress.take_messages().len(), 3);
    target.symlink(&path("s"), b"a\0b").unwrap_err();
    target.symlink(&path("s"), b"").unwrap_err();
}

#[test]
fn messages_of_one_kind_have_an_end() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    let progress = Progress::default();
    let mut wanted = file_node(0);
    wanted.mode = 0o4755;
    for number in 0..150 {
        let file = target.create_file(&path(&format!("f{number}")), &wanted).unwrap();
        target.apply_file_metadata(&file, &wanted, &progress).unwrap();
    }
    target.finish_directories(&progress).unwrap();
    assert_eq!(progress.warnings.load(Relaxed), 151);
    assert_eq!(progress.take_messages().len(), 101);
}

#[test]
fn an_unknown_flag_does_not_cost_the_others() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    let progress = Progress::default();
    let mut wanted = file_node(1);
    wanted.flags = (IFlags::NODUMP | IFlags::NOCOW).bits();
    let file = target.create_file(&path("f"), &wanted).unwrap();
    let knows = |flag| {
        let probe = fs::File::create(ground.inside("probe")).unwrap();
        rustix::fs::ioctl_setflags(&probe, flag).is_ok()
    };
    let (dump, cow) = (knows(IFlags::NODUMP), knows(IFlags::NOCOW));
    target.apply_file_metadata(&file, &wanted, &progress).unwrap();
    let found = rustix::fs::ioctl_getflags(&file.file).unwrap_or(IFlags::empty());
    assert_eq!(found.contains(IFlags::NODUMP), dump);
    assert_eq!(progress.take_messages().is_empty(), dump && cow);
}

#[test]
fn a_stream_becomes_a_file_of_its_owner() {
    let ground = Ground::new();
    let target = ground.target(Options::default());
    let mut stream = Node::new(NodeKind::Stream, b"dump.sql".to_vec());
    stream.size = 3;
    let file = target.create_file(&path("dump.sql"), &stream).unwrap();
    file.write_at(0, b"sql").unwrap();
    target.apply_file_metadata(&file, &stream, &Progress::default()).unwrap();
    target.sync().unwrap();
    let found = target.find(&path("dump.sql")).unwrap().unwrap();
    assert_eq!((found.mode, found.uid), (0o600, rustix::process::geteuid().as_raw()));
}
