//! Keys through the real program: init, key, writer, recovery-kit, each host with a home of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A host: its home folder holds its state and configuration.
struct Host {
    home: TempDir,
}

struct Outcome {
    code: i32,
    out: String,
    error: String,
}

impl Host {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn run(&self, repository: &Path, arguments: &[&str]) -> Outcome {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .arg("-r")
            .arg(repository)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Outcome { code, out: text(output.stdout), error: text(output.stderr) }
    }

    #[track_caller]
    fn done(&self, repository: &Path, arguments: &[&str]) -> String {
        let outcome = self.run(repository, arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.out, outcome.error);
        outcome.out
    }

    #[track_caller]
    fn fails(&self, repository: &Path, arguments: &[&str], code: i32, id: &str) -> String {
        let outcome = self.run(repository, arguments);
        assert_eq!(outcome.code, code, "{arguments:?}: {}{}", outcome.out, outcome.error);
        assert!(outcome.error.contains(&format!("error[{id}]")), "{}", outcome.error);
        outcome.error
    }
}

// An age identity in a file, and its recipient.
const IDENTITY: &str =
    "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33\n";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn made_for_recipient() -> (Host, PathBuf, String) {
    let host = Host::new();
    let repository = host.path("repo");
    host.done(&repository, &["init", "--recipient", RECIPIENT, "--writer", "first"]);
    let identity = host.secret("id.txt", IDENTITY).display().to_string();
    (host, repository, identity)
}

#[test]
fn init_is_done_once_and_never_over_something() {
    let (host, repository, _) = made_for_recipient();
    let keys = || {
        let entries = std::fs::read_dir(repository.join("keys")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = keys();
    let init: &[&str] = &["init", "--recipient", RECIPIENT];
    host.fails(&repository, init, 2, "HF-REPO-002");
    // As after a kill: everything but FORMAT, which comes last.
    std::fs::remove_file(repository.join("FORMAT")).unwrap();
    let error = host.fails(&repository, init, 15, "HF-REPO-013");
    assert!(error.contains("rm -r"), "{error}");
    assert_eq!(keys(), before);
    for name in ["keys", "roster", "recovery"] {
        std::fs::remove_dir_all(repository.join(name)).unwrap();
    }
    std::fs::remove_file(repository.join("RECOVERY.md")).unwrap();
    host.done(&repository, init);
    let occupied = host.path("docs");
    std::fs::create_dir(&occupied).unwrap();
    std::fs::write(occupied.join("letter"), "dear").unwrap();
    host.fails(&occupied, init, 15, "HF-STORE-003");
    assert!(std::fs::metadata(repository.join("reserve")).unwrap().len() > 0);
}

#[test]
fn init_needs_somebody_who_can_read() {
    let host = Host::new();
    let repository = host.path("repo");
    // No terminal: setsid takes it away where there is one.
    let output = Command::new("setsid")
        .args(["--wait", env!("CARGO_BIN_EXE_holdfast"), "-r", "./repo", "init"])
        .env_clear()
        .env("HOME", host.home.path())
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(host.home.path())
        .stdin(Stdio::null())
        .output();
    if let Ok(output) = output {
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(12), "{error}");
        assert!(error.contains("try: --recipient"), "{error}");
    }
    host.fails(&repository, &["init", "--recipient", "age1nobody"], 2, "HF-KEY-006");
    let recipient = ["init", "--recipient", RECIPIENT];
    let with = |extra: &'static [&'static str]| [&recipient[..], extra].concat();
    host.fails(&repository, &with(&["--pack-size", "10KiB"]), 2, "HF-USE-001");
    host.fails(&repository, &with(&["--grace", "1y"]), 2, "HF-USE-001");
    assert!(!repository.exists(), "nothing was begun");
}

#[test]
fn passphrases_open_change_and_are_refused() {
    let host = Host::new();
    let repository = host.path("repo");
    let old = host.secret("old", "correct horse battery\n").display().to_string();
    let new = host.secret("new", "staple staple staple\n").display().to_string();
    host.done(&repository, &["init", "--password-file", &old]);
    let list = host.done(&repository, &["key", "list"]);
    assert!(list.contains("passphrase") && !list.contains("opened"), "{list}");
    let kit = ["recovery-kit", "--test"];
    let wrong = [&kit[..], &["--password-file", &new]].concat();
    host.fails(&repository, &wrong, 12, "HF-KEY-001");
    let page = host.done(&repository, &[&kit[..], &["--password-file", &old]].concat());
    assert!(page.contains("tested: it opens") && page.contains("restore.py"), "{page}");
    let passwd = ["key", "passwd", "--password-file", &old, "--new-password-file", &new];
    host.done(&repository, &passwd);
    host.done(&repository, &wrong);
    host.fails(&repository, &passwd, 12, "HF-KEY-001");
}

#[test]
fn keys_are_added_listed_and_removed() {
    let (host, repository, identity) = made_for_recipient();
    let add = ["key", "add", "-i", &identity, "--recipient", RECIPIENT, "--json"];
    let added = host.done(&repository, &add);
    let list = host.done(&repository, &["key", "list", "-i", &identity]);
    assert_eq!(list.matches("X25519").count(), 2, "{list}");
    assert_eq!(list.matches("opened by the key given").count(), 2, "{list}");
    let value: serde_json::Value = serde_json::from_str(added.lines().last().unwrap()).unwrap();
    let id = value["id"].as_str().unwrap();
    assert_eq!(id.len(), 16);
    host.done(&repository, &["key", "remove", id, "--yes"]);
    host.fails(&repository, &["key", "remove", id, "--yes"], 2, "HF-KEY-012");
    let list = host.done(&repository, &["key", "list"]);
    let last = list.lines().nth(1).unwrap().split(' ').next().unwrap();
    host.fails(&repository, &["key", "remove", last, "--yes"], 15, "HF-KEY-007");
}

#[test]
fn another_host_gets_a_bundle_and_installs_it() {
    let (host, repository, identity) = made_for_recipient();
    let bundle = host.path("web1.bundle");
    let bundle_text = bundle.display().to_string();
    let add = ["writer", "add", "web1", "-o", &bundle_text, "-i", &identity];
    host.done(&repository, &add);
    assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
    host.fails(&repository, &add, 2, "HF-USE-001");

    let web1 = Host::new();
    web1.fails(&repository, &["writer", "install", "/nonexistent"], 2, "HF-REPO-016");
    web1.done(&repository, &["writer", "install", &bundle_text]);
    host.fails(&repository, &["writer", "install", &bundle_text], 15, "HF-REPO-017");
    let list = web1.done(&repository, &["writer", "list"]);
    assert!(list.contains("web1") && list.contains("this host") && list.contains('?'), "{list}");
    let list = host.done(&repository, &["writer", "list", "-i", &identity]);
    assert!(list.contains("web1") && list.contains("first"), "{list}");

    host.fails(&repository, &["writer", "revoke", "web2", "-i", &identity], 2, "HF-REPO-015");
    let beyond = ["writer", "revoke", "web1", "--after", "9", "-i", &identity];
    host.fails(&repository, &beyond, 2, "HF-USE-001");
    host.done(&repository, &["writer", "revoke", "web1", "-i", &identity]);
    let list = host.done(&repository, &["writer", "list", "-i", &identity]);
    assert!(list.contains("revoked after 0"), "{list}");
    let late = Host::new();
    late.fails(&repository, &["writer", "install", &bundle_text], 15, "HF-REPO-009");

    // The place holds another repository than the one that the host has pinned.
    std::fs::remove_dir_all(&repository).unwrap();
    Host::new().done(&repository, &["init", "--recipient", RECIPIENT]);
    web1.fails(&repository, &["writer", "list"], 16, "HF-TRUST-003");
}

#[test]
fn a_sealed_bundle_takes_its_passphrase() {
    let (host, repository, identity) = made_for_recipient();
    let secret = host.secret("bundle-pass", "correct horse battery").display().to_string();
    let add = ["writer", "add", "db", "-i", &identity, "--bundle-password-file", &secret];
    host.done(&repository, &add);
    let bundle = std::fs::read(host.path("db.bundle")).unwrap();
    assert!(bundle.starts_with(b"age-encryption.org/"));
    let bundle = host.path("db.bundle").display().to_string();
    let other = Host::new();
    let wrong = other.secret("wrong", "incorrect").display().to_string();
    let run = |file: &str, code: i32| {
        let install = ["writer", "install", &bundle, "--password-file", file];
        let outcome = other.run(&repository, &install);
        assert_eq!(outcome.code, code, "{}{}", outcome.out, outcome.error);
    };
    run(&wrong, 12);
    run(&secret, 0);
}

#[test]
fn the_recovery_kit_is_private_and_has_no_secret() {
    let (host, repository, identity) = made_for_recipient();
    let path = host.path("kit.txt").display().to_string();
    host.done(&repository, &["recovery-kit", "--output", &path, "--test", "-i", &identity]);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("AGE-SECRET") && text.contains("--identity IDENTITY_FILE"), "{text}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    host.fails(&repository, &["recovery-kit", "--output", &path], 1, "HF-USE-006");
    host.fails(&repository, &["recovery-kit", "--with-identity"], 12, "HF-KEY-004");
    host.fails(Path::new("nowhere/at/all"), &["recovery-kit"], 10, "HF-REPO-001");
}

#[test]
fn rotating_names_who_remains() {
    let (host, repository, identity) = made_for_recipient();
    let pass = host.secret("pass", "correct horse battery").display().to_string();
    let list = host.done(&repository, &["key", "list"]);
    let id = list.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let rotate =
        ["key", "remove", &id, "--rotate", "-y", "-i", &identity, "--new-password-file", &pass];
    host.done(&repository, &rotate);
    host.fails(&repository, &["recovery-kit", "--test", "-i", &identity], 12, "HF-KEY-001");
    host.done(&repository, &["recovery-kit", "--test", "--password-file", &pass]);
}
