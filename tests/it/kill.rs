//! The real program, killed at random moments, on full and read-only disks, with bad sources.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::household::{files_below, noise};

/// A repository of the program's own making, with a folder to back up.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub repository: String,
}

impl Place {
    /// Made by `init` with these options.
    pub fn new(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository").display().to_string();
        Self { folder, repository }.made(options)
    }

    fn made(self, options: &[&str]) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let secret = self.path("secret");
        std::fs::write(&secret, "correct horse battery staple\n").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::create_dir(self.path("source")).unwrap();
        self.run(&[&["init", "--password-file", &secret], options].concat(), 0);
        self
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", "/usr/bin:/bin")
            .env("HOLDFAST_REPO", &self.repository)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str], exit: i32) -> Output {
        let output = self.command(arguments).output().unwrap();
        let text = format!(
            "{arguments:?}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(exit), "{text}");
        output
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(Path::new(&self.path("source")).join(name), bytes).unwrap();
    }

    fn snapshots(&self) -> usize {
        // A snapshot exists by its commit: the logs are what is counted.
        let logs = Path::new(&self.repository).join("log");
        let logs = if logs.exists() { files_below(&logs) } else { BTreeMap::new() };
        logs.values().filter(|text| String::from_utf8_lossy(text).contains("\nsnapshot ")).count()
    }

    /// Restores the newest snapshot and compares it with the source.
    fn assert_restores(&self, when: &str) {
        let target = tempfile::tempdir_in(self.folder.path()).unwrap();
        let into = target.path().display().to_string();
        let secret = self.path("secret");
        self.run(&["restore", "latest", "--target", &into, "--password-file", &secret], 0);
        let source = self.path("source");
        let restored = target.path().join(Path::new(&source).strip_prefix("/").unwrap());
        assert!(files_below(&restored) == files_below(Path::new(&source)), "{when}");
    }
}

/// A small generator: the same moments at each run of the test.
pub fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

#[test]
fn a_killed_backup_costs_nothing() {
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let moments = if is_ci { 300 } else { 60 };
    let place = Place::new(&[]);
    let source = place.path("source");
    for file in 0..20 {
        place.write(&format!("file-{file}"), &noise(file, 20_000));
    }
    let begun = Instant::now();
    place.run(&["backup", &source], 0);
    let whole = u64::try_from(begun.elapsed().as_micros()).unwrap().max(1000);
    let mut seed = 42;
    let mut killed = 0;
    for moment in 0..moments {
        let file = draw(&mut seed, 20);
        place.write(&format!("file-{file}"), &noise(1000 + moment, 150_000));
        let before = place.snapshots();
        let mut child = place
            .command(&["backup", &source])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(draw(&mut seed, whole + whole / 4)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += usize::from(!status.success());
        let after = place.snapshots();
        assert!(after == before || after == before + 1, "{before} then {after}");
        assert!(!status.success() || after == before + 1, "success without a snapshot");
        if moment % 4 == 0 {
            place.run(&["check", "--no-key"], 0);
        }
        if moment % 10 == 9 {
            place.run(&["backup", &source], 0);
            place.assert_restores(&format!("after {moment} moments"));
        }
    }
    assert!(killed > 10, "only {killed} of {moments} runs were killed");
    place.run(&["backup", &source], 0);
    place.run(&["check", "--read-data", "--password-file", &place.path("secret")], 0);
    place.assert_restores("at the end");
}

/// A file system of its own, unmounted at the end.
pub struct Mounted(String);

impl Mounted {
    /// `None` where this process may not mount.
    #[allow(clippy::print_stderr, reason = "a skipped test says why")]
    pub fn tmpfs(at: &str, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        let words = ["-t", "tmpfs", "-o", &options, "tmpfs", at];
        let done = Command::new("mount").args(words).stderr(Stdio::null()).status();
        let is_mounted = done.is_ok_and(|status| status.success());
        if !is_mounted {
            eprintln!("skipped: this process may not mount a file system");
        }
        is_mounted.then(|| Self(at.to_owned()))
    }

    pub fn remount(&self, options: &str) {
        let words = ["-o", &format!("remount,{options}"), &self.0];
        assert!(Command::new("mount").args(words).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["-l", &self.0]).status());
    }
}

#[test]
fn a_full_or_read_only_disk_is_said_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk").display().to_string();
    let Some(mounted) = Mounted::tmpfs(&disk, "40m") else { return };
    let place = Place { folder: tempfile::tempdir().unwrap(), repository: format!("{disk}/r") };
    let place = place.made(&[]);
    let source = place.path("source");
    place.write("file", &noise(1, 1_000_000));
    place.run(&["backup", &source], 0);
    place.assert_restores("before");
    let one = place.snapshots();
    for seed in 0..4 {
        place.write(&format!("large-{seed}"), &noise(10 + seed, 20_000_000));
    }
    let full = place.run(&["backup", &source], 7);
    let words = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(words.contains("error[HF-"), "{words}");
    assert_eq!(place.snapshots(), one);
    place.run(&["check", "--no-key"], 0);
    mounted.remount("ro");
    let refused = place.command(&["backup", &source]).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(15), "{words}");
    assert_eq!(place.snapshots(), one);
    mounted.remount("rw,size=200m");
    place.run(&["backup", &source], 0);
    place.run(&["check", "--no-key"], 0);
    place.assert_restores("with room again");
}

#[test]
fn a_full_disk_can_be_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk").display().to_string();
    let Some(_mounted) = Mounted::tmpfs(&disk, "100m") else { return };
    let place = Place { folder: tempfile::tempdir().unwrap(), repository: format!("{disk}/r") };
    let place = place.made(&["--grace", "1s", "--pack-size", "1MiB"]);
    let source = place.path("source");
    for seed in 0..3 {
        place.write("file", &noise(seed, 10_000_000));
        place.run(&["backup", &source], 0);
    }
    let filler = format!("{disk}/filler");
    // Whatever is left: the write ends where the disk does.
    let rest = noise(9, 1 << 20);
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&rest).is_ok() {}
    drop(file);
    place.write("file", &noise(3, 10_000_000));
    place.run(&["backup", &source], 7);
    place.run(&["forget", "--keep-last", "1"], 0);
    for _ in 0..2 {
        // Longer than the grace time, which goes by the times of the store.
        std::thread::sleep(Duration::from_secs(2));
        place.run(&["prune"], 0);
    }
    place.run(&["check", "--no-key"], 0);
    // 20 MB of the old snapshots are free again: the filler is still there.
    place.run(&["backup", &source], 0);
    place.assert_restores("after pruning a full disk");
}

#[test]
fn an_unreadable_file_is_missing_and_the_rest_is_saved() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new(&[]);
    let source = place.path("source");
    place.write("good", b"good");
    place.write("secret", b"nobody may read this");
    let hidden = Path::new(&source).join("secret");
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o0)).unwrap();
    // Root reads everything, but not a file of the kernel that can only be written.
    let kernel = "/sys/bus/workqueue";
    let write_only = format!("{kernel}/drivers_probe");
    let mut arguments = vec!["backup", source.as_str()];
    if std::fs::read(&hidden).is_ok() {
        if !Path::new(&write_only).exists() || std::fs::read(&write_only).is_ok() {
            return;
        }
        arguments.push(kernel);
    }
    let output = place.run(&arguments, 3);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("drivers_probe") || words.contains("secret"), "{words}");
    assert_eq!(place.snapshots(), 1);
    place.run(&["check", "--no-key"], 0);
    let secret = place.path("secret");
    let good = format!("latest:{source}/good");
    let output = place.run(&["cat", &good, "--password-file", &secret], 0);
    assert_eq!(output.stdout, b"good");
}

#[test]
fn a_command_that_fails_saves_nothing() {
    let place = Place::new(&[]);
    for bytes in [0, 1, 70_000, 3_000_000] {
        let script = format!("head -c {bytes} /dev/zero; exit 9");
        place.run(&["backup", "--command", "dump", "--", "sh", "-c", &script], 20);
        let killed = format!("head -c {bytes} /dev/zero; kill -9 $$");
        place.run(&["backup", "--command", "dump", "--", "sh", "-c", &killed], 20);
    }
    assert_eq!(place.snapshots(), 0);
    place.run(&["check", "--no-key"], 0);
    place.run(&["backup", "--command", "dump", "--", "sh", "-c", "echo whole"], 0);
    assert_eq!(place.snapshots(), 1);
}
