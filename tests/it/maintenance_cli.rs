//! The maintenance commands through the program: exit codes and JSON.

use std::path::Path;
use std::process::{Command, Output};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let place = Self(tempfile::tempdir().unwrap());
        let secret = place.path("secret");
        std::fs::write(&secret, "correct horse battery staple\n").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(place.run(&["init", "--password-file", &secret], 0).status.code(), Some(0));
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    #[track_caller]
    fn run(&self, arguments: &[&str], exit: i32) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .env_clear()
            .env("HOME", self.0.path())
            .env("HOLDFAST_REPO", self.path("repository"))
            .args(arguments)
            .output()
            .unwrap();
        let text = format!(
            "{arguments:?}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(exit), "{text}");
        output
    }
}

fn summary(output: &Output) -> serde_json::Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let last = text.lines().rfind(|line| line.contains("\"summary\"")).unwrap();
    serde_json::from_str(last).unwrap()
}

#[test]
fn an_empty_repository_is_maintained() {
    let place = Place::new();
    place.run(&["snapshots", "--no-key"], 0);
    place.run(&["check", "--no-key", "--read-data"], 0);
    let checked = place.run(&["check", "--json", "--password-file", &place.path("secret")], 0);
    assert_eq!(summary(&checked)["with_key"], true);
    place.run(&["prune", "--dry-run"], 0);
    let pruned = place.run(&["prune", "--json"], 0);
    assert_eq!(summary(&pruned)["deleted_objects"], 0);
    place.run(&["forget"], 2);
    place.run(&["forget", "--keep-within", "90min"], 2);
    place.run(&["forget", "--keep-last", "1", "--prune"], 0);
    place.run(&["forget", "abcd"], 1);
    place.run(&["recover", "abcd"], 1);
    place.run(&["repair", "index", "--password-file", &place.path("secret")], 0);
}

#[test]
fn damage_ends_with_four() {
    let place = Place::new();
    let script = Path::new(&place.path("repository")).join("recovery/restore.py");
    std::fs::remove_file(&script).unwrap();
    let output = place.run(&["check", "--no-key", "--json"], 4);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("recovery/restore.py") && text.contains("HF-CHECK-001"), "{text}");
}
