//! Copies, repairs and promotions of the real program, killed at random moments.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::household::{copy_of, files_below, noise};
use crate::kill::{Place, draw};

/// A repository with some megabytes in small packs, and three snapshots.
fn place() -> Place {
    let place = Place::new(&["--pack-size", "1MiB"]);
    let source = place.path("source");
    for round in 0..3 {
        for file in 0..8 {
            place.write(&format!("file-{file}"), &noise(10 * round + file, 500_000));
        }
        place.run(&["backup", &source], 0);
    }
    place
}

/// How many moments are tried.
pub fn moments(in_ci: u64, else_: u64) -> u64 {
    if std::env::var_os("CI").is_some_and(|value| value == "true") { in_ci } else { else_ }
}

/// Starts the program and kills it after that time; whether it had ended well before.
fn killed_after(place: &Place, arguments: &[&str], micros: u64) -> bool {
    let mut command = place.command(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_micros(micros));
    child.kill().unwrap();
    child.wait().unwrap().success()
}

/// How long the whole takes, in microseconds.
pub fn time_of(work: impl FnOnce()) -> u64 {
    let begun = Instant::now();
    work();
    u64::try_from(begun.elapsed().as_micros()).unwrap().max(1000)
}

/// Objects of a folder, each with the file that holds it: one that was written again is another.
fn inodes(folder: &str) -> BTreeMap<String, u64> {
    let folder = Path::new(folder);
    let files = if folder.exists() { files_below(folder) } else { BTreeMap::new() };
    let is_object = |name: &String| !name.starts_with("tmp/") && name != "reserve";
    let inode = |name: String| {
        let number = std::fs::metadata(folder.join(&name)).unwrap().ino();
        (name, number)
    };
    files.into_keys().filter(is_object).map(inode).collect()
}

fn assert_restores(place: &Place, from: &str, when: &str) {
    let target = tempfile::tempdir_in(place.folder.path()).unwrap();
    let into = target.path().display().to_string();
    let secret = place.path("secret");
    place.run(&["restore", "-r", from, "latest", "--target", &into, "--password-file", &secret], 0);
    let source = place.path("source");
    let restored = target.path().join(Path::new(&source).strip_prefix("/").unwrap());
    assert!(files_below(&restored) == files_below(Path::new(&source)), "{when}");
}

#[test]
fn a_killed_copy_goes_on_and_moves_nothing_twice() {
    let place = place();
    let first = place.path("first");
    let whole = time_of(|| drop(place.run(&["copy", "--to", &first], 0)));
    let mut seed = 7;
    let (mut killed, mut round) = (0, 0);
    let mut target = place.path("west-0");
    for moment in 0..moments(120, 25) {
        let before = inodes(&target);
        let done = killed_after(&place, &["copy", "--to", &target], draw(&mut seed, whole));
        killed += u64::from(!done);
        let after = inodes(&target);
        assert!(before.iter().all(|(name, inode)| after.get(name) == Some(inode)), "{moment}");
        if after.contains_key("FORMAT") {
            place.run(&["check", "-r", &target, "--no-key"], 0);
        }
        if done || moment % 10 == 9 {
            place.run(&["copy", "--to", &target], 0);
            let finished = inodes(&target);
            assert!(after.iter().all(|(name, inode)| finished.get(name) == Some(inode)));
            assert_eq!(finished.len(), inodes(&first).len());
            place.run(&["check", "-r", &target, "--no-key", "--read-data"], 0);
            round += 1;
            target = place.path(&format!("west-{round}"));
        }
    }
    assert!(killed > 10 && round > 0, "{killed} killed, {round} finished");
    assert_restores(&place, &place.path("west-0"), "a copy in many pieces");
}

#[test]
fn a_killed_repair_goes_on_and_keeps_what_was_damaged() {
    let place = place();
    let west = place.path("west");
    place.run(&["copy", "--to", &west], 0);
    let main = Path::new(&place.repository);
    let packs: Vec<String> =
        files_below(main).into_keys().filter(|name| name.starts_with("data/")).collect();
    assert!(packs.len() > 8, "{packs:?}");
    let repair = ["repair", "--from", &west, "--read-data"];
    let whole = time_of(|| drop(place.run(&repair, 0)));
    let mut seed = 11;
    let mut damaged: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut killed = 0;
    for moment in 0..moments(40, 12) {
        for _ in 0..4 {
            let pack = main.join(&packs[draw(&mut seed, packs.len() as u64) as usize]);
            let mut bytes = std::fs::read(&pack).unwrap_or_else(|_| noise(moment, 700_000));
            let at = draw(&mut seed, bytes.len() as u64) as usize;
            bytes[at] ^= 0x5a;
            drop(std::fs::remove_file(&pack));
            std::fs::write(&pack, &bytes).unwrap();
            damaged.insert(bytes);
        }
        killed += u64::from(!killed_after(&place, &repair, draw(&mut seed, 2 * whole)));
        if moment % 4 == 3 {
            place.run(&repair, 0);
            place.run(&["check", "--no-key", "--read-data"], 0);
        }
    }
    place.run(&repair, 0);
    assert!(killed > 3, "{killed}");
    let kept: BTreeSet<Vec<u8>> = files_below(&main.join("aside")).into_values().collect();
    // Damaged twice before a repair saw it: the version in between was never there to be kept.
    let lost = damaged.iter().filter(|bytes| !kept.contains(*bytes)).count();
    assert!(lost * 2 < damaged.len(), "{lost} of {} are not kept", damaged.len());
    assert_restores(&place, &place.repository, "after the repairs");
}

#[test]
fn a_killed_promotion_has_happened_or_not() {
    let place = place();
    let secret = place.path("secret");
    let copy = place.path("copy");
    place.run(&["copy", "--to", &copy], 0);
    let mut seed = 13;
    let mut whole = 0;
    for moment in 0..=moments(12, 4) {
        // Each time by a host of its own: who has seen a promotion refuses the old primary.
        let folder = copy_of(Path::new(&copy));
        let home = tempfile::tempdir().unwrap();
        let west = folder.path().display().to_string();
        let run = |words: &[&str]| {
            let mut command = place.command(words);
            command.env("HOME", home.path()).env("HOLDFAST_REPO", &west);
            command.env("HOLDFAST_PASSWORD_FILE", &secret);
            command
        };
        let mut promotion = run(&["promote", &west]);
        let begun = Instant::now();
        let mut child = promotion.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if moment == 0 {
            // The first one says how long it takes.
            assert!(child.wait().unwrap().success());
            whole = u64::try_from(begun.elapsed().as_micros()).unwrap();
        } else {
            std::thread::sleep(Duration::from_micros(whole / 2 + draw(&mut seed, whole / 2)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(run(&["check", "--no-key", "--read-data"]).output().unwrap().status.success());
        let again = run(&["promote", &west]).output().unwrap();
        let text = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.success() || text.contains("HF-REPLICA-005"), "{text}");
        let target = home.path().join("out");
        let into = target.display().to_string();
        assert!(run(&["restore", "latest", "--target", &into]).output().unwrap().status.success());
        let source = place.path("source");
        let restored = target.join(Path::new(&source).strip_prefix("/").unwrap());
        assert!(files_below(&restored) == files_below(Path::new(&source)), "{moment}");
    }
}
