//! `BASE_BACKUP`: a whole cluster as it streams from the server, archive after archive.
//!
//! The stream is read in the form of version 15 and later; it is complete only when
//! [`BaseBackup::finish`] has seen the server's last word.
//! Source: the manual of `PostgreSQL`, "Streaming Replication Protocol", `BASE_BACKUP`.

use std::io::Read;

use bytes::{Buf as _, Bytes};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::format::postgres::facts::Tablespace;
use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::source::postgres::connection::Connection;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::replication::literal;
use crate::source::postgres::wire::{Incoming, Row, values};

/// How the server is to go about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Label, for `backup_label` and the server's log.
    pub label: String,
    /// Write the checkpoint as fast as possible instead of spreading it out.
    pub fast_checkpoint: bool,
    /// Most kilobytes a second that the server may send.
    pub rate_kilobytes_max: Option<u32>,
    /// Only what changed since the backup whose manifest was uploaded on the same connection.
    pub incremental: bool,
}

/// One part of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A tar archive: the data directory, or a tablespace by its number.
    Archive {
        /// The tablespace; `None` for the data directory.
        tablespace: Option<u32>,
    },
    /// The list of all files, `backup_manifest`.
    Manifest,
}

/// A base backup that is being sent. Reading gives the bytes of the part that
/// [`BaseBackup::next_part`] announced, up to its end.
pub struct BaseBackup {
    connection: Connection,
    /// Where recovery will have to begin.
    pub start: Lsn,
    /// The timeline it is taken on.
    pub timeline: Timeline,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    data: Bytes,
    kind: u8,
    next: Option<Part>,
    is_done: bool,
    failure: Option<PostgresError>,
}

/// Bytes of a manifest that go in one message.
const UPLOAD_BYTES: usize = 64 * 1024;
const DOING: &str = "receiving a base backup";

impl BaseBackup {
    /// Asks for a base backup. `connection` is one for replication.
    ///
    /// # Errors
    /// The server refuses, or its answer is not understood.
    pub fn start(
        mut connection: Connection,
        options: &BaseBackupOptions,
    ) -> Result<Self, PostgresError> {
        let command = command(options);
        connection.send(|out| frontend::query(&command, out))?;
        let mut rows: Vec<Row> = Vec::new();
        loop {
            match connection.incoming("waiting for a base backup to begin")? {
                Incoming::Message(Message::CopyOutResponse(_)) => break,
                Incoming::Message(Message::DataRow(row)) => {
                    rows.push(values(&row).ok_or_else(|| connection.unexpected(DOING))?);
                }
                Incoming::Message(Message::RowDescription(_) | Message::CommandComplete(_)) => {}
                _ => return Err(connection.unexpected(DOING)),
            }
        }
        let mut rows = rows.into_iter();
        let position = rows.next().and_then(|row| position(&row));
        let (start, timeline) = position.ok_or_else(|| connection.unexpected(DOING))?;
        let tablespace = |row: Row| {
            let mut values = row.into_iter();
            let oid = values.next()??.parse().ok()?;
            Some(Tablespace { oid, path: values.next()?? })
        };
        Ok(Self {
            connection,
            start,
            timeline,
            tablespaces: rows.filter_map(tablespace).collect(),
            data: Bytes::new(),
            kind: 0,
            next: None,
            is_done: false,
            failure: None,
        })
    }

    /// Passes over what is left of the part, and gives the next one; `None` when all are through.
    pub fn next_part(&mut self) -> Result<Option<Part>, PostgresError> {
        self.data.clear();
        while self.next.is_none() && !self.is_done {
            self.receive()?;
            self.data.clear();
        }
        Ok(self.next.take())
    }

    /// The server's last word: up to where recovery has to come. Only now is it complete.
    pub fn finish(mut self) -> Result<(Lsn, Timeline, Connection), PostgresError> {
        if !self.is_done && self.next_part()?.is_some() {
            return Err(self.connection.unexpected("ending a base backup"));
        }
        let mut stop = None;
        loop {
            match self.connection.message("ending a base backup")? {
                Message::DataRow(row) => {
                    let row = values(&row);
                    stop = row.and_then(|row| position(&row));
                }
                Message::RowDescription(_) | Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => break,
                _ => return Err(self.connection.unexpected("ending a base backup")),
            }
        }
        let stop = stop.ok_or_else(|| self.connection.unexpected("ending a base backup"));
        stop.map(|(stop, timeline)| (stop, timeline, self.connection))
    }

    /// Why reading failed, where it was the server or the connection.
    pub fn take_failure(&mut self) -> Option<PostgresError> {
        self.failure.take()
    }

    /// Takes one message or a part of one.
    fn receive(&mut self) -> Result<(), PostgresError> {
        let Some(mut piece) = self.connection.copied(DOING)? else {
            self.is_done = true;
            return Ok(());
        };
        if piece.is_first {
            // Messages without any byte do come.
            let Some(kind) = piece.bytes.first().copied() else { return Ok(()) };
            piece.bytes.advance(1);
            self.kind = kind;
        }
        match self.kind {
            b'd' => self.data = piece.bytes,
            b'p' => {}
            b'm' => self.next = Some(Part::Manifest),
            b'n' => {
                let name = piece.bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = std::str::from_utf8(name).ok();
                let stem = name.and_then(|name| name.strip_suffix(".tar"));
                let tablespace = match stem {
                    Some("base") => None,
                    Some(oid) => Some(oid.parse().map_err(|_| self.connection.unexpected(DOING))?),
                    None => return Err(self.connection.unexpected(DOING)),
                };
                self.next = Some(Part::Archive { tablespace });
            }
            _ => return Err(self.connection.unexpected(DOING)),
        }
        Ok(())
    }
}

/// Gives the server the manifest of the backup since which changes are wanted.
///
/// # Errors
/// The server refuses it, or it cannot be read; the connection is of no use any more then.
pub fn upload_manifest(
    connection: &mut Connection,
    manifest: &mut dyn Read,
) -> Result<(), PostgresError> {
    const DOING: &str = "giving the last manifest to the server";
    connection.send_query(b"UPLOAD_MANIFEST")?;
    let Message::CopyInResponse(_) = connection.message(DOING)? else {
        return Err(connection.unexpected(DOING));
    };
    let mut buffer = vec![0; UPLOAD_BYTES];
    loop {
        let address = connection.shown().to_owned();
        let broken = |source| PostgresError::Broken { address, doing: DOING, source };
        match manifest.read(&mut buffer).map_err(broken)? {
            0 => break,
            length => connection.copy(&buffer[..length])?,
        }
    }
    connection.send(|out| {
        frontend::copy_done(out);
        Ok(())
    })?;
    loop {
        match connection.message(DOING)? {
            Message::CommandComplete(_) => {}
            Message::ReadyForQuery(_) => return Ok(()),
            _ => return Err(connection.unexpected(DOING)),
        }
    }
}

impl Read for BaseBackup {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.data.is_empty() {
            if self.is_done || self.next.is_some() {
                return Ok(0);
            }
            if let Err(error) = self.receive() {
                let said = std::io::Error::other(error.to_string());
                self.failure = Some(error);
                return Err(said);
            }
        }
        let length = self.data.len().min(buffer.len());
        self.data.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

fn command(options: &BaseBackupOptions) -> String {
    let checkpoint = if options.fast_checkpoint { "fast" } else { "spread" };
    let rate = options.rate_kilobytes_max;
    let rate = rate.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
    let incremental = if options.incremental { ", INCREMENTAL true" } else { "" };
    format!(
        "BASE_BACKUP (LABEL {}, CHECKPOINT '{checkpoint}', WAL true, WAIT false, \
         MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', TABLESPACE_MAP true, \
         VERIFY_CHECKSUMS false, TARGET 'client'{rate}{incremental})",
        literal(&options.label),
    )
}

fn position(row: &Row) -> Option<(Lsn, Timeline)> {
    let lsn = row.first()?.as_ref()?.parse().ok()?;
    let timeline = row.get(1)?.as_ref()?.parse().ok().map(Timeline)?;
    Some((lsn, timeline))
}
