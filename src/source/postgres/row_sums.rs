//! Count and sum of the rows that `COPY` sends, whatever their order.
//!
//! The sum is that of the first 128 bits of the BLAKE3 of each row, least significant byte first,
//! modulo 2^128: the same rows in another order have the same sum.

use postgres_protocol::message::backend::Message;

use crate::crypto::ids::content_hash;
use crate::source::postgres::connection::Connection;
use crate::source::postgres::error::PostgresError;

const DOING: &str = "receiving rows";

/// What was seen of a table so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RowSums {
    /// Rows.
    pub rows: u64,
    /// Bytes of them, with their ends.
    pub bytes: u64,
    /// Their sum.
    pub sum: u128,
    /// The beginning of a row.
    begun: Vec<u8>,
}

impl RowSums {
    /// Takes the next bytes; a row may come in any number of parts.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.begun.is_empty()
            && let Some((b'\n', row)) = bytes.split_last()
            && !row.contains(&b'\n')
        {
            self.add_row(row);
            return;
        }
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if let Some((b'\n', row)) = part.split_last() {
                let is_whole = self.begun.len() == part.len();
                if is_whole {
                    self.add_row(row);
                } else {
                    let begun = std::mem::take(&mut self.begun);
                    self.add_row(&begun[..begun.len() - 1]);
                }
                self.begun.clear();
            }
        }
    }

    /// Whether the last row has ended.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }

    fn add_row(&mut self, row: &[u8]) {
        self.rows += 1;
        let hash = content_hash(row);
        let mut part = [0; 16];
        part.copy_from_slice(&hash.as_bytes()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(part));
    }
}

/// Runs `COPY … TO STDOUT`, and keeps what the rows of `name` were.
///
/// # Errors
/// What the server says, or that it counts other than what came.
pub fn rows_of(
    connection: &mut Connection,
    statement: &str,
    name: &str,
) -> Result<RowSums, PostgresError> {
    connection.send_query(statement.as_bytes())?;
    let Message::CopyOutResponse(_) = connection.message(DOING)? else {
        return Err(connection.unexpected(DOING));
    };
    let mut sums = RowSums::default();
    while let Some(piece) = connection.copied(DOING)? {
        sums.add(&piece.bytes);
    }
    end_rows(connection, &sums, name)?;
    Ok(sums)
}

/// The server must have counted what came.
///
/// # Errors
/// It has not, or breaks off.
pub fn end_rows(
    connection: &mut Connection,
    sums: &RowSums,
    name: &str,
) -> Result<(), PostgresError> {
    let Message::CommandComplete(done) = connection.message(DOING)? else {
        return Err(connection.unexpected(DOING));
    };
    let tag = done.tag().unwrap_or_default().to_owned();
    let Message::ReadyForQuery(_) = connection.message(DOING)? else {
        return Err(connection.unexpected(DOING));
    };
    let rows = sums.rows;
    if sums.is_whole() && tag == format!("COPY {rows}") {
        return Ok(());
    }
    let what = format!("{name} has {rows} rows, and the server says {tag}");
    Err(PostgresError::Dump { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(parts: &[&[u8]]) -> RowSums {
        let mut sums = RowSums::default();
        for part in parts {
            sums.add(part);
        }
        sums
    }

    #[test]
    fn parts_and_order_do_not_matter() {
        let whole = sums(&[b"1\tx\n", b"2\ty\n", b"\n"]);
        assert_eq!((whole.rows, whole.bytes, whole.is_whole()), (3, 9, true));
        assert_eq!(sums(&[b"1\tx\n2\ty\n\n"]), whole);
        assert_eq!(sums(&[b"2\ty\n", b"\n1", b"\tx", b"\n"]), whole);
        assert_ne!(sums(&[b"1\tx\n", b"2\tz\n", b"\n"]).sum, whole.sum);
        assert_ne!(sums(&[b"1\tx\n", b"1\tx\n", b"\n"]).sum, whole.sum);
        assert!(!sums(&[b"1\tx"]).is_whole());
    }
}
