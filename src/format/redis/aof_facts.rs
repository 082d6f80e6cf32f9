//! What a file of an append-only file says about itself, as JSON with `kind` `redis-aof`.
//!
//! `format-spec/redis.md`, chapter "Append-only files".

use serde::{Deserialize, Serialize};

use crate::format::snapshot::Facts;

/// What a root holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AofPart {
    /// All data at the moment at which the commands begin.
    Base,
    /// Commands.
    Incremental,
    /// The list of the files.
    Manifest,
    /// All in one file, as servers before 7 have it.
    Single,
}

/// What a root says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename = "redis-aof")]
pub struct AofFacts {
    /// What it holds.
    pub part: AofPart,
    /// When the files were taken hold of, by our clock (RFC 3339): they hold nothing younger.
    pub moment: String,
    /// Bytes at the end of the file that were no whole command or transaction, and are left out.
    #[serde(default)]
    pub left_out: u64,
}

impl AofFacts {
    /// As the snapshot carries it.
    #[must_use]
    pub fn encode(&self) -> Facts {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(facts)) => facts,
            _ => unreachable!("a struct is written as an object, which cannot fail in memory"),
        }
    }

    /// Reads what a snapshot carries; nothing where it is about something else, or not understood.
    #[must_use]
    pub fn decode(facts: &Facts) -> Option<Self> {
        let is_of_us = facts.get("kind").and_then(serde_json::Value::as_str) == Some("redis-aof");
        serde_json::from_value(serde_json::Value::Object(facts.clone())).ok().filter(|_| is_of_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_back_and_what_is_added_to_them_does_no_harm() {
        let moment = "2026-01-01T00:00:00Z".to_owned();
        let written = AofFacts { part: AofPart::Base, moment, left_out: 7 };
        let mut facts = written.encode();
        assert_eq!((&facts["kind"], &facts["part"]), (&"redis-aof".into(), &"base".into()));
        facts.insert("records".into(), 1.into());
        assert_eq!(AofFacts::decode(&facts), Some(written));
        facts.insert("kind".into(), "redis".into());
        assert_eq!(AofFacts::decode(&facts), None);
    }
}
