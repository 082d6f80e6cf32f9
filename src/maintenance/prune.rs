//! Carrying a prune out: announce, read again, delete, say that it is done.
//!
//! # Invariants
//! * Nothing is deleted but what a tombstone named at least the grace time ago, by the store's
//!   clock, and what a second reading of everything, taken after this run's own tombstone, finds
//!   unneeded still. The logs are looked at again before every few deletions.
//! * The time is that of the store: of the tombstone just put. Where the host's clock is behind it
//!   counts, since what looks younger stays.
//! * A run that ends anywhere leaves older snapshots as they were; the next run finishes.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use crate::crypto::recipient::Identity;
use crate::format::commit::ObjectName;
use crate::format::tombstone::Declaration;
use crate::maintenance::error::MaintenanceError;
use crate::maintenance::prune_plan::input::PruneOptions;
use crate::maintenance::prune_plan::{Amount, DeadObject, PrunePlan, plan_prune};
use crate::maintenance::prune_state::{PruneState, heads};
use crate::maintenance::tombs::{ATTEMPTS_MAX, Maintainer, Reserve};
use crate::progress::Progress;
use crate::repo::history::History;
use crate::store::{Store, StoreError};

/// Deletions between two looks at the logs.
const DELETIONS_PER_LOOK: usize = 64;

/// What a prune did, or would do.
#[derive(Debug)]
pub struct PruneReport {
    /// The plan that was carried out.
    pub plan: PrunePlan,
    /// What was deleted.
    pub deleted: Amount,
    /// What was due, and stays because it is locked in the store.
    pub locked: Amount,
    /// The time that the plan was made for.
    pub now: SystemTime,
    /// The grace time that it used.
    pub grace: Duration,
}

/// A prune of one repository.
pub struct Prune<'a> {
    /// Who does it.
    pub maintainer: &'a Maintainer<'a>,
    /// What opens refs: the maintainer's identity, or read identities.
    pub identities: &'a [Identity],
    /// How much may be done. The grace time is at least that of the roster.
    pub options: PruneOptions,
    /// Where deletions are counted.
    pub progress: &'a Progress,
}

impl Prune<'_> {
    /// The grace time: what is asked for may only lengthen it.
    #[must_use]
    pub fn grace(&self) -> Duration {
        let roster = Duration::from_secs(self.maintainer.repository.roster.grace_seconds);
        self.options.grace.max(roster)
    }

    fn options(&self) -> PruneOptions {
        PruneOptions { grace: self.grace(), ..self.options }
    }

    /// Reads the repository and plans; changes nothing.
    pub fn plan(&self, now: SystemTime) -> Result<(PruneState, PrunePlan), MaintenanceError> {
        let repository = self.maintainer.repository;
        let state = PruneState::gather(repository, self.identities, now, self.grace())?;
        let plan = plan_prune(&state.input(self.options()))?;
        Ok((state, plan))
    }

    /// What [`Self::run`] would do now.
    pub fn dry_run(&self) -> Result<PruneReport, MaintenanceError> {
        let now = self.maintainer.clock.now();
        let (_, plan) = self.plan(now)?;
        Ok(self.report(plan, now, Deleted::default()))
    }

    /// Prunes.
    ///
    /// # Errors
    /// What keeps it from being sure; failures of the store. What was deleted until then has been,
    /// and the next run says so in a tombstone.
    pub fn run(&self) -> Result<PruneReport, MaintenanceError> {
        self.maintainer.check_rights()?;
        let (plan, now, store_now) = self.announce()?;
        let deleted = match store_now {
            // By now more time has passed than when the plan was made.
            Some(store_now) if !plan.deletions.is_empty() => {
                self.delete(&plan.deletions, self.maintainer.clock.now().min(store_now))?
            }
            _ => Deleted::default(),
        };
        self.maintainer.reserve.map_or(Ok(()), Reserve::ensure).or_else(|error| match error {
            // Whoever has filled the disk again can still not make this prune a failed one.
            StoreError::NoSpace { .. } => Ok(()),
            error => Err(error),
        })?;
        Ok(self.report(plan, now, deleted))
    }

    /// Plans, and says so in a tombstone right behind those that the plan was made from.
    fn announce(&self) -> Result<(PrunePlan, SystemTime, Option<SystemTime>), MaintenanceError> {
        let mut attempts = 1;
        loop {
            let now = self.maintainer.clock.now();
            let (state, plan) = self.plan(now)?;
            match self.maintainer.declare_after(state.history.tomb, &announcement(&plan)) {
                Err(MaintenanceError::Contended { .. }) if attempts < ATTEMPTS_MAX => attempts += 1,
                result => return Ok((plan, now, result?)),
            }
        }
    }

    fn report(&self, plan: PrunePlan, now: SystemTime, done: Deleted) -> PruneReport {
        let Deleted { deleted, locked } = done;
        PruneReport { plan, deleted, locked, now, grace: self.grace() }
    }

    /// Deletes those of the announced objects that a second reading finds due as well.
    fn delete(
        &self,
        announced: &[DeadObject],
        now: SystemTime,
    ) -> Result<Deleted, MaintenanceError> {
        let announced: HashSet<&str> = announced.iter().map(|dead| dead.name.as_str()).collect();
        let (mut state, mut due) = self.due(&announced, now)?;
        Progress::add(&self.progress.items_total, due.len() as u64);
        let mut done: Vec<DeadObject> = Vec::new();
        let mut locked = Amount::default();
        let mut result = Ok(());
        while !due.is_empty() && result.is_ok() {
            let rest = due.split_off(due.len().min(DELETIONS_PER_LOOK));
            result = self.delete_batch(due, now, &mut done, &mut locked);
            due = rest;
            if result.is_ok() && !due.is_empty() {
                result = self.look_again(&announced, now, &mut state, &mut due);
            }
        }
        self.maintainer.declare(&declarations(&done, Declaration::Done))?;
        result?;
        let bytes = done.iter().map(|dead| dead.size_bytes).sum();
        Ok(Deleted { deleted: Amount { objects: done.len() as u64, bytes }, locked })
    }

    fn due(
        &self,
        announced: &HashSet<&str>,
        now: SystemTime,
    ) -> Result<(PruneState, Vec<DeadObject>), MaintenanceError> {
        let (state, plan) = self.plan(now)?;
        let due = plan.deletions.into_iter();
        let due = due.filter(|dead| announced.contains(dead.name.as_str())).collect();
        Ok((state, due))
    }

    fn delete_batch(
        &self,
        batch: Vec<DeadObject>,
        now: SystemTime,
        done: &mut Vec<DeadObject>,
        locked: &mut Amount,
    ) -> Result<(), MaintenanceError> {
        let store = &*self.maintainer.repository.store;
        let has_locks = store.can_lock();
        for dead in batch {
            if self.progress.is_cancelled() {
                return Err(MaintenanceError::Cancelled);
            }
            if has_locks && is_locked(store, &dead.name, now)? {
                locked.objects += 1;
                locked.bytes += dead.size_bytes;
                continue;
            }
            store.delete(&dead.name)?;
            Progress::add(&self.progress.items_done, 1);
            Progress::add(&self.progress.stored_bytes, dead.size_bytes);
            done.push(dead);
        }
        Ok(())
    }

    /// Plans anew where anything was written since the last reading.
    fn look_again(
        &self,
        announced: &HashSet<&str>,
        now: SystemTime,
        state: &mut PruneState,
        due: &mut Vec<DeadObject>,
    ) -> Result<(), MaintenanceError> {
        let mut history = History::read(self.maintainer.repository)?;
        history.require_sound()?;
        if heads(&history) != heads(&state.history) {
            let (newer, planned) = self.due(announced, now)?;
            let still: HashSet<String> = planned.into_iter().map(|dead| dead.name).collect();
            due.retain(|dead| still.contains(&dead.name));
            *state = newer;
        }
        Ok(())
    }
}

/// What became of the objects that were due.
#[derive(Debug, Clone, Copy, Default)]
struct Deleted {
    deleted: Amount,
    locked: Amount,
}

/// Whether the store keeps the object for longer; one that is gone is not locked.
fn is_locked(store: &dyn Store, name: &str, now: SystemTime) -> Result<bool, StoreError> {
    match store.locked_until(name) {
        Ok(until) => Ok(until.is_some_and(|until| until > now)),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is said before anything is deleted. Deletions are said once more: their tombstone also
/// tells the time by the store's clock.
#[must_use]
pub fn announcement(plan: &PrunePlan) -> Vec<Declaration> {
    let names = |list: &[String], declare: fn(ObjectName) -> Declaration| {
        list.iter().filter_map(|name| name.parse().ok()).map(declare).collect::<Vec<_>>()
    };
    let mut all = names(&plan.withdrawals, Declaration::Withdraw);
    all.extend(declarations(&plan.intents, Declaration::Intent));
    all.extend(names(&plan.done, Declaration::Done));
    all.extend(declarations(&plan.deletions, Declaration::Intent));
    all
}

/// The same said of several objects.
#[must_use]
pub fn declarations(
    objects: &[DeadObject],
    declare: fn(ObjectName) -> Declaration,
) -> Vec<Declaration> {
    objects.iter().filter_map(|dead| dead.name.parse().ok()).map(declare).collect()
}
