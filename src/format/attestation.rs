//! An attestation: a verifier's word that it read packs in full and recomputed every chunk id.
//!
//! It is what lets a writer deduplicate against the entries of other writers of its domain.

use std::fmt::Write;

use jiff::Timestamp;

use crate::crypto::signature::{SigningKey, VerifyingKey};
use crate::format::commit::ObjectName;
use crate::format::signed_text::{
    Distinct, Line, Once, RosterReference, SignedBody, SignedText, TextError, TextKind,
    VerifiedText,
};
use crate::id::{ActorId, ObjectId, RepositoryId};

/// What `attest/<id>` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Who signs it.
    pub verifier: ActorId,
    /// The roster that the verifier acted under.
    pub roster: RosterReference,
    /// When, by the verifier's clock: a claim.
    pub time: Timestamp,
    /// The packs that were read, each once.
    pub packs: Vec<ObjectId>,
}

impl Attestation {
    /// Who claims to have signed it: looks up the key to verify with.
    #[must_use]
    pub fn claimed_verifier(text: &SignedText<'_>) -> Option<ActorId> {
        text.claimed("verifier")?.parse().ok()
    }

    /// Prints and signs the attestation.
    ///
    /// # Errors
    /// It is too long (some 50,000 packs), or no parser would accept it.
    pub fn encode_and_sign(&self, key: &SigningKey) -> Result<Vec<u8>, TextError> {
        self.sign(key)
    }

    /// Reads an attestation whose signature was checked.
    ///
    /// # Errors
    /// Another repository or kind, too new, or malformed.
    pub fn parse(text: &VerifiedText<'_>, repository: RepositoryId) -> Result<Self, TextError> {
        Self::read_verified(text, repository)
    }

    /// Checks the signature of a stored attestation by `key`, and reads it.
    ///
    /// # Errors
    /// Any of [`TextError`].
    pub fn open(
        stored: &[u8],
        key: &VerifyingKey,
        repository: RepositoryId,
    ) -> Result<Self, TextError> {
        let text = SignedText::split(stored)?.verify(TextKind::Attestation, key)?;
        Self::parse(&text, repository)
    }
}

impl SignedBody for Attestation {
    const KIND: TextKind = TextKind::Attestation;

    fn repository(&self) -> RepositoryId {
        self.repository
    }

    fn print(&self, out: &mut String) {
        let Self { repository, verifier, roster, time, packs } = self;
        let _ = writeln!(out, "repository {repository}\nverifier {verifier}");
        let _ = writeln!(out, "roster {roster}\ntime {time}");
        for pack in packs {
            let _ = writeln!(out, "read {}", ObjectName::Data(*pack));
        }
    }

    fn read(lines: &[Line<'_>]) -> Result<Self, TextError> {
        let (mut repository, mut verifier) = (Once::new("repository"), Once::new("verifier"));
        let (mut roster, mut time) = (Once::new("roster"), Once::new("time"));
        let (mut packs, mut seen) = (Vec::new(), Distinct::new("read"));
        for line in lines {
            match line.key {
                "repository" => repository.set(line, line.only("a repository was expected")?)?,
                "verifier" => verifier.set(line, line.only("a verifier was expected")?)?,
                "roster" => roster.set(line, RosterReference::read(line)?)?,
                "time" => time.set(line, line.only_time()?)?,
                "read" => {
                    let ObjectName::Data(pack) = line.only("an object was expected")? else {
                        return Err(line.malformed("a pack was expected"));
                    };
                    seen.add(line, pack)?;
                    packs.push(pack);
                }
                _ => {}
            }
        }
        Ok(Self {
            repository: repository.take()?,
            verifier: verifier.take()?,
            roster: roster.take()?,
            time: time.take()?,
            packs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::signed_text::tests::{key, message_of, refuses_every_change, sign_lines};

    const REPOSITORY: RepositoryId = RepositoryId([0x0f; 32]);
    const GOLDEN: &str = "holdfast-attestation v1
repository 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
verifier 0505050505050505
roster 3 cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
time 2026-11-23T06:38:35Z
read data/a1/a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1
read data/a2/a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2
";

    fn attestation() -> Attestation {
        let id = |byte| ObjectId([byte; 32]);
        Attestation {
            repository: REPOSITORY,
            verifier: ActorId([5; 8]),
            roster: RosterReference { seq: 3, hash: id(0xcd) },
            time: "2026-11-23T06:38:35Z".parse().unwrap(),
            packs: vec![id(0xa1), id(0xa2)],
        }
    }

    fn open(stored: &[u8]) -> Result<Attestation, TextError> {
        Attestation::open(stored, &key(5).verifying_key(), REPOSITORY)
    }

    #[test]
    fn golden_text() {
        let stored = attestation().encode_and_sign(&key(5)).unwrap();
        assert_eq!(message_of(&stored), GOLDEN);
        assert_eq!(open(&stored), Ok(attestation()));
        let text = SignedText::split(&stored).unwrap();
        assert_eq!(Attestation::claimed_verifier(&text), Some(ActorId([5; 8])));
    }

    #[test]
    fn no_change_is_accepted() {
        let stored = attestation().encode_and_sign(&key(5)).unwrap();
        refuses_every_change(&stored, |stored| open(stored).is_ok());
    }

    #[test]
    fn hostile_lines_are_refused() {
        let table = [
            ("verifier", "maintainer"),
            ("roster 3", "roster 0"),
            ("read data/a1/a1", "read data/a1/a2"),
            ("read data/a1", "read attest"),
            ("a1a1\n", "a1a1 16384\n"),
            ("read data/a1/a1a1", "read data/a1/a1"),
        ];
        for (from, to) in table {
            let text = GOLDEN.replacen(from, to, 1);
            assert_ne!(text, GOLDEN, "{from}");
            assert!(open(&sign_lines(TextKind::Attestation, &key(5), &text)).is_err(), "{to}");
        }
        for line in GOLDEN.split_inclusive('\n').skip(1) {
            let text = GOLDEN.replacen(line, &format!("{line}{line}"), 1);
            let error = open(&sign_lines(TextKind::Attestation, &key(5), &text)).unwrap_err();
            assert!(matches!(error, TextError::Repeated { .. }), "{line}: {error}");
        }
    }
}
