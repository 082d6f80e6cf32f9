//! `NAME.tables.json`: the tables of a dump, with what their rows were when they were saved.

use serde::{Deserialize, Serialize};

use crate::format::postgres::lsn::Lsn;

/// All tables of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpTables {
    /// Database that they are of.
    pub database: String,
    /// When the transaction began, by the server's clock (RFC 3339).
    pub moment: String,
    /// Position in the log at that time.
    pub lsn: Lsn,
    /// Settings of the session that the text of the rows depends on: name and value.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
    /// By their schemas and names.
    pub tables: Vec<DumpTable>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DumpTable {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// File with its rows.
    pub file: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of the rows, with their ends.
    pub bytes: u64,
    /// Their sum, 32 hexadecimal digits.
    pub sum: String,
}

impl DumpTables {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain values are written to memory");
        text.push(b'\n');
        text
    }
}

/// The sum of a table as text.
#[must_use]
pub fn sum_text(sum: u128) -> String {
    format!("{sum:032x}")
}
