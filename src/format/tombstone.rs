//! A tombstone: one signed entry of the chain, common to all maintainers, of what is forgotten and
//! deleted.
//!
//! Nothing is deleted without an intent that stood for the grace time, counted from when the store
//! first saw the tombstone; `time` is a claim.

use std::fmt::{self, Write};
use std::str::FromStr;

use jiff::Timestamp;

use crate::crypto::signature::{SigningKey, VerifyingKey};
use crate::format::commit::{ObjectName, SnapshotName};
use crate::format::signed_text::{
    Line, Once, RosterReference, SignedBody, SignedText, TextError, TextKind, VerifiedText,
    check_link,
};
use crate::id::{ActorId, ObjectId, RepositoryId};

/// Longest [`Remark`].
pub const REMARK_BYTES_MAX: usize = 256;

/// Words of a person at the end of a line: printable ASCII, at most [`REMARK_BYTES_MAX`], no
/// space at either end, may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Remark(String);

impl Remark {
    /// Takes any text: what is not printable ASCII becomes `?`, what is too long is cut.
    #[must_use]
    pub fn lossy(text: &str) -> Self {
        let printable = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
        let kept: String = text.trim().chars().map(printable).take(REMARK_BYTES_MAX).collect();
        Self(kept.trim().to_owned())
    }

    /// The words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Remark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let remark = Self::lossy(text);
        if remark.0 == text { Ok(remark) } else { Err(()) }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::signed_text::NO_PREVIOUS;
    use crate::format::signed_text::tests::{key, message_of, refuses_every_change, sign_lines};

    const REPOSITORY: RepositoryId = RepositoryId([0x0f; 32]);
    const GOLDEN: &str = "holdfast-tombstone v1
repository 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
seq 1
prev 0000000000000000000000000000000000000000000000000000000000000000
roster 1 cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
maintainer 0404040404040404
time 2026-11-23T06:38:35.5Z
forget snap/0202020202020202/a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1 keep daily 7
forget snap/0202020202020202/a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2
recall snap/0202020202020202/a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1
intent data/a3/a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3
withdraw data/a3/a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3a3
done attest/a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4
";

    fn tombstone() -> Tombstone {
        let id = |byte| ObjectId([byte; 32]);
        let snapshot = |byte| SnapshotName { writer: ActorId([2; 8]), id: id(byte) };
        let forget = |byte, reason: &str| Declaration::Forget {
            snapshot: snapshot(byte),
            reason: Remark::lossy(reason),
        };
        Tombstone {
            repository: REPOSITORY,
            seq: 1,
            prev: NO_PREVIOUS,
            roster: RosterReference { seq: 1, hash: id(0xcd) },
            maintainer: ActorId([4; 8]),
            time: "2026-11-23T06:38:35.5Z".parse().unwrap(),
            declarations: vec![
                forget(0xa1, "keep daily 7"),
                forget(0xa2, ""),
                Declaration::Recall(snapshot(0xa1)),
                Declaration::Intent(ObjectName::Data(id(0xa3))),
                Declaration::Withdraw(ObjectName::Data(id(0xa3))),
                Declaration::Done(ObjectName::Attestation(id(0xa4))),
            ],
        }
    }

    fn open(stored: &[u8]) -> Result<Tombstone, TextError> {
        Tombstone::open(stored, &key(4).verifying_key(), REPOSITORY)
    }

    fn changed(from: &str, to: &str) -> Result<Tombstone, TextError> {
        let text = GOLDEN.replacen(from, to, 1);
        assert_ne!(text, GOLDEN, "{from}");
        open(&sign_lines(TextKind::Tombstone, &key(4), &text))
    }

    #[test]
    fn golden_text() {
        let stored = tombstone().encode_and_sign(&key(4)).unwrap();
        assert_eq!(message_of(&stored), GOLDEN);
        assert_eq!(open(&stored), Ok(tombstone()));
        let text = SignedText::split(&stored).unwrap();
        assert_eq!(Tombstone::claimed_maintainer(&text), Some(ActorId([4; 8])));
        assert_eq!(Tombstone::object_name(2), "tomb/0000000000000002");
    }

    #[test]
    fn no_change_is_accepted() {
        let stored = tombstone().encode_and_sign(&key(4)).unwrap();
        refuses_every_change(&stored, |stored| open(stored).is_ok());
    }

    #[test]
    fn a_reason_cannot_make_a_line() {
        let mut tombstone = tombstone();
        let Declaration::Forget { reason, .. } = &mut tombstone.declarations[0] else { panic!() };
        *reason = Remark::lossy("x\ndone data/a3/a3");
        assert_eq!(open(&tombstone.encode_and_sign(&key(4)).unwrap()), Ok(tombstone));
    }

    #[test]
    fn hostile_lines_are_refused() {
        for fixed in ["repository", "seq", "prev", "roster", "maintainer", "time"] {
            let error = changed(&format!("\n{fixed}"), "\nsomething").unwrap_err();
            assert_eq!(error, TextError::Missing { field: fixed });
            let line = GOLDEN.lines().find(|line| line.starts_with(fixed)).unwrap();
            let error = changed(line, &format!("{line}\n{line}")).unwrap_err();
            assert!(matches!(error, TextError::Repeated { .. }), "{fixed}: {error}");
        }
        let table = [
            ("seq 1", "seq 2"),
            ("prev 0", "prev 1"),
            ("recall snap/", "recall refs/"),
            ("forget snap/", "forget data/"),
            ("daily 7", "daily 7 "),
            ("a2\n", "a2 \n"),
            ("keep", " keep"),
            ("intent data/a3", "intent data/a4"),
            ("intent data/a3/", "intent log/a3/"),
            ("intent ", "intent x "),
            ("done attest/a4", "done attest/"),
        ];
        for (from, to) in table {
            assert!(changed(from, to).is_err(), "{to}");
        }
        assert_eq!(changed("recall", "observe x\nrecall"), Ok(tombstone()));
        let error = changed("recall", "crit observe x\nrecall").unwrap_err();
        assert!(matches!(error, TextError::Unsupported { .. }), "{error}");
    }

    #[test]
    fn remarks_are_made_printable() {
        let table = [
            (" keep daily 7 ", "keep daily 7"),
            ("two\nlines", "two?lines"),
            ("Gr\u{fc}n", "Gr?n"),
            ("", ""),
        ];
        for (text, expected) in table {
            let remark = Remark::lossy(text);
            assert_eq!(remark.as_str(), expected);
            assert_eq!(expected.parse(), Ok(remark));
        }
        assert_eq!(Remark::lossy(&"x".repeat(1_000)).as_str().len(), REMARK_BYTES_MAX);
        assert!("two\nlines".parse::<Remark>().is_err());
    }
}
