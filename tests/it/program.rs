//! The binary, run step by step in a home of its own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A home folder with nothing of the real one, and the program in it.
pub struct Program {
    home: TempDir,
    variables: Vec<(String, String)>,
}

/// How a run has ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("tmp")).unwrap();
        Self { home, variables: Vec::new() }
    }

    /// Sets a variable for all runs from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn path(&self, below_home: &str) -> PathBuf {
        self.home.path().join(below_home)
    }

    /// The path as an argument.
    pub fn arg(&self, below_home: &str) -> String {
        self.path(below_home).to_str().unwrap().to_owned()
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, below_home: &str, content: &str) -> String {
        let path = self.path(below_home);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with(arguments, "")
    }

    /// The program with its home, and pipes for its output.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(arguments)
            .current_dir(self.home())
            .env_clear()
            .env("HOME", self.home())
            .env("TMPDIR", self.path("tmp"))
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TZ", "UTC")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it with `input` as its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = self.command(arguments).spawn().unwrap();
        // What is given here fits into the pipe; a program that does not read it breaks the pipe.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Outcome::of(&child.wait_with_output().unwrap())
    }
}

impl Outcome {
    /// Of a program that has ended.
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Asserts on the exit code.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that a line of standard output matches: `…` stands for anything.
    #[track_caller]
    pub fn says(self, wanted: &str) -> Self {
        assert!(has_line(&self.stdout, wanted), "no line {wanted:?} in\n{}", self.stdout);
        self
    }

    /// Asserts that no line of standard output matches.
    #[track_caller]
    pub fn says_not(self, unwanted: &str) -> Self {
        assert!(!has_line(&self.stdout, unwanted), "a line {unwanted:?} in\n{}", self.stdout);
        self
    }

    /// Asserts that a line of standard error matches.
    #[track_caller]
    pub fn warns(self, wanted: &str) -> Self {
        assert!(has_line(&self.stderr, wanted), "no line {wanted:?} in\n{}", self.stderr);
        self
    }

    /// The JSON events on standard output.
    #[track_caller]
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn has_line(text: &str, wanted: &str) -> bool {
    let parts: Vec<&str> = wanted.split('…').collect();
    text.lines().any(|line| {
        let (first, rest) = parts.split_first().unwrap();
        let Some(mut line) = line.strip_prefix(first) else { return false };
        let Some((last, between)) = rest.split_last() else { return line.is_empty() };
        for part in between {
            let Some(at) = line.find(part) else { return false };
            line = &line[at + part.len()..];
        }
        line.ends_with(last)
    })
}
