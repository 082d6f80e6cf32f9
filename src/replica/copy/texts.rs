//! The part of a copy that goes first: rosters, keys, what helps after a disaster, tombstones.

use std::collections::HashSet;
use std::time::Duration;

use crate::crypto::ids::{content_hash, object_id};
use crate::format::limits;
use crate::format::roster::Roster;
use crate::id::ObjectId;
use crate::maintenance::finding::{Finding, Problem};
use crate::replica::copy::Copying;
use crate::replica::error::{ReplicaError, at};
use crate::repo::open::replica_mark;
use crate::store::{Entry, Store, StoreError};

impl Copying<'_> {
    /// Everything that is no object of a commit: rosters, keys, help, attestations, tombstones.
    pub(super) fn texts(&mut self) -> Result<(), ReplicaError> {
        self.set_aside()?;
        let generation = self.source.roster.generation.number;
        let mark = replica_mark(generation);
        if !self.options.dry_run && !self.target.stored.contains_key(&mark) {
            let text = format!("replica of holdfast repository {}\n", self.source.id);
            self.put_text(&mark, text.as_bytes())?;
        }
        self.rosters()?;
        self.keys_and_help()?;
        self.tombs()
    }

    /// Texts of the generation before a promotion: kept under another name, then removed.
    fn set_aside(&mut self) -> Result<(), ReplicaError> {
        for name in std::mem::take(&mut self.target.in_the_way) {
            if !self.options.dry_run {
                let failed = at(&self.target.place);
                let bytes = self.target.store.get(&name, limits::SIGNED_TEXT_BYTES_MAX);
                let bytes = bytes.map_err(&failed)?;
                let digits: String = object_id(&bytes).to_string().chars().take(16).collect();
                self.put_text(&format!("aside/{name}-{digits}"), &bytes)?;
                self.target.store.delete(&name).map_err(&failed)?;
            }
            self.target.stored.remove(&name);
            self.report.set_aside.push(name);
        }
        Ok(())
    }

    fn rosters(&mut self) -> Result<(), ReplicaError> {
        let mut before: Option<(Roster, ObjectId)> = None;
        for seq in 1..=self.source.roster.seq {
            let object = Roster::object_name(seq);
            if self.target.stored.contains_key(&object) {
                before = None; // Compared with the source's newest when the target was read.
                continue;
            }
            let bytes = self.get(&object)?;
            let refused = || crate::repo::error::RepoError::Chain { object: object.clone() };
            let roster = Roster::open(&bytes, self.source.id).map_err(|_| refused())?;
            let follows = |(last, hash): &(Roster, ObjectId)| last.is_followed_by(&roster, *hash);
            if roster.seq != seq || before.as_ref().is_some_and(|before| !follows(before)) {
                return Err(refused().into());
            }
            before = Some((roster, object_id(&bytes)));
            if !self.options.dry_run {
                self.put_text(&object, &bytes)?;
            }
        }
        Ok(())
    }

    fn keys_and_help(&mut self) -> Result<(), ReplicaError> {
        let is_help = |name: &&String| {
            ["keys/", "recovery/", "attest/"].iter().any(|folder| name.starts_with(folder))
        };
        let mut names: HashSet<String> = self.listed.keys().filter(is_help).cloned().collect();
        let extra = self.target.stored.keys().filter(|name| name.starts_with("keys/operator-"));
        self.report.extra_keys = extra.filter(|name| !names.contains(*name)).cloned().collect();
        self.report.extra_keys.sort_unstable();
        names.insert("RECOVERY.md".to_owned());
        for name in names {
            if self.target.stored.contains_key(&name) {
                continue;
            }
            let bytes = match self.source.store.get(&name, limits::SIGNED_TEXT_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. }) => {
                    let what = "the source has not got it";
                    self.report.findings.push(Finding::new(name, Problem::Missing, what));
                    continue;
                }
                Err(error) => return Err(self.source_failed()(error)),
            };
            if !self.is_what_it_should(&name, &bytes) {
                let what = "its bytes are not those that its name stands for";
                self.report.findings.push(Finding::new(name, Problem::WrongName, what));
            } else if !self.options.dry_run {
                self.put_text(&name, &bytes)?;
            }
        }
        Ok(())
    }

    fn is_what_it_should(&self, name: &str, bytes: &[u8]) -> bool {
        let digits = match name.split_once('/') {
            Some(("keys", file)) => file.trim_end_matches(".age").rsplit('-').next(),
            Some(("attest", id)) => Some(id),
            Some(("recovery", file)) => {
                let known = self.source.roster.recovery.iter();
                let mut known = known.filter(|recovery| recovery.name.as_str() == file);
                return known.next().is_none_or(|known| known.hash == content_hash(bytes));
            }
            _ => return true,
        };
        digits.is_some_and(|digits| {
            !digits.is_empty() && object_id(bytes).to_string().starts_with(digits)
        })
    }

    /// The tombstones that are older than the grace time, up to the first that is not.
    fn tombs(&mut self) -> Result<(), ReplicaError> {
        let is_tomb = |entry: &&Entry| entry.name.starts_with("tomb/");
        let listed: Vec<Entry> = self.listed.values().filter(is_tomb).cloned().collect();
        let head = self.history.tomb.map_or(0, |(seq, _)| seq);
        let grace = Duration::from_secs(self.source.roster.grace_seconds);
        for (seq, entry) in (1..=head).zip(listed) {
            if self.target.stored.contains_key(&entry.name) {
                continue;
            }
            if self.now.duration_since(entry.first_seen).is_ok_and(|age| age >= grace) {
                let bytes = self.get(&entry.name)?;
                if !self.options.dry_run {
                    self.put_text(&entry.name, &bytes)?;
                }
            } else {
                self.report.young_tombs = head + 1 - seq;
                self.carried_until = Some(entry.first_seen);
                break;
            }
        }
        Ok(())
    }
}
