//! Which items of a tree are left out by options: patterns, size, file systems, marked directories.
//!
//! Of the patterns that match an item the last one decides; `!pattern` takes it in again. What lies
//! in an excluded directory cannot be taken in again, since the directory is not descended.
//!
//! A pattern is a glob (`*`, `?`, `[a-z]`, `{a,b}`, `**` across directories; `\` takes the next
//! character literally), matched against the absolute path: without `/` it matches a name anywhere,
//! with `/` inside it matches whole components at any depth, with `/` in front the whole path from
//! the file system's root. With `/` at the end it matches directories only.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::format::node::Bytes;
use crate::source::error::{PatternError, SourceError};

/// Largest file with patterns that is read, in bytes.
pub const PATTERN_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Whether upper and lower case are the same to a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterCase {
    /// They differ (`--exclude`).
    Exact,
    /// They are the same, ASCII letters only (`--iexclude`).
    Ignored,
}

/// One pattern of the options, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcludePattern {
    /// The glob, with `!` in front to take in again.
    pub glob: String,
    /// How it compares letters.
    pub case: LetterCase,
    /// Where it stands, for the error message: `--exclude`, `file:line`.
    pub origin: String,
}

/// What is to be left out.
#[derive(Debug, Clone, Default)]
pub struct ExcludeOptions {
    /// Patterns; the last that matches decides.
    pub patterns: Vec<ExcludePattern>,
    /// Names of files in the tree whose lines are patterns for their directory, in the manner of
    /// `.gitignore`.
    pub ignore_file_names: Vec<Bytes>,
    /// Leave out the content of directories with a valid `CACHEDIR.TAG`
    /// (<https://bford.info/cachedir/>); the tag itself stays.
    pub caches: bool,
    /// Leave out the content of directories that have an entry of such a name; that entry stays.
    pub if_present: Vec<Bytes>,
    /// Do not descend into other file systems; their mount points stay, empty.
    pub one_file_system: bool,
    /// Leave out regular files of more bytes.
    pub larger_than: Option<u64>,
}

/// [`ExcludeOptions`], checked and compiled.
#[derive(Debug)]
pub struct ExcludeRules {
    options: ExcludeOptions,
    globs: GlobSet,
    effects: Vec<Effect>,
}

#[derive(Debug, Clone, Copy)]
struct Effect {
    verdict: Verdict,
    directories_only: bool,
}

/// What patterns say about an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it out.
    Exclude,
    /// Take it, whatever said otherwise before.
    Include,
    /// No pattern matches.
    Unmatched,
}

impl ExcludePattern {
    /// A pattern of `--exclude` (or `--iexclude`, by `case`).
    ///
    /// # Errors
    /// [`SourceError::BadPattern`] when the argument is not UTF-8.
    pub fn from_argument(argument: &OsStr, case: LetterCase) -> Result<Self, SourceError> {
        let origin = match case {
            LetterCase::Exact => "--exclude",
            LetterCase::Ignored => "--iexclude",
        };
        Self::from_bytes(argument.as_bytes(), case, origin.to_owned())
    }

    fn from_bytes(bytes: &[u8], case: LetterCase, origin: String) -> Result<Self, SourceError> {
        match std::str::from_utf8(bytes) {
            Ok(glob) => Ok(Self { glob: glob.to_owned(), case, origin }),
            Err(_) => Err(SourceError::BadPattern {
                pattern: String::from_utf8_lossy(bytes).into_owned(),
                origin,
                source: PatternError::NotUtf8,
            }),
        }
    }

    /// The patterns of a file, one a line; empty lines and those beginning with `#` do not count.
    ///
    /// # Errors
    /// System errors, [`SourceError::LimitExceeded`], [`SourceError::BadPattern`].
    pub fn read_file(path: &Path, case: LetterCase) -> Result<Vec<Self>, SourceError> {
        let io = |source| SourceError::Io { action: "read", path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(io)?;
        file.take(PATTERN_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
        check_pattern_file_size(path, bytes.len())?;
        let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        lines
            .filter(|(_, line)| !line.is_empty() && line[0] != b'#')
            .map(|(at, line)| {
                Self::from_bytes(line, case, format!("{}:{}", path.display(), at + 1))
            })
            .collect()
    }

    /// The glob for the path without its first `/`, and what a match means.
    fn compile(&self) -> Result<(globset::Glob, Effect), PatternError> {
        let (verdict, glob) = match self.glob.strip_prefix('!') {
            Some(rest) => (Verdict::Include, rest),
            None => (Verdict::Exclude, self.glob.as_str()),
        };
        let trimmed = glob.trim_end_matches('/');
        let anchored = match trimmed.strip_prefix('/') {
            Some(absolute) => absolute.to_owned(),
            None if trimmed.is_empty() => return Err(PatternError::Empty),
            None => format!("**/{trimmed}"),
        };
        if anchored.is_empty() {
            return Err(PatternError::Empty);
        }
        let compiled = GlobBuilder::new(&anchored)
            .literal_separator(true)
            .case_insensitive(self.case == LetterCase::Ignored)
            .build()?;
        let directories_only = trimmed.len() < glob.len();
        Ok((compiled, Effect { verdict, directories_only }))
    }
}

/// Refuses a pattern file that was read beyond [`PATTERN_FILE_BYTES_MAX`].
pub(crate) fn check_pattern_file_size(path: &Path, bytes: usize) -> Result<(), SourceError> {
    if bytes as u64 <= PATTERN_FILE_BYTES_MAX {
        return Ok(());
    }
    Err(SourceError::LimitExceeded {
        path: path.to_owned(),
        limit: "PATTERN_FILE_BYTES_MAX",
        max: PATTERN_FILE_BYTES_MAX,
        actual: bytes as u64,
    })
}

impl ExcludeRules {
    /// Compiles the options.
    ///
    /// # Errors
    /// [`SourceError::BadPattern`] names the first pattern that is malformed.
    pub fn new(options: ExcludeOptions) -> Result<Self, SourceError> {
        let mut globs = GlobSetBuilder::new();
        let mut effects = Vec::with_capacity(options.patterns.len());
        for pattern in &options.patterns {
            let bad = |source| bad_pattern(pattern, source);
            let (glob, effect) = pattern.compile().map_err(bad)?;
            globs.add(glob);
            effects.push(effect);
        }
        let last = options.patterns.last();
        let globs = match (globs.build(), last) {
            (Ok(globs), _) => globs,
            // Each compiled alone; together they are too large, which the last one brought about.
            (Err(error), Some(pattern)) => return Err(bad_pattern(pattern, error.into())),
            (Err(_), None) => GlobSet::empty(),
        };
        Ok(Self { options, globs, effects })
    }

    /// Rules that leave nothing out.
    #[must_use]
    pub fn none() -> Self {
        Self { options: ExcludeOptions::default(), globs: GlobSet::empty(), effects: Vec::new() }
    }

    /// The options as given.
    #[must_use]
    pub fn options(&self) -> &ExcludeOptions {
        &self.options
    }

    /// Whether there are patterns at all.
    #[must_use]
    pub fn has_patterns(&self) -> bool {
        !self.effects.is_empty()
    }

    /// What the patterns say about an absolute path, given without its first `/`.
    #[must_use]
    pub fn verdict(&self, path: &[u8], item: ItemType) -> Verdict {
        if self.effects.is_empty() {
            return Verdict::Unmatched;
        }
        let candidate = Candidate::new(OsStr::from_bytes(path));
        let matches = self.globs.matches_candidate(&candidate);
        let applies =
            |at: &usize| item == ItemType::Directory || !self.effects[*at].directories_only;
        let last = matches.into_iter().filter(applies).max();
        last.map_or(Verdict::Unmatched, |at| self.effects[at].verdict)
    }

    /// Whether a regular file of that size is left out.
    #[must_use]
    pub fn excludes_size(&self, bytes: u64) -> bool {
        self.options.larger_than.is_some_and(|max| bytes > max)
    }
}

/// Whether an item is a directory, for patterns that end in `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemType {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

fn bad_pattern(pattern: &ExcludePattern, source: PatternError) -> SourceError {
    SourceError::BadPattern {
        pattern: pattern.glob.clone(),
        origin: pattern.origin.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(patterns: &[&str], case: LetterCase) -> ExcludeRules {
        let origin = "--exclude".to_owned();
        let pattern =
            |glob: &&str| ExcludePattern { glob: (*glob).to_owned(), case, origin: origin.clone() };
        let patterns = patterns.iter().map(pattern).collect();
        ExcludeRules::new(ExcludeOptions { patterns, ..ExcludeOptions::default() }).unwrap()
    }

    #[test]
    fn patterns_match_as_documented() {
        use ItemType::{Directory as D, Other as F};
        use Verdict::{Exclude as X, Include as I, Unmatched as U};
        #[rustfmt::skip]
        let table: &[(&[&str], &[u8], ItemType, Verdict)] = &[
            (&["*.o"], b"home/u/a.o", F, X),
            (&["*.o"], b"a.o", F, X),
            (&["*.o"], b"home/u/a.oo", F, U),
            (&["cache"], b"home/cache", D, X),
            (&["cache"], b"home/cache2", D, U),
            (&["cache/"], b"home/cache", D, X),
            (&["cache/"], b"home/cache", F, U),
            (&["u/cache"], b"home/u/cache", D, X),
            (&["u/cache"], b"home/xu/cache", D, U),
            (&["u/*"], b"u/x", F, X),
            (&["u/*"], b"u/x/y", F, U),
            (&["/home/*/tmp"], b"home/u/tmp", D, X),
            (&["/home/*/tmp"], b"srv/home/u/tmp", D, U),
            (&["/home/*/tmp"], b"home/u/v/tmp", D, U),
            (&["/tmp"], b"tmp", D, X),
            (&["/tmp"], b"var/tmp", D, U),
            (&["a/**/z"], b"q/a/z", F, X),
            (&["a/**/z"], b"q/a/b/c/z", F, X),
            (&["/var/**"], b"var/lib/x", F, X),
            (&["/var/**"], b"var", D, U),
            (&["[ab]?"], b"x/b7", F, X),
            (&["[ab]?"], b"x/c7", F, U),
            (&["*.{jpg,png}"], b"x/y.png", F, X),
            (&["\\!x"], b"!x", F, X),
            (&["*.log", "!keep.log"], b"v/keep.log", F, I),
            (&["*.log", "!keep.log"], b"v/other.log", F, X),
            (&["!keep.log", "*.log"], b"v/keep.log", F, X),
            (&["*", "!*/", "!*.c"], b"src/main.c", F, I),
            (&["*", "!*/", "!*.c"], b"src", D, I),
            (&["*", "!*/", "!*.c"], b"src/main.h", F, X),
            (&["*.bak"], b"d/\xff\xfe.bak", F, X),
            (&["d?/x"], b"d\xff/x", F, X),
            (&["x\n*"], b"x\ny", F, X),
            (&["*.LOG"], b"a.log", F, U),
        ];
        for (patterns, path, item, expected) in table {
            let verdict = rules(patterns, LetterCase::Exact).verdict(path, *item);
            let shown = String::from_utf8_lossy(path);
            assert_eq!(verdict, *expected, "{patterns:?} on {shown}");
        }
        let ignoring = rules(&["*.LOG"], LetterCase::Ignored);
        assert_eq!(ignoring.verdict(b"a/b.Log", F), X);
    }

    #[test]
    fn malformed_patterns_are_named() {
        for glob in ["a[b", "", "!", "/", "x{a", "//"] {
            let pattern = ExcludePattern {
                glob: glob.to_owned(),
                case: LetterCase::Exact,
                origin: "list:7".to_owned(),
            };
            let options = ExcludeOptions { patterns: vec![pattern], ..ExcludeOptions::default() };
            let message = ExcludeRules::new(options).unwrap_err().to_string();
            assert_eq!(message, format!("invalid exclude pattern {glob:?} in list:7"));
        }
        let argument = OsStr::from_bytes(b"\xff*");
        assert!(ExcludePattern::from_argument(argument, LetterCase::Exact).is_err());
    }

    #[test]
    fn pattern_files_skip_comments_and_number_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        std::fs::write(&path, "# c\n\n *.o \r\n!keep.o").unwrap();
        let patterns = ExcludePattern::read_file(&path, LetterCase::Exact).unwrap();
        let globs: Vec<_> = patterns.iter().map(|pattern| pattern.glob.as_str()).collect();
        assert_eq!(globs, ["*.o", "!keep.o"]);
        assert_eq!(patterns[1].origin, format!("{}:4", path.display()));
        std::fs::write(&path, b"ok\n\xff\n").unwrap();
        assert!(ExcludePattern::read_file(&path, LetterCase::Exact).is_err());
    }
}
