//! Replicas through the binary: the README's chapter, and what a disaster looks like.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::household::{copy_of, files_below, noise};
use crate::program::Program;

/// A home with a passphrase, a repository, and two snapshots of a folder.
fn home() -> Program {
    let mut home = Program::new();
    let file = home.write("secret", "correct horse battery staple\n");
    set_private(&file);
    home.set("HOLDFAST_PASSWORD_FILE", &file);
    home.set("HOLDFAST_REPO", &home.arg("main"));
    home.write("data/a", "first");
    home.write("data/big", &"0123456789abcdef".repeat(200_000));
    home.run(&["init", "--grace", "1s", "--pack-size", "1MiB"]).ends(0);
    home.run(&["backup", "data"]).ends(0);
    home.write("data/a", "second");
    home.run(&["backup", "data"]).ends(0);
    home
}

fn set_private(path: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The first object of a kind, as a path.
fn object(home: &Program, place: &str, kind: &str) -> std::path::PathBuf {
    let files = files_below(&home.path(place));
    let name = files.into_keys().find(|name| name.starts_with(kind)).unwrap();
    home.path(place).join(name)
}

/// What was restored is what is in the folder.
fn assert_same(home: &Program, restored: &str) {
    let same = files_below(&home.path(restored)) == files_below(&home.path("data"));
    assert!(same, "{restored} differs");
}

fn damage(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn two_regions_from_the_first_copy_to_a_new_primary() {
    let mut home = home();
    let west = home.arg("west");
    let latest = format!("latest:{}", home.arg("data"));
    home.run(&["replica", "add", "west", &west]).ends(0).says("replica \"west\" is at …");
    home.run(&["copy", "--to", "west"]).ends(0);
    home.run(&["replica", "list"]).ends(0).says("…west…");
    let again = home.run(&["copy", "--to", "west", "--json"]).ends(0);
    let summary = again.events().pop().unwrap();
    assert_eq!(summary["objects"], 0, "{summary}");
    home.run(&["check", "-r", &west, "--no-key", "--read-data"]).ends(0);
    home.run(&["scrub", &west]).ends(0);
    home.run(&["backup", "-r", &west, "data"]).ends(15).warns("…HF-REPO-018…");
    home.run(&["restore", "-r", &west, &latest, "--target", &home.arg("from-west")]).ends(0);
    assert_same(&home, "from-west");

    // A damaged pack: found, healed, and the damaged bytes kept.
    damage(&object(&home, "main", "data/"));
    home.run(&["check", "--read-data", "--no-key"]).ends(4);
    home.run(&["repair", "--from", "west", "--read-data"])
        .ends(0)
        .says("data/…: fetched from west…");
    home.run(&["check", "--read-data"]).ends(0);
    assert!(home.path("main/aside").is_dir());

    // A restore that takes what it needs from anywhere.
    for kind in ["data", "snap", "index"] {
        fs::remove_dir_all(home.path("main").join(kind)).unwrap();
    }
    let any = home.arg("from-any");
    home.run(&["restore", &latest, "--from-any", "--target", &any])
        .ends(0)
        .warns("…served by west…");
    assert_same(&home, "from-any");
    home.run(&["check", "--repair-from", "west"]).ends(4);
    home.run(&["check", "--read-data"]).ends(0);

    // The primary burns down: what is left is the replica.
    home.write("data/a", "third, to the old primary only");
    home.run(&["backup", "data"]).ends(0);
    let newest = copy_of(&home.path("main"));
    fs::remove_dir_all(home.path("main")).unwrap();
    let lost = home.arg("lost");
    home.run(&["restore", &latest, "--from-any", "--target", &lost]).ends(0);
    assert_eq!(fs::read_to_string(home.path("lost/a")).unwrap(), "second");
    home.run(&["promote", &west]).ends(0).says("…is the primary now, of generation 2");
    home.set("HOLDFAST_REPO", &west);
    home.run(&["backup", "data"]).ends(0);
    home.run(&["check", "--read-data"]).ends(0);
    home.run(&["snapshots"]).ends(0);

    // The old primary comes back, and becomes a replica of the new one.
    fs::create_dir(home.path("main")).unwrap();
    for (name, bytes) in files_below(newest.path()) {
        let path = home.path("main").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let main = home.arg("main");
    home.run(&["copy", "--to", &main]).ends(0).warns("…was written by the old primary alone…");
    home.run(&["check", "-r", &main, "--read-data"]).ends(0);
    home.run(&["restore", "-r", &main, &latest, "--target", &home.arg("back")]).ends(0);
    assert_same(&home, "back");
}

#[test]
fn a_primary_without_its_roster_is_healed_too() {
    let home = home();
    let west = home.arg("west");
    home.run(&["replica", "add", "west", &west]).ends(0);
    home.run(&["copy", "--to", "west"]).ends(0);
    for kind in ["roster/", "FORMAT", "recovery/"] {
        fs::remove_file(object(&home, "main", kind)).unwrap();
    }
    home.run(&["check", "--no-key"]).ends(10);
    home.run(&["repair", "--from", "west"]).ends(0);
    home.run(&["check", "--read-data"]).ends(0);
}

#[test]
fn the_names_of_replicas_are_kept_apart() {
    let home = home();
    let (west, east) = (home.arg("west"), home.arg("east"));
    home.run(&["replica", "add", "west", &west]).ends(0);
    home.run(&["replica", "add", "west", &west]).ends(0);
    home.run(&["replica", "add", "west", &east]).ends(2);
    home.run(&["replica", "add", "self", &home.arg("main")]).ends(2);
    home.run(&["replica", "remove", "west"]).ends(0);
    home.run(&["copy", "--to", "west"]).ends(2).warns("…HF-REPLICA-001…");
    fs::create_dir(home.path("letters")).unwrap();
    home.write("letters/one", "dear");
    home.run(&["copy", "--to", &home.arg("letters")]).ends(15).warns("…HF-REPLICA-002…");
    assert_eq!(files_below(&home.path("letters")).len(), 1);
}

#[test]
fn a_partner_gets_the_snapshots_under_keys_of_its_own() {
    let mut home = home();
    fs::hard_link(home.path("data/big"), home.path("data/again")).unwrap();
    std::os::unix::fs::symlink("big", home.path("data/link")).unwrap();
    fs::create_dir(home.path("data/folder")).unwrap();
    home.run(&["backup", "data"]).ends(0);
    home.run_with(&["backup", "--stdin", "dump.sql"], &"row\n".repeat(10_000)).ends(0);
    let (main, partner) = (home.arg("main"), home.arg("partner"));
    let other = home.write("other", "another passphrase of theirs\n");
    set_private(&other);
    let own = home.arg("secret");
    home.set("HOLDFAST_PASSWORD_FILE", &other);
    home.run(&["init", "-r", &partner, "--pack-size", "1MiB"]).ends(0);
    home.set("HOLDFAST_PASSWORD_FILE", &own);
    home.run(&["copy", "--to", &partner]).ends(15).warns("…HF-REPLICA-002…");
    home.run(&["copy", "--reencrypt", "--to", &main]).ends(2).warns("…HF-REPLICA-006…");
    home.run(&["copy", "--reencrypt", "--to", &partner]).ends(0).says("Saved 4 snapshots…");
    let again = home.run(&["copy", "--reencrypt", "--to", &partner, "--json"]).ends(0);
    assert_eq!(again.events().pop().unwrap()["snapshots"], 0);
    let latest = format!("source:{0}:{0}", home.arg("data"));
    home.run(&["restore", "-r", &partner, &latest, "--target", &home.arg("x")]).ends(12);
    home.set("HOLDFAST_PASSWORD_FILE", &other);
    home.run(&["check", "-r", &partner, "--read-data"]).ends(0);
    home.run(&["restore", "-r", &partner, &latest, "--target", &home.arg("out"), "--verify"])
        .ends(0);
    assert_same(&home, "out");
    let dump = home.run(&["cat", "-r", &partner, "latest:dump.sql"]).ends(0);
    assert!(dump.stdout == "row\n".repeat(10_000));
    assert_eq!(fs::metadata(home.path("out/again")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(home.path("out/link")).unwrap().to_str(), Some("big"));
}

#[test]
fn what_no_copy_has_whole_is_not_called_healed() {
    let home = home();
    let west = home.arg("west");
    home.run(&["replica", "add", "west", &west]).ends(0);
    home.run(&["copy", "--to", &home.arg("nowhere"), "--dry-run"]).ends(0);
    assert!(!home.path("nowhere").exists(), "a dry run makes nothing");
    home.run(&["copy", "--to", "west"]).ends(0);
    let packs = files_below(&home.path("main")).into_keys().filter(|n| n.starts_with("data/"));
    let packs: Vec<String> = packs.collect();
    assert!(packs.len() > 1, "{packs:?}");
    for pack in &packs {
        damage(&home.path("main").join(pack));
    }
    damage(&home.path("west").join(&packs[0]));
    home.run(&["repair", "--from", "west", "--read-data"])
        .ends(4)
        .says(&format!("{}: its bytes are not …", packs[0]))
        .says(&format!("{}: fetched from west…", packs[1]));
    home.run(&["check", "--read-data", "--no-key"]).ends(4);
}

#[test]
fn a_damaged_log_here_does_not_hide_what_another_copy_lists() {
    let home = home();
    let west = home.arg("west");
    let latest = format!("latest:{}", home.arg("data"));
    home.run(&["replica", "add", "west", &west]).ends(0);
    home.run(&["copy", "--to", "west"]).ends(0);
    let logs = files_below(&home.path("main")).into_keys().filter(|name| name.starts_with("log/"));
    damage(&home.path("main").join(logs.max().unwrap()));
    let from_west = home.arg("out");
    home.run(&["restore", &latest, "--from-any", "--target", &from_west]).ends(0);
    assert_same(&home, "out");
}

#[test]
fn a_source_that_was_rolled_back_is_not_copied() {
    let mut home = home();
    let west = home.arg("west");
    let older = copy_of(&home.path("main"));
    home.write("data/a", "third");
    home.run(&["backup", "data"]).ends(0);
    home.run(&["copy", "--to", &west]).ends(0);
    let before = files_below(&home.path("west"));
    // By a host that has not seen the newest snapshot, and cannot tell by itself.
    home.set("XDG_STATE_HOME", &home.arg("other-state"));
    home.set("HOLDFAST_REPO", &older.path().display().to_string());
    home.run(&["copy", "--to", &west]).ends(16).warns("…HF-REPLICA-003…");
    assert!(files_below(&home.path("west")) == before);
}

#[test]
fn after_a_promotion_this_host_refuses_the_old_primary() {
    let home = home();
    let west = home.arg("west");
    home.run(&["replica", "add", "west", &west]).ends(0);
    home.run(&["copy", "--to", "west"]).ends(0);
    home.write("data/a", "third, not copied");
    home.run(&["backup", "data"]).ends(0);
    home.run(&["promote", "west"]).ends(0).warns("…1 commits that were not copied here…");
    home.run(&["backup", "data"]).ends(16);
    home.run(&["backup", "-r", &west, "data"]).ends(0);
}

#[test]
fn a_primary_is_not_made_a_replica_of_its_copy() {
    let home = home();
    let (main, west) = (home.arg("main"), home.arg("west"));
    home.run(&["copy", "--to", &west]).ends(0);
    home.run(&["copy", "-r", &west, "--to", &main]).ends(2).warns("…HF-REPLICA-005…");
    home.run(&["backup", "data"]).ends(0);
    // A replica is copied on all the same.
    home.run(&["copy", "-r", &west, "--to", &home.arg("east")]).ends(0);
}

#[test]
fn a_replica_that_was_set_back_is_noticed() {
    let home = home();
    let west = home.arg("west");
    home.run(&["copy", "--to", &west]).ends(0);
    let older = copy_of(&home.path("west"));
    home.write("data/a", "third");
    home.run(&["backup", "data"]).ends(0);
    home.run(&["copy", "--to", &west]).ends(0);
    fs::remove_dir_all(home.path("west")).unwrap();
    fs::rename(older.path(), home.path("west")).unwrap();
    home.run(&["check", "-r", &west, "--no-key"]).ends(4);
    home.run(&["copy", "--to", &west]).ends(4).says("log/…: …the replica was set back");
    home.run(&["copy", "--to", &west]).ends(0);
    home.run(&["check", "-r", &west, "--no-key"]).ends(0);
}

#[test]
fn damaged_texts_and_keys_of_a_replica_are_noticed() {
    let home = home();
    let west = home.arg("west");
    home.run(&["copy", "--to", &west]).ends(0);
    for kind in ["log/", "keys/domain-"] {
        let path = object(&home, "west", kind);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"").unwrap();
        home.run(&["copy", "--to", &west]).ends(4).says(&format!("{kind}…: at …"));
        fs::remove_file(&path).unwrap();
        if kind == "keys/domain-" {
            home.run(&["check", "-r", &west, "--no-key"]).ends(4).says("keys/domain-…");
        }
        fs::write(&path, whole).unwrap();
        home.run(&["copy", "--to", &west]).ends(0);
    }
}

#[test]
fn the_newest_of_the_replicas_serves_and_what_it_lacks_is_said() {
    let home = home();
    let latest = format!("latest:{}", home.arg("data"));
    for name in ["a-stale", "b-newer"] {
        home.run(&["replica", "add", name, &home.arg(name)]).ends(0);
    }
    home.run(&["copy", "--to", "a-stale"]).ends(0);
    home.write("data/a", "third");
    home.run(&["backup", "data"]).ends(0);
    home.run(&["copy", "--to", "b-newer"]).ends(0);
    let copied = home.arg("out");
    home.write("data/a", "fourth, nowhere else");
    home.run(&["backup", "data"]).ends(0);
    fs::remove_dir_all(home.path("main")).unwrap();
    home.run(&["restore", &latest, "--from-any", "--target", &copied])
        .ends(0)
        .warns("…served by b-newer…")
        .warns("…b-newer lacks 1 commits that this host has seen…");
    assert_eq!(fs::read_to_string(home.path("out/a")).unwrap(), "third");
    home.run(&["replica", "list"]).ends(0).says("…b-newer…");
}

#[test]
fn an_older_snapshot_is_not_taken_for_the_newest() {
    let home = home();
    let west = home.arg("west");
    let (data, out) = (home.arg("data"), home.arg("out"));
    home.run(&["replica", "add", "west", &west]).ends(0);
    home.run(&["copy", "--to", "west"]).ends(0);
    let listed = home.run(&["snapshots", "--json"]).ends(0).events();
    let ids: Vec<&str> = listed.iter().filter_map(|event| event["id"].as_str()).collect();
    let [older, newest] = ids[..] else { panic!("{ids:?}") };
    let snap = files_below(&home.path("main")).into_keys().find(|name| name.contains(newest));
    damage(&home.path("main").join(snap.unwrap()));
    for selector in ["latest", "latest:/", &format!("source:{data}")] {
        let restored = home.run(&["restore", selector, "--target", &out]);
        assert_ne!(restored.code, 0, "{selector}");
        assert!(restored.stderr.contains("may be the one that is meant"), "{}", restored.stderr);
        assert!(!home.path("out").exists() || files_below(&home.path("out")).is_empty());
    }
    home.run(&["restore", older, "--target", &home.arg("older")]).ends(0);
    let latest = format!("latest:{data}");
    home.run(&["restore", &latest, "--from-any", "--target", &out]).ends(0);
    assert_same(&home, "out");
}

#[test]
fn a_damaged_snapshot_does_not_keep_the_others_from_a_partner() {
    let mut home = home();
    let before = files_below(&home.path("main"));
    fs::create_dir(home.path("photos")).unwrap();
    fs::write(home.path("photos/one"), noise(3, 3_000_000)).unwrap();
    home.run(&["backup", "photos"]).ends(0);
    let new = files_below(&home.path("main")).into_iter().find(|(name, bytes)| {
        name.starts_with("data/") && bytes.len() == 1 << 20 && !before.contains_key(name)
    });
    home.run_with(&["backup", "--stdin", "dump.sql"], "row\n").ends(0);
    fs::remove_file(home.path("main").join(new.unwrap().0)).unwrap();
    let partner = home.arg("partner");
    let (own, other) = (home.arg("secret"), home.write("other", "another passphrase\n"));
    set_private(&other);
    home.set("HOLDFAST_PASSWORD_FILE", &other);
    home.run(&["init", "-r", &partner]).ends(0);
    home.set("HOLDFAST_PASSWORD_FILE", &own);
    home.run(&["copy", "--reencrypt", "--to", &partner])
        .ends(4)
        .says("Saved 3 snapshots…")
        .warns("…1 snapshots are damaged here, and are not there");
    // One that cannot even be opened is missed as well.
    fs::remove_file(object(&home, "main", "snap/")).unwrap();
    let again = home.run(&["copy", "--reencrypt", "--to", &partner]).ends(4);
    assert!(again.stderr.contains("snapshots are damaged here"), "{}", again.stderr);
}
