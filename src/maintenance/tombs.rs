//! Writing tombstones: one signed chain over all maintainers.
//!
//! A tombstone is created if absent, so of several maintainers at once one is first and the others
//! read again. What was appended is in the chain for good; a crash in between leaves the first of
//! several tombstones, each of which stands on its own.

use std::time::SystemTime;

use crate::clock::Clock;
use crate::crypto::ids::object_id;
use crate::format::keyfile::MaintainerKeys;
use crate::format::signed_text::NO_PREVIOUS;
use crate::format::tombstone::{Declaration, Tombstone};
use crate::id::ObjectId;
use crate::maintenance::error::MaintenanceError;
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::session::without_subseconds;
use crate::store::local::{LocalStore, RESERVE_BYTES_DEFAULT};
use crate::store::{Put, StoreError};

/// Declarations of one tombstone: even with the longest remarks it stays below the size limit.
const DECLARATIONS_MAX: usize = 10_000;
/// How often a place in a chain is tried for.
pub const ATTEMPTS_MAX: u32 = 8;

/// Space that is kept back for the moment when the disk is full.
pub trait Reserve {
    /// Gives the space free.
    fn release(&self) -> Result<(), StoreError>;
    /// Takes the space again.
    fn ensure(&self) -> Result<(), StoreError>;
}

impl Reserve for LocalStore {
    fn release(&self) -> Result<(), StoreError> {
        self.release_reserve()
    }

    fn ensure(&self) -> Result<(), StoreError> {
        self.ensure_reserve(RESERVE_BYTES_DEFAULT)
    }
}

/// A maintainer at work on one repository.
pub struct Maintainer<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// The maintainer's keys.
    pub keys: &'a MaintainerKeys,
    /// For the claimed times.
    pub clock: &'a dyn Clock,
    /// Where the store has one.
    pub reserve: Option<&'a dyn Reserve>,
}

impl Maintainer<'_> {
    /// # Errors
    /// [`RepoError::NotInRoster`]: the roster does not list these keys.
    pub fn check_rights(&self) -> Result<(), MaintenanceError> {
        self.repository.require_primary()?;
        let key = self.keys.key.verifying_key();
        let entry = self.repository.roster.maintainer(self.keys.id);
        if entry.is_some_and(|entry| entry.key == key) {
            return Ok(());
        }
        Err(RepoError::NotInRoster { role: "maintainer", id: self.keys.id }.into())
    }

    /// Appends the declarations in their order; gives the time by the store's clock, of the last
    /// tombstone. Without declarations nothing is written.
    ///
    /// # Errors
    /// A repository with findings; [`MaintenanceError::Contended`]; failures of the store. Some of
    /// the declarations may have been written.
    pub fn declare(
        &self,
        declarations: &[Declaration],
    ) -> Result<Option<SystemTime>, MaintenanceError> {
        if declarations.is_empty() {
            return Ok(None);
        }
        self.check_rights()?;
        let _lock = self.repository.state.lock("tomb.lock")?;
        let mut head = self.read_head()?;
        let mut written = None;
        for part in declarations.chunks(DECLARATIONS_MAX) {
            written = Some(self.append(&mut head, part)?);
        }
        Ok(written)
    }

    /// The same for what was planned on a history whose newest tombstone is `seen`: nothing is
    /// written where another has been appended since.
    ///
    /// *Why*: a plan may take back an intent that another maintainer has carried out meanwhile.
    ///
    /// # Errors
    /// As [`Self::declare`]; [`MaintenanceError::Contended`] means that it is to be planned anew.
    pub fn declare_after(
        &self,
        seen: Option<(u64, ObjectId)>,
        declarations: &[Declaration],
    ) -> Result<Option<SystemTime>, MaintenanceError> {
        self.check_rights()?;
        let _lock = self.repository.state.lock("tomb.lock")?;
        let mut head = seen.unwrap_or((0, NO_PREVIOUS));
        let mut written = None;
        for part in declarations.chunks(DECLARATIONS_MAX) {
            let Some(first_seen) = self.try_append(&mut head, part)? else {
                let object = Tombstone::object_name(head.0 + 1);
                return Err(MaintenanceError::Contended { object, attempts: 1 });
            };
            written = Some(first_seen);
        }
        Ok(written)
    }

    fn read_head(&self) -> Result<(u64, ObjectId), MaintenanceError> {
        let mut history = History::read(self.repository)?;
        history.require_sound()?;
        Ok(history.tomb.unwrap_or((0, NO_PREVIOUS)))
    }

    fn append(
        &self,
        head: &mut (u64, ObjectId),
        declarations: &[Declaration],
    ) -> Result<SystemTime, MaintenanceError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(first_seen) = self.try_append(head, declarations)? {
                return Ok(first_seen);
            }
            *head = self.read_head()?;
        }
        let object = Tombstone::object_name(head.0 + 1);
        Err(MaintenanceError::Contended { object, attempts: ATTEMPTS_MAX })
    }

    /// When the store took the tombstone in; nothing where its place is taken.
    fn try_append(
        &self,
        head: &mut (u64, ObjectId),
        declarations: &[Declaration],
    ) -> Result<Option<SystemTime>, MaintenanceError> {
        let tomb = self.tombstone(*head, declarations);
        let signed = tomb.encode_and_sign(&self.keys.key).map_err(RepoError::Sign)?;
        let object = Tombstone::object_name(tomb.seq);
        if self.put(&object, &signed)? == Put::Exists {
            return Ok(None);
        }
        *head = (tomb.seq, object_id(&signed));
        self.repository.see(|witness| {
            if witness.tomb.map(|seen| seen.0) < Some(head.0) {
                witness.tomb = Some(*head);
            }
        })?;
        Ok(Some(self.repository.store.stat(&object)?.first_seen))
    }

    fn tombstone(&self, head: (u64, ObjectId), declarations: &[Declaration]) -> Tombstone {
        let time = jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default();
        Tombstone {
            repository: self.repository.id,
            seq: head.0 + 1,
            prev: head.1,
            roster: self.repository.roster_reference(),
            maintainer: self.keys.id,
            time: without_subseconds(time),
            declarations: declarations.to_vec(),
        }
    }

    /// Stores a small object; where the disk is full, with the space of the reserve.
    pub fn put(&self, object: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        match self.repository.store.put(object, bytes) {
            Err(StoreError::NoSpace { .. }) if self.reserve.is_some() => {
                self.reserve.map_or(Ok(()), Reserve::release)?;
                self.repository.store.put(object, bytes)
            }
            other => other,
        }
    }
}
