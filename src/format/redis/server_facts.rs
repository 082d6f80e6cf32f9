//! What snapshots of Redis and Valkey say about themselves, as JSON with `kind`.
//!
//! `format-spec/redis.md`, chapter "Journal". What is not known here is left alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::snapshot::Facts;

/// Tag of a snapshot that has less than half of the keys of the one before: retention keeps both.
pub const SHRUNKEN_TAG: &str = "holdfast:shrunken";

/// What cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("what the snapshot says about its Redis source cannot be read")]
pub struct FactsError(#[from] serde_json::Error);

/// What a root of Redis says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RedisFacts {
    /// All data of a server at one moment.
    Redis(DumpFacts),
    /// Its commands.
    RedisJournal(JournalFacts),
}

/// A dump that came over the replication protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpFacts {
    /// `redis`, `valkey`.
    pub server: String,
    /// Its version.
    pub version: String,
    /// Name of the server's run.
    pub run_id: String,
    /// Taken from a replica.
    #[serde(default)]
    pub from_replica: bool,
    /// Name of the history that positions belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replid: Option<String>,
    /// Position in the stream of commands that the dump is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Keys of each database, just before.
    #[serde(default)]
    pub keys: BTreeMap<String, u64>,
    /// When it was made, by our clock (RFC 3339): nothing in it is younger.
    pub moment: String,
    /// What was done by then may not be in it: the server was at it before we asked, for another
    /// replica, or is one, or its answer was long under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inexact: bool,
    /// `DEBUG DIGEST` of the server, where nothing was written from the dump until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// It has less than half of the keys of the one before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shrunken: bool,
    /// Name of the node of a cluster that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Slots of that node: `0-5460 5462`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<String>,
}

impl DumpFacts {
    /// Keys of all databases.
    #[must_use]
    pub fn keys_count(&self) -> u64 {
        self.keys.values().sum()
    }
}

/// A part of a journal in which moments are exact from some time on, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRange {
    /// Name of the line: what begins with a dump and has no gap since.
    pub line: String,
    /// Number of the part within the line.
    pub session: u64,
    /// Name of the history that positions belong to.
    pub replid: String,
    /// The history before, of which `start` is a position too, where it has another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Position of its first byte.
    pub start: u64,
    /// Position after its last byte.
    pub end: u64,
    /// From this moment on moments are exact; without it, none is. Milliseconds since 1970, as all
    /// times here, by our clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// All of it was executed by then.
    pub until: u64,
}

impl JournalRange {
    /// Whether another one goes on exactly where this one ends, in the same part.
    #[must_use]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        (&self.line, self.session, self.end) == (&next.line, next.session, next.start)
    }

    /// Takes what follows.
    pub fn extend(&mut self, next: &Self) {
        self.end = next.end;
        self.until = self.until.max(next.until);
        self.from = self.from.or(next.from);
    }
}

/// A journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFacts {
    /// A snapshot with the same series holds all that the earlier ones of the series hold.
    pub series: String,
    /// What there is, in the order in which it came.
    pub ranges: Vec<JournalRange>,
}

impl RedisFacts {
    /// As the snapshot carries it.
    #[must_use]
    pub fn encode(&self) -> Facts {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(facts)) => facts,
            _ => unreachable!("a struct is written as an object, which cannot fail in memory"),
        }
    }

    /// Reads what a snapshot carries; `None` where it is about something else.
    ///
    /// # Errors
    /// [`FactsError`] where it is of Redis and cannot be understood.
    pub fn decode(facts: &Facts) -> Result<Option<Self>, FactsError> {
        let kind = facts.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default();
        if !matches!(kind, "redis" | "redis-journal") {
            return Ok(None);
        }
        Ok(Some(serde_json::from_value(serde_json::Value::Object(facts.clone()))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_back_and_what_is_added_to_them_does_no_harm() {
        let dump = DumpFacts {
            server: "valkey".into(),
            version: "9.1.2".into(),
            keys: BTreeMap::from([("0".into(), 5), ("12".into(), 2)]),
            offset: Some(7),
            moment: "2026-01-01T00:00:00Z".into(),
            ..DumpFacts::default()
        };
        assert_eq!(dump.keys_count(), 7);
        let mut facts = RedisFacts::Redis(dump.clone()).encode();
        assert_eq!(facts["kind"], "redis");
        assert_eq!(facts["keys"]["12"], 2);
        facts.insert("records".into(), 1.into());
        assert_eq!(RedisFacts::decode(&facts).unwrap(), Some(RedisFacts::Redis(dump)));
        let journal = RedisFacts::RedisJournal(JournalFacts::default());
        assert_eq!(RedisFacts::decode(&journal.encode()).unwrap(), Some(journal));
        facts.insert("kind".into(), "postgres-base".into());
        assert_eq!(RedisFacts::decode(&facts).unwrap(), None);
    }
}
