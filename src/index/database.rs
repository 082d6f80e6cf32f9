//! The SQLite database: packs with their tables, and chunk ids by prefix.
//!
//! One database for each domain of a repository. A pack row appears in one transaction with its
//! table; chunk rows follow in large sorted batches, and packs whose chunk rows are still to come
//! are marked, so a crash between the two loses nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::format::bytes::Fields;
use crate::format::index_segment::IndexedPack;
use crate::format::pack::{FrameEntry, PackKind, PackTable};
use crate::id::{ChunkId, ObjectId, PackHandle};

/// Raised whenever the tables change; another version is rebuilt from the repository.
const SCHEMA_VERSION: i64 = 1;
/// Page cache in KiB (negative: SQLite's way to say so).
const CACHE_KIB: i64 = -16 * 1024;
const BUSY_TIMEOUT: Duration = Duration::from_mins(1);

const SCHEMA: &str = "
CREATE TABLE pack(
  number INTEGER PRIMARY KEY,
  handle BLOB NOT NULL UNIQUE,
  name BLOB NOT NULL,
  size INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  chunks INTEGER NOT NULL,
  run TEXT,
  indexed INTEGER NOT NULL DEFAULT 0,
  tables BLOB NOT NULL
);
CREATE INDEX pack_run ON pack(run) WHERE run IS NOT NULL;
CREATE INDEX pack_indexed ON pack(indexed) WHERE indexed = 0;
CREATE TABLE chunk(prefix INTEGER, pack INTEGER, ordinal INTEGER,
  PRIMARY KEY(prefix, pack, ordinal)) WITHOUT ROWID;
CREATE TABLE segment(name BLOB PRIMARY KEY) WITHOUT ROWID;
";

/// Why the local index could not be used; it may be deleted at any time.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// SQLite failed.
    #[error("the local index {path} failed")]
    Database {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A row does not hold what it must.
    #[error("the local index {path} holds a damaged pack table")]
    Damaged {
        /// The database file.
        path: PathBuf,
    },
}

/// A pack as the index lists it, without its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// Number in this database, in the order of arrival.
    pub number: u32,
    /// Its random name.
    pub handle: PackHandle,
    /// Name of the object.
    pub name: ObjectId,
    /// Stored length in bytes.
    pub size: u64,
    /// What it holds.
    pub kind: PackKind,
    /// Chunks in it.
    pub chunks: u32,
    /// The run that stored it, while no commit names it.
    pub run: Option<String>,
}

/// An open index database.
pub struct IndexDatabase {
    connection: Connection,
    path: PathBuf,
}

impl IndexDatabase {
    /// Opens the database, making it anew where it is missing or of another version.
    ///
    /// The file is readable by its owner only; its folder must exist.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let at = |source| IndexError::Database { path: path.into(), source };
        let connection = Connection::open(path).map_err(at)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(at)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(at)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(at)?;
        connection.pragma_update(None, "cache_size", CACHE_KIB).map_err(at)?;
        connection.pragma_update(None, "trusted_schema", false).map_err(at)?;
        let database = Self { connection, path: path.into() };
        database.migrate()?;
        Ok(database)
    }

    fn migrate(&self) -> Result<(), IndexError> {
        self.in_transaction(|connection| {
            let version: i64 =
                connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if version == SCHEMA_VERSION {
                return Ok(());
            }
            connection.execute_batch(
                "DROP TABLE IF EXISTS pack; DROP TABLE IF EXISTS chunk; DROP TABLE IF EXISTS segment;",
            )?;
            connection.execute_batch(SCHEMA)?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)
        })
    }

    fn in_transaction<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        let run = || {
            let transaction = rusqlite::Transaction::new_unchecked(
                &self.connection,
                rusqlite::TransactionBehavior::Immediate,
            )?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> IndexError {
        IndexError::Database { path: self.path.clone(), source }
    }

    /// All packs, in the order of their numbers, from `first` on.
    pub fn packs_from(&self, first: u32) -> Result<Vec<PackRow>, IndexError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT number, handle, name, size, kind, chunks, run FROM pack WHERE number >= ? ORDER BY number",
            )?;
            statement.query_map([first], pack_row)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Enters a pack; `run` names the run whose commit does not name it yet. Returns its number.
    ///
    /// A pack of that handle that is there already stays as it is, but a commit makes it common.
    pub fn add_pack(&self, pack: &IndexedPack, run: Option<&str>) -> Result<u32, IndexError> {
        self.in_transaction(|connection| insert_pack(connection, pack, run))
    }

    /// Enters all packs of a committed segment, once. `false`, and nothing is entered, where one of
    /// its handles stands for another pack or another table already.
    pub fn add_segment(&self, name: &ObjectId, packs: &[IndexedPack]) -> Result<bool, IndexError> {
        self.in_transaction(|connection| {
            for pack in packs {
                if contradicts(connection, pack)? {
                    return Ok(false);
                }
            }
            for pack in packs {
                insert_pack(connection, pack, None)?;
            }
            connection
                .execute("INSERT OR IGNORE INTO segment(name) VALUES (?)", [&name.0[..]])
                .map(|_| true)
        })
    }

    /// Names of the segments that were entered.
    pub fn segments(&self) -> Result<std::collections::HashSet<ObjectId>, IndexError> {
        let read = || {
            let mut statement = self.connection.prepare_cached("SELECT name FROM segment")?;
            let names = statement.query_map([], |row| blob(row, 0).map(ObjectId))?;
            names.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// The commit of `run` names its packs now, in the segments given.
    pub fn commit_run(&self, run: &str, segments: &[ObjectId]) -> Result<(), IndexError> {
        self.in_transaction(|connection| {
            connection.execute("UPDATE pack SET run = NULL WHERE run = ?", [run])?;
            for name in segments {
                connection
                    .execute("INSERT OR IGNORE INTO segment(name) VALUES (?)", [&name.0[..]])?;
            }
            Ok(())
        })
    }

    /// Packs that were stored by a run which ended without a commit become those of `run`.
    pub fn adopt_run(&self, dead: &str, run: &str) -> Result<(), IndexError> {
        self.in_transaction(|connection| {
            connection.execute("UPDATE pack SET run = ? WHERE run = ?", [run, dead]).map(drop)
        })
    }

    /// Removes packs and their chunks: they do not exist, or not any more.
    pub fn remove_packs(&self, numbers: &[u32]) -> Result<(), IndexError> {
        self.in_transaction(|connection| {
            for number in numbers {
                let ids =
                    read_tables(connection, *number)?.map(|pack| pack.ids).unwrap_or_default();
                let mut delete =
                    connection.prepare_cached("DELETE FROM chunk WHERE prefix = ? AND pack = ?")?;
                for id in ids {
                    delete.execute(params![prefix(&id), number])?;
                }
                connection.execute("DELETE FROM pack WHERE number = ?", [number])?;
            }
            Ok(())
        })
    }

    /// A pack with its table and chunk ids.
    pub fn pack(&self, number: u32) -> Result<Option<IndexedPack>, IndexError> {
        read_tables(&self.connection, number).map_err(|source| self.failed(source))
    }

    /// Number of the pack with that handle.
    pub fn number_of(&self, handle: &PackHandle) -> Result<Option<u32>, IndexError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT number FROM pack WHERE handle = ?")
            .map_err(|source| self.failed(source))?;
        statement
            .query_row([&handle.0[..]], |row| row.get(0))
            .optional()
            .map_err(|source| self.failed(source))
    }

    /// Packs whose chunk rows are still to come.
    pub fn packs_without_chunks(&self) -> Result<Vec<u32>, IndexError> {
        let read = || {
            let mut statement = self
                .connection
                .prepare_cached("SELECT number FROM pack WHERE indexed = 0 ORDER BY number")?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Enters chunk rows, given in ascending order, and marks their packs.
    pub fn add_chunks(
        &self,
        rows: impl Iterator<Item = (i64, u32, u32)>,
        packs: &[u32],
    ) -> Result<(), IndexError> {
        self.in_transaction(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT OR IGNORE INTO chunk VALUES (?, ?, ?)")?;
            for (prefix, pack, ordinal) in rows {
                insert.execute(params![prefix, pack, ordinal])?;
            }
            let mut mark =
                connection.prepare_cached("UPDATE pack SET indexed = 1 WHERE number = ?")?;
            for number in packs {
                mark.execute([number])?;
            }
            Ok(())
        })
    }

    /// Places where a chunk with that prefix may be: (pack number, ordinal).
    pub fn candidates(&self, prefix: i64) -> Result<Vec<(u32, u32)>, IndexError> {
        let read = || {
            let mut statement = self
                .connection
                .prepare_cached("SELECT pack, ordinal FROM chunk WHERE prefix = ?")?;
            statement
                .query_map([prefix], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Chunk rows in the database.
    pub fn chunk_rows(&self) -> Result<u64, IndexError> {
        self.connection
            .query_row("SELECT COALESCE(SUM(chunks), 0) FROM pack WHERE indexed = 1", [], |row| {
                row.get::<_, i64>(0)
            })
            .map(i64::cast_unsigned)
            .map_err(|source| self.failed(source))
    }
}

/// The first eight bytes of an id as SQLite's integer.
#[must_use]
pub fn prefix(id: &ChunkId) -> i64 {
    i64::from_be_bytes(std::array::from_fn(|i| id.0[i]))
}

/// Whether the pack's handle is that of another pack, or of the same with another table.
fn contradicts(connection: &Connection, pack: &IndexedPack) -> rusqlite::Result<bool> {
    let known = connection
        .prepare_cached("SELECT name, tables FROM pack WHERE handle = ?")?
        .query_row([&pack.table.handle.0[..]], |row| {
            let is_same = row.get_ref(0)?.as_blob()? == pack.name.0
                && row.get_ref(1)?.as_blob()? == encode_tables(pack);
            Ok(!is_same)
        })
        .optional()?;
    Ok(known == Some(true))
}

fn insert_pack(
    connection: &Connection,
    pack: &IndexedPack,
    run: Option<&str>,
) -> rusqlite::Result<u32> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO pack(handle, name, size, kind, chunks, run, tables) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT(handle) DO UPDATE SET run = NULL WHERE excluded.run IS NULL",
    )?;
    insert.execute(params![
        &pack.table.handle.0[..],
        &pack.name.0[..],
        pack.size.cast_signed(),
        pack.table.kind.number(),
        pack.ids.len() as u32,
        run,
        encode_tables(pack),
    ])?;
    connection
        .prepare_cached("SELECT number FROM pack WHERE handle = ?")?
        .query_row([&pack.table.handle.0[..]], |row| row.get(0))
}

fn pack_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<PackRow> {
    Ok(PackRow {
        number: row.get(0)?,
        handle: PackHandle(blob(row, 1)?),
        name: ObjectId(blob(row, 2)?),
        size: row.get::<_, i64>(3)?.cast_unsigned(),
        kind: PackKind::from_number(row.get(4)?).unwrap_or(PackKind::Data),
        chunks: row.get(5)?,
        run: row.get(6)?,
    })
}

fn blob<const N: usize>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<[u8; N]> {
    let bytes = row.get_ref(column)?.as_blob()?;
    bytes.try_into().map_err(|_| {
        rusqlite::Error::IntegralValueOutOfRange(column, bytes.len().cast_signed() as i64)
    })
}

/// Frame table, lengths and ids as one blob: integers of 32 bits little-endian, then the ids.
fn encode_tables(pack: &IndexedPack) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        4 + pack.table.frames.len() * 12 + pack.ids.len() * (4 + ChunkId::BYTES),
    );
    out.extend_from_slice(&(pack.table.frames.len() as u32).to_le_bytes());
    for frame in &pack.table.frames {
        for value in [frame.stored_bytes, frame.raw_bytes, frame.chunks] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    for length in &pack.table.chunk_bytes {
        out.extend_from_slice(&length.to_le_bytes());
    }
    for id in &pack.ids {
        out.extend_from_slice(&id.0);
    }
    out
}

fn read_tables(connection: &Connection, number: u32) -> rusqlite::Result<Option<IndexedPack>> {
    let mut statement = connection.prepare_cached(
        "SELECT number, handle, name, size, kind, chunks, run, tables FROM pack WHERE number = ?",
    )?;
    statement
        .query_row([number], |row| {
            let head = pack_row(row)?;
            let bytes = row.get_ref(7)?.as_blob()?;
            decode_tables(&head, bytes).ok_or(rusqlite::Error::IntegralValueOutOfRange(
                7,
                bytes.len().cast_signed() as i64,
            ))
        })
        .optional()
}

fn decode_tables(head: &PackRow, bytes: &[u8]) -> Option<IndexedPack> {
    let mut fields = Fields::new(bytes);
    let frames = fields.u32("frames").ok()? as usize;
    let numbers: Vec<u32> = fields.integers(frames * 3, 4, "frames").ok()?.collect();
    let chunk_bytes = fields.integers(head.chunks as usize, 4, "chunks").ok()?.collect();
    let ids = fields.take(head.chunks as usize * ChunkId::BYTES, "ids").ok()?;
    let table = PackTable {
        handle: head.handle,
        kind: head.kind,
        frames: numbers
            .chunks_exact(3)
            .map(|n| FrameEntry { stored_bytes: n[0], raw_bytes: n[1], chunks: n[2] })
            .collect(),
        chunk_bytes,
    };
    let ids = ids.chunks_exact(ChunkId::BYTES).filter_map(ChunkId::from_slice).collect();
    Some(IndexedPack { name: head.name, size: head.size, table, ids })
}
