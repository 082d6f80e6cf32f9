//! `drill.json`: what a restore drill has done, and what it has found.

use serde::{Deserialize, Serialize};

/// The tag that tells of which source a snapshot holds the record of a drill.
pub const DRILL_TAG: &str = "drill-of=";
/// Name of the stream.
pub const DRILL_STREAM: &str = "drill.json";
/// Largest record that is read, in bytes.
pub const DRILL_BYTES_MAX: u64 = 16 * 1024 * 1024;
const VERSION: u32 = 1;

/// A record that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// It is no record.
    #[error("the record of a drill cannot be understood")]
    Json(#[from] serde_json::Error),
    /// It is newer than this program.
    #[error("the record of a drill is of version {0}")]
    Version(u32),
}

/// How a check has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Something is wrong.
    Failed,
    /// It could not be made; the detail says why.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
}

/// A part of a drill, and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `prepare`, `start`, `recover`, `restore`, `load`, `check`, `clean up`.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

/// A drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Version of the record: 1.
    pub v: u32,
    /// The source.
    pub source: String,
    /// The snapshot that was begun with, by its id.
    pub snapshot: String,
    /// `base` or `dump`; `redis`.
    pub method: String,
    /// What was to be reached: `latest`, or a moment, a position and the like.
    pub point: String,
    /// Major version of `PostgreSQL`; 0 where it is another database.
    pub postgres: u32,
    /// The server that was started, where it is another database: `redis 7.0.15`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// When it began (RFC 3339).
    pub begun: String,
    /// Seconds until the database took writes: the recovery time that was measured.
    pub ready_seconds: Option<f64>,
    /// Seconds between the newest row, or the last transaction that was recovered, and the
    /// beginning: the recovery point that was measured.
    pub data_age_seconds: Option<f64>,
    /// The moment of that row or transaction (RFC 3339).
    pub newest: Option<String>,
    /// The parts in their order.
    pub phases: Vec<Phase>,
    /// The checks in their order.
    pub checks: Vec<Check>,
    /// What ended it early.
    pub failure: Option<String>,
    /// It reached its end, and no check failed.
    pub passed: bool,
}

impl DrillRecord {
    /// One that has only begun.
    #[must_use]
    pub fn new(source: &str, begun: String) -> Self {
        Self {
            v: VERSION,
            source: source.to_owned(),
            snapshot: String::new(),
            method: String::new(),
            point: String::new(),
            postgres: 0,
            server: String::new(),
            begun,
            ready_seconds: None,
            data_age_seconds: None,
            newest: None,
            phases: Vec::new(),
            checks: Vec::new(),
            failure: None,
            passed: false,
        }
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain values are written to memory");
        text.push(b'\n');
        text
    }

    /// Reads one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DrillError> {
        let record: Self = serde_json::from_slice(bytes)?;
        if record.v == VERSION { Ok(record) } else { Err(DrillError::Version(record.v)) }
    }
}

/// The source of which tags say that a drill is recorded.
#[must_use]
pub fn drill_of(tags: &[String]) -> Option<&str> {
    tags.iter().find_map(|tag| tag.strip_prefix(DRILL_TAG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_newer_one_is_refused() {
        let mut record = DrillRecord::new("shop", "2026-01-01T00:00:00Z".into());
        record.phases.push(Phase { name: "start".into(), seconds: 1.5 });
        let (name, detail) = ("amcheck".to_owned(), "3 databases".to_owned());
        record.checks.push(Check { name, outcome: Outcome::Passed, detail });
        assert_eq!(DrillRecord::decode(&record.encode()).unwrap(), record);
        record.v = 2;
        let newer = DrillRecord::decode(&record.encode());
        assert!(matches!(newer, Err(DrillError::Version(2))));
        assert!(DrillRecord::decode(b"{}").is_err());
        assert_eq!(drill_of(&["a".into(), "drill-of=shop".into()]), Some("shop"));
    }
}
