//! Streaming of the log: messages of `START_REPLICATION`, and what is answered.
//!
//! The server keeps its log up to what is acknowledged as flushed, so that must only ever be what
//! is durable elsewhere.
//! Source: the manual of `PostgreSQL`, "Streaming Replication Protocol", `START_REPLICATION`.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use crate::format::postgres::lsn::{Lsn, Timeline};
use crate::source::postgres::connection::Connection;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::replication::quoted;
use crate::source::postgres::wire::{Incoming, values};

/// Microseconds from 1970 to 2000, where the server's times begin.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
const DOING: &str = "receiving the log";

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Streamed {
    /// Bytes of the log.
    Data {
        /// Position of the first.
        start: Lsn,
        /// The bytes.
        bytes: Bytes,
        /// The server's clock, microseconds since 1970.
        clock: i64,
    },
    /// Nothing new; the server has come to `end`, and may want to hear from us.
    Alive {
        /// How far its log goes.
        end: Lsn,
        /// The server's clock, microseconds since 1970.
        clock: i64,
        /// It waits for an answer.
        wants_reply: bool,
    },
    /// The timeline ends here, and goes on as another one.
    TimelineEnds {
        /// The next timeline.
        next: Timeline,
        /// Where it begins.
        at: Lsn,
    },
    /// Nothing came for as long as the connection's patience.
    Silence,
}

/// A stream of the log.
pub struct WalStream {
    connection: Connection,
    pending: Option<(Lsn, i64)>,
}

impl WalStream {
    /// Asks for the log of a timeline from a position on.
    pub fn start(
        mut connection: Connection,
        slot: &str,
        from: Lsn,
        timeline: Timeline,
    ) -> Result<Self, PostgresError> {
        let slot = quoted(slot);
        let command = format!("START_REPLICATION SLOT {slot} PHYSICAL {from} TIMELINE {timeline}");
        connection.send(|out| frontend::query(&command, out))?;
        match connection.incoming("waiting for the log")? {
            Incoming::CopyBoth => Ok(Self { connection, pending: None }),
            _ => Err(connection.unexpected("waiting for the log")),
        }
    }

    /// The connection, for its timeout.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The next of what comes.
    pub fn take(&mut self) -> Result<Streamed, PostgresError> {
        let incoming = match self.connection.incoming(DOING) {
            Err(PostgresError::Broken { source, .. }) if is_silence(&source) => {
                return Ok(Streamed::Silence);
            }
            incoming => incoming?,
        };
        let piece = match incoming {
            Incoming::Copy(piece) => piece,
            Incoming::Message(Message::CopyDone) => return self.end_of_timeline(),
            // A server that is shut down ends the stream so.
            Incoming::Message(Message::CommandComplete(_)) => {
                let address = self.connection.shown().to_owned();
                let source = std::io::ErrorKind::ConnectionAborted.into();
                return Err(PostgresError::Broken { address, doing: DOING, source });
            }
            _ => return Err(self.connection.unexpected(DOING)),
        };
        let mut bytes = piece.bytes;
        let (start, clock) = if piece.is_first {
            match bytes.first().copied() {
                Some(b'w') if bytes.len() >= 25 => {
                    bytes.advance(1);
                    let start = Lsn(bytes.get_u64());
                    bytes.advance(8);
                    (start, bytes.get_i64().saturating_add(EPOCH_MICROSECONDS))
                }
                Some(b'k') if bytes.len() >= 18 => {
                    bytes.advance(1);
                    let end = Lsn(bytes.get_u64());
                    let clock = bytes.get_i64().saturating_add(EPOCH_MICROSECONDS);
                    return Ok(Streamed::Alive { end, clock, wants_reply: bytes.get_u8() != 0 });
                }
                _ => return Err(self.connection.unexpected(DOING)),
            }
        } else {
            self.pending.ok_or_else(|| self.connection.unexpected(DOING))?
        };
        let next = Lsn(start.0.saturating_add(bytes.len() as u64));
        self.pending = (!piece.is_last).then_some((next, clock));
        Ok(Streamed::Data { start, bytes, clock })
    }

    /// Says how far the log was received, and how far it is durable.
    pub fn acknowledge(&mut self, received: Lsn, durable: Lsn) -> Result<(), PostgresError> {
        let mut message = BytesMut::with_capacity(34);
        message.put_u8(b'r');
        message.put_u64(received.0);
        message.put_u64(durable.0);
        message.put_u64(0);
        let now = jiff::Timestamp::now().as_microsecond().saturating_sub(EPOCH_MICROSECONDS);
        message.put_i64(now);
        message.put_u8(0);
        self.connection.copy(&message)
    }

    fn end_of_timeline(&mut self) -> Result<Streamed, PostgresError> {
        self.connection.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        let mut next = None;
        loop {
            match self.connection.message("reading the end of a timeline")? {
                Message::DataRow(row) => {
                    let row = values(&row).unwrap_or_default();
                    let timeline = row.first().and_then(|t| t.as_ref()?.parse().ok());
                    let at = row.get(1).and_then(|at| at.as_ref()?.parse().ok());
                    next = timeline.map(Timeline).zip(at);
                }
                Message::RowDescription(_) | Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => break,
                _ => return Err(self.connection.unexpected("reading the end of a timeline")),
            }
        }
        let (next, at) = next.ok_or_else(|| self.connection.unexpected(DOING))?;
        Ok(Streamed::TimelineEnds { next, at })
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
