//! What a root that came from `PostgreSQL` says about itself, `facts` in `format-spec/postgres.md`.
//!
//! It stands in the snapshot, so that nothing has to be restored to know what can be restored.

use serde::{Deserialize, Serialize};

use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::format::postgres::segment::SegmentBytes;
use crate::format::snapshot::Facts;

/// The tag that tells which snapshots of a log build upon each other.
pub const WAL_SERIES_TAG: &str = "wal-series=";

/// A statement that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the facts of a root cannot be understood")]
pub struct FactsError(#[from] serde_json::Error);

/// What a root of `PostgreSQL` is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum PostgresFacts {
    /// A data directory, taken by `BASE_BACKUP`.
    #[serde(rename = "postgres-base")]
    Base(BaseFacts),
    /// Files of the write-ahead log.
    #[serde(rename = "postgres-wal")]
    Wal(WalFacts),
    /// A dump in directory format.
    #[serde(rename = "postgres-dump")]
    Dump(DumpFacts),
}

/// A cluster, as its control file knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// System identifier, a decimal number that JSON readers must not round.
    pub system: String,
    /// `server_version_num`: 170011.
    pub version_number: u32,
    /// Size of a segment of the write-ahead log in bytes.
    pub segment_bytes: u64,
}

impl ClusterFacts {
    /// Major version: 17.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version_number / 10_000
    }

    /// The segment size; the default where a hostile number stands.
    #[must_use]
    pub fn segments(&self) -> SegmentBytes {
        SegmentBytes::new(self.segment_bytes).unwrap_or(SegmentBytes::DEFAULT)
    }
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number, the name in `pg_tblspc`.
    pub oid: u32,
    /// Where it lay on the server.
    pub path: String,
}

/// A page that does not have the checksum it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BadPage {
    /// File below the data directory.
    pub path: String,
    /// Number of the page in the file, from 0.
    pub page: u32,
}

/// A base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// Whose.
    #[serde(flatten)]
    pub cluster: ClusterFacts,
    /// Timeline it was taken on.
    pub timeline: Timeline,
    /// Where recovery has to begin.
    pub start: Lsn,
    /// What recovery has to reach at least.
    pub stop: Lsn,
    /// When it was complete, by the server's clock (RFC 3339).
    pub stop_time: String,
    /// Size of a page in bytes.
    pub page_bytes: u32,
    /// Whether pages carry checksums, so that they were checked.
    pub has_checksums: bool,
    /// Taken from a standby.
    pub from_standby: bool,
    /// Pages, and files of pages, that the server sent because they had changed; all where the
    /// whole cluster was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_since: Option<Lsn>,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// The first pages whose checksum is wrong.
    pub bad_pages: Vec<BadPage>,
    /// How many there are.
    pub bad_pages_count: u64,
    /// Versions of the libraries that order text: (provider, version as the server saw it).
    pub collations: Vec<(String, String)>,
    /// Settings that a server must have at least, to recover.
    pub settings: Vec<(String, String)>,
}

/// A range of one timeline, without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WalRange {
    /// The timeline.
    pub timeline: Timeline,
    /// First byte.
    pub start: Lsn,
    /// After the last byte.
    pub end: Lsn,
}

/// Files of the write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFacts {
    /// Whose.
    #[serde(flatten)]
    pub cluster: ClusterFacts,
    /// A snapshot with the same series holds all that the earlier ones of the series hold.
    pub series: String,
    /// What there is, ascending.
    pub ranges: Vec<WalRange>,
    /// Histories of timelines, as the server wrote them.
    pub histories: Vec<(Timeline, String)>,
    /// No record is younger than this, by the clock of the server (RFC 3339).
    pub newest: String,
}

/// A dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpFacts {
    /// Whose.
    #[serde(flatten)]
    pub cluster: ClusterFacts,
    /// Database that it is of.
    pub database: String,
    /// When its transaction began, by the server's clock (RFC 3339).
    pub moment: String,
    /// Position in the log at that time.
    pub lsn: Lsn,
    /// Taken from a standby.
    pub from_standby: bool,
    /// Major version of the `pg_dump` that made it; `pg_restore` must not be older.
    pub tool: u32,
    /// Tables whose rows are there.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Large objects that are there.
    pub large_objects: u64,
}

impl PostgresFacts {
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
    /// [`FactsError`] where it is of `PostgreSQL` and cannot be understood.
    pub fn decode(facts: &Facts) -> Result<Option<Self>, FactsError> {
        let kind = facts.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default();
        if !matches!(kind, "postgres-base" | "postgres-wal" | "postgres-dump") {
            return Ok(None);
        }
        Ok(Some(serde_json::from_value(serde_json::Value::Object(facts.clone()))?))
    }
}
