//! Names of snapshots on the command line: `latest~2`, `source:shop`, `1a2b`, `@2026-03-01:/etc`.
//!
//! Parsing and resolving are pure; a name that fits several snapshots is an error, never a guess.

use jiff::{Timestamp, Zoned};

use crate::cli::error::CommandError;
use crate::cli::explain::{repository, usage};
use crate::cli::time::Moment;

/// Fewest digits of an id that name a snapshot.
const ID_DIGITS_MIN: usize = 4;
/// Digits of a whole id.
const ID_DIGITS_MAX: usize = 64;

/// Which snapshot is meant, and which part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Among which snapshots.
    pub which: Which,
    /// How many back from the newest of them (`~N`).
    pub back: usize,
    /// The part after the colon, as given; `None` is all of the snapshot.
    pub path: Option<String>,
}

/// The snapshots of which the newest is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All.
    Latest,
    /// Those of a source.
    Source(String),
    /// The one whose id begins with these lower-case hexadecimal digits.
    Id(String),
    /// Those made at or before this moment.
    Until(Timestamp),
}

/// Why a text names no snapshot, or none of those there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not of a known form.
    #[error("{text:?} is not a name of a snapshot")]
    Malformed {
        /// The text as given.
        text: String,
    },
    /// The number after `~` is none.
    #[error("{text:?} has no number after ~")]
    BadCount {
        /// The text as given.
        text: String,
    },
    /// Nothing fits.
    #[error("no snapshot is {name}, of {candidates} there are")]
    NotFound {
        /// What was looked for.
        name: String,
        /// Among how many.
        candidates: usize,
    },
    /// The digits fit several.
    #[error("{digits} begins the ids of {count} snapshots")]
    Ambiguous {
        /// The digits.
        digits: String,
        /// How many.
        count: usize,
    },
}

impl From<SelectorError> for CommandError {
    fn from(error: SelectorError) -> Self {
        let explanation = match error {
            SelectorError::Malformed { .. } | SelectorError::BadCount { .. } => &usage::SELECTOR,
            SelectorError::NotFound { .. } => &repository::SNAPSHOT_MISSING,
            SelectorError::Ambiguous { .. } => &repository::SNAPSHOT_AMBIGUOUS,
        };
        Self::new(explanation, error.to_string()).hint("holdfast snapshots")
    }
}

/// A snapshot as far as choosing one needs it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its id in hexadecimal.
    pub id: &'a str,
    /// Its source.
    pub source: &'a str,
    /// When it was made, as the snapshot says.
    pub time: Timestamp,
    /// When it was committed, as its log says.
    pub committed: Timestamp,
    /// Its place in its writer's log.
    pub seq: u64,
}

impl Selector {
    /// Whether it is about one snapshot, and not about whatever a source or the repository has.
    #[must_use]
    pub fn names_one(&self) -> bool {
        self.back > 0 || !matches!(self.which, Which::Source(_) | Which::Latest)
    }

    /// Reads a selector; `now` gives `yesterday` and the time zone their meaning.
    ///
    /// A day without a time means its end: `@2026-03-01` is the newest snapshot of that day or
    /// before.
    ///
    /// # Errors
    /// A text of another form.
    pub fn parse(text: &str, now: &Zoned) -> Result<Self, SelectorError> {
        if let Some(time) = text.strip_prefix('@') {
            return Self::parse_time(text, time, now);
        }
        let (source, rest) = match text.strip_prefix("source:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (name, path) = split_path(rest);
        let (name, back) = split_back(text, name)?;
        let malformed = || SelectorError::Malformed { text: text.to_owned() };
        let which = match name {
            "" => return Err(malformed()),
            _ if source => Which::Source(name.to_owned()),
            "latest" => Which::Latest,
            "now" | "today" | "yesterday" => return Self::parse_time(text, rest, now),
            digits if is_id(digits) && back == 0 => Which::Id(digits.to_ascii_lowercase()),
            _ => return Err(malformed()),
        };
        Ok(Self { which, back, path })
    }

    fn parse_time(text: &str, time: &str, now: &Zoned) -> Result<Self, SelectorError> {
        // Times have colons themselves: the longest beginning that is a time is the time.
        let ends = time.match_indices(':').map(|(at, _)| at).chain([time.len()]);
        for end in ends.collect::<Vec<_>>().into_iter().rev() {
            let Ok((name, back)) = split_back(text, &time[..end]) else { continue };
            let until = Moment::parse(name, now).and_then(|moment| moment.end(now));
            if let Ok(until) = until {
                let path = time.get(end + 1..).map(str::to_owned);
                return Ok(Self { which: Which::Until(until), back, path });
            }
        }
        Err(SelectorError::Malformed { text: text.to_owned() })
    }

    /// The index of the snapshot that is meant: `latest` counts from the one committed last, what
    /// names a source or a time from the one made last. Of two of the same time the one with the
    /// greater sequence number is newer.
    ///
    /// # Errors
    /// None fits, or an id that several fit.
    pub fn resolve(&self, candidates: &[Candidate<'_>]) -> Result<usize, SelectorError> {
        let fits = |candidate: &Candidate<'_>| match &self.which {
            Which::Latest => true,
            Which::Source(name) => candidate.source == name,
            Which::Id(digits) => candidate.id.starts_with(digits.as_str()),
            Which::Until(moment) => candidate.time <= *moment,
        };
        let mut fitting: Vec<usize> =
            (0..candidates.len()).filter(|index| fits(&candidates[*index])).collect();
        if let (Which::Id(digits), 2..) = (&self.which, fitting.len()) {
            return Err(SelectorError::Ambiguous { digits: digits.clone(), count: fitting.len() });
        }
        let age = |index: &usize| {
            let Candidate { id, time, committed, seq, .. } = candidates[*index];
            (if self.which == Which::Latest { committed } else { time }, seq, id)
        };
        fitting.sort_by(|a, b| age(b).cmp(&age(a)));
        fitting.get(self.back).copied().ok_or_else(|| self.not_found(candidates.len()))
    }

    /// That none of `candidates` snapshots is meant.
    #[must_use]
    pub fn not_found(&self, candidates: usize) -> SelectorError {
        SelectorError::NotFound { name: self.describe(), candidates }
    }

    fn describe(&self) -> String {
        let name = match &self.which {
            Which::Latest => "latest".to_owned(),
            Which::Source(name) => format!("source:{name}"),
            Which::Id(digits) => digits.clone(),
            Which::Until(moment) => format!("@{moment}"),
        };
        if self.back == 0 { name } else { format!("{name}~{}", self.back) }
    }
}

fn is_id(text: &str) -> bool {
    (ID_DIGITS_MIN..=ID_DIGITS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn split_path(text: &str) -> (&str, Option<String>) {
    match text.split_once(':') {
        Some((name, path)) => (name, Some(path.to_owned())),
        None => (text, None),
    }
}

fn split_back<'a>(text: &str, name: &'a str) -> Result<(&'a str, usize), SelectorError> {
    let Some((name, count)) = name.split_once('~') else { return Ok((name, 0)) };
    let count = count.parse().map_err(|_| SelectorError::BadCount { text: text.to_owned() })?;
    Ok((name, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-03-05T08:00:00Z[UTC]".parse().unwrap()
    }

    fn parse(text: &str) -> Result<Selector, SelectorError> {
        Selector::parse(text, &now())
    }

    #[test]
    fn forms() {
        let until = |text: &str| Which::Until(text.parse().unwrap());
        let day_end = "2026-03-01T23:59:59.999999999Z";
        let cases: Vec<(&str, Which, usize, Option<&str>)> = vec![
            ("latest", Which::Latest, 0, None),
            ("latest~2", Which::Latest, 2, None),
            ("latest~2:/etc", Which::Latest, 2, Some("/etc")),
            ("latest:a:b~c", Which::Latest, 0, Some("a:b~c")),
            ("source:shop", Which::Source("shop".into()), 0, None),
            ("source:shop~1:x/y", Which::Source("shop".into()), 1, Some("x/y")),
            ("1a2B", Which::Id("1a2b".into()), 0, None),
            ("1a2b:/", Which::Id("1a2b".into()), 0, Some("/")),
            ("@2026-03-01T12:00Z", until("2026-03-01T12:00:00Z"), 0, None),
            ("@2026-03-01T12:00Z:/etc", until("2026-03-01T12:00:00Z"), 0, Some("/etc")),
            ("@2026-03-01T12:00:/etc", until("2026-03-01T12:00:00Z"), 0, Some("/etc")),
            ("@2026-03-01", until(day_end), 0, None),
            ("@2026-03-01~1:a:b", until(day_end), 1, Some("a:b")),
            ("yesterday", until("2026-03-04T23:59:59.999999999Z"), 0, None),
            ("@yesterday:etc", until("2026-03-04T23:59:59.999999999Z"), 0, Some("etc")),
        ];
        for (text, which, back, path) in cases {
            let expected = Selector { which, back, path: path.map(str::to_owned) };
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        let wrong =
            ["", ":", "source:", "1a2", "xyzw", "latest~", "latest~x", "1a2b~1", "@", "@x:y"];
        for text in wrong {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn resolved_to_the_newest_that_fits() {
        let candidate = |id, source, time: &str, seq| {
            let time = time.parse().unwrap();
            Candidate { id, source, time, committed: time, seq }
        };
        let list = [
            candidate("aaaa11", "etc", "2026-03-01T10:00:00Z", 1),
            candidate("aaaa22", "shop", "2026-03-03T10:00:00Z", 3),
            candidate("bbbb33", "etc", "2026-03-02T10:00:00Z", 2),
            candidate("0ccc44", "etc", "2026-03-03T10:00:00Z", 4),
        ];
        let cases = [
            ("latest", Some(3)),
            ("latest~1", Some(1)),
            ("latest~4", None),
            ("source:shop", Some(1)),
            ("source:etc~1", Some(2)),
            ("source:none", None),
            ("bbbb", Some(2)),
            ("aaaa1", Some(0)),
            ("dddd", None),
            ("@2026-03-02", Some(2)),
            ("@2026-03-02T10:00:00Z", Some(2)),
            ("@2026-03-02T09:59:59Z", Some(0)),
            ("@2026-02-01", None),
        ];
        for (text, index) in cases {
            assert_eq!(parse(text).unwrap().resolve(&list).ok(), index, "{text}");
        }
        let ambiguous = parse("aaaa").unwrap().resolve(&list);
        assert_eq!(ambiguous, Err(SelectorError::Ambiguous { digits: "aaaa".into(), count: 2 }));
        let mut list = list;
        // Saved last, under a time long ago.
        list[0].committed = "2026-03-04T10:00:00Z".parse().unwrap();
        for (text, index) in [("latest", 0), ("latest~1", 3), ("source:etc", 3), ("@2026-03-01", 0)]
        {
            assert_eq!(parse(text).unwrap().resolve(&list), Ok(index), "{text}");
        }
    }
}
