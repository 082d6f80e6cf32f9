//! Commands of the replication protocol but for base backups and the stream itself.
//!
//! Source: the manual of `PostgreSQL`, "Streaming Replication Protocol".

use crate::format::limits;
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::source::postgres::connection::Connection;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::wire::Row;

/// What `IDENTIFY_SYSTEM` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// System identifier, a decimal number.
    pub system: String,
    /// Timeline that the server is on.
    pub timeline: Timeline,
    /// How far its log is flushed.
    pub flushed: Lsn,
}

/// A physical replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// From here on the server keeps its log; `None` before it was ever used.
    pub restart: Option<(Lsn, Timeline)>,
}

/// Who it is.
pub fn identify(connection: &mut Connection) -> Result<SystemIdentity, PostgresError> {
    let rows = connection.query("IDENTIFY_SYSTEM")?;
    let read = |row: &Row| {
        let timeline = row.get(1)?.as_ref()?.parse().ok().map(Timeline)?;
        let flushed = row.get(2)?.as_ref()?.parse().ok()?;
        Some(SystemIdentity { system: row.first()?.clone()?, timeline, flushed })
    };
    rows.first().and_then(read).ok_or_else(|| connection.unexpected("identifying the system"))
}

/// The slot of that name, if there is one.
pub fn read_slot(connection: &mut Connection, name: &str) -> Result<Option<Slot>, PostgresError> {
    let rows = connection.query(&format!("READ_REPLICATION_SLOT {}", quoted(name)))?;
    let Some(row) = rows.first() else { return Ok(None) };
    let value = |at: usize| row.get(at).and_then(Option::as_deref);
    match value(0) {
        None => Ok(None),
        Some("physical") => {
            let restart = value(1).and_then(|text| text.parse().ok());
            let timeline = value(2).and_then(|text| text.parse().ok()).map(Timeline);
            Ok(Some(Slot { restart: restart.zip(timeline) }))
        }
        Some(_) => Err(PostgresError::Unfit {
            address: connection.shown().to_owned(),
            what: format!("the replication slot {name} is not a physical one"),
        }),
    }
}

/// Creates a slot that keeps the log from now on.
pub fn create_slot(connection: &mut Connection, name: &str) -> Result<(), PostgresError> {
    let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL (RESERVE_WAL)", quoted(name));
    connection.query(&command).map(drop)
}

/// Drops a slot.
pub fn drop_slot(connection: &mut Connection, name: &str) -> Result<(), PostgresError> {
    connection.query(&format!("DROP_REPLICATION_SLOT {} WAIT", quoted(name))).map(drop)
}

/// Creates a slot that goes with this connection.
pub fn create_temporary_slot(connection: &mut Connection, name: &str) -> Result<(), PostgresError> {
    let name = quoted(name);
    let command = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY PHYSICAL (RESERVE_WAL)");
    connection.query(&command).map(drop)
}

/// The history of a timeline: file name and content.
pub fn timeline_history(
    connection: &mut Connection,
    timeline: Timeline,
) -> Result<(String, Vec<u8>), PostgresError> {
    let rows = connection.query(&format!("TIMELINE_HISTORY {timeline}"))?;
    let read = |row: &Row| Some((row.first()?.clone()?, row.get(1)?.clone()?.into_bytes()));
    let found = rows.first().and_then(read);
    found
        .filter(|(_, content)| content.len() as u64 <= limits::TIMELINE_HISTORY_BYTES_MAX)
        .ok_or_else(|| connection.unexpected("reading the history of a timeline"))
}

/// A name in double quotes.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
