//! The roster: who may do what, signed by the root key.
//!
//! The repository id is the hash of the root key, so that a pinned id is enough to check any
//! roster; no other key is ever taken from anywhere but a checked roster.

mod read;

use std::fmt::Write;
use std::str::FromStr;

use crate::crypto::ids::{content_hash, repository_id};
use crate::crypto::recipient::NativeRecipient;
use crate::crypto::signature::{SigningKey, VerifyingKey};
use crate::format::limits::{FORMAT_NUMBER, PACK_BYTES_MAX, PACK_BYTES_MIN};
use crate::format::roster::read::{RosterReader, read_format};
use crate::format::signed_text::{
    Line, SignedBody, SignedText, TextError, TextKind, VerifiedText, check_link,
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
    /// How often a replica was made the primary, and where the logs ended then; from 1.
    pub generation: Generation,
}

/// Which of several copies of a repository is the one that is written to.
///
/// A promotion raises the number. What the logs of the generation before say beyond the fences is
/// not part of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number, from 1.
    pub number: u64,
    /// Number of the roster that began it. What was signed under an earlier one counts up to the
    /// fences only.
    pub since: u64,
    /// Newest commit of each log at the promotion.
    pub fences: Vec<(ActorId, u64)>,
    /// Newest tombstone at the promotion; 0 where there was none.
    pub fence_tomb: u64,
}

impl Default for Generation {
    fn default() -> Self {
        Self { number: 1, since: 1, fences: Vec::new(), fence_tomb: 0 }
    }
}

impl Generation {
    /// Newest commit of a log at the promotion.
    #[must_use]
    pub fn fence(&self, actor: ActorId) -> Option<u64> {
        self.fences.iter().find(|(id, _)| *id == actor).map(|(_, seq)| *seq)
    }

    /// Whether a commit of a log counts that was signed under that roster.
    #[must_use]
    pub fn has_commit(&self, actor: ActorId, seq: u64, roster: u64) -> bool {
        roster >= self.since || self.number == 1 || seq <= self.fence(actor).unwrap_or(0)
    }

    /// Whether a tombstone counts that was signed under that roster.
    #[must_use]
    pub fn has_tomb(&self, seq: u64, roster: u64) -> bool {
        roster >= self.since || self.number == 1 || seq <= self.fence_tomb
    }
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
        } else if self.generation.since > self.seq {
            "a generation begins with a later roster"
        } else if self.generation.number == 0
            || (self.generation.number == 1 && self.generation != Generation::default())
        {
            "the first generation has no fences"
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
        let Generation { number, since, fences, fence_tomb } = &self.generation;
        if *number > 1 {
            let _ = writeln!(out, "generation {number} since {since}");
            for (actor, seq) in fences {
                let _ = writeln!(out, "fence {actor} {seq}");
            }
            let _ = writeln!(out, "fence-tombstone {fence_tomb}");
        }
    }

    fn read(lines: &[Line<'_>]) -> Result<Self, TextError> {
        // Another format may have other lines: what it is comes before what is wrong with them.
        if let Some(line) = lines.iter().find(|line| line.key == "crit format") {
            read_format(line)?;
        }
        let mut reader = RosterReader::new();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ids::object_id;
    use crate::crypto::recipient::ReadIdentity;
    use crate::crypto::secret::Secret32;
    use crate::format::signed_text::NO_PREVIOUS;
    use crate::format::signed_text::tests::{key, message_of, refuses_every_change, sign_lines};

    const ROOT: u8 = 1;
    const GOLDEN: &str = "holdfast-roster v1
repository 83561adb398fd87f8e7ed8331bff2fcb945733cc3012879cb9fab07928667062
seq 1
prev 0000000000000000000000000000000000000000000000000000000000000000
root ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c
crit format 1
crit pack-bytes 33554432
epoch 1 retired e56b8794deaced3b17ab31b5845189b3a751a9b3ace96878d3ba163c0d1052df
epoch 2 active b08dee0bbacfbe9311601a30cac72db8262cbae13a2c668b41692943d270f4bf
domain d0d0d0d0d0d0d0d0
domain d1d1d1d1d1d1d1d1
writer 0202020202020202 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU domain d0d0d0d0d0d0d0d0 from 3
writer 0303030303030303 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO1JKMYo0cLG6ukDOJBZlWEpWSc6XGP5NjbBRhSshzfR domain d0d0d0d0d0d0d0d0 from 3 revoked-after 9
maintainer 0404040404040404 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMqTrBcFGHBx1nuDx/8O/oEI6OxFMFdddyaHkzPb2r58 age10azzld8ve8wkehjxxkypl03tksemv7cqfy6ugvcdy83k76q6pcfq62ygf7
verifier 0505050505050505 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG56HN0psLeP0Tr0xVmP7/TvKpcWbjym8uT7/M2AUFvx
retention-floor-seconds 86400
grace-seconds 259200
recovery restore.py cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
";
    const GOLDEN_ID: &str = "89b1526d36fe13961095bf360a04a1ae6c724a6d6b967b667a0e8f772f5ee489";

    fn recipient(number: u8) -> NativeRecipient {
        ReadIdentity::from_secret(&Secret32::from_bytes(&[number; 32])).recipient()
    }

    fn writer(number: u8, revoked_after: Option<u64>) -> WriterEntry {
        let key = key(number).verifying_key();
        let domain = DomainId([0xd0; 8]);
        WriterEntry { id: ActorId([number; 8]), key, domain, from: 3, revoked_after }
    }

    fn roster() -> Roster {
        let root = key(ROOT).verifying_key();
        let retired = Epoch { state: EpochState::Retired, ..Epoch::active(1, &recipient(20)) };
        let (id, key_4) = (ActorId([4; 8]), key(4).verifying_key());
        Roster {
            repository: repository_id(&root),
            seq: 1,
            prev: NO_PREVIOUS,
            root,
            pack_bytes: 33_554_432,
            epochs: vec![retired, Epoch::active(2, &recipient(21))],
            domains: vec![DomainId([0xd0; 8]), DomainId([0xd1; 8])],
            writers: vec![writer(2, None), writer(3, Some(9))],
            maintainers: vec![MaintainerEntry { id, key: key_4, recipient: recipient(22) }],
            verifiers: vec![VerifierEntry { id: ActorId([5; 8]), key: key(5).verifying_key() }],
            retention_floor_seconds: 86_400,
            grace_seconds: 259_200,
            generation: Generation::default(),
            recovery: vec![RecoveryFile {
                name: "restore.py".parse().unwrap(),
                hash: ContentHash([0xcc; 32]),
            }],
        }
    }

    fn pinned() -> RepositoryId {
        roster().repository
    }

    #[test]
    fn golden_text() {
        let stored = roster().encode_and_sign(&key(ROOT)).unwrap();
        assert_eq!(message_of(&stored), GOLDEN);
        assert_eq!(object_id(&stored).to_string(), GOLDEN_ID);
        assert_eq!(Roster::open(&stored, pinned()), Ok(roster()));
    }

    #[test]
    fn no_change_is_accepted() {
        let stored = roster().encode_and_sign(&key(ROOT)).unwrap();
        refuses_every_change(&stored, |stored| Roster::open(stored, pinned()).is_ok());
    }

    /// The golden text with one part replaced, properly signed by the root key.
    fn changed(from: &str, to: &str) -> Result<Roster, TextError> {
        let text = GOLDEN.replacen(from, to, 1);
        assert_ne!(text, GOLDEN, "{from}");
        Roster::open(&sign_lines(TextKind::Roster, &key(ROOT), &text), pinned())
    }

    #[test]
    fn another_signer_kind_or_repository_is_refused() {
        let by_another = sign_lines(TextKind::Roster, &key(2), GOLDEN);
        let as_commit = sign_lines(TextKind::Commit, &key(ROOT), GOLDEN);
        for stored in [by_another, as_commit] {
            let error = Roster::open(&stored, pinned()).unwrap_err();
            assert!(matches!(error, TextError::Signature(_)), "{error}");
        }
        // Somebody else's repository, complete and properly signed.
        let root = key(9).verifying_key();
        let other = Roster { repository: repository_id(&root), root, ..roster() };
        let stored = other.encode_and_sign(&key(9)).unwrap();
        let actual = other.repository;
        let error = Roster::open(&stored, pinned()).unwrap_err();
        assert_eq!(error, TextError::WrongRepository { expected: pinned(), actual });
        let lying = Roster { repository: pinned(), ..other };
        assert!(lying.encode_and_sign(&key(9)).is_err());
    }

    #[test]
    fn a_promotion_comes_back() {
        let generation =
            Generation { number: 2, since: 1, fences: vec![(ActorId([7; 8]), 12)], fence_tomb: 3 };
        let promoted = Roster { generation: generation.clone(), ..roster() };
        let stored = promoted.encode_and_sign(&key(ROOT)).unwrap();
        assert_eq!(Roster::open(&stored, promoted.repository), Ok(promoted));
        assert_eq!(generation.fence(ActorId([7; 8])), Some(12));
        let first = Roster { generation: Generation { number: 1, ..generation }, ..roster() };
        assert!(first.encode_and_sign(&key(ROOT)).is_err());
    }

    #[test]
    fn unknown_lines_are_ignored_unless_critical() {
        assert_eq!(changed("crit format", "new thing 1\ncrit format"), Ok(roster()));
        let unsupported = [
            ("crit format", "crit thing 1\ncrit format", "thing"),
            ("crit format 1", "crit format 2", "format 2"),
            ("holdfast-roster v1", "holdfast-roster v2", "version 2"),
            // Newer, and with lines of another shape: newer counts.
            ("seq 1\n", "seq one\ncrit thing 1\n", "thing"),
        ];
        for (from, to, expected) in unsupported {
            let error = changed(from, to).unwrap_err();
            assert!(
                matches!(&error, TextError::Unsupported { what, .. } if what == expected),
                "{to}: {error}"
            );
        }
        let newer = GOLDEN.replace("crit format 1", "crit format 2").replace("seq 1\n", "seq\n");
        let stored = sign_lines(TextKind::Roster, &key(ROOT), &newer);
        let error = Roster::open(&stored, pinned()).unwrap_err();
        assert!(matches!(error, TextError::Unsupported { .. }), "{error}");
    }

    #[test]
    fn every_fixed_line_stands_once() {
        let repeatable = ["epoch", "domain", "writer", "maintainer", "verifier", "recovery"];
        for line in GOLDEN.split_inclusive('\n').skip(1) {
            let error = changed(line, &format!("{line}{line}")).unwrap_err();
            let expected = line.starts_with("root ");
            assert!(matches!(error, TextError::Repeated { .. }) != expected, "{line}: {error}");
            if repeatable.iter().all(|key| !line.starts_with(key)) {
                let error = changed(line, "").unwrap_err();
                assert!(matches!(error, TextError::Missing { .. }), "{line}: {error}");
            }
        }
    }

    #[test]
    fn values_out_of_form_or_range_are_refused() {
        let table = [
            ("seq 1", "seq 0"),
            ("seq 1", "seq 01"),
            ("seq 1", "seq 99999999999999999999"),
            ("seq 1", "seq 2"),
            ("seq 1", "seq  1"),
            ("prev 0", "prev 1"),
            ("prev 0", "prev "),
            ("pack-bytes 33554432", "pack-bytes 1"),
            ("pack-bytes 33554432", "pack-bytes 268435457"),
            ("epoch 2 active", "epoch 2 retired"),
            ("epoch 1 retired", "epoch 1 active"),
            ("epoch 1 retired", "epoch 2 retired"),
            ("epoch 1 retired", "epoch 0 retired"),
            ("epoch 1 retired", "epoch 4294967296 retired"),
            ("epoch 1 retired", "epoch 1 lost"),
            ("domain d0d0d0d0d0d0d0d0\n", ""),
            ("writer 0202020202020202", "writer 0303030303030303"),
            ("maintainer 0404040404040404", "maintainer 0202020202020202"),
            ("writer 02020202", "writer 0202020"),
            ("writer 0202020202020202 ssh-ed25519", "writer 0202020202020202 ssh-rsa"),
            ("from 3", "from 0"),
            ("from 3", "until 3"),
            ("from 3", "from 3 revoked-after"),
            ("revoked-after 9", "revoked-after 9 9"),
            (" age1", " AGE1"),
            ("restore.py", "../restore.py"),
            ("restore.py", ".restore"),
            ("grace-seconds 259200", "grace-seconds -1"),
            ("grace-seconds", "\ngrace-seconds"),
            ("domain d1", "domain\td1"),
        ];
        for (from, to) in table {
            let error = changed(from, to).unwrap_err();
            assert!(!matches!(error, TextError::Unsupported { .. }), "{to}: {error}");
        }
    }

    #[test]
    fn what_could_not_be_read_is_not_signed() {
        let mut two_active = roster();
        two_active.epochs[0].state = EpochState::Active;
        let mut same_id = roster();
        same_id.verifiers[0].id = same_id.writers[0].id;
        let mut stray = roster();
        stray.writers[0].domain = DomainId([1; 8]);
        let late = Roster { seq: 2, ..roster() };
        for wrong in [two_active, same_id, stray, late] {
            assert!(wrong.encode_and_sign(&key(ROOT)).is_err());
        }
    }

    #[test]
    fn a_writer_signs_within_its_range() {
        let roster = roster();
        let (open, revoked) = (ActorId([2; 8]), ActorId([3; 8]));
        let table = [
            (open, 2, false),
            (open, 3, true),
            (open, u64::MAX, true),
            (revoked, 9, true),
            (revoked, 10, false),
            (ActorId([4; 8]), 5, false),
            (ActorId([99; 8]), 5, false),
        ];
        for (id, seq, expected) in table {
            assert_eq!(roster.writer_may_sign(id, seq), expected, "{id} {seq}");
        }
        assert_eq!(roster.log_key(open, 3), Some(&key(2).verifying_key()));
        assert_eq!(roster.log_key(revoked, 10), None);
        assert_eq!(roster.log_key(ActorId([4; 8]), 1), Some(&key(4).verifying_key()));
        assert_eq!(roster.log_key(ActorId([5; 8]), 1), None);
    }

    #[test]
    fn epochs_vouch_for_their_recipient() {
        let roster = roster();
        assert_eq!(roster.active_epoch().number, 2);
        assert!(roster.active_epoch().has_recipient(&recipient(21)));
        assert!(!roster.active_epoch().has_recipient(&recipient(20)));
        assert!(roster.epoch(1).unwrap().has_recipient(&recipient(20)));
        assert_eq!(roster.epoch(3), None);
    }

    #[test]
    fn a_successor_names_its_predecessor() {
        let first = roster();
        let hash = object_id(&first.encode_and_sign(&key(ROOT)).unwrap());
        let second = first.next(hash);
        let stored = second.encode_and_sign(&key(ROOT)).unwrap();
        let read = Roster::open(&stored, pinned()).unwrap();
        assert!(first.is_followed_by(&read, hash));
        assert!(!first.is_followed_by(&read, object_id(b"")));
        assert!(!read.is_followed_by(&first, hash));
        assert_eq!(Roster::object_name(read.seq), "roster/0000000000000002");
    }
}
