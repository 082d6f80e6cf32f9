//! The tour of the README, step by step, and the exit codes that scripts rely on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::program::Program;

/// A home with two files in `docs` and a first backup of it.
fn begun() -> Program {
    let program = Program::new();
    program.write("docs/notes.txt", "first\n");
    program.write("docs/letters/a.txt", "dear a\n");
    let docs = program.arg("docs");
    program.run(&["backup", "--init", &docs]).ends(0).says("Snapshot … saved");
    program
}

/// The second backup, with one file changed, one added and one removed.
fn go_on(program: &Program) {
    program.write("docs/notes.txt", "second, longer\n");
    program.write("docs/new.txt", "new\n");
    fs::remove_file(program.path("docs/letters/a.txt")).unwrap();
    program.run(&["backup", &program.arg("docs")]).ends(0).says("Files: … 1 new, … 1 changed,…");
}

fn count_of_snapshots(program: &Program, arguments: &[&str]) -> usize {
    let arguments: Vec<&str> = ["snapshots", "--json"].iter().chain(arguments).copied().collect();
    let events = program.run(&arguments).ends(0).events();
    let count = events.iter().filter(|event| event["type"] == "item").count();
    assert_eq!(events.last().unwrap()["snapshots"], count);
    count
}

#[test]
fn a_backup_is_made_looked_at_and_restored() {
    let program = begun();
    let docs = program.arg("docs");
    program.run(&["snapshots"]).ends(0).says("ID…CONTENT").says(&format!("…{docs}"));
    let inside = format!("latest:{docs}");
    program
        .run(&["ls", &inside])
        .ends(0)
        .says(&format!("snapshot … of {docs} at …:"))
        .says(&format!("{docs}/notes.txt"))
        .says(&format!("{docs}/letters"))
        .says_not("…a.txt");
    program.run(&["ls", "-R", &inside]).ends(0).says(&format!("{docs}/letters/a.txt"));
    program
        .run(&["ls", "-l", &inside])
        .ends(0)
        .says(&format!("-rw…  6 B … {docs}/notes.txt"))
        .says(&format!("drwx… {docs}/letters"));
    go_on(&program);
    assert_eq!(count_of_snapshots(&program, &[]), 2);
    program
        .run(&["diff", "latest~1", "latest"])
        .ends(0)
        .says("comparing snapshot … to …:")
        .says(&format!("M    {docs}/notes.txt"))
        .says(&format!("+    {docs}/new.txt"))
        .says(&format!("-    {docs}/letters/a.txt"))
        .says("Entries: 1 added, 1 removed, 1 changed, … with other attributes only");
    program
        .run(&["diff", &format!("latest~1:{docs}/letters")])
        .ends(0)
        .says("-    …/letters/a.txt")
        .says_not("…notes.txt");
    program
        .run(&["find", "A.TXT", "--ignore-case", "--all"])
        .ends(0)
        .says(&format!("{docs}/letters/a.txt"))
        .says("1 entries in 1 of 2 snapshots");
    program.run(&["find", "a.txt"]).ends(0).says("0 entries in 0 of 1 snapshots");
    let file = format!("latest:{docs}/notes.txt");
    assert_eq!(program.run(&["cat", &file]).ends(0).stdout, "second, longer\n");
    let back = program.arg("back");
    program.run(&["restore", &format!("latest~1:{docs}"), "--target", &back, "--verify"]).ends(0);
    assert_eq!(fs::read_to_string(program.path("back/notes.txt")).unwrap(), "first\n");
    assert_eq!(fs::read_to_string(program.path("back/letters/a.txt")).unwrap(), "dear a\n");
    program.run(&["check", "--read-data"]).ends(0).says("no damage was found");
    program
        .run(&["stats"])
        .ends(0)
        .says("Snapshots:   2")
        .says("Entries:     4 files, 4 folders, 0 others")
        .says("To restore:  32 B");
    let lines = program.run(&["stats", "--by", "snapshot"]).ends(0).stdout;
    assert_eq!(lines.lines().count(), 3, "{lines}");
}

#[test]
fn what_was_forgotten_comes_back() {
    let program = begun();
    go_on(&program);
    let first = program.run(&["snapshots", "latest~1", "--json"]).ends(0).events();
    let first = first[0]["id"].as_str().unwrap().to_owned();
    program
        .run(&["forget", "--keep-last", "1", "--prune"])
        .ends(0)
        .says(&format!("{} … forget  no rule keeps it", &first[..8]))
        .says("1 snapshots forgotten");
    assert_eq!(count_of_snapshots(&program, &[]), 1);
    assert_eq!(count_of_snapshots(&program, &["--forgotten"]), 2);
    program.run(&["ls", &first[..8]]).ends(1).warns("error[HF-REPO-005]: …");
    program.run(&["recover", &first[..8]]).ends(0);
    assert_eq!(count_of_snapshots(&program, &[]), 2);
    program.run(&["ls", &first[..8]]).ends(0);
}

#[test]
fn streams_are_saved_whole_or_not_at_all() {
    let program = begun();
    program.run_with(&["backup", "--stdin", "dump.sql"], "select 1;\n").ends(0);
    assert_eq!(program.run(&["cat", "latest:dump.sql"]).ends(0).stdout, "select 1;\n");
    program.run(&["backup", "--command", "two.sql", "--", "printf", "select 2;"]).ends(0);
    assert_eq!(program.run(&["cat", "source:two.sql:two.sql"]).ends(0).stdout, "select 2;");
    assert_eq!(program.run(&["cat", "source:dump.sql:dump.sql"]).ends(0).stdout, "select 1;\n");
    program.run(&["ls", "-l"]).ends(0).says("stream … 9 B … /two.sql");
    assert_eq!(count_of_snapshots(&program, &[]), 3);
    let half = "echo half of it; echo broken pipe >&2; exit 7";
    program
        .run(&["backup", "--command", "x.sql", "--", "sh", "-c", half])
        .ends(20)
        .warns("error[HF-SRC-001]: sh for x.sql failed … no snapshot was saved")
        .warns("  caused by: broken pipe");
    program
        .run(&["backup", "--command", "x.sql", "--", "/no/such/program"])
        .ends(20)
        .warns("error[HF-SRC-002]: …");
    assert_eq!(count_of_snapshots(&program, &[]), 3);
}

#[test]
fn failures_have_their_exit_codes() {
    let mut program = begun();
    let (docs, nowhere) = (program.arg("docs"), program.arg("nowhere"));
    program
        .run(&["backup", &docs, &nowhere])
        .ends(3)
        .warns(&format!("warning: {nowhere} does not exist and is missing (HF-SRC-003)"));
    assert_eq!(count_of_snapshots(&program, &[]), 2);
    program.run(&["backup", "nightly"]).ends(2).warns("error[HF-SRC-007]: …");
    program.run(&["snapshots", "-r", &nowhere]).ends(10).warns("error[HF-REPO-001]: …");
    program.run(&["ls", "latest:/nothing"]).ends(1).warns("error[HF-REPO-007]: …");
    program.run(&["diff", "latest:/a", "latest:/b"]).ends(2).warns("error[HF-USE-005]: …");
    program.run(&["diff", "latest:/nothing"]).ends(1).warns("error[HF-REPO-007]: …");
    program.run(&["find", "["]).ends(2).warns("error[HF-SRC-008]: …");
    let error = program.run(&["ls", "latest:/nothing", "--json"]).ends(1).events();
    assert_eq!(error.last().unwrap()["error_id"], "HF-REPO-007");
    // Another home has neither the identity nor the keys.
    program.set("XDG_CONFIG_HOME", &program.arg("elsewhere"));
    program.run(&["ls"]).ends(12).warns("error[HF-KEY-002]: …");
    let wrong = program.write("wrong", "not the passphrase\n");
    for (mode, code) in [(0o644, 15), (0o600, 12)] {
        fs::set_permissions(&wrong, fs::Permissions::from_mode(mode)).unwrap();
        program.run(&["ls", "--password-file", &wrong]).ends(code);
    }
}

#[test]
fn a_passphrase_that_is_wrong_is_exit_code_12() {
    let program = Program::new();
    let (docs, repo) = (program.write("docs/x", "x"), program.arg("repo"));
    let private = fs::Permissions::from_mode(0o600);
    let [right, wrong] =
        [("right", "correct horse battery"), ("wrong", "staple")].map(|(name, text)| {
            let path = program.write(name, text);
            fs::set_permissions(&path, private.clone()).unwrap();
            path
        });
    program.run(&["init", "-r", &repo, "--password-file", &right]).ends(0);
    program.run(&["backup", "-r", &repo, &docs]).ends(0);
    program.run(&["ls", "-r", &repo, "--password-file", &right]).ends(0).says(&docs);
    program
        .run(&["ls", "-r", &repo, "--password-file", &wrong])
        .ends(12)
        .warns("error[HF-KEY-001]: …");
}

#[test]
fn the_snapshot_committed_last_is_the_latest() {
    let program = begun();
    let docs = program.arg("docs");
    program.write("docs/new.txt", "new\n");
    program.run(&["backup", &docs, "--time", "2001-01-01"]).ends(0);
    program.run(&["ls", &format!("latest:{docs}")]).ends(0).says(&format!("{docs}/new.txt"));
    program.run(&["ls", &format!("@2001-01-01:{docs}")]).ends(0).says(&format!("{docs}/new.txt"));
    program
        .run(&["ls", &format!("source:{docs}:{docs}")])
        .ends(0)
        .says_not(&format!("{docs}/new.txt"));
}

/// The commands of the README's tour, as they are printed there.
fn tour_of_the_readme() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let (_, tour) = readme.split_once("## A tour of five minutes").unwrap();
    let block = tour.split("```").nth(1).unwrap();
    let command = |line: &str| line.split("  #").next().unwrap().trim().to_owned();
    block.lines().map(command).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_tour_of_the_readme_works_as_printed() {
    let program = Program::new();
    program.write("etc/hosts.conf", "127.0.0.1 localhost\n");
    program.write("homes/ann/notes.txt", "a note\n");
    program.write("homes/ann/draft.tmp", "not this\n");
    let secret = program.write("secret", "correct horse battery staple\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let dump = program.write("bin/pg_dump", "#!/bin/sh\necho \"-- dump of $1\"\n");
    fs::set_permissions(&dump, fs::Permissions::from_mode(0o755)).unwrap();
    let link = program.path("bin/holdfast");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_holdfast"), link).unwrap();
    let places = [("/srv/repo", "repo"), ("/tmp/etc", "out"), ("/etc", "etc"), ("/home", "homes")];
    let path = format!("{}:{}", program.arg("bin"), std::env::var("PATH").unwrap());
    let commands = tour_of_the_readme();
    assert!(commands.len() >= 10, "{commands:?}");
    let mut chosen = String::new();
    for command in commands {
        let mut line = command.clone();
        for (number, (place, _)) in places.iter().enumerate() {
            line = line.replace(place, &format!("\u{1}{number}"));
        }
        for (number, (_, name)) in places.iter().enumerate() {
            line = line.replace(&format!("\u{1}{number}"), &program.arg(name));
        }
        if line.contains("a3941181") && chosen.is_empty() {
            let repository = program.arg("repo");
            let listed = program.run(&["snapshots", "-r", &repository, "--json", "--no-key"]);
            listed.events()[0]["id"].as_str().unwrap()[..8].clone_into(&mut chosen);
        }
        line = line.replace("a3941181", &chosen);
        let mut shell = std::process::Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &line]).current_dir(program.home()).env_clear();
        shell.env("HOME", program.home()).env("PATH", &path).env("TZ", "UTC");
        let output = shell.env("HOLDFAST_PASSWORD_FILE", &secret).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{said}\n{complained}");
    }
    let restored = program.path("out").join("hosts.conf");
    assert_eq!(fs::read(restored).unwrap(), b"127.0.0.1 localhost\n");
}
