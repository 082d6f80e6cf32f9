//! A commit: one signed entry of a writer's log, and the only commit point of the repository.
//!
//! A commit names objects of its own writer only; which key may sign it is the roster's matter.

use std::fmt::{self, Write};
use std::str::FromStr;

use jiff::Timestamp;

use crate::crypto::signature::{SigningKey, VerifyingKey};
use crate::format::signed_text::{
    Distinct, Line, Once, RosterReference, SignedBody, SignedText, TextError, TextKind,
    VerifiedText, check_link,
};
use crate::id::{ActorId, DomainId, ObjectId, RepositoryId};

/// Name of a sealed object or an attestation: everything that is named by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// `data/<2 hex>/<id>`: a pack.
    Data(ObjectId),
    /// `index/<domain>/<id>`.
    Index(DomainId, ObjectId),
    /// `snap/<writer>/<id>`.
    Snapshot(ActorId, ObjectId),
    /// `refs/<writer>/<id>`.
    Refs(ActorId, ObjectId),
    /// `attest/<id>`.
    Attestation(ObjectId),
}

impl ObjectName {
    /// BLAKE3 of the object's bytes.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Data(id)
            | Self::Attestation(id)
            | Self::Index(_, id)
            | Self::Snapshot(_, id)
            | Self::Refs(_, id) => *id,
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(id) => write!(f, "data/{:02x}/{id}", id.0[0]),
            Self::Index(domain, id) => write!(f, "index/{domain}/{id}"),
            Self::Snapshot(writer, id) => write!(f, "snap/{writer}/{id}"),
            Self::Refs(writer, id) => write!(f, "refs/{writer}/{id}"),
            Self::Attestation(id) => write!(f, "attest/{id}"),
        }
    }
}

/// A text that names no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of an object")]
pub struct ObjectNameError {
    /// The text, cut to 120 characters.
    pub text: String,
}

impl FromStr for ObjectName {
    type Err = ObjectNameError;

    fn from_str(text: &str) -> Result<Self, ObjectNameError> {
        let name = name_of(text).filter(|name| name.to_string() == text);
        name.ok_or_else(|| ObjectNameError { text: text.chars().take(120).collect() })
    }
}

fn name_of(text: &str) -> Option<ObjectName> {
    let (folder, id) = text.rsplit_once('/')?;
    let id = id.parse().ok()?;
    Some(match folder.split_once('/') {
        None if folder == "attest" => ObjectName::Attestation(id),
        Some(("data", _)) => ObjectName::Data(id),
        Some(("index", domain)) => ObjectName::Index(domain.parse().ok()?, id),
        Some(("snap", writer)) => ObjectName::Snapshot(writer.parse().ok()?, id),
        Some(("refs", writer)) => ObjectName::Refs(writer.parse().ok()?, id),
        _ => return None,
    })
}

/// A snapshot: the writer that made it, and its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// Whose it is.
    pub writer: ActorId,
    /// The object below `snap/<writer>/`.
    pub id: ObjectId,
}

impl SnapshotName {
    /// As the name of an object.
    #[must_use]
    pub fn object_name(&self) -> ObjectName {
        ObjectName::Snapshot(self.writer, self.id)
    }

    pub(crate) fn read(line: &Line<'_>, word: &str) -> Result<Self, TextError> {
        match word.parse() {
            Ok(ObjectName::Snapshot(writer, id)) => Ok(Self { writer, id }),
            _ => Err(line.malformed("a snapshot was expected")),
        }
    }
}

/// An object that a commit brings into existence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PutEntry {
    /// Its name; not an attestation.
    pub name: ObjectName,
    /// Its stored length in bytes.
    pub bytes: u64,
}

/// A snapshot and the refs object that lists what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SnapshotEntry {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// Who wrote the refs object: the same writer, or the maintainer that repacked.
    pub refs_actor: ActorId,
    /// The object below `refs/<refs_actor>/`.
    pub refs: ObjectId,
}

impl SnapshotEntry {
    fn read(line: &Line<'_>) -> Result<Self, TextError> {
        let [snapshot, refs] = line.words()?;
        let snapshot = SnapshotName::read(line, snapshot)?;
        match refs.parse() {
            Ok(ObjectName::Refs(refs_actor, refs)) => Ok(Self { snapshot, refs_actor, refs }),
            _ => Err(line.malformed("refs were expected")),
        }
    }
}

impl fmt::Display for SnapshotEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refs = ObjectName::Refs(self.refs_actor, self.refs);
        write!(f, "{} {refs}", self.snapshot.object_name())
    }
}

/// What `log/<writer>/<seq>` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Whose log it is in: a writer, or a maintainer.
    pub writer: ActorId,
    /// Its place in the log, from 1.
    pub seq: u64,
    /// Hash of the commit before; [`crate::format::signed_text::NO_PREVIOUS`] in the first.
    pub prev: ObjectId,
    /// The roster that the writer acted under.
    pub roster: RosterReference,
    /// When, by the writer's clock: a claim.
    pub time: Timestamp,
    /// What it adds, each name once.
    pub puts: Vec<PutEntry>,
    /// The snapshot it completes; `None` in a checkpoint.
    pub snapshot: Option<SnapshotEntry>,
    /// Newer refs of older snapshots after a repack. Only a maintainer's commits may have any: the
    /// caller compares with the roster.
    pub relocations: Vec<SnapshotEntry>,
}

impl Commit {
    /// `log/<writer>/<seq in 16 hexadecimal digits>`.
    #[must_use]
    pub fn object_name(writer: ActorId, seq: u64) -> String {
        format!("log/{writer}/{seq:016x}")
    }

    /// Prints and signs the commit.
    ///
    /// # Errors
    /// It is too long (some 40,000 puts), or no parser would accept it.
    pub fn encode_and_sign(&self, key: &SigningKey) -> Result<Vec<u8>, TextError> {
        self.sign(key)
    }

    /// Reads a commit whose signature was checked.
    ///
    /// # Errors
    /// Another repository or kind, too new, or malformed.
    pub fn parse(text: &VerifiedText<'_>, repository: RepositoryId) -> Result<Self, TextError> {
        Self::read_verified(text, repository)
    }

    /// Checks the signature of a stored commit by `key`, and reads it.
    ///
    /// The caller compares `writer` and `seq` with the object's name, and `prev` with the chain.
    ///
    /// # Errors
    /// Any of [`TextError`].
    pub fn open(
        stored: &[u8],
        key: &VerifyingKey,
        repository: RepositoryId,
    ) -> Result<Self, TextError> {
        let text = SignedText::split(stored)?.verify(TextKind::Commit, key)?;
        Self::parse(&text, repository)
    }

    fn check(&self) -> Result<(), TextError> {
        check_link(self.seq, self.prev)?;
        let own = |entry: &SnapshotEntry| entry.refs_actor == self.writer;
        let what = if !self.puts.iter().all(|put| self.may_put(&put.name)) {
            "it puts objects of another writer"
        } else if !self.snapshot.iter().all(|e| own(e) && e.snapshot.writer == self.writer) {
            "it completes a snapshot of another writer"
        } else if !self.relocations.iter().all(own) {
            "it relocates to refs of another actor"
        } else {
            return Ok(());
        };
        Err(TextError::Contradiction { what })
    }

    fn may_put(&self, name: &ObjectName) -> bool {
        match name {
            ObjectName::Data(_) | ObjectName::Index(..) => true,
            ObjectName::Snapshot(writer, _) | ObjectName::Refs(writer, _) => *writer == self.writer,
            ObjectName::Attestation(_) => false,
        }
    }
}

impl SignedBody for Commit {
    const KIND: TextKind = TextKind::Commit;

    fn repository(&self) -> RepositoryId {
        self.repository
    }

    fn print(&self, out: &mut String) {
        let Self { repository, writer, seq, prev, roster, time, .. } = self;
        let _ = writeln!(out, "repository {repository}\nwriter {writer}\nseq {seq}\nprev {prev}");
        let _ = writeln!(out, "roster {roster}\ntime {time}");
        for put in &self.puts {
            let _ = writeln!(out, "put {} {}", put.name, put.bytes);
        }
        if let Some(entry) = &self.snapshot {
            let _ = writeln!(out, "snapshot {entry}");
        }
        for entry in &self.relocations {
            let _ = writeln!(out, "relocate {entry}");
        }
    }

    fn read(lines: &[Line<'_>]) -> Result<Self, TextError> {
        let (mut repository, mut writer) = (Once::new("repository"), Once::new("writer"));
        let (mut seq, mut prev) = (Once::new("seq"), Once::new("prev"));
        let (mut roster, mut time) = (Once::new("roster"), Once::new("time"));
        let (mut puts, mut put_names) = (Vec::new(), Distinct::new("put"));
        let mut snapshot = Once::new("snapshot");
        let (mut relocations, mut relocated) = (Vec::new(), Distinct::new("relocate"));
        for line in lines {
            match line.key {
                "repository" => repository.set(line, line.only("a repository was expected")?)?,
                "writer" => writer.set(line, line.only("a writer was expected")?)?,
                "seq" => seq.set(line, line.only_sequence()?)?,
                "prev" => prev.set(line, line.only("a hash was expected")?)?,
                "roster" => roster.set(line, RosterReference::read(line)?)?,
                "time" => time.set(line, line.only_time()?)?,
                "put" => {
                    let [name, bytes] = line.words()?;
                    let name = line.value(name, "an object was expected")?;
                    put_names.add(line, name)?;
                    puts.push(PutEntry { name, bytes: line.number(bytes)? });
                }
                "snapshot" => snapshot.set(line, SnapshotEntry::read(line)?)?,
                "relocate" => {
                    let entry = SnapshotEntry::read(line)?;
                    relocated.add(line, entry.snapshot)?;
                    relocations.push(entry);
                }
                _ => {}
            }
        }
        let commit = Self {
            repository: repository.take()?,
            writer: writer.take()?,
            seq: seq.take()?,
            prev: prev.take()?,
            roster: roster.take()?,
            time: time.take()?,
            puts,
            snapshot: snapshot.optional(),
            relocations,
        };
        commit.check()?;
        Ok(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ids::object_id;
    use crate::format::signed_text::NO_PREVIOUS;
    use crate::format::signed_text::tests::{key, message_of, refuses_every_change, sign_lines};

    const WRITER: ActorId = ActorId([2; 8]);
    const REPOSITORY: RepositoryId = RepositoryId([0x0f; 32]);
    const GOLDEN: &str = "holdfast-commit v1
repository 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
writer 0202020202020202
seq 7
prev abababababababababababababababababababababababababababababababab
roster 1 cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
time 2026-11-23T06:38:35Z
put data/a1/a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1 33554432
put index/d0d0d0d0d0d0d0d0/a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2 16384
put snap/0202020202020202/a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3 16384
put refs/0202020202020202/a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4 17408
snapshot snap/0202020202020202/a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3 refs/0202020202020202/a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4
relocate snap/0909090909090909/a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 refs/0202020202020202/a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6
";

    fn id(byte: u8) -> ObjectId {
        ObjectId([byte; 32])
    }

    fn entry(writer: ActorId, snapshot: u8, refs: u8) -> SnapshotEntry {
        let snapshot = SnapshotName { writer, id: id(snapshot) };
        SnapshotEntry { snapshot, refs_actor: WRITER, refs: id(refs) }
    }

    fn commit() -> Commit {
        let put = |name, bytes| PutEntry { name, bytes };
        Commit {
            repository: REPOSITORY,
            writer: WRITER,
            seq: 7,
            prev: id(0xab),
            roster: RosterReference { seq: 1, hash: id(0xcd) },
            time: "2026-11-23T06:38:35Z".parse().unwrap(),
            puts: vec![
                put(ObjectName::Data(id(0xa1)), 33_554_432),
                put(ObjectName::Index(DomainId([0xd0; 8]), id(0xa2)), 16_384),
                put(ObjectName::Snapshot(WRITER, id(0xa3)), 16_384),
                put(ObjectName::Refs(WRITER, id(0xa4)), 17_408),
            ],
            snapshot: Some(entry(WRITER, 0xa3, 0xa4)),
            relocations: vec![entry(ActorId([9; 8]), 0xa5, 0xa6)],
        }
    }

    fn open(stored: &[u8]) -> Result<Commit, TextError> {
        Commit::open(stored, &key(2).verifying_key(), REPOSITORY)
    }

    fn changed(from: &str, to: &str) -> Result<Commit, TextError> {
        let text = GOLDEN.replacen(from, to, 1);
        assert_ne!(text, GOLDEN, "{from}");
        open(&sign_lines(TextKind::Commit, &key(2), &text))
    }

    #[test]
    fn golden_text() {
        let stored = commit().encode_and_sign(&key(2)).unwrap();
        assert_eq!(message_of(&stored), GOLDEN);
        assert_eq!(open(&stored), Ok(commit()));
        assert_eq!(Commit::object_name(WRITER, 0x1f), "log/0202020202020202/000000000000001f");
        let text = SignedText::split(&stored).unwrap();
        let verified = text.verify(TextKind::Commit, &key(2).verifying_key()).unwrap();
        assert_eq!(verified.hash(), object_id(&stored));
    }

    #[test]
    fn a_checkpoint_and_a_first_commit() {
        let checkpoint = Commit { snapshot: None, puts: Vec::new(), ..commit() };
        let first = Commit { seq: 1, prev: NO_PREVIOUS, ..checkpoint.clone() };
        for commit in [checkpoint, first] {
            assert_eq!(open(&commit.encode_and_sign(&key(2)).unwrap()), Ok(commit));
        }
    }

    #[test]
    fn no_change_is_accepted() {
        let stored = commit().encode_and_sign(&key(2)).unwrap();
        refuses_every_change(&stored, |stored| open(stored).is_ok());
    }

    #[test]
    fn another_signer_kind_or_repository_is_refused() {
        let stored = commit().encode_and_sign(&key(3)).unwrap();
        assert!(matches!(open(&stored), Err(TextError::Signature(_))));
        for kind in [TextKind::Roster, TextKind::Tombstone, TextKind::Attestation] {
            let stored = sign_lines(kind, &key(2), GOLDEN);
            assert!(matches!(open(&stored), Err(TextError::Signature(_))), "{kind:?}");
            let verified =
                SignedText::split(&stored).unwrap().verify(kind, &key(2).verifying_key());
            assert!(Commit::parse(&verified.unwrap(), REPOSITORY).is_err());
        }
        let actual = RepositoryId([1; 32]);
        let other = Commit { repository: actual, ..commit() };
        let error = open(&other.encode_and_sign(&key(2)).unwrap()).unwrap_err();
        assert_eq!(error, TextError::WrongRepository { expected: REPOSITORY, actual });
    }

    #[test]
    fn hostile_lines_are_refused() {
        for line in GOLDEN.split_inclusive('\n').skip(1) {
            let error = changed(line, &format!("{line}{line}")).unwrap_err();
            assert!(matches!(error, TextError::Repeated { .. }), "{line}: {error}");
        }
        for fixed in ["repository", "writer", "seq", "prev", "roster", "time"] {
            let error = changed(&format!("\n{fixed}"), "\nsomething").unwrap_err();
            assert_eq!(error, TextError::Missing { field: fixed });
        }
        let snapshot = "snapshot snap/0202020202020202/";
        let table = [
            ("seq 7", "seq 1"),
            ("seq 7", "seq 0"),
            ("seq 7", "seq 18446744073709551616"),
            ("roster 1", "roster 0"),
            ("06:38:35Z", "06:38:35+00:00"),
            ("06:38:35Z", "06:61:35Z"),
            ("data/a1/", "data/a2/"),
            ("data/a1/", "data//"),
            ("data/a1/", "data/"),
            ("data/a1/", "DATA/a1/"),
            ("data/a1/", "../data/a1/"),
            ("put data/a1/", "put attest/"),
            ("33554432", "0x200"),
            ("33554432", "033554432"),
            ("33554432", ""),
            ("put snap/0202", "put snap/0302"),
            ("put refs/0202", "put refs/0302"),
            (snapshot, "snapshot snap/0302020202020202/"),
            (snapshot, "snapshot refs/0202020202020202/"),
            (" refs/0202020202020202/a4a4", " refs/0302020202020202/a4a4"),
            (" refs/0202020202020202/a6a6", " refs/0302020202020202/a6a6"),
        ];
        for (from, to) in table {
            assert!(changed(from, to).is_err(), "{to}");
        }
        assert_eq!(changed("time", "note \"x\"\ntime"), Ok(commit()));
        let error = changed("time", "crit note 1\ntime").unwrap_err();
        assert!(matches!(error, TextError::Unsupported { line: 7, .. }), "{error}");
    }

    #[test]
    fn too_many_puts_are_not_signed() {
        let mut commit = commit();
        commit.puts = (0_u32..60_000)
            .map(|i| {
                let name = ObjectName::Data(object_id(&i.to_le_bytes()));
                PutEntry { name, bytes: 33_554_432 }
            })
            .collect();
        let error = commit.encode_and_sign(&key(2)).unwrap_err();
        assert!(matches!(error, TextError::TooLong { .. }), "{error}");
    }
}
