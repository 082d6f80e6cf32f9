//! The roster: who may do what, signed by the root key.
//!
//! The repository id is the hash of the root key, so that a pinned id is enough to check any
//! roster; no other key is ever taken from anywhere but a checked roster.

use std::fmt::Write;
use std::str::FromStr;

use crate::crypto::ids::{content_hash, repository_id};
use crate::crypto::recipient::NativeRecipient;
use crate::crypto::signature::{SigningKey, VerifyingKey};
use crate::format::limits::{FORMAT_NUMBER, PACK_BYTES_MAX, PACK_BYTES_MIN};
use crate::format::signed_text::{
    Distinct, Line, Once, SignedBody, SignedText, TextError, TextKind, VerifiedText, check_link,
};
use crate::id::{ActorId, ContentHash, DomainId, ObjectId, RepositoryId};

/// Whether packs are sealed to the epoch's read recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EpochState {
    /// New objects are.
    Active,
    /// Only older ones are.
    Retired,
}

/// A period with one read key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Its number, from 1.
    pub number: u32,
    /// Whether it is the one in use.
    pub state: EpochState,
    /// BLAKE3 of the text of its read recipient.
    pub recipient_hash: ContentHash,
}

impl Epoch {
    /// The active epoch of a read recipient.
    #[must_use]
    pub fn active(number: u32, recipient: &NativeRecipient) -> Self {
        let recipient_hash = content_hash(recipient.to_string().as_bytes());
        Self { number, state: EpochState::Active, recipient_hash }
    }

    /// Whether `recipient` is the one that the root key vouches for. A writer seals to no other.
    #[must_use]
    pub fn has_recipient(&self, recipient: &NativeRecipient) -> bool {
        content_hash(recipient.to_string().as_bytes()) == self.recipient_hash
    }
}

/// A host that may write backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterEntry {
    /// Its name.
    pub id: ActorId,
    /// What its commits are signed with.
    pub key: VerifyingKey,
    /// The domain that it deduplicates in.
    pub domain: DomainId,
    /// The first commit of its log that this key may sign.
    pub from: u64,
    /// The last commit that counts, where the writer was revoked.
    pub revoked_after: Option<u64>,
}

impl WriterEntry {
    fn may_sign(&self, seq: u64) -> bool {
        self.from <= seq && self.revoked_after.is_none_or(|last| seq <= last)
    }
}

/// Who may forget, prune and repack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintainerEntry {
    /// Its name.
    pub id: ActorId,
    /// What its tombstones and commits are signed with.
    pub key: VerifyingKey,
    /// What refs are sealed to, beside the read recipient.
    pub recipient: NativeRecipient,
}

/// Who may attest that packs were read in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifierEntry {
    /// Its name.
    pub id: ActorId,
    /// What its attestations are signed with.
    pub key: VerifyingKey,
}

/// A file below `recovery/`, and its BLAKE3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryFile {
    /// File name.
    pub name: RecoveryName,
    /// Of its content.
    pub hash: ContentHash,
}

/// The name of a file below `recovery/`: `[a-zA-Z0-9._-]`, not beginning with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecoveryName(String);

impl RecoveryName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RecoveryName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.bytes().all(plain) {
            return Err(TextError::Contradiction { what: "not the name of a recovery file" });
        }
        Ok(Self(text.to_owned()))
    }
}

/// What `roster/<n>` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// BLAKE3 of the root key.
    pub repository: RepositoryId,
    /// Its number, from 1.
    pub seq: u64,
    /// Hash of the roster before; [`crate::format::signed_text::NO_PREVIOUS`] in the first.
    pub prev: ObjectId,
    /// What it is signed with.
    pub root: VerifyingKey,
    /// Exact size of full packs in bytes, within the limits.
    pub pack_bytes: u64,
    /// All epochs; exactly one is active.
    pub epochs: Vec<Epoch>,
    /// All domains.
    pub domains: Vec<DomainId>,
    /// All writers, revoked ones too.
    pub writers: Vec<WriterEntry>,
    /// All maintainers.
    pub maintainers: Vec<MaintainerEntry>,
    /// All verifiers.
    pub verifiers: Vec<VerifierEntry>,
    /// No snapshot younger than this may be forgotten.
    pub retention_floor_seconds: u64,
    /// Time between an intent and the deletion, counted by the store's clock.
    pub grace_seconds: u64,
    /// The files below `recovery/`.
    pub recovery: Vec<RecoveryFile>,
}

impl Roster {
    /// `roster/<seq in 16 hexadecimal digits>`.
    #[must_use]
    pub fn object_name(seq: u64) -> String {
        format!("roster/{seq:016x}")
    }

    /// Prints and signs the roster.
    ///
    /// # Errors
    /// It is too long, or no parser would accept it: two active epochs, a writer of an unknown
    /// domain, an id twice.
    pub fn encode_and_sign(&self, root: &SigningKey) -> Result<Vec<u8>, TextError> {
        self.sign(root)
    }

    /// Checks that the text names a root key of the pinned repository, and was signed by it.
    ///
    /// # Errors
    /// No root line, a key of another repository, or a signature that is not valid.
    pub fn verify<'a>(
        text: &SignedText<'a>,
        pinned: RepositoryId,
    ) -> Result<VerifiedText<'a>, TextError> {
        let root: VerifyingKey = text
            .claimed("root")
            .and_then(|key| key.parse().ok())
            .ok_or(TextError::Missing { field: "root" })?;
        let actual = repository_id(&root);
        if actual != pinned {
            return Err(TextError::WrongRepository { expected: pinned, actual });
        }
        text.verify(TextKind::Roster, &root)
    }

    /// Reads a roster whose signature was checked.
    ///
    /// # Errors
    /// Another repository or kind, too new, or malformed.
    pub fn parse(text: &VerifiedText<'_>, pinned: RepositoryId) -> Result<Self, TextError> {
        Self::read_verified(text, pinned)
    }

    /// Checks a stored roster against the pinned repository, and reads it.
    ///
    /// The caller compares `seq` with the object's name, and the chain with
    /// [`Roster::is_followed_by`].
    ///
    /// # Errors
    /// Any of [`TextError`].
    pub fn open(stored: &[u8], pinned: RepositoryId) -> Result<Self, TextError> {
        Self::parse(&Self::verify(&SignedText::split(stored)?, pinned)?, pinned)
    }

    /// A successor that says the same; `hash` is that of this roster's object.
    #[must_use]
    pub fn next(&self, hash: ObjectId) -> Self {
        Self { seq: self.seq + 1, prev: hash, ..self.clone() }
    }

    /// Whether `next` is the successor of this roster, whose object has that hash.
    #[must_use]
    pub fn is_followed_by(&self, next: &Self, hash: ObjectId) -> bool {
        next.repository == self.repository && next.seq == self.seq + 1 && next.prev == hash
    }

    /// The epoch that new objects are sealed in.
    #[must_use]
    pub fn active_epoch(&self) -> &Epoch {
        let mut epochs = self.epochs.iter();
        epochs
            .find(|epoch| epoch.state == EpochState::Active)
            .expect("a roster has an active epoch")
    }

    /// An epoch by number.
    #[must_use]
    pub fn epoch(&self, number: u32) -> Option<&Epoch> {
        self.epochs.iter().find(|epoch| epoch.number == number)
    }

    /// A writer by id, revoked or not.
    #[must_use]
    pub fn writer(&self, id: ActorId) -> Option<&WriterEntry> {
        self.writers.iter().find(|writer| writer.id == id)
    }

    /// A maintainer by id.
    #[must_use]
    pub fn maintainer(&self, id: ActorId) -> Option<&MaintainerEntry> {
        self.maintainers.iter().find(|maintainer| maintainer.id == id)
    }

    /// A verifier by id.
    #[must_use]
    pub fn verifier(&self, id: ActorId) -> Option<&VerifierEntry> {
        self.verifiers.iter().find(|verifier| verifier.id == id)
    }

    /// Whether that commit of a writer's log counts: not before `from`, not after the revocation.
    #[must_use]
    pub fn writer_may_sign(&self, id: ActorId, seq: u64) -> bool {
        self.writer(id).is_some_and(|writer| writer.may_sign(seq))
    }

    /// The key that commit `seq` of `log/<id>` must be signed with: a writer's where it may sign,
    /// or a maintainer's.
    #[must_use]
    pub fn log_key(&self, id: ActorId, seq: u64) -> Option<&VerifyingKey> {
        let writer = self.writer(id).filter(|writer| writer.may_sign(seq)).map(|w| &w.key);
        writer.or_else(|| self.maintainer(id).map(|maintainer| &maintainer.key))
    }

    fn check(&self) -> Result<(), TextError> {
        check_link(self.seq, self.prev)?;
        let active = |epoch: &&Epoch| epoch.state == EpochState::Active;
        let domain_known = |writer: &WriterEntry| self.domains.contains(&writer.domain);
        let what = if self.repository != repository_id(&self.root) {
            "the repository is not the hash of the root key"
        } else if self.epochs.iter().filter(active).count() != 1 {
            "not exactly one epoch is active"
        } else if !self.writers.iter().all(domain_known) {
            "a writer is of an unknown domain"
        } else if !(PACK_BYTES_MIN..=PACK_BYTES_MAX).contains(&self.pack_bytes) {
            "the pack size is out of range"
        } else {
            return Ok(());
        };
        Err(TextError::Contradiction { what })
    }
}

impl SignedBody for Roster {
    const KIND: TextKind = TextKind::Roster;
    const CRITICAL: &'static [&'static str] = &["format", "pack-bytes"];

    fn repository(&self) -> RepositoryId {
        self.repository
    }

    fn print(&self, out: &mut String) {
        let Self { repository, seq, prev, root, pack_bytes, .. } = self;
        let _ = writeln!(out, "repository {repository}\nseq {seq}\nprev {prev}\nroot {root}");
        let _ = writeln!(out, "crit format {FORMAT_NUMBER}\ncrit pack-bytes {pack_bytes}");
        self.print_epochs(out);
        for domain in &self.domains {
            let _ = writeln!(out, "domain {domain}");
        }
        self.print_actors(out);
        let _ = writeln!(out, "retention-floor-seconds {}", self.retention_floor_seconds);
        let _ = writeln!(out, "grace-seconds {}", self.grace_seconds);
        for RecoveryFile { name, hash } in &self.recovery {
            let _ = writeln!(out, "recovery {} {hash}", name.as_str());
        }
    }

    fn read(lines: &[Line<'_>]) -> Result<Self, TextError> {
        // Another format may have other lines: what it is comes before what is wrong with them.
        if let Some(line) = lines.iter().find(|line| line.key == "crit format") {
            read_format(line)?;
        }
        let mut reader = Reader::new();
        for line in lines {
            reader.line(line)?;
        }
        let roster = reader.finish()?;
        roster.check()?;
        Ok(roster)
    }
}

impl Roster {
    fn print_epochs(&self, out: &mut String) {
        for Epoch { number, state, recipient_hash } in &self.epochs {
            let state = match state {
                EpochState::Active => "active",
                EpochState::Retired => "retired",
            };
            let _ = writeln!(out, "epoch {number} {state} {recipient_hash}");
        }
    }

    fn print_actors(&self, out: &mut String) {
        for WriterEntry { id, key, domain, from, revoked_after } in &self.writers {
            let _ = write!(out, "writer {id} {key} domain {domain} from {from}");
            if let Some(last) = revoked_after {
                let _ = write!(out, " revoked-after {last}");
            }
            out.push('\n');
        }
        for MaintainerEntry { id, key, recipient } in &self.maintainers {
            let _ = writeln!(out, "maintainer {id} {key} {recipient}");
        }
        for VerifierEntry { id, key } in &self.verifiers {
            let _ = writeln!(out, "verifier {id} {key}");
        }
    }
}

struct Reader {
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
}

impl Reader {
    fn new() -> Self {
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
        }
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), TextError> {
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

    fn finish(self) -> Result<Roster, TextError> {
        self.format.take()?;
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
        })
    }
}

fn read_format(line: &Line<'_>) -> Result<(), TextError> {
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
