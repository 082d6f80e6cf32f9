//! Reads the lines of a roster, of which each kind has its own shape.
//!
//! Every value is checked here, how they go together is not: that is `Roster::check`.

use crate::crypto::signature::VerifyingKey;
use crate::format::limits::FORMAT_NUMBER;
use crate::format::roster::{
    Epoch, EpochState, Generation, MaintainerEntry, RecoveryFile, Roster, VerifierEntry,
    WriterEntry,
};
use crate::format::signed_text::{Distinct, Line, Once, TextError};
use crate::id::{ActorId, DomainId, ObjectId, RepositoryId};

/// What was read of a roster so far.
pub(super) struct RosterReader {
    repository: Once<RepositoryId>,
    seq: Once<u64>,
    prev: Once<ObjectId>,
    root: Once<VerifyingKey>,
    format: Once<()>,
    pack_bytes: Once<u64>,
    retention_floor_seconds: Once<u64>,
    grace_seconds: Once<u64>,
    epochs: Vec<Epoch>,
    epoch_numbers: Distinct<u32>,
    domains: Vec<DomainId>,
    domain_ids: Distinct<DomainId>,
    writers: Vec<WriterEntry>,
    maintainers: Vec<MaintainerEntry>,
    verifiers: Vec<VerifierEntry>,
    actor_ids: Distinct<ActorId>,
    recovery: Vec<RecoveryFile>,
    recovery_names: Distinct<String>,
    generation: Once<(u64, u64)>,
    fences: Vec<(ActorId, u64)>,
    fenced: Distinct<ActorId>,
    fence_tomb: Once<u64>,
}

impl RosterReader {
    pub(super) fn new() -> Self {
        Self {
            repository: Once::new("repository"),
            seq: Once::new("seq"),
            prev: Once::new("prev"),
            root: Once::new("root"),
            format: Once::new("crit format"),
            pack_bytes: Once::new("crit pack-bytes"),
            retention_floor_seconds: Once::new("retention-floor-seconds"),
            grace_seconds: Once::new("grace-seconds"),
            epochs: Vec::new(),
            epoch_numbers: Distinct::new("epoch"),
            domains: Vec::new(),
            domain_ids: Distinct::new("domain"),
            writers: Vec::new(),
            maintainers: Vec::new(),
            verifiers: Vec::new(),
            actor_ids: Distinct::new("the id of an actor"),
            recovery: Vec::new(),
            recovery_names: Distinct::new("recovery"),
            generation: Once::new("generation"),
            fences: Vec::new(),
            fenced: Distinct::new("fence"),
            fence_tomb: Once::new("fence-tombstone"),
        }
    }

    /// Takes the next line; unknown ones say nothing.
    pub(super) fn line(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let number = || line.words().and_then(|[word]| line.number(word));
        match line.key {
            "repository" => self.repository.set(line, line.only("a repository was expected")?),
            "seq" => self.seq.set(line, line.only_sequence()?),
            "prev" => self.prev.set(line, line.only("a hash was expected")?),
            "root" => self.root.set(line, line.value(line.rest, "a key was expected")?),
            "crit format" => self.format.set(line, read_format(line)?),
            "crit pack-bytes" => self.pack_bytes.set(line, number()?),
            "retention-floor-seconds" => self.retention_floor_seconds.set(line, number()?),
            "grace-seconds" => self.grace_seconds.set(line, number()?),
            "epoch" => self.epoch(line),
            "domain" => self.domain(line),
            "writer" => self.writer(line),
            "maintainer" => self.maintainer(line),
            "verifier" => self.verifier(line),
            "recovery" => self.recovery(line),
            "generation" => self.generation(line),
            "fence" => self.fence(line),
            "fence-tombstone" => self.fence_tomb.set(line, number()?),
            _ => Ok(()),
        }
    }

    fn epoch(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let [number, state, hash] = line.words()?;
        line.sequence(number)?;
        let number = line.number(number)?;
        let state = match state {
            "active" => EpochState::Active,
            "retired" => EpochState::Retired,
            _ => return Err(line.malformed("active or retired was expected")),
        };
        let recipient_hash = line.value(hash, "a hash was expected")?;
        self.epochs.push(Epoch { number, state, recipient_hash });
        self.epoch_numbers.add(line, number)
    }

    fn domain(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let domain = line.only("a domain was expected")?;
        self.domains.push(domain);
        self.domain_ids.add(line, domain)
    }

    fn writer(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let (fixed, revoked_after) = match line.rest.split_once(" revoked-after ") {
            Some((fixed, last)) => (fixed, Some(line.number(last)?)),
            None => (line.rest, None),
        };
        let fixed = Line { rest: fixed, ..*line };
        let [id, kind, key, "domain", domain, "from", from] = fixed.words()? else {
            return Err(line.malformed("domain and from were expected"));
        };
        let (id, key) = read_actor(line, id, kind, key)?;
        let domain = line.value(domain, "a domain was expected")?;
        let from = line.sequence(from)?;
        self.writers.push(WriterEntry { id, key, domain, from, revoked_after });
        self.actor_ids.add(line, id)
    }

    fn maintainer(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let [id, kind, key, recipient] = line.words()?;
        let (id, key) = read_actor(line, id, kind, key)?;
        let recipient = line.value(recipient, "a recipient was expected")?;
        self.maintainers.push(MaintainerEntry { id, key, recipient });
        self.actor_ids.add(line, id)
    }

    fn verifier(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let [id, kind, key] = line.words()?;
        let (id, key) = read_actor(line, id, kind, key)?;
        self.verifiers.push(VerifierEntry { id, key });
        self.actor_ids.add(line, id)
    }

    fn recovery(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let [name, hash] = line.words()?;
        self.recovery_names.add(line, name.to_owned())?;
        let name = line.value(name, "a file name was expected")?;
        self.recovery.push(RecoveryFile { name, hash: line.value(hash, "a hash was expected")? });
        Ok(())
    }

    fn generation(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let [number, "since", since] = line.words()? else {
            return Err(line.malformed("since was expected"));
        };
        self.generation.set(line, (line.sequence(number)?, line.sequence(since)?))
    }

    fn fence(&mut self, line: &Line<'_>) -> Result<(), TextError> {
        let [actor, seq] = line.words()?;
        let actor = line.value(actor, "an id was expected")?;
        self.fences.push((actor, line.number(seq)?));
        self.fenced.add(line, actor)
    }

    /// The roster, whose values were not compared with each other yet.
    pub(super) fn finish(self) -> Result<Roster, TextError> {
        self.format.take()?;
        let generation = self.generation.optional().unwrap_or((1, 1));
        Ok(Roster {
            repository: self.repository.take()?,
            seq: self.seq.take()?,
            prev: self.prev.take()?,
            root: self.root.take()?,
            pack_bytes: self.pack_bytes.take()?,
            epochs: self.epochs,
            domains: self.domains,
            writers: self.writers,
            maintainers: self.maintainers,
            verifiers: self.verifiers,
            retention_floor_seconds: self.retention_floor_seconds.take()?,
            grace_seconds: self.grace_seconds.take()?,
            recovery: self.recovery,
            generation: Generation {
                number: generation.0,
                since: generation.1,
                fences: self.fences,
                fence_tomb: self.fence_tomb.optional().unwrap_or(0),
            },
        })
    }
}

/// Refuses another format than this program's as unsupported.
pub(super) fn read_format(line: &Line<'_>) -> Result<(), TextError> {
    let [word] = line.words()?;
    match line.number::<u64>(word)? {
        FORMAT_NUMBER => Ok(()),
        number => {
            let what = format!("format {number}");
            Err(TextError::Unsupported { line: line.number, what })
        }
    }
}

fn read_actor(
    line: &Line<'_>,
    id: &str,
    kind: &str,
    key: &str,
) -> Result<(ActorId, VerifyingKey), TextError> {
    let id = line.value(id, "an id was expected")?;
    Ok((id, line.value(&format!("{kind} {key}"), "a key was expected")?))
}
