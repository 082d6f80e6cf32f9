//! What a command failed with, and the exit code it ends with.
//!
//! An error is printed once, by `cli::run`, with what happened, why, and what to do. Its id is one
//! of the registry in `cli::explain`, which also fixes its exit code.

use std::error::Error;
use std::fmt::Write as _;

use crate::cli::error_kind::known_kind;
use crate::cli::escape::escape_text;
use crate::cli::explain::{Explanation, store, usage};
use crate::repo::error::RepoError;
use crate::store::StoreError;

/// Exit codes; stable. 0 to 3 and 10 to 12 are those of restic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed for a reason that has no code of its own.
    Failed = 1,
    /// Wrong arguments, configuration or environment; nothing was begun.
    Usage = 2,
    /// Done in part: a snapshot is saved, or a tree restored, without some of its items.
    Partial = 3,
    /// A check ran to its end and found damage.
    Findings = 4,
    /// A file of a log is not in the repository; `pg wal-fetch` ends with 1 then.
    NotArchived = 5,
    /// No space left.
    NoSpace = 7,
    /// There is no repository at the location.
    RepositoryMissing = 10,
    /// Something else is at work; trying again later helps.
    Busy = 11,
    /// No given key opens the repository.
    WrongKey = 12,
    /// The repository or an object in it is newer than this program.
    FormatTooNew = 13,
    /// The store does not answer.
    StoreUnreachable = 14,
    /// The store or the system refuses: permission, immutability.
    Refused = 15,
    /// The repository is older than what was seen before, or is not the one that was pinned.
    Rollback = 16,
    /// The source failed and nothing was saved.
    SourceFailed = 20,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// The number given to the system.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Why a command did not do what it was asked, as people are told.
#[derive(Debug)]
pub struct CommandError {
    explanation: &'static Explanation,
    what: String,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl CommandError {
    /// An error of the kind that `explanation` stands for; `what` is one line, lower case.
    pub fn new(explanation: &'static Explanation, what: impl Into<String>) -> Self {
        Self { explanation, what: what.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// The kind, its words and its causes from any error of the library.
    ///
    /// The first error of a known type along its chain of sources decides the kind; where there is
    /// none it is `fallback`.
    pub fn classify(error: &(dyn Error + 'static), fallback: &'static Explanation) -> Self {
        let kind = chain(error).find_map(known_kind).unwrap_or(fallback);
        let mut this = Self::new(kind, error.to_string());
        if let Some(source) = error.source() {
            this = this.because(source);
        }
        this
    }

    /// Adds `cause` and all that caused it.
    #[must_use]
    pub fn because(mut self, cause: &(dyn Error + 'static)) -> Self {
        self.causes.extend(chain(cause).map(ToString::to_string));
        self
    }

    /// Adds a cause that is no error of this program: a line that a command has printed.
    #[must_use]
    pub fn because_text(mut self, cause: &str) -> Self {
        self.causes.push(cause.to_owned());
        self
    }

    /// Adds something to try: a command, or a sentence.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Its id, such as `HF-KEY-001`.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.explanation.id
    }

    /// The exit code it ends the program with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.explanation.exit
    }

    /// What happened, in one line.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why, the nearest cause first.
    #[must_use]
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What to try; where nothing was said, what the registry says in short.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        if self.hints.is_empty() {
            vec![format!("holdfast explain {}", self.id())]
        } else {
            self.hints.clone()
        }
    }

    /// The error as text, with a line end; nothing in it can act on a terminal.
    #[must_use]
    pub fn render(&self, style: &ErrorStyle) -> String {
        let mut text = String::new();
        let ErrorStyle { error, reset } = style;
        let _ = writeln!(text, "{error}error[{}]{reset}: {}", self.id(), escape_text(&self.what));
        for cause in &self.causes {
            let _ = writeln!(text, "  caused by: {}", escape_text(cause));
        }
        for hint in self.hints() {
            let _ = writeln!(text, "  try: {}", escape_text(&hint));
        }
        text
    }
}

/// What stands around the word `error`: escape sequences, or nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorStyle {
    error: &'static str,
    reset: &'static str,
}

impl ErrorStyle {
    /// Bold red.
    pub const COLOURED: Self = Self { error: "\x1b[1;31m", reset: "\x1b[0m" };
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::classify(&error, &store::IO)
    }
}

impl From<RepoError> for CommandError {
    fn from(error: RepoError) -> Self {
        let this = Self::classify(&error, &usage::INTERNAL);
        match &error {
            RepoError::NotThere { location } => this
                .hint(format!("holdfast init -r {location}"))
                .hint("look whether the disk is mounted that should be there"),
            RepoError::Unfinished { location: at } => this
                .hint("if an init is at work there, wait; if there is a folder log, remove nothing")
                .hint(format!(
                    "else: rm -r {at}/keys {at}/roster {at}/recovery {at}/RECOVERY.md, and again"
                )),
            _ => this,
        }
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| Error::source(*error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the repository")]
    struct Outer(#[source] StoreError);

    #[test]
    fn the_kind_is_found_along_the_chain() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let cases = [
            (StoreError::NotFound { name: "FORMAT".into() }, Exit::RepositoryMissing),
            (StoreError::NoSpace { name: "data/x".into(), source: full() }, Exit::NoSpace),
            (StoreError::Refused { name: "data/x".into(), source: full() }, Exit::Refused),
        ];
        for (source, exit) in cases {
            let error = CommandError::classify(&Outer(source), &usage::INTERNAL);
            assert_eq!(error.exit(), exit);
            assert_eq!(error.what(), "cannot open the repository");
        }
    }

    #[test]
    fn text_has_what_why_and_what_to_try() {
        let source = StoreError::NotFound { name: "FORMAT".into() };
        let error = CommandError::classify(&Outer(source), &usage::INTERNAL)
            .hint("holdfast init -r \u{1b}[2J");
        assert_eq!(
            error.render(&ErrorStyle::default()),
            "error[HF-REPO-001]: cannot open the repository\n  \
             caused by: object FORMAT does not exist\n  \
             try: holdfast init -r \\x1b[2J\n"
        );
    }
}
