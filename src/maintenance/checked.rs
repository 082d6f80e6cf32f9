//! Which packs were read in full, and when: a small SQLite file of the local state.
//!
//! It is a record of this host only. Losing it means that packs count as never read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};

use crate::id::ObjectId;
use crate::maintenance::error::MaintenanceError;

/// Days within which a pack counts as read lately.
pub const RECENT: Duration = Duration::from_hours(30 * 24);

/// The record.
pub struct CheckedPacks {
    connection: Connection,
    path: PathBuf,
}

/// How much of the packs was read, and how long ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Packs that there are.
    pub packs: u64,
    /// Of those, read within [`RECENT`].
    pub recent: u64,
    /// Of those, never read on this host.
    pub never: u64,
    /// Since when the one that was read the longest ago was not read.
    pub oldest: Option<SystemTime>,
}

impl CheckedPacks {
    /// Opens the file, making it where it is missing.
    pub fn open(path: PathBuf) -> Result<Self, MaintenanceError> {
        let open = || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(Duration::from_secs(30))?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS pack (name BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID",
            )?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => Ok(Self { connection, path }),
            Err(source) => Err(MaintenanceError::Checked { path, source }),
        }
    }

    fn failed(&self, source: rusqlite::Error) -> MaintenanceError {
        MaintenanceError::Checked { path: self.path.clone(), source }
    }

    /// When each pack was read last.
    pub fn last_read(&self) -> Result<HashMap<ObjectId, SystemTime>, MaintenanceError> {
        let read = || {
            let mut statement = self.connection.prepare("SELECT name, at FROM pack")?;
            let rows = statement.query_map([], |row| {
                let (name, at): (Vec<u8>, i64) = (row.get(0)?, row.get(1)?);
                Ok((name, at))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = read().map_err(|source| self.failed(source))?;
        let known = rows.into_iter().filter_map(|(name, at)| {
            let since = Duration::from_secs(u64::try_from(at).ok()?);
            Some((ObjectId::from_slice(&name)?, SystemTime::UNIX_EPOCH.checked_add(since)?))
        });
        Ok(known.collect())
    }

    /// Notes that these packs were read and found good at `at`.
    pub fn record(&mut self, packs: &[ObjectId], at: SystemTime) -> Result<(), MaintenanceError> {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let mut write = || {
            let transaction = self.connection.transaction()?;
            for pack in packs {
                transaction.execute(
                    "INSERT INTO pack VALUES (?1, ?2) ON CONFLICT(name) DO UPDATE SET at = ?2",
                    params![&pack.0[..], seconds],
                )?;
            }
            transaction.commit()
        };
        let written = write();
        written.map_err(|source| self.failed(source))
    }
}

/// The coverage of `packs` at `now`.
#[must_use]
pub fn coverage<'a>(
    packs: impl Iterator<Item = &'a ObjectId>,
    last_read: &HashMap<ObjectId, SystemTime>,
    now: SystemTime,
) -> Coverage {
    let mut sum = Coverage::default();
    for pack in packs {
        sum.packs += 1;
        let Some(at) = last_read.get(pack) else {
            sum.never += 1;
            continue;
        };
        sum.recent += u64::from(now.duration_since(*at).unwrap_or_default() <= RECENT);
        sum.oldest = Some(sum.oldest.map_or(*at, |oldest| oldest.min(*at)));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_remembered_with_its_newest_time() {
        let folder = tempfile::tempdir().unwrap();
        let day = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n * 86_400);
        let packs = [1, 2, 3].map(|n| ObjectId([n; 32]));
        let mut checked = CheckedPacks::open(folder.path().join("checked.sqlite")).unwrap();
        checked.record(&packs[..2], day(100)).unwrap();
        drop(checked);
        let mut checked = CheckedPacks::open(folder.path().join("checked.sqlite")).unwrap();
        checked.record(&packs[1..2], day(139)).unwrap();
        let known = checked.last_read().unwrap();
        assert_eq!(known.len(), 2);
        let sum = coverage(packs.iter(), &known, day(140));
        let expected = Coverage { packs: 3, recent: 1, never: 1, oldest: Some(day(100)) };
        assert_eq!(sum, expected);
    }
}
