//! The README's chapter on two regions, line by line, between two real clusters.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::household::files_below;
use crate::program::Program;
use crate::servers::S3Server;

/// The commands of the chapter, as they are printed there.
fn chapter() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let (_, chapter) = readme.split_once("## Two regions").unwrap();
    let block = chapter.split("```").nth(1).unwrap();
    let command = |line: &str| line.split("  #").next().unwrap().trim().to_owned();
    block.lines().map(command).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_chapter_of_the_readme_works_as_printed() {
    the_chapter_works(&S3Server::seaweed(), &S3Server::seaweed());
}

/// Garage ignores conditions: the doctor says so, and everything else is done there all the same.
#[test]
fn the_chapter_works_where_conditions_are_not_kept() {
    let (Some(eu), Some(west)) = (S3Server::garage(), S3Server::garage()) else { return };
    the_chapter_works(&eu, &west);
}

fn the_chapter_works(eu: &S3Server, west: &S3Server) {
    let program = Program::new();
    program.write("data/notes.txt", "a note\n");
    program.write("data/deep/table", &"row\n".repeat(100_000));
    let secret = program.write("secret", "correct horse battery staple\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(program.path("bin")).unwrap();
    let link = program.path("bin/holdfast");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_holdfast"), link).unwrap();
    let path = format!("{}:{}", program.arg("bin"), std::env::var("PATH").unwrap());
    let places = [
        ("https://eu.example.net", eu.endpoint.clone()),
        ("https://west.example.net", west.endpoint.clone()),
        ("s3://acme-eu", format!("s3://{}", eu.bucket)),
        // The services of the tests have no other region.
        ("--region eu", "--region us-east-1".to_owned()),
        ("--region us ", "--region us-east-1 ".to_owned()),
        // The two clusters may have buckets of one name: the prefix tells them apart.
        ("s3://acme-west", format!("s3://{}/west", west.bucket)),
        ("/srv/data", program.arg("data")),
        ("/tmp/from-", program.arg("from-")),
    ];
    let commands = chapter();
    assert!(commands.len() >= 12, "{commands:?}");
    for command in commands {
        let line = places.iter().fold(command, |line, (from, to)| line.replace(from, to));
        let mut shell = std::process::Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &line]).current_dir(program.home()).env_clear();
        shell.env("HOME", program.home()).env("PATH", &path).env("TZ", "UTC");
        shell.env("AWS_ACCESS_KEY_ID", &eu.access_key);
        shell.env("AWS_SECRET_ACCESS_KEY", &eu.secret_key).env("AWS_EC2_METADATA_DISABLED", "true");
        let output = shell.env("HOLDFAST_PASSWORD_FILE", &secret).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\n{said}\n{complained}");
    }
    for restored in ["from-west", "from-any"] {
        let same = files_below(&program.path(restored)) == files_below(&program.path("data"));
        assert!(same, "{restored} differs");
    }
}
