//! All data of a server as a stream: its dump, as it is sent to a replica.
//!
//! A thread takes it from the server as fast as it comes; what reads it may be slower. The stream
//! has an end only where the dump is whole: framing, opcode of the end and checksum. What comes over
//! the connection after it is for whoever asked for that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::format::redis::aux_fields::stream_database;
use crate::source::error::SourceError;
use crate::source::redis::connection::{Access, Connection, READ_BYTES};
use crate::source::redis::error::RedisError;
use crate::source::redis::payload::Payload;
use crate::source::redis::replication::{Begun, Position, Wanted, begin};
use crate::source::redis::spool::{SpoolReader, SpoolWriter, spool};
use crate::source::stream::ByteStream;

/// The front of a dump, in which it says what it is of.
const FRONT_BYTES: usize = 16 * 1024;

/// What goes on with the connection when the dump is whole, and the database that the commands behind
/// it are for, where the dump says that.
pub type AfterDump = Box<dyn FnOnce(Connection, Option<u32>) + Send>;

/// A dump that comes.
pub struct RedisSnapshot {
    shown: String,
    folder: PathBuf,
    reader: SpoolReader,
    outcome: Option<Receiver<Result<(), RedisError>>>,
    failure: Option<RedisError>,
    is_ended: bool,
}

impl RedisSnapshot {
    /// Asks for a dump, and begins to take it; with the position in the server's stream of commands
    /// that it is of, where the server says it, and how long ago it may have been begun. What cannot
    /// be read at once waits in a file in `folder`.
    ///
    /// # Errors
    /// Nobody answers, or the server refuses.
    pub fn start(
        access: &Access,
        folder: &Path,
    ) -> Result<(Self, Option<Position>, Duration), RedisError> {
        let mut connection = access.connect()?;
        let shown = connection.shown().to_owned();
        let (begun, age) = begin(&mut connection, Wanted::DumpOnly)?;
        let position = match begun {
            Begun::Full(position) => position,
            Begun::Continued(_) => {
                let what = "it goes on where nothing was asked for".to_owned();
                return Err(RedisError::Protocol { address: shown, what });
            }
        };
        let stream = Self::take(connection, folder, Box::new(|connection, _| drop(connection)))?;
        Ok((stream, position, age))
    }

    /// Takes the dump that comes over a connection next; `after` is given the connection when all of
    /// it came, in the thread that has taken it.
    ///
    /// # Errors
    /// There is no room for what cannot be read at once.
    pub fn take(
        mut connection: Connection,
        folder: &Path,
        after: AfterDump,
    ) -> Result<Self, RedisError> {
        let shown = connection.shown().to_owned();
        let failed = |source| RedisError::Spool {
            address: shown.clone(),
            folder: folder.to_owned(),
            source,
        };
        let (writer, reader) = spool(folder).map_err(failed)?;
        let (said, outcome) = bounded(1);
        let thread = std::thread::Builder::new().name("redis".to_owned());
        let take = move || {
            let mut front = Vec::new();
            let received = receive(&mut connection, writer, &mut front);
            let is_whole = matches!(received, Ok(true));
            // Fails only where nobody wants the dump any more.
            drop(said.send(received.map(drop)));
            if is_whole {
                after(connection, stream_database(&front));
            }
        };
        drop(thread.spawn(take).map_err(failed)?);
        let (folder, outcome) = (folder.to_owned(), Some(outcome));
        Ok(Self { shown, folder, reader, outcome, failure: None, is_ended: false })
    }

    /// How the thread has ended with the dump.
    fn outcome(&mut self) -> Result<(), RedisError> {
        let lost = |what: &str| {
            Err(RedisError::Dump { address: self.shown.clone(), what: what.to_owned() })
        };
        match self.outcome.take() {
            Some(outcome) => outcome.recv().unwrap_or_else(|_| lost("its thread has ended")),
            None if self.is_ended => Ok(()),
            None => lost("it was not read to its end"),
        }
    }
}

/// Whether all of the dump was taken by whoever reads it; `front` is its front.
fn receive(
    connection: &mut Connection,
    mut writer: SpoolWriter,
    front: &mut Vec<u8>,
) -> Result<bool, RedisError> {
    let mut payload = Payload::default();
    let (mut buffer, mut dump) = (vec![0; READ_BYTES], Vec::with_capacity(READ_BYTES));
    while !payload.is_done() {
        let length = connection.read(&mut buffer, "taking the dump")?;
        let is_awaited = payload.is_awaited();
        let taken = payload.take(&buffer[..length], &mut dump).map_err(|what| {
            if is_awaited {
                connection.said(what)
            } else {
                RedisError::Dump { address: connection.shown().to_owned(), what }
            }
        })?;
        let wanted = FRONT_BYTES.saturating_sub(front.len()).min(dump.len());
        front.extend_from_slice(&dump[..wanted]);
        if !dump.is_empty() && !writer.write(&mut dump) {
            return Ok(false);
        }
        connection.unread(&buffer[taken..length]);
    }
    writer.finish();
    Ok(true)
}

impl ByteStream for RedisSnapshot {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        if self.failure.is_some() {
            return Err(SourceError::Unfinished { name: self.shown.clone() });
        }
        let length = self.reader.read(buffer).map_err(|source| SourceError::Io {
            action: "read",
            path: self.folder.clone(),
            source,
        })?;
        // The end of the queue is the end of the dump only where the thread says so.
        if length == 0 && !self.is_ended {
            match self.outcome() {
                Ok(()) => self.is_ended = true,
                Err(error) => {
                    self.failure = Some(error);
                    return Err(SourceError::Unfinished { name: self.shown.clone() });
                }
            }
        }
        Ok(length)
    }

    fn finish(mut self: Box<Self>) -> Result<(), SourceError> {
        match self.failure.take() {
            Some(failure) => Err(SourceError::Redis(failure)),
            None if self.is_ended => Ok(()),
            None => Err(SourceError::Unfinished { name: self.shown.clone() }),
        }
    }
}
