//! What a dump that is stored as records says about itself, `records` among the facts of its root.

use serde::{Deserialize, Serialize};

use crate::format::redis::grammar::Dialect;
use crate::format::redis::record::SALT_BYTES;
use crate::format::snapshot::Facts;
use crate::id::ContentHash;

/// Key of the statement among the facts of a root.
const KEY: &str = "records";
/// Most bits of a hash that say which part an atom is in.
pub const PART_BITS_MAX: u32 = 10;

/// In which order a dump has its records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DumpOrder {
    /// In that of the server: what comes back is what was sent, bit for bit.
    #[default]
    Server,
    /// In that of their keys: the order of the server was not kept.
    Keys,
}

impl DumpOrder {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
    fn is_server(&self) -> bool {
        *self == Self::Server
    }
}

/// How to put a dump together again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFacts {
    /// Version of the form: 1.
    pub form: u32,
    /// `redis` or `valkey`: what types mean.
    pub dialect: String,
    /// Length of the dump.
    pub bytes: u64,
    /// BLAKE3 of the dump; of one by keys that of `frame`, and the atoms as the dump has them, part
    /// after part as they are stored.
    pub hash: ContentHash,
    /// In which order the dump has its records.
    #[serde(default, skip_serializing_if = "DumpOrder::is_server")]
    pub order: DumpOrder,
    /// Salt of the hashes of atoms, in hexadecimal.
    pub salt: String,
    /// Records, heads and elements.
    pub atoms: u64,
    /// Bits of a hash that the order has.
    pub order_bits: u32,
    /// Files of the order.
    pub order_files: u32,
    /// First bits of a hash that say in which part an atom is.
    pub part_bits: u32,
    /// The second, since 1970, that last accesses are counted back from.
    pub made: u32,
    /// Bytes that were not understood, and are kept as they are.
    pub unknown_bytes: u64,
}

impl RecordFacts {
    /// Adds them to the facts of a root.
    pub fn put(&self, facts: &mut Facts) {
        let value = serde_json::to_value(self).expect("plain values are JSON");
        facts.insert(KEY.into(), value);
    }

    /// Of a root: nothing where it is not stored as records.
    ///
    /// # Errors
    /// Where they are not of a form that this program knows.
    pub fn of(facts: Option<&Facts>) -> Result<Option<Self>, RecordFactsError> {
        let Some(value) = facts.and_then(|facts| facts.get(KEY)) else { return Ok(None) };
        let form = value.get("form").and_then(serde_json::Value::as_u64);
        if form != Some(1) {
            return Err(RecordFactsError::Form(form.unwrap_or(0)));
        }
        let read = Self::deserialize(value).map_err(RecordFactsError::Json)?;
        let is_sound = read.dialect().is_some()
            && read.salt().is_some()
            && read.part_bits <= PART_BITS_MAX
            && (read.part_bits..=48).contains(&read.order_bits)
            && read.atoms <= u64::from(u32::MAX) * 64;
        if is_sound { Ok(Some(read)) } else { Err(RecordFactsError::Value) }
    }

    /// What types mean.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        match &self.dialect[..] {
            "redis" => Some(Dialect::Redis),
            "valkey" => Some(Dialect::Valkey),
            _ => None,
        }
    }

    /// The salt as bytes.
    #[must_use]
    pub fn salt(&self) -> Option<[u8; SALT_BYTES]> {
        let bytes = data_encoding::HEXLOWER.decode(self.salt.as_bytes()).ok()?;
        bytes.try_into().ok()
    }
}

/// The word for a dialect.
#[must_use]
pub fn dialect_word(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Redis => "redis",
        Dialect::Valkey => "valkey",
    }
}

/// Why the facts of a dump are refused.
#[derive(Debug, thiserror::Error)]
pub enum RecordFactsError {
    /// The form is newer than this program.
    #[error("the dump is stored in form {0}, this program knows form 1")]
    Form(u64),
    /// They are no statement of the expected shape.
    #[error("what a dump says about itself cannot be read")]
    Json(#[source] serde_json::Error),
    /// A value is none.
    #[error("what a dump says about itself makes no sense")]
    Value,
}

/// Name of a file of the order.
#[must_use]
pub fn order_file(number: u32) -> String {
    format!("order.{number:04}")
}

/// Name of the records of a part.
#[must_use]
pub fn records_file(part_bits: u32, part: u32) -> String {
    format!("records.{part_bits:02}.{part:04}")
}

/// Name of the column of a part.
#[must_use]
pub fn column_file(part_bits: u32, part: u32) -> String {
    format!("column.{part_bits:02}.{part:04}")
}

/// Name of the file of what lies between the atoms.
pub const FRAME_FILE: &str = "frame";
/// Name of the file that tells apart atoms whose hashes begin alike.
pub const TIES_FILE: &str = "ties";
