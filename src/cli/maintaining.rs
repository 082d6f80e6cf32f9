//! What the commands that maintain a repository have in common: keys, readers, their errors.
//!
//! Nobody is asked for a passphrase where the keys of this host are enough.

use std::sync::Arc;

use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::{check, key, prune, repository as place, usage};
use crate::cli::open_repository::{open, unlock, unlock_unasked};
use crate::cli::place::open_folder;
use crate::cli::selector::Candidate;
use crate::crypto::ids::DomainKeys;
use crate::crypto::recipient::Identity;
use crate::format::keyfile::MaintainerKeys;
use crate::id::DomainId;
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::forget::Labelled;
use crate::maintenance::tombs::Reserve;
use crate::repo::history::History;
use crate::repo::open::Repository;
use crate::repo::read_access::ReadAccess;
use crate::repo::reading::read_access;
use crate::repo::unlock::{Unlocked, maintainer_keys};
use crate::store::local::LocalStore;

/// A repository with the keys that could be had.
pub struct Keyring {
    /// The repository.
    pub repository: Repository,
    /// What a passphrase or identity opened.
    pub unlocked: Option<Unlocked>,
    /// The maintainer's keys, of this host or of what was opened.
    pub maintainer: Option<MaintainerKeys>,
}

/// Who may be asked for a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// The person at the terminal, if there is one.
    Person,
    /// Nobody: what is named is taken.
    Nobody,
    /// Nobody, and what is named is not taken either.
    NoKey,
}

impl Keyring {
    /// Opens the repository of the arguments with what can be had.
    ///
    /// # Errors
    /// As [`open`]; a key that is given and does not open the repository.
    pub fn open(context: &Context, asking: Asking) -> Result<Self, CommandError> {
        let repository = open(context)?;
        let unlocked = match asking {
            Asking::NoKey => None,
            Asking::Nobody => unlock_unasked(context, &context.location()?, &repository)?,
            Asking::Person => match unlock(context, &repository) {
                Err(error) if error.id() == key::NONE.id => None,
                other => Some(other?),
            },
        };
        let maintainer = match asking {
            Asking::NoKey => None,
            _ => maintainer_keys(&repository, unlocked.as_ref()).ok(),
        };
        Ok(Self { repository, unlocked, maintainer })
    }

    /// Opens the repository for one who forgets or prunes: asks only where this host does not keep
    /// the maintainer's keys.
    ///
    /// # Errors
    /// `HF-PRUNE-004`.
    pub fn open_for_maintainer(context: &Context) -> Result<(Self, MaintainerKeys), CommandError> {
        let mut this = Self::open(context, Asking::Nobody)?;
        if this.maintainer.is_none() && this.unlocked.is_none() {
            this.unlocked = Some(unlock(context, &this.repository).map_err(|error| {
                if error.id() != key::NONE.id {
                    return error;
                }
                let what = "this host has no keys to forget or prune, and no key was given";
                CommandError::new(&prune::NOT_MAINTAINER, what)
                    .hint("run it on the host that made the repository, or with its key")
            })?);
        }
        let keys = maintainer_keys(&this.repository, this.unlocked.as_ref())?;
        Ok((this, keys))
    }

    /// Opens the repository for one who must read it.
    ///
    /// # Errors
    /// `HF-KEY-001`, `-002`.
    pub fn require_unlocked(&mut self, context: &Context) -> Result<&Unlocked, CommandError> {
        if self.unlocked.is_none() {
            self.unlocked = Some(unlock(context, &self.repository)?);
        }
        Ok(self.unlocked.as_ref().expect("it was put in above"))
    }

    /// The read identities that were opened.
    #[must_use]
    pub fn read_identities(&self) -> Vec<Identity> {
        self.unlocked.as_ref().map(Unlocked::read_identities).unwrap_or_default()
    }

    /// Everything that opens refs.
    #[must_use]
    pub fn refs_identities(&self) -> Vec<Identity> {
        let maintainer = self.maintainer.iter().map(|keys| keys.identity.to_identity());
        maintainer.chain(self.read_identities()).collect()
    }

    /// Keys of the domains that were opened.
    #[must_use]
    pub fn domains(&self) -> Vec<(DomainId, DomainKeys)> {
        let domains = self.unlocked.iter().flat_map(|unlocked| &unlocked.domains);
        domains.map(|file| (file.domain, DomainKeys::derive(&file.secret))).collect()
    }

    /// A reader of chunks, whose index is brought up to date; nothing without a read identity.
    ///
    /// What is wrong with index segments is for `check` to find.
    pub fn access(&self, history: &History) -> Result<Option<Arc<ReadAccess>>, CommandError> {
        let Some(unlocked) = &self.unlocked else { return Ok(None) };
        let (access, _) = read_access(&self.repository, history, unlocked)?;
        Ok(Some(access))
    }
}

/// The folder of the repository, for its reserve; nothing where it is no folder.
pub fn reserve(context: &Context) -> Result<Option<LocalStore>, CommandError> {
    context.location()?.place.folder().map(open_folder).transpose()
}

/// As a maintainer takes it.
#[must_use]
pub fn as_reserve(folder: &Option<LocalStore>) -> Option<&dyn Reserve> {
    folder.as_ref().map(|folder| folder as &dyn Reserve)
}

/// Snapshots as a selector chooses among them.
#[must_use]
pub fn candidates<'a>(snapshots: &'a [Labelled], ids: &'a [String]) -> Vec<Candidate<'a>> {
    let rows = snapshots.iter().zip(ids);
    rows.map(|(one, id)| Candidate {
        id,
        source: one.label.as_ref().map_or("", |label| &label.source),
        time: one
            .label
            .as_ref()
            .and_then(|label| label.time.parse::<Timestamp>().ok())
            .unwrap_or(one.record.time),
        committed: one.record.time,
        seq: one.record.seq,
    })
    .collect()
}

/// The error of a command, by the kind of what failed.
#[must_use]
pub fn failed(error: MaintenanceError) -> CommandError {
    let kind = match error {
        MaintenanceError::Repo(error) => return error.into(),
        MaintenanceError::Store(error) => return error.into(),
        MaintenanceError::Prune(_) => &prune::UNSURE,
        MaintenanceError::Retention(_) => &prune::NO_RULE,
        MaintenanceError::Floor { .. } => &prune::FLOOR,
        MaintenanceError::Gone { .. } => &prune::GONE,
        MaintenanceError::Contended { .. } | MaintenanceError::Busy { .. } => &place::BUSY,
        MaintenanceError::Cancelled => &usage::INTERRUPTED,
        MaintenanceError::Read(_) | MaintenanceError::Pack(_) => &check::INCOMPLETE,
        _ => &usage::INTERNAL,
    };
    CommandError::classify(&error, kind)
}

/// The first eight digits of an id.
#[must_use]
pub fn short(id: &impl ToString) -> String {
    id.to_string().chars().take(8).collect()
}
