//! Getting signed texts: several at once, and from the local state where requests cost anything.
//!
//! A text that is kept counts only for the object that the listing still shows with the same size
//! and time, and its signature is checked each time, as that of any other.

use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, params};

use crate::format::limits;
use crate::repo::error::RepoError;
use crate::repo::parallel::in_parallel;
use crate::store::{Entry, Store, StoreError};

/// Texts that are fetched ahead: bounds the memory that a hostile store can fill.
pub const BATCH: usize = 16;

/// In the place of the time: a text of this host's own.
const OWN: i64 = 0;

/// The texts of one repository that this host has fetched before.
pub struct TextCache(Option<Mutex<Connection>>);

impl TextCache {
    /// One that keeps nothing: where reading costs no request.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Opens the file, making it where it is missing. One that cannot be read is made anew.
    pub fn open(path: &Path) -> Result<Self, RepoError> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(std::time::Duration::from_secs(30))?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS text (name TEXT PRIMARY KEY, size INTEGER NOT NULL, \
                 first_seen INTEGER NOT NULL, bytes BLOB NOT NULL) WITHOUT ROWID",
            )?;
            Ok::<_, rusqlite::Error>(connection)
        };
        let opened = open().or_else(|_| {
            drop(std::fs::remove_file(path));
            open()
        });
        opened.map(|connection| Self(Some(Mutex::new(connection)))).map_err(|error| {
            let source = std::io::Error::other(error);
            RepoError::State { action: "open", path: path.into(), source }
        })
    }

    fn find(&self, entry: &Entry) -> Option<Vec<u8>> {
        let connection = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let found = connection.query_row(
            "SELECT bytes FROM text WHERE name = ?1 AND size = ?2 AND first_seen IN (?3, ?4)",
            params![entry.name, entry.size.cast_signed(), seconds(entry.first_seen), OWN],
            |row| row.get::<_, Vec<u8>>(0),
        );
        // What cannot be read here is fetched.
        let bytes = found.optional().ok().flatten()?;
        (bytes.len() as u64 == entry.size).then_some(bytes)
    }

    /// Keeps a text that this host has just written; when the store took it in is not known yet.
    pub fn keep_own(&self, name: &str, bytes: &[u8]) {
        let first_seen = SystemTime::UNIX_EPOCH;
        let size = bytes.len() as u64;
        self.keep(&[(&Entry { name: name.to_owned(), size, first_seen }, bytes)]);
    }

    fn keep(&self, fetched: &[(&Entry, &[u8])]) {
        let Some(connection) = &self.0 else { return };
        let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = || {
            let transaction = connection.transaction()?;
            for (entry, bytes) in fetched {
                let (size, seen) = (entry.size.cast_signed(), seconds(entry.first_seen));
                transaction.execute(
                    "INSERT OR REPLACE INTO text VALUES (?1, ?2, ?3, ?4)",
                    params![entry.name, size, seen, bytes],
                )?;
            }
            transaction.commit()
        };
        // Losing it costs a request the next time.
        if let Err(error) = write() {
            tracing::debug!("signed texts are not kept: {error}");
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().cast_signed()
}

/// The bytes of at most [`BATCH`] signed texts, in their order.
#[must_use]
pub fn read_texts(
    store: &dyn Store,
    cache: &TextCache,
    entries: &[&Entry],
) -> Vec<Result<Vec<u8>, StoreError>> {
    let known: Vec<Option<Vec<u8>>> = entries.iter().map(|entry| cache.find(entry)).collect();
    let missing: Vec<&Entry> =
        entries.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(e, _)| *e).collect();
    let fetched = in_parallel(store.read_slots(), &missing, |entry| {
        store.get(&entry.name, limits::SIGNED_TEXT_BYTES_MAX)
    });
    let new: Vec<(&Entry, &[u8])> = missing
        .iter()
        .zip(&fetched)
        .filter_map(|(entry, bytes)| Some((*entry, bytes.as_ref().ok()?.as_slice())))
        .filter(|(entry, bytes)| entry.size == bytes.len() as u64)
        .collect();
    if !new.is_empty() {
        cache.keep(&new);
    }
    let mut fetched = fetched.into_iter();
    let next = |known: Option<Vec<u8>>| match known {
        Some(bytes) => Ok(bytes),
        None => fetched.next().expect("one for each that was missing"),
    };
    known.into_iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::recording::{OperationKind, RecordingStore};

    #[test]
    fn what_was_fetched_is_not_fetched_again_while_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let cache = TextCache::open(&folder.path().join("texts.sqlite")).unwrap();
        let store = RecordingStore::new(MemoryStore::new());
        for name in ["log/a", "log/b", "log/c"] {
            store.put(name, name.as_bytes()).unwrap();
        }
        let mut entries = Vec::new();
        store.list("log/", &mut |entry| entries.push(entry)).unwrap();
        let read = |entries: &[Entry]| -> Vec<Vec<u8>> {
            let entries: Vec<&Entry> = entries.iter().collect();
            read_texts(&store, &cache, &entries).into_iter().map(Result::unwrap).collect()
        };
        assert_eq!(read(&entries[1..]), [b"log/b", b"log/c"]);
        assert_eq!(store.count(OperationKind::Get), 2);
        assert_eq!(read(&entries), [b"log/a", b"log/b", b"log/c"]);
        assert_eq!(store.count(OperationKind::Get), 3);
        entries[0].first_seen += std::time::Duration::from_secs(9);
        read(&entries);
        assert_eq!(store.count(OperationKind::Get), 4);
        let gone = Entry { name: "log/d".into(), ..entries[0].clone() };
        assert!(read_texts(&store, &TextCache::none(), &[&gone])[0].is_err());
    }
}
