//! A tombstone: one signed entry of the chain, common to all maintainers, of what is forgotten and
//! deleted.
//!
//! Nothing is deleted without an intent that stood for the grace time, counted from when the store
//! first saw the tombstone; `time` is a claim.

use std::fmt::Write;

use jiff::Timestamp;

use crate::crypto::signature::{SigningKey, VerifyingKey};
use crate::format::commit::{ObjectName, SnapshotName};
use crate::format::signed_text::{
    Line, Once, Remark, RosterReference, SignedBody, SignedText, TextError, TextKind, VerifiedText,
    check_link,
};
use crate::id::{ActorId, ObjectId, RepositoryId};

/// One thing that a maintainer declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declaration {
    /// The snapshot is no longer listed. It can be recalled while its packs last.
    Forget {
        /// Which one.
        snapshot: SnapshotName,
        /// Why: the retention rule, or a person's words.
        reason: Remark,
    },
    /// A forgotten snapshot is listed again.
    Recall(SnapshotName),
    /// The object will be deleted after the grace time.
    Intent(ObjectName),
    /// An intent is taken back.
    Withdraw(ObjectName),
    /// The object has been deleted.
    Done(ObjectName),
}

/// What `tomb/<seq>` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// Hash of the tombstone before; [`crate::format::signed_text::NO_PREVIOUS`] in the first.
    pub prev: ObjectId,
    /// The roster that the maintainer acted under.
    pub roster: RosterReference,
    /// Who signs it.
    pub maintainer: ActorId,
    /// When, by the maintainer's clock: a claim.
    pub time: Timestamp,
    /// The declarations; a later one outweighs an earlier one on the same object.
    pub declarations: Vec<Declaration>,
}

impl Tombstone {
    /// `tomb/<seq in 16 hexadecimal digits>`.
    #[must_use]
    pub fn object_name(seq: u64) -> String {
        format!("tomb/{seq:016x}")
    }

    /// Who claims to have signed it: looks up the key to verify with.
    #[must_use]
    pub fn claimed_maintainer(text: &SignedText<'_>) -> Option<ActorId> {
        text.claimed("maintainer")?.parse().ok()
    }

    /// Prints and signs the tombstone.
    ///
    /// # Errors
    /// It is too long (some 40,000 declarations), or no parser would accept it.
    pub fn encode_and_sign(&self, key: &SigningKey) -> Result<Vec<u8>, TextError> {
        self.sign(key)
    }

    /// Reads a tombstone whose signature was checked.
    ///
    /// # Errors
    /// Another repository or kind, too new, or malformed.
    pub fn parse(text: &VerifiedText<'_>, repository: RepositoryId) -> Result<Self, TextError> {
        Self::read_verified(text, repository)
    }

    /// Checks the signature of a stored tombstone by `key`, and reads it.
    ///
    /// # Errors
    /// Any of [`TextError`].
    pub fn open(
        stored: &[u8],
        key: &VerifyingKey,
        repository: RepositoryId,
    ) -> Result<Self, TextError> {
        let text = SignedText::split(stored)?.verify(TextKind::Tombstone, key)?;
        Self::parse(&text, repository)
    }
}

impl SignedBody for Tombstone {
    const KIND: TextKind = TextKind::Tombstone;

    fn repository(&self) -> RepositoryId {
        self.repository
    }

    fn print(&self, out: &mut String) {
        let Self { repository, seq, prev, roster, maintainer, time, .. } = self;
        let _ = writeln!(out, "repository {repository}\nseq {seq}\nprev {prev}\nroster {roster}");
        let _ = writeln!(out, "maintainer {maintainer}\ntime {time}");
        for declaration in &self.declarations {
            let _ = match declaration {
                Declaration::Forget { snapshot, reason } => {
                    let space = if reason.as_str().is_empty() { "" } else { " " };
                    writeln!(out, "forget {}{space}{reason}", snapshot.object_name())
                }
                Declaration::Recall(snapshot) => {
                    writeln!(out, "recall {}", snapshot.object_name())
                }
                Declaration::Intent(name) => writeln!(out, "intent {name}"),
                Declaration::Withdraw(name) => writeln!(out, "withdraw {name}"),
                Declaration::Done(name) => writeln!(out, "done {name}"),
            };
        }
    }

    fn read(lines: &[Line<'_>]) -> Result<Self, TextError> {
        let (mut repository, mut maintainer) = (Once::new("repository"), Once::new("maintainer"));
        let (mut seq, mut prev) = (Once::new("seq"), Once::new("prev"));
        let (mut roster, mut time) = (Once::new("roster"), Once::new("time"));
        let mut declarations = Vec::new();
        for line in lines {
            match line.key {
                "repository" => repository.set(line, line.only("a repository was expected")?)?,
                "seq" => seq.set(line, line.only_sequence()?)?,
                "prev" => prev.set(line, line.only("a hash was expected")?)?,
                "roster" => roster.set(line, RosterReference::read(line)?)?,
                "maintainer" => maintainer.set(line, line.only("a maintainer was expected")?)?,
                "time" => time.set(line, line.only_time()?)?,
                _ => declarations.extend(read_declaration(line)?),
            }
        }
        let (seq, prev) = (seq.take()?, prev.take()?);
        check_link(seq, prev)?;
        Ok(Self {
            repository: repository.take()?,
            seq,
            prev,
            roster: roster.take()?,
            maintainer: maintainer.take()?,
            time: time.take()?,
            declarations,
        })
    }
}

fn read_declaration(line: &Line<'_>) -> Result<Option<Declaration>, TextError> {
    let object = || line.only("an object was expected");
    Ok(Some(match line.key {
        "forget" => read_forget(line)?,
        "recall" => {
            let [snapshot] = line.words()?;
            Declaration::Recall(SnapshotName::read(line, snapshot)?)
        }
        "intent" => Declaration::Intent(object()?),
        "withdraw" => Declaration::Withdraw(object()?),
        "done" => Declaration::Done(object()?),
        _ => return Ok(None),
    }))
}

fn read_forget(line: &Line<'_>) -> Result<Declaration, TextError> {
    let (snapshot, reason) = match line.rest.split_once(' ') {
        Some((_, "")) => return Err(line.malformed("a space at the end")),
        Some(parts) => parts,
        None => (line.rest, ""),
    };
    let snapshot = SnapshotName::read(line, snapshot)?;
    Ok(Declaration::Forget { snapshot, reason: line.value(reason, "a reason was expected")? })
}
