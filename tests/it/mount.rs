//! The real program with its snapshots mounted, compared with the files they were made of.
//!
//! Runs where the system lets us mount: as root with `/dev/fuse`. Elsewhere each test says so and
//! ends, except under `CI=true`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::household::{files_below, noise};

/// Whether this host lets us mount.
#[allow(clippy::print_stderr, reason = "whoever runs the tests must hear that one was skipped")]
pub fn can_mount() -> bool {
    let is_root = rustix::process::getuid().is_root();
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let can = is_root && device.is_ok();
    if !can {
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "CI must mount");
        eprintln!("skipped: mounting takes root and /dev/fuse");
    }
    can
}

/// A repository, a folder of sources, and a place to mount.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(this.path("secret"), "correct horse battery staple\n").unwrap();
        fs::set_permissions(this.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        for name in ["source", "mnt"] {
            fs::create_dir(this.path(name)).unwrap();
        }
        this.run(&["init"]);
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOLDFAST_REPO", self.path("repository"))
            .env("HOLDFAST_PASSWORD_FILE", self.path("secret"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}\n{out}{err}");
        out.into_owned()
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Backs the sources up; the folder of the snapshot below the one of its source.
    fn backup(&self, source: &str) {
        let folder = self.path("source").display().to_string();
        self.run(&["backup", "--source", source, &folder]);
    }

    fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    /// The sources as the newest snapshot of `source` has them.
    fn latest(&self, source: &str) -> PathBuf {
        let below = self.path("source");
        self.mnt().join(source).join("latest").join(below.strip_prefix("/").unwrap())
    }

    fn mount(&self, options: &[&str]) -> Mount {
        let mnt = self.mnt();
        let mut child = self
            .command(&[&["mount", mnt.to_str().unwrap()], options].concat())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.path("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = fs::read_to_string(self.path("stderr")).unwrap();
        assert!(line.starts_with("mounted at "), "{line}{said}");
        Mount { child, mnt, stderr: self.path("stderr") }
    }
}

/// A mounted repository; unmounted when it is dropped.
struct Mount {
    child: Child,
    mnt: PathBuf,
    stderr: PathBuf,
}

impl Mount {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn warnings(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// The most memory that the process has had, in KiB.
    fn memory_peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(rustix::process::Signal::TERM);
            let _ = self.child.wait();
        }
        if is_mounted(&self.mnt) {
            let _ = Command::new("umount").arg("-l").arg(&self.mnt).status();
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A tree with all that a file system can have.
fn all_kinds(folder: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    fs::create_dir_all(folder.join("dir/deep/er")).unwrap();
    fs::create_dir(folder.join("dir.d")).unwrap();
    fs::create_dir(folder.join("empty dir")).unwrap();
    fs::write(folder.join("empty"), b"").unwrap();
    fs::write(folder.join("dir/deep/er/small"), b"small").unwrap();
    fs::write(folder.join("dir/big"), noise(7, 20_000_000)).unwrap();
    fs::write(folder.join(std::ffi::OsStr::from_bytes(b"odd \xff\n\\name")), b"odd").unwrap();
    fs::write(folder.join("ä – ☃"), b"snow").unwrap();
    fs::write(folder.join("linked"), noise(8, 300_000)).unwrap();
    fs::hard_link(folder.join("linked"), folder.join("dir/linked")).unwrap();
    fs::hard_link(folder.join("linked"), folder.join("dir.d/again")).unwrap();
    std::os::unix::fs::symlink("../nowhere/\u{2603}", folder.join("dir/link")).unwrap();
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(9_000_000).unwrap();
    sparse.write_all_at(&noise(9, 70_000), 4_194_304).unwrap();
    sparse.write_all_at(b"end", 8_999_997).unwrap();
    mknodat(CWD, folder.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let zero = rustix::fs::makedev(1, 5);
    let made = mknodat(
        CWD,
        folder.join("zero"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        zero,
    );
    made.unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap());
    for (name, value) in [("user.one", &b"1"[..]), ("user.binary", b"\0\xff")] {
        let path = folder.join("dir/big");
        rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    fs::set_permissions(folder.join("dir/deep"), fs::Permissions::from_mode(0o2710)).unwrap();
    fs::set_permissions(folder.join("linked"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::lchown(folder.join("dir/link"), Some(12), Some(34)).unwrap();
    let old = Duration::new(86_400, 123_456_789);
    let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH - old);
    fs::File::open(folder.join("dir/deep/er/small")).unwrap().set_times(times).unwrap();
}

/// All entries below a folder by their paths.
fn entries_below(folder: &Path) -> BTreeMap<PathBuf, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(dir) = folders.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            assert_eq!(entry.file_type().unwrap(), metadata.file_type(), "{entry:?}");
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path().strip_prefix(folder).unwrap().to_owned(), metadata);
        }
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

#[track_caller]
fn assert_same(original: &Path, shown: &Path) {
    let (expected, found) = (entries_below(original), entries_below(shown));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    let mut inodes: BTreeMap<u64, Vec<&PathBuf>> = BTreeMap::new();
    for (path, metadata) in &found {
        let original_metadata = &expected[path];
        let facts = |m: &fs::Metadata| {
            let kind = m.file_type();
            let links = if kind.is_dir() { 0 } else { m.nlink() };
            let size = if kind.is_dir() { 0 } else { m.size() };
            ((m.mode(), m.uid(), m.gid(), m.rdev()), (m.mtime(), m.mtime_nsec()), links, size)
        };
        assert_eq!(facts(original_metadata), facts(metadata), "{}", path.display());
        let (one, other) = (original.join(path), shown.join(path));
        if metadata.is_symlink() {
            assert_eq!(fs::read_link(&one).unwrap(), fs::read_link(&other).unwrap());
        }
        if metadata.is_file() {
            assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap(), "{}", path.display());
            let space = metadata.blocks().abs_diff(original_metadata.blocks());
            assert!(space <= 64, "{}: {space} blocks more or less", path.display());
        }
        assert_eq!(xattrs(&one), xattrs(&other), "{}", path.display());
        if !metadata.is_dir() {
            inodes.entry(metadata.ino()).or_default().push(path);
        }
    }
    for paths in inodes.values() {
        let original: std::collections::BTreeSet<_> =
            paths.iter().map(|path| expected[*path].ino()).collect();
        assert_eq!(original.len(), 1, "{paths:?} have one number and are not one file");
        assert_eq!(paths.len() as u64, expected[paths[0]].nlink(), "{paths:?}");
    }
}

#[test]
fn a_mounted_snapshot_is_the_tree_it_was_made_of() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let source = place.path("source");
    all_kinds(&source);
    place.backup("web/shop");
    let dump = noise(11, 3_000_000);
    fs::write(place.path("dump"), &dump).unwrap();
    let input = fs::File::open(place.path("dump")).unwrap();
    let stream = ["backup", "--source", "dump", "--stdin", "shop.sql"];
    assert!(place.command(&stream).stdin(input).output().unwrap().status.success());
    let mount = place.mount(&[]);
    let mnt = place.mnt();
    let names = |path: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&mnt), ["dump", "web%2Fshop"]);
    let times = names(&mnt.join("web%2Fshop"));
    assert_eq!((times.len(), times[1].to_str()), (2, Some("latest")));
    let latest = fs::read_link(mnt.join("web%2Fshop/latest")).unwrap();
    assert_eq!(latest.as_os_str(), times[0]);
    let shown = place.latest("web%2Fshop");
    assert_same(&source, &shown);
    let text = |path: &Path| path.display().to_string();
    run("cmp", &[&text(&source.join("dir/big")), &text(&shown.join("dir/big"))]);
    run(
        "diff",
        &[
            "-r",
            "--no-dereference",
            "-x",
            "socket",
            "-x",
            "fifo",
            "-x",
            "zero",
            &text(&source),
            &text(&shown),
        ],
    );
    let ask = |question: &str, folder: &Path| run("sh", &["-c", question, &text(folder)]);
    let find = "cd \"$0\" && find . ! -type d -printf '%P %y %m %U %G %n %s %T@ %l\\0' | sort -z";
    assert_eq!(ask(find, &source), ask(find, &shown));
    let getfattr = "cd \"$0\" && getfattr -h -d -m - -R . | sort";
    assert!(ask(getfattr, &source).contains("user.binary"));
    assert_eq!(ask(getfattr, &source), ask(getfattr, &shown));
    // What is there by name and by xattr answers as the system's own file systems do.
    let big = shown.join("dir/big");
    let too_small = rustix::fs::getxattr(&big, "user.binary", &mut [0; 1]);
    assert_eq!(too_small, Err(rustix::io::Errno::RANGE));
    let missing = rustix::fs::getxattr(&big, "user.none", &mut [0; 1]);
    assert_eq!(missing, Err(rustix::io::Errno::NODATA));
    assert!(
        fs::write(shown.join("new"), b"x")
            .is_err_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
    );
    // The stream is a file of its owner, with the bytes that came in.
    let stream = mnt.join("dump/latest/shop.sql");
    assert!(fs::read(&stream).unwrap() == dump);
    assert!(fs::metadata(&stream).unwrap().is_file());
    let sparse = fs::File::open(shown.join("sparse")).unwrap();
    let seek = rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert_eq!(seek, 4_194_304);
    let seek = rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Hole(seek)).unwrap();
    assert!((4_194_304 + 70_000..4_194_304 + 140_000).contains(&seek), "{seek}");
    assert!(shown.join("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(mount.warnings(), "");
}

#[test]
fn a_new_snapshot_comes_up_while_it_is_mounted() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    fs::write(place.path("source/file"), b"first").unwrap();
    place.backup("host");
    let _mount = place.mount(&[]);
    let file = place.latest("host").join("file");
    assert_eq!(fs::read(&file).unwrap(), b"first");
    fs::write(place.path("source/file"), b"second, and longer").unwrap();
    place.backup("host");
    place.backup("other");
    let begun = Instant::now();
    while fs::read(&file).unwrap() != b"second, and longer" || !place.latest("other").exists() {
        assert!(begun.elapsed() < Duration::from_mins(1), "the new snapshot does not come up");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Of two snapshots in one second both are there.
    assert_eq!(fs::read_dir(place.mnt().join("host")).unwrap().count(), 3);
}

#[test]
fn damage_is_an_error_for_its_files_only() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let folder = place.path("source").display().to_string();
    let mut packs = Vec::new();
    for (name, seed) in [("one", 1), ("two", 2)] {
        fs::write(place.path("source").join(name), noise(seed, 3_000_000)).unwrap();
        place.run(&["backup", "--source", "host", &folder]);
        let all: Vec<_> = files_below(&place.path("repository/data")).into_keys().collect();
        packs.push(all);
    }
    // A pack of data is longer than one of trees.
    let size =
        |name: &&String| fs::metadata(place.path("repository/data").join(name)).unwrap().len();
    let newest = packs[1].iter().filter(|name| !packs[0].contains(name)).max_by_key(size).unwrap();
    let pack = place.path("repository/data").join(newest);
    let mut bytes = fs::read(&pack).unwrap();
    for at in (1000..bytes.len()).step_by(5000) {
        bytes[at] ^= 1;
    }
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let mount = place.mount(&[]);
    let shown = place.latest("host");
    assert!(fs::read(shown.join("one")).unwrap() == noise(1, 3_000_000));
    for _ in 0..2 {
        let error = fs::read(shown.join("two")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    }
    assert_eq!(fs::metadata(shown.join("two")).unwrap().len(), 3_000_000);
    assert!(fs::read(shown.join("one")).unwrap() == noise(1, 3_000_000));
    let begun = Instant::now();
    while mount.warnings().is_empty() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let warnings = mount.warnings();
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert!(
        warnings.contains("source/two in snapshot") && warnings.contains(" of host "),
        "{warnings}"
    );
}

#[test]
fn it_is_not_mounted_over_itself() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let arg = |name: &str| place.path(name).display().to_string();
    fs::create_dir(place.path("repository/tmpdir")).unwrap();
    for inside in ["repository", "repository/tmpdir", ""] {
        let said = place.fails(&["mount", &arg(inside)]);
        assert!(said.contains("HF-MOUNT-002"), "{inside}: {said}");
    }
    fs::write(place.path("source/x"), b"x").unwrap();
    for wrong in ["nowhere", "secret", "source"] {
        let said = place.fails(&["mount", &arg(wrong)]);
        assert!(said.contains("HF-MOUNT-001"), "{wrong}: {said}");
    }
}

#[test]
fn a_signal_unmounts_and_so_does_umount() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    fs::write(place.path("source/file"), b"x").unwrap();
    place.backup("host");
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut mount = place.mount(&[]);
        assert!(is_mounted(&place.mnt()));
        mount.signal(signal);
        assert_eq!(mount.child.wait().unwrap().code(), Some(0));
        assert!(!is_mounted(&place.mnt()));
    }
    let mut mount = place.mount(&[]);
    run("umount", &[place.mnt().to_str().unwrap()]);
    assert_eq!(mount.child.wait().unwrap().code(), Some(0));
    // With a file open it cannot be unmounted: it is taken from its place all the same.
    let mut mount = place.mount(&[]);
    let open = fs::File::open(place.latest("host").join("file")).unwrap();
    mount.signal(rustix::process::Signal::TERM);
    assert_eq!(mount.child.wait().unwrap().code(), Some(0));
    assert!(!is_mounted(&place.mnt()));
    assert!(mount.warnings().contains("was in use"), "{}", mount.warnings());
    drop(open);
}

#[test]
fn a_killed_mount_leaves_the_repository_as_it_was() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    for file in 0..50 {
        fs::write(place.path("source").join(file.to_string()), noise(file, 100_000)).unwrap();
    }
    place.backup("host");
    let before = files_below(&place.path("repository"));
    for moment in 0..6 {
        let mut mount = place.mount(&[]);
        let shown = place.latest("host");
        let reader = std::thread::spawn(move || {
            // It ends with an error, or with the last file.
            for file in 0..50 {
                let Ok(bytes) = fs::read(shown.join(file.to_string())) else { return };
                assert!(bytes == noise(file, 100_000));
            }
        });
        std::thread::sleep(Duration::from_millis(moment * 15));
        mount.child.kill().unwrap();
        mount.child.wait().unwrap();
        reader.join().unwrap();
        assert!(is_mounted(&place.mnt()));
        let said = place.fails(&["mount", place.mnt().to_str().unwrap()]);
        assert!(said.contains("HF-MOUNT-001") && said.contains("umount"), "{said}");
        run("umount", &[place.mnt().to_str().unwrap()]);
        assert!(!is_mounted(&place.mnt()));
    }
    assert!(files_below(&place.path("repository")) == before);
    place.run(&["check", "--read-data"]);
}

#[test]
fn many_readers_get_the_right_bytes_in_bounded_memory() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    // More than the cache holds.
    let sizes = [150_000_000_usize, 60_000_000, 1_000_000];
    for (seed, bytes) in (0..).zip(sizes) {
        fs::write(place.path("source").join(seed.to_string()), noise(seed, bytes)).unwrap();
    }
    place.backup("host");
    let mount = place.mount(&[]);
    let shown = place.latest("host");
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (place, shown) = (&place, &shown);
            scope.spawn(move || {
                let mut state = thread + 1;
                for _ in 0..150 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let file = (state >> 60) as usize % sizes.len();
                    let offset = (state >> 8) % sizes[file] as u64;
                    let length = 1 + (state >> 40) as usize % 300_000;
                    let read = |folder: &Path| {
                        let mut file = fs::File::open(folder.join(file.to_string())).unwrap();
                        file.seek(SeekFrom::Start(offset)).unwrap();
                        let mut bytes = Vec::new();
                        file.take(length as u64).read_to_end(&mut bytes).unwrap();
                        bytes
                    };
                    assert!(read(shown) == read(&place.path("source")), "{file} {offset} {length}");
                }
            });
        }
    });
    assert_same(&place.path("source"), &shown);
    let peak = mount.memory_peak_kib();
    assert!(peak < 300 * 1024, "{peak} KiB");
    assert_eq!(mount.warnings(), "");
}

#[test]
fn roots_stand_at_their_paths_and_inner_ones_win() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    for dir in ["a/b/c", "a/skipped/deep", "z"] {
        fs::create_dir_all(place.path("source").join(dir)).unwrap();
        fs::write(place.path("source").join(dir).join("file"), dir).unwrap();
    }
    let path = |name: &str| place.path("source").join(name).display().to_string();
    let roots = [path("a"), path("a/b/c"), path("a/skipped/deep"), path("z/file")];
    let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
    place.run(&[&["backup", "--source", "host", "--exclude", "skipped"], &roots[..]].concat());
    let _mount = place.mount(&["--source", "host"]);
    let shown = place.latest("host");
    let mut names: Vec<_> =
        entries_below(&shown).into_keys().map(|p| p.display().to_string()).collect();
    names.sort();
    let expected = [
        "a",
        "a/b",
        "a/b/c",
        "a/b/c/file",
        "a/skipped",
        "a/skipped/deep",
        "a/skipped/deep/file",
        "z",
        "z/file",
    ];
    assert_eq!(names, expected);
    for file in ["a/b/c", "a/skipped/deep", "z"] {
        assert_eq!(fs::read_to_string(shown.join(file).join("file")).unwrap(), file);
    }
}

#[test]
fn large_directories_come_whole() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let names: Vec<String> = (0..20_000).map(|n| format!("file with a number {n:05}")).collect();
    for name in &names {
        fs::write(place.path("source").join(name), b"").unwrap();
    }
    place.backup("host");
    let _mount = place.mount(&[]);
    let listed: Vec<String> = run("ls", &["-U", place.latest("host").to_str().unwrap()])
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, names);
    let found =
        run("sh", &["-c", "find \"$0\"/ -type f | wc -l", place.latest("host").to_str().unwrap()]);
    assert_eq!(found.trim(), "20000");
}
