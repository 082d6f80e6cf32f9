//! Commits of a maintainer: what a repack or a repair has put, and newer refs of snapshots.
//!
//! As a writer's commit it is created if absent and is the only commit point; the same maintainer's
//! keys may be in use on several hosts, so a place that is taken is no error but tried again.

use crate::crypto::ids::object_id;
use crate::format::commit::{Commit, PutEntry, SnapshotEntry};
use crate::format::signed_text::NO_PREVIOUS;
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::tombs::{ATTEMPTS_MAX, Maintainer};
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::session::without_subseconds;
use crate::store::Put;

/// What a commit brings.
#[derive(Debug, Default)]
pub struct Changes {
    /// Objects that are stored.
    pub puts: Vec<PutEntry>,
    /// Newer refs of snapshots.
    pub relocations: Vec<SnapshotEntry>,
}

impl Maintainer<'_> {
    /// Commits what `make` gives for the sequence number that the commit will have.
    ///
    /// `make` sees the newest history, and is called again where the number was taken meanwhile.
    /// Gives the number; `None` where `make` gives nothing.
    pub fn commit(
        &self,
        mut make: impl FnMut(u64, &History) -> Result<Option<Changes>, MaintenanceError>,
    ) -> Result<Option<u64>, MaintenanceError> {
        self.check_rights()?;
        let _lock = self.repository.state.lock("commit.lock")?;
        let mut object = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let mut history = History::read(self.repository)?;
            history.require_sound()?;
            let (seq, prev) = history.head(self.keys.id).unwrap_or((0, NO_PREVIOUS));
            let seq = seq + 1;
            let Some(changes) = make(seq, &history)? else { return Ok(None) };
            let time = jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default();
            let commit = Commit {
                repository: self.repository.id,
                writer: self.keys.id,
                seq,
                prev,
                roster: self.repository.roster_reference(),
                time: without_subseconds(time),
                puts: changes.puts,
                snapshot: None,
                relocations: changes.relocations,
            };
            let signed = commit.encode_and_sign(&self.keys.key).map_err(RepoError::Sign)?;
            object = Commit::object_name(self.keys.id, seq);
            if self.put(&object, &signed)? == Put::Created {
                let head = (seq, object_id(&signed));
                self.repository.see(|witness| {
                    witness.logs.insert(self.keys.id.to_string(), head);
                })?;
                return Ok(Some(seq));
            }
        }
        Err(MaintenanceError::Contended { object, attempts: ATTEMPTS_MAX })
    }
}
