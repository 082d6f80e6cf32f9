//! The content of the files of a dump, as it comes from the server: rows of a table, large objects.

use bytes::{Buf as _, Bytes};
use postgres_protocol::message::backend::Message;

use crate::source::postgres::connection::Connection;
use crate::source::postgres::dump::PlannedTable;
use crate::source::postgres::error::PostgresError;
use crate::source::postgres::row_sums::{RowSums, end_rows};

/// Bytes of a large object that are asked for at once.
const OBJECT_STEP_BYTES: usize = 4 * 1024 * 1024;
/// What `COPY` in binary form begins with: a signature of 11 bytes, flags, and the length of more.
const BINARY_HEAD_BYTES: usize = 19;
const DOING: &str = "receiving rows";

/// The rows of a table, and what stands behind them in the file.
pub struct TableReader<'a> {
    connection: &'a mut Connection,
    name: &'a str,
    sums: RowSums,
    piece: Bytes,
    trailer: Bytes,
    is_open: bool,
    failure: Option<PostgresError>,
}

impl<'a> TableReader<'a> {
    /// Asks for the rows.
    pub fn start(
        connection: &'a mut Connection,
        table: &'a PlannedTable,
    ) -> Result<Self, PostgresError> {
        connection.send_query(&table.statement)?;
        let Message::CopyOutResponse(_) = connection.message(DOING)? else {
            return Err(connection.unexpected(DOING));
        };
        Ok(Self {
            connection,
            name: &table.name,
            sums: RowSums::default(),
            piece: Bytes::new(),
            trailer: Bytes::from(table.trailer.clone()),
            is_open: true,
            failure: None,
        })
    }

    /// The next bytes, 0 at the end; nothing after a failure.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.piece.is_empty() {
                match self.next_piece() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        self.failure = Some(error);
                        return None;
                    }
                }
            }
            let length = self.piece.len().min(buffer.len() - filled);
            self.piece.copy_to_slice(&mut buffer[filled..filled + length]);
            filled += length;
        }
        Some(filled)
    }

    fn next_piece(&mut self) -> Result<bool, PostgresError> {
        while self.is_open {
            if let Some(piece) = self.connection.copied(DOING)? {
                self.sums.add(&piece.bytes);
                self.piece = piece.bytes;
            } else {
                self.is_open = false;
                end_rows(self.connection, &self.sums, self.name)?;
            }
            if !self.piece.is_empty() {
                return Ok(true);
            }
        }
        self.piece = std::mem::take(&mut self.trailer);
        Ok(!self.piece.is_empty())
    }

    /// Why reading ended early.
    pub fn take_failure(&mut self) -> Option<PostgresError> {
        self.failure.take()
    }

    /// What the rows were; everything must have been read.
    pub fn finish(self) -> Result<RowSums, PostgresError> {
        if self.is_open || !self.piece.is_empty() || !self.trailer.is_empty() {
            let what = format!("the rows of {} were not read to their end", self.name);
            return Err(PostgresError::Dump { what });
        }
        Ok(self.sums)
    }
}

/// The content of a large object.
pub struct LargeObjectReader<'a> {
    connection: &'a mut Connection,
    number: u32,
    offset: u64,
    step: Bytes,
    is_last: bool,
    failure: Option<PostgresError>,
}

impl<'a> LargeObjectReader<'a> {
    /// Of object `number`.
    #[must_use]
    pub fn new(connection: &'a mut Connection, number: u32) -> Self {
        let step = Bytes::new();
        Self { connection, number, offset: 0, step, is_last: false, failure: None }
    }

    /// The next bytes, 0 at the end; nothing after a failure.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.step.is_empty() && !self.is_last {
            match self.next_step() {
                Ok(step) => self.step = step,
                Err(error) => {
                    self.failure = Some(error);
                    return None;
                }
            }
        }
        let length = self.step.len().min(buffer.len());
        self.step.copy_to_slice(&mut buffer[..length]);
        Some(length)
    }

    fn next_step(&mut self) -> Result<Bytes, PostgresError> {
        let (number, offset) = (self.number, self.offset);
        let query = format!(
            "COPY (SELECT pg_catalog.lo_get({number}, {offset}, {OBJECT_STEP_BYTES})) \
             TO STDOUT (FORMAT binary)"
        );
        self.connection.send_query(query.as_bytes())?;
        let Message::CopyOutResponse(_) = self.connection.message(DOING)? else {
            return Err(self.connection.unexpected(DOING));
        };
        let mut bytes = Vec::new();
        while let Some(piece) = self.connection.copied(DOING)? {
            bytes.extend_from_slice(&piece.bytes);
        }
        for _ in 0..2 {
            match self.connection.message(DOING)? {
                Message::CommandComplete(_) | Message::ReadyForQuery(_) => {}
                _ => return Err(self.connection.unexpected(DOING)),
            }
        }
        let value = only_value(Bytes::from(bytes));
        let value = value.ok_or_else(|| self.connection.unexpected(DOING))?;
        self.offset += value.len() as u64;
        self.is_last = value.len() < OBJECT_STEP_BYTES;
        Ok(value)
    }

    /// Why reading ended early.
    pub fn take_failure(&mut self) -> Option<PostgresError> {
        self.failure.take()
    }
}

/// The value in a `COPY` in binary form of one row of one column.
fn only_value(mut bytes: Bytes) -> Option<Bytes> {
    if bytes.len() < BINARY_HEAD_BYTES + 2 + 4 {
        return None;
    }
    bytes.advance(BINARY_HEAD_BYTES);
    let columns = bytes.get_u16();
    let length = bytes.get_u32() as usize;
    if columns != 1 || bytes.len() != length.checked_add(2)? || bytes[length..] != [0xff, 0xff] {
        return None;
    }
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_taken_and_nothing_else() {
        let head = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
        let whole = [&head[..], b"\0\x01\0\0\0\x02ab\xff\xff"].concat();
        assert_eq!(only_value(Bytes::from(whole.clone())), Some(Bytes::from_static(b"ab")));
        for length in 0..whole.len() {
            assert_eq!(only_value(Bytes::copy_from_slice(&whole[..length])), None, "{length}");
        }
        let null = [&head[..], b"\0\x01\xff\xff\xff\xff\xff\xff"].concat();
        assert_eq!(only_value(Bytes::from(null)), None);
    }
}
