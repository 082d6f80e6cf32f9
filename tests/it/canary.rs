//! Secrets are planted, all commands are run with `-vvv`, and none of the secrets may turn up.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::program::{Outcome, Program};

const PASSPHRASE: &str = "canary-in-a-file-7361";
const NEW_PASSPHRASE: &str = "canary-of-key-add-2290";
const WRONG_PASSPHRASE: &str = "canary-that-is-wrong-5518";
const VARIABLE: &str = "canary-in-a-variable-9027";
const CONFIGURED: &str = "canary-in-MAIN-KEY-4416";

/// The program with its secrets, and all that it has printed.
struct Planted {
    program: Program,
    printed: Vec<(String, String)>,
}

impl Planted {
    fn new() -> Self {
        let program = Program::new();
        for (name, secret) in [
            ("secret/right", PASSPHRASE),
            ("secret/new", NEW_PASSPHRASE),
            ("secret/wrong", WRONG_PASSPHRASE),
            ("secret/no-identity", WRONG_PASSPHRASE),
        ] {
            private(&program.write(name, &format!("{secret}\n")));
        }
        program.write("docs/notes.txt", "first\n");
        Self { program, printed: Vec::new() }
    }

    /// Runs a command with `-vvv`; what it prints is looked at in the end.
    #[track_caller]
    fn run(&mut self, code: i32, arguments: &str) -> Outcome {
        let arguments = arguments.replace("HOME", self.program.home().to_str().unwrap());
        let mut words: Vec<&str> = arguments.split_whitespace().collect();
        // What follows `--` is another program's.
        let at = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        words.insert(at, "-vvv");
        let outcome = self.program.run(&words).ends(code);
        let printed = format!("{}{}", outcome.stdout, outcome.stderr);
        self.printed.push((arguments, printed));
        outcome
    }

    #[track_caller]
    fn assert_nowhere(&self, secrets: &[String], but_in: &dyn Fn(&Path) -> bool) {
        for (arguments, printed) in &self.printed {
            for secret in secrets {
                assert!(!printed.contains(secret.as_str()), "{secret} printed by {arguments}");
            }
        }
        let mut files = BTreeMap::new();
        collect(self.program.home(), &mut files);
        assert!(files.keys().any(|path| path.ends_with("FORMAT")), "the repository was looked at");
        for (path, bytes) in files {
            for secret in secrets.iter().filter(|_| !but_in(&path)) {
                let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!found, "{secret} in {}", path.display());
            }
        }
    }
}

fn private(path: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
}

/// Every secret key in a file: the words that begin as one.
fn keys_in(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| word.starts_with("AGE-SECRET-KEY-")).map(str::to_owned).collect()
}

/// Everything that works, on the repository that `holder` names with its key.
fn work(planted: &mut Planted, holder: &str) {
    for arguments in [
        "backup HOME/docs",
        "snapshots",
        "ls -l latest:HOME/docs",
        "find notes.txt --all --json",
        "cat latest:HOME/docs/notes.txt",
        "stats --by writer",
        "restore latest --target HOME/back --verify",
        "check --read-data",
        "key list",
        "writer list",
        "writer add other --output HOME/bundle",
        "recovery-kit",
        "repair index",
        "forget latest",
        "recover latest",
        "forget --keep-last 1 --prune",
        "prune --repack",
        "config show",
    ] {
        planted.run(0, &format!("{arguments} {holder}"));
    }
    planted.run(0, &format!("backup HOME/docs {holder}"));
    planted.run(0, &format!("diff latest~1 latest {holder}"));
    fs::remove_file(planted.program.path("bundle")).unwrap();
    // What the child of --command sees of its own environment and arguments, and of our arguments.
    let look = "env;cat</proc/self/environ;cat</proc/self/cmdline;cat</proc/$PPID/cmdline";
    planted.run(0, &format!("backup --command seen {holder} -- sh -c {look}"));
    let seen = planted.run(0, &format!("cat source:seen:seen {holder}")).stdout;
    assert!(seen.contains("PATH=") && seen.contains("--command"), "{seen}");
}

#[test]
fn passphrases_are_nowhere() {
    let mut planted = Planted::new();
    planted.program.set("HOLDFAST_PASSWORD", VARIABLE);
    planted.program.set("MAIN_KEY", CONFIGURED);
    let url = planted.program.arg("repo");
    let config = format!(
        "version = 1\n[secrets]\nmain = {{ env = \"MAIN_KEY\" }}\n\
         [repositories.main]\nurl = \"{url}\"\npassword = \"secret:main\"\n"
    );
    planted.program.write("config.toml", &config);
    let holder = "-r HOME/repo --config HOME/config.toml --password-file HOME/secret/right";
    planted.run(0, &format!("init {holder}"));
    work(&mut planted, holder);
    planted.run(0, &format!("key add --new-password-file HOME/secret/new {holder}"));
    let failing = [
        (12, "ls -r HOME/repo --password-file HOME/secret/wrong"),
        (12, "ls -r HOME/repo --identity-file HOME/secret/no-identity"),
        (12, "ls -r HOME/repo"),
        (12, "ls -r main --config HOME/config.toml"),
        (12, "ls -r HOME/repo --password-command HOME/secret/failing"),
        (2, "ls -r HOME/repo --config HOME/wrong.toml"),
        (20, "backup -r HOME/repo --command x -- false"),
        (10, "ls -r HOME/nowhere --password-file HOME/secret/right"),
        (1, "ls deadbeef -r HOME/repo --password-file HOME/secret/right"),
        (1, "cat latest:/x -r HOME/repo --password-file HOME/secret/right --json"),
    ];
    let script =
        planted.program.write("secret/failing", &format!("#!/bin/sh\necho {PASSPHRASE}\nexit 1\n"));
    fs::set_permissions(script, fs::Permissions::from_mode(0o700)).unwrap();
    let literal =
        format!("version = 1\n[repositories.main]\nurl = \"/x\"\npassword = \"{PASSPHRASE}\"\n");
    planted.program.write("secret/wrong.toml", &literal);
    fs::rename(planted.program.path("secret/wrong.toml"), planted.program.path("wrong.toml"))
        .unwrap();
    for (code, arguments) in failing {
        planted.run(code, arguments);
    }
    fs::remove_file(planted.program.path("wrong.toml")).unwrap();
    let secrets = [PASSPHRASE, NEW_PASSPHRASE, WRONG_PASSPHRASE, VARIABLE, CONFIGURED];
    let kept = planted.program.path("secret");
    planted.assert_nowhere(&secrets.map(str::to_owned), &|path| path.starts_with(&kept));
}

#[test]
fn keys_are_only_in_the_files_meant_for_them() {
    let mut planted = Planted::new();
    // It prints the identity, which is its purpose: that is not looked at.
    let docs = planted.program.arg("docs");
    planted.program.run(&["backup", "--init", &docs, "-vvv"]).ends(0);
    work(&mut planted, "");
    let mut secrets = Vec::new();
    let mut files = BTreeMap::new();
    collect(planted.program.home(), &mut files);
    let is_key_file = |path: &Path| {
        path.extension().is_some_and(|extension| extension == "identity" || extension == "key")
    };
    for path in files.keys().filter(|path| is_key_file(path)) {
        secrets.extend(keys_in(path));
    }
    assert!(secrets.len() >= 2, "the identity and the keys of this host: {files:?}");
    planted.assert_nowhere(&secrets, &is_key_file);
}
