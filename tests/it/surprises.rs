//! What once surprised somebody who used the program: each of these was wrong before.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::program::Program;

const REPOSITORY: &str = ".local/share/holdfast/repository";

fn begun(write: impl Fn(&Program)) -> Program {
    let program = Program::new();
    write(&program);
    program.run(&["backup", "--init", &program.arg("docs")]).ends(0);
    program
}

/// All objects below a folder of the repository, by name.
fn objects(program: &Program, folder: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![program.path(REPOSITORY).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn files_with_several_names_are_no_damage() {
    let program = begun(|program| {
        program.write("docs/a", "hello\n");
        fs::hard_link(program.path("docs/a"), program.path("docs/b")).unwrap();
        // Far apart: in other leaves of the tree.
        for number in 0..3000 {
            program.write(&format!("docs/many/{number}"), "");
        }
        fs::hard_link(program.path("docs/a"), program.path("docs/z")).unwrap();
    });
    program.write("docs/later", "x");
    program.run(&["backup", &program.arg("docs")]).ends(0);
    program.run(&["check", "--read-data"]).ends(0).says("no damage was found");
    let target = program.arg("target");
    program.run(&["restore", "latest", "--target", &target, "--verify"]).ends(0);
    let docs = program.arg("docs");
    for name in ["a", "b", "z"] {
        let restored = program.path("target").join(docs.trim_start_matches('/')).join(name);
        assert_eq!(fs::read(restored).unwrap(), b"hello\n");
    }
}

#[test]
fn a_lost_commit_hides_no_other_snapshot() {
    let program = begun(|program| {
        program.write("docs/a", "first\n");
    });
    for content in ["second\n", "third\n", "fourth\n"] {
        program.write("docs/a", content);
        program.run(&["backup", &program.arg("docs")]).ends(0);
    }
    let commits = objects(&program, "log");
    assert_eq!(commits.len(), 4);
    fs::remove_file(&commits[1]).unwrap();
    let listed = program.run(&["snapshots", "--json"]).ends(4).events();
    assert_eq!(listed.iter().filter(|event| event["type"] == "item").count(), 3);
    program.run(&["check"]).ends(4);
    let inside = format!("latest:{}", program.arg("docs/a"));
    assert_eq!(program.run(&["cat", &inside]).ends(0).stdout, "fourth\n");
    program.run(&["backup", &program.arg("docs")]).ends(16);
}

#[test]
fn a_reader_that_goes_away_is_no_damage() {
    let program = begun(|program| {
        program.write("docs/long", &"a line of text\n".repeat(200_000));
    });
    let inside = format!("latest:{}", program.arg("docs/long"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["cat", &inside])
        .env_clear()
        .env("HOME", program.home())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("HF-USE-006"), "{said}");
}

#[test]
fn what_is_not_there_is_not_forgotten_with_success() {
    let program = begun(|program| {
        program.write("docs/a", "x");
    });
    program.run(&["forget", "--source", "misspelt", "--keep-last", "1"]).ends(1);
    program.run(&["recover", "abcd1234"]).ends(1).warns("…no forgotten snapshot is abcd1234…");
}

#[test]
fn quiet_means_quiet() {
    let program = begun(|program| {
        program.write("docs/a", "x");
    });
    let docs = program.arg("docs");
    for arguments in [&["backup", "-q", &docs][..], &["check", "-q"], &["prune", "-q"]] {
        let outcome = program.run(arguments).ends(0);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "{arguments:?}");
    }
}

#[test]
fn an_empty_stream_is_worth_a_word() {
    let program = begun(|program| {
        program.write("docs/a", "x");
    });
    program
        .run(&["backup", "--command", "dump", "--", "true"])
        .ends(0)
        .warns("…the stream dump is empty…");
}

#[test]
fn a_restore_of_the_latest_names_the_other_sources() {
    let program = begun(|program| {
        program.write("docs/a", "x");
    });
    program.run(&["backup", "--command", "dump", "--", "echo", "data"]).ends(0);
    let docs = program.arg("docs");
    let restored = program.run(&["restore", "latest", "--target", &program.arg("target")]);
    restored.ends(0).warns(&format!("…there is also source:{docs}"));
}

#[test]
fn a_host_that_only_writes_is_told_that_it_may_not_prune() {
    let mut program = begun(|program| {
        program.write("docs/a", "x");
    });
    let bundle = program.arg("web1.bundle");
    program.run(&["writer", "add", "web1", "--output", &bundle]).ends(0);
    // Another host: the same repository, nothing else.
    let repository = program.arg(REPOSITORY);
    program.set("HOME", &program.arg("other"));
    fs::create_dir(program.path("other")).unwrap();
    program.run(&["writer", "install", &bundle, "-r", &repository]).ends(0);
    program.run(&["backup", "-r", &repository, &program.arg("docs")]).ends(0);
    for arguments in [&["prune", "-r", &repository][..], &["forget", "-r", &repository, "latest"]] {
        program.run(arguments).ends(12).warns("error[HF-PRUNE-004]…");
    }
}

#[test]
fn a_configured_source_wins_over_a_folder_of_its_name() {
    let program = begun(|program| {
        program.write("docs/a", "x");
    });
    let wanted = program.arg("docs");
    program.write("etc/other", "y");
    let config = format!("version = 1\n[sources.etc]\nkind = \"files\"\npaths = [\"{wanted}\"]\n");
    program.write(".config/holdfast/holdfast.toml", &config);
    program.run(&["backup", "etc"]).ends(0).warns("…taken as the configured source…");
    program.run(&["ls", "source:etc"]).ends(0).says(&format!("{wanted}…"));
}

#[test]
fn an_output_that_takes_nothing_is_said_elsewhere() {
    let program = begun(|program| {
        program.write("docs/a", "x");
    });
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["snapshots", "--json"])
        .env_clear()
        .env("HOME", program.home())
        .stdout(full)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("HF-USE-006"), "{said}");
}
