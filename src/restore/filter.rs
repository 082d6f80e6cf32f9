//! Which entries of a snapshot are wanted: include and exclude patterns.
//!
//! Patterns are globs over the path in the snapshot, `/etc/hosts`. One that begins with `/` is
//! anchored there, any other matches at every level; `*` and `?` stay within one name, `**` does
//! not. What lies below a matching directory matches too. Exclusion wins.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::source::files::exclude::LetterCase;

/// A pattern that is none.
#[derive(Debug, thiserror::Error)]
#[error("the pattern {pattern:?} is not valid")]
pub struct PatternError {
    /// As given.
    pub pattern: String,
    /// What is wrong.
    pub source: globset::Error,
}

/// What the patterns say of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is wanted.
    Wanted,
    /// It and all below it are not wanted.
    Excluded,
    /// It is in no include pattern; something below it may be.
    NotIncluded,
}

/// A set of patterns.
#[derive(Debug, Clone, Default)]
pub struct Patterns(GlobSet);

impl Patterns {
    /// Compiles patterns.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        Self::with_case(patterns, LetterCase::Exact)
    }

    /// Compiles patterns that may not tell upper case from lower case.
    pub fn with_case(patterns: &[String], case: LetterCase) -> Result<Self, PatternError> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let at = |source| PatternError { pattern: pattern.clone(), source };
            let trimmed = pattern.trim_end_matches('/');
            let anchored = match trimmed.strip_prefix('/') {
                Some(rest) => format!("/{rest}"),
                None => format!("/**/{trimmed}"),
            };
            for glob in [anchored.clone(), format!("{}/**", anchored.trim_end_matches('/'))] {
                let mut glob = GlobBuilder::new(&glob);
                glob.literal_separator(true).case_insensitive(case == LetterCase::Ignored);
                set.add(glob.build().map_err(at)?);
            }
        }
        let failed = |source| PatternError { pattern: patterns.join(" "), source };
        set.build().map(Self).map_err(failed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path, beginning with `/`, matches one of them, or lies below one that does.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        !self.0.is_empty() && self.0.is_match(OsStr::from_bytes(path))
    }

    /// Whether a path, beginning with `/`, itself matches one of them.
    #[must_use]
    pub fn matches_itself(&self, path: &[u8]) -> bool {
        // Every pattern is two globs: the path itself, and what lies below it.
        self.0.matches(OsStr::from_bytes(path)).iter().any(|glob| glob % 2 == 0)
    }
}

/// Include and exclude patterns.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    include: Patterns,
    exclude: Patterns,
}

impl Filters {
    /// Without `include` patterns all is included.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, PatternError> {
        Ok(Self { include: Patterns::new(include)?, exclude: Patterns::new(exclude)? })
    }

    /// Whether everything is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// What they say of the entry at a path of the snapshot, which begins with `/`.
    #[must_use]
    pub fn verdict(&self, path: &[u8]) -> Verdict {
        if self.exclude.matches(path) {
            Verdict::Excluded
        } else if self.include.is_empty() || self.include.matches(path) {
            Verdict::Wanted
        } else {
            Verdict::NotIncluded
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_anchored_paths() {
        let table: [(&str, &[&str], &[&str]); 5] = [
            ("*.log", &["/a.log", "/var/b.log", "/x.log/below"], &["/a.log2", "/log"]),
            ("/etc", &["/etc", "/etc/hosts", "/etc/a/b"], &["/etcetera", "/x/etc"]),
            ("/home/*/cache/", &["/home/u/cache", "/home/u/cache/x"], &["/home/a/b/cache"]),
            ("/**/tmp", &["/tmp", "/a/b/tmp/c"], &["/tmpx"]),
            ("a/b", &["/a/b", "/x/a/b/c"], &["/a/c/b"]),
        ];
        for (pattern, yes, no) in table {
            let patterns = Patterns::new(&[pattern.to_owned()]).unwrap();
            for path in yes {
                assert!(patterns.matches(path.as_bytes()), "{pattern} {path}");
            }
            assert!(patterns.matches_itself(yes[0].as_bytes()), "{pattern}");
            assert!(!patterns.matches_itself(&[yes[0].as_bytes(), b"/below"].concat()));
            for path in no {
                assert!(!patterns.matches(path.as_bytes()), "{pattern} {path}");
            }
        }
        assert!(Patterns::new(&["[".to_owned()]).is_err());
        for (case, is_found) in [(LetterCase::Exact, false), (LetterCase::Ignored, true)] {
            let patterns = Patterns::with_case(&["readme*".into()], case).unwrap();
            assert_eq!(patterns.matches_itself(b"/a/README.md"), is_found);
        }
    }

    #[test]
    fn exclusion_wins() {
        let filters = Filters::new(&["/etc".into()], &["*.bak".into()]).unwrap();
        assert_eq!(filters.verdict(b"/etc/x"), Verdict::Wanted);
        assert_eq!(filters.verdict(b"/etc/x.bak"), Verdict::Excluded);
        assert_eq!(filters.verdict(b"/usr"), Verdict::NotIncluded);
        assert_eq!(Filters::default().verdict(b"/usr"), Verdict::Wanted);
    }
}
