//! The grammar of signed texts and key files: lines of words, and an SSH signature after them.
//!
//! Nothing but the line that says which key to use is looked at before the signature is checked:
//! parsers take a [`VerifiedText`], which only [`SignedText::verify`] makes. There is one form of
//! every value, so that a text cannot be changed and still mean something.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use jiff::Timestamp;

use crate::crypto::ids::object_id;
use crate::crypto::signature::{SignatureError, SigningKey, VerifyingKey};
use crate::format::limits::SIGNED_TEXT_BYTES_MAX;
use crate::id::{ObjectId, RepositoryId};

/// `prev` of the first text of a chain: 64 zeros.
pub const NO_PREVIOUS: ObjectId = ObjectId([0; 32]);
/// Longest line, without its LF.
pub const LINE_BYTES_MAX: usize = 4_096;

const SIGNATURE_LINE: &[u8] = b"-----BEGIN SSH";

/// Why a text is refused. Never holds what stands in a line, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Longer than any such text may be.
    #[error("{bytes} bytes of text where at most {bytes_max} are accepted")]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// There is no signature after the lines.
    #[error("the text is not signed")]
    NotSigned,
    /// The signature is not that of the key over the text.
    #[error("the signature is not valid")]
    Signature(#[source] SignatureError),
    /// Properly made, but for another repository.
    #[error("belongs to repository {actual}, not to {expected}")]
    WrongRepository {
        /// The one that is open.
        expected: RepositoryId,
        /// The one it names.
        actual: RepositoryId,
    },
    /// Made by a newer program: nothing is wrong with it, but it must not be used by this one.
    #[error("line {line} needs a newer program: {what}")]
    Unsupported {
        /// Line number, from 1.
        line: usize,
        /// What is not known.
        what: String,
    },
    /// A line against the grammar.
    #[error("line {line} is malformed: {what}")]
    Malformed {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A line that must be there is not.
    #[error("there is no line {field}")]
    Missing {
        /// The key of the line.
        field: &'static str,
    },
    /// Two lines that say the same thing, or two different things of one.
    #[error("line {line} repeats {field}")]
    Repeated {
        /// Number of the second line, from 1.
        line: usize,
        /// The key of the line.
        field: &'static str,
    },
    /// The lines do not go together.
    #[error("the text contradicts itself: {what}")]
    Contradiction {
        /// What is wrong.
        what: &'static str,
    },
}

/// The kinds of signed text. A signature over one kind is worth nothing over another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextKind {
    /// Signed by the root key.
    Roster,
    /// Signed by a writer, or by a maintainer for a repack.
    Commit,
    /// Signed by a maintainer.
    Tombstone,
    /// Signed by a verifier.
    Attestation,
}

impl TextKind {
    /// The SSHSIG namespace, as `ssh-keygen -Y verify -n` takes it.
    #[must_use]
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Roster => "holdfast.roster@v1",
            Self::Commit => "holdfast.commit@v1",
            Self::Tombstone => "holdfast.tombstone@v1",
            Self::Attestation => "holdfast.attestation@v1",
        }
    }

    /// First word of the text.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Roster => "holdfast-roster",
            Self::Commit => "holdfast-commit",
            Self::Tombstone => "holdfast-tombstone",
            Self::Attestation => "holdfast-attestation",
        }
    }
}

/// A text and its signature, neither looked into.
#[derive(Debug, Clone, Copy)]
pub struct SignedText<'a> {
    whole: &'a [u8],
    message: &'a [u8],
    signature: &'a [u8],
}

impl<'a> SignedText<'a> {
    /// Parts a stored object before the first line that begins with `-----BEGIN SSH`.
    ///
    /// # Errors
    /// It is longer than [`SIGNED_TEXT_BYTES_MAX`], or has no such line.
    pub fn split(whole: &'a [u8]) -> Result<Self, TextError> {
        check_length(whole.len())?;
        let mut start = 0;
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(SIGNATURE_LINE) {
                let (message, signature) = whole.split_at(start);
                return Ok(Self { whole, message, signature });
            }
            start += line.len();
        }
        Err(TextError::NotSigned)
    }

    /// The value of the only line `key value`, to find the key to verify with. It is a claim of
    /// whoever made the text until [`SignedText::verify`] has succeeded with that key.
    #[must_use]
    pub fn claimed(&self, key: &str) -> Option<&'a str> {
        let mut values = self.message.split(|byte| *byte == b'\n').filter_map(|line| {
            line.strip_prefix(key.as_bytes()).and_then(|rest| rest.strip_prefix(b" "))
        });
        let value = values.next()?;
        if values.next().is_some() || value.len() > LINE_BYTES_MAX {
            return None;
        }
        std::str::from_utf8(value).ok()
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`TextError::Signature`].
    pub fn verify(
        &self,
        kind: TextKind,
        key: &VerifyingKey,
    ) -> Result<VerifiedText<'a>, TextError> {
        key.verify(kind.namespace(), self.message, self.signature).map_err(TextError::Signature)?;
        Ok(VerifiedText { whole: self.whole, message: self.message, kind })
    }
}

/// A text whose signature was checked.
#[derive(Debug, Clone, Copy)]
pub struct VerifiedText<'a> {
    whole: &'a [u8],
    message: &'a [u8],
    kind: TextKind,
}

impl VerifiedText<'_> {
    /// What the next text of the chain has as `prev`: BLAKE3 of the whole object.
    #[must_use]
    pub fn hash(&self) -> ObjectId {
        object_id(self.whole)
    }
}

/// What a signed text says; the types of the four kinds.
pub(crate) trait SignedBody: Sized + PartialEq {
    /// Which kind it is.
    const KIND: TextKind;
    /// Keys of `crit` lines that are known.
    const CRITICAL: &'static [&'static str] = &[];

    /// All lines after the first.
    fn print(&self, out: &mut String);
    /// Reads all lines after the first.
    fn read(lines: &[Line<'_>]) -> Result<Self, TextError>;
    /// The repository it names.
    fn repository(&self) -> RepositoryId;

    /// Prints, reads back what was printed, and signs it.
    fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, TextError> {
        let mut message = format!("{} v1\n", Self::KIND.title());
        self.print(&mut message);
        if Self::read(&ascii_lines(message.as_bytes(), Self::KIND, Self::CRITICAL)?)? != *self {
            return Err(TextError::Contradiction { what: "its values have another form" });
        }
        message += &key.sign(Self::KIND.namespace(), message.as_bytes());
        check_length(message.len())?;
        Ok(message.into_bytes())
    }

    /// Reads a verified text of that kind and repository.
    fn read_verified(text: &VerifiedText<'_>, repository: RepositoryId) -> Result<Self, TextError> {
        if text.kind != Self::KIND {
            return Err(TextError::Malformed { line: 1, what: "another kind of text" });
        }
        let body = Self::read(&ascii_lines(text.message, Self::KIND, Self::CRITICAL)?)?;
        if body.repository() == repository {
            return Ok(body);
        }
        Err(TextError::WrongRepository { expected: repository, actual: body.repository() })
    }
}

fn check_length(length: usize) -> Result<(), TextError> {
    let (bytes, bytes_max) = (length as u64, SIGNED_TEXT_BYTES_MAX);
    if bytes > bytes_max { Err(TextError::TooLong { bytes, bytes_max }) } else { Ok(()) }
}

fn ascii_lines<'a>(
    message: &'a [u8],
    kind: TextKind,
    critical: &[&str],
) -> Result<Vec<Line<'a>>, TextError> {
    let foreign = |byte: &u8| *byte != b'\n' && !(b' '..=b'~').contains(byte);
    if let Some(at) = message.iter().position(foreign) {
        let line = message[..=at].split(|byte| *byte == b'\n').count();
        return Err(TextError::Malformed { line, what: "a character that is not printable ASCII" });
    }
    let text = std::str::from_utf8(message).expect("printable ASCII is UTF-8");
    read_lines(text, kind.title(), critical)
}

/// One line: `key words…`, or `crit key words…`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// From 1.
    pub number: usize,
    /// First word, or the first two where the first is `crit`.
    pub key: &'a str,
    /// What follows the key and one space.
    pub rest: &'a str,
}

/// Splits a text whose first line is `title v1`, and returns its other lines.
///
/// What is too new is found before what is malformed, so that a newer text is not called damaged.
pub(crate) fn read_lines<'a>(
    text: &'a str,
    title: &str,
    critical: &[&str],
) -> Result<Vec<Line<'a>>, TextError> {
    let mut lines = text.split('\n').enumerate();
    check_title(lines.next().map_or("", |(_, line)| line), title)?;
    let mut read = Vec::new();
    for (index, line) in lines {
        read.push(read_line(index + 1, line));
    }
    let last = read.pop();
    for line in &read {
        check_critical(line, critical)?;
    }
    match last {
        Some(Line { key: "", rest: "", .. }) => {}
        last => {
            let line = last.map_or(1, |line| line.number);
            return Err(TextError::Malformed { line, what: "it has no end" });
        }
    }
    for line in &read {
        check_line(line)?;
    }
    Ok(read)
}

fn check_title(line: &str, title: &str) -> Result<(), TextError> {
    let version = line
        .strip_prefix(title)
        .and_then(|rest| rest.strip_prefix(" v"))
        .and_then(decimal)
        .ok_or(TextError::Malformed { line: 1, what: "another title" })?;
    match version {
        1 => Ok(()),
        _ => Err(TextError::Unsupported { line: 1, what: format!("version {version}") }),
    }
}

fn read_line(number: usize, line: &str) -> Line<'_> {
    let words_of_key = if line.starts_with("crit ") { 2 } else { 1 };
    let end = line.match_indices(' ').nth(words_of_key - 1).map_or(line.len(), |(at, _)| at);
    let rest = line.get(end + 1..).unwrap_or("");
    Line { number, key: &line[..end], rest }
}

fn check_critical(line: &Line<'_>, known: &[&str]) -> Result<(), TextError> {
    match line.key.strip_prefix("crit ") {
        Some(key) if !known.contains(&key) => {
            let what = key.chars().take(80).collect();
            Err(TextError::Unsupported { line: line.number, what })
        }
        _ => Ok(()),
    }
}

fn check_line(line: &Line<'_>) -> Result<(), TextError> {
    let what = if line.key.is_empty() {
        "it has no key"
    } else if line.key.len() + 1 + line.rest.len() > LINE_BYTES_MAX {
        "it is too long"
    } else if line.key.chars().chain(line.rest.chars()).any(char::is_control) {
        "a control character"
    } else {
        return Ok(());
    };
    Err(TextError::Malformed { line: line.number, what })
}

impl<'a> Line<'a> {
    /// Exactly `N` words, one space between them.
    pub fn words<const N: usize>(&self) -> Result<[&'a str; N], TextError> {
        let words: Vec<&str> = self.rest.split(' ').take(N + 1).collect();
        let words = <[&str; N]>::try_from(words).map_err(|_| self.malformed("number of words"))?;
        if words.iter().any(|word| word.is_empty()) {
            return Err(self.malformed("two spaces"));
        }
        Ok(words)
    }

    /// A word that is an id, a key or a name.
    pub fn value<T: FromStr>(&self, word: &str, what: &'static str) -> Result<T, TextError> {
        word.parse().map_err(|_| self.malformed(what))
    }

    /// A word that is a decimal number without leading zeros, in the range of `T`.
    pub fn number<T: TryFrom<u64>>(&self, word: &str) -> Result<T, TextError> {
        decimal(word)
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| self.malformed("a number was expected"))
    }

    /// The line's only word.
    pub fn only<T: FromStr>(&self, what: &'static str) -> Result<T, TextError> {
        let [word] = self.words()?;
        self.value(word, what)
    }

    /// The line's only word, a number from 1.
    pub fn only_sequence(&self) -> Result<u64, TextError> {
        let [word] = self.words()?;
        self.sequence(word)
    }

    /// A number from 1.
    pub fn sequence(&self, word: &str) -> Result<u64, TextError> {
        match self.number(word)? {
            0 => Err(self.malformed("numbers begin at 1")),
            number => Ok(number),
        }
    }

    /// The line's only word, a time in RFC 3339, UTC, as [`Timestamp`] prints it.
    pub fn only_time(&self) -> Result<Timestamp, TextError> {
        let [word] = self.words()?;
        let time: Timestamp = self.value(word, "a time was expected")?;
        if time.to_string() == word { Ok(time) } else { Err(self.malformed("time not in UTC")) }
    }

    pub fn malformed(&self, what: &'static str) -> TextError {
        TextError::Malformed { line: self.number, what }
    }
}

/// Decimal digits without sign and leading zeros.
fn decimal(word: &str) -> Option<u64> {
    let canonical = word == "0" || !word.starts_with('0');
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    if canonical && digits { word.parse().ok() } else { None }
}

/// A line that stands exactly once.
pub(crate) struct Once<T> {
    field: &'static str,
    value: Option<T>,
}

impl<T> Once<T> {
    pub fn new(field: &'static str) -> Self {
        Self { field, value: None }
    }

    pub fn set(&mut self, line: &Line<'_>, value: T) -> Result<(), TextError> {
        match self.value.replace(value) {
            None => Ok(()),
            Some(_) => Err(TextError::Repeated { line: line.number, field: self.field }),
        }
    }

    pub fn take(self) -> Result<T, TextError> {
        self.value.ok_or(TextError::Missing { field: self.field })
    }

    pub fn optional(self) -> Option<T> {
        self.value
    }
}

/// Lines of which each must differ from the others.
pub(crate) struct Distinct<T> {
    field: &'static str,
    seen: HashSet<T>,
}

impl<T: Eq + Hash> Distinct<T> {
    pub fn new(field: &'static str) -> Self {
        Self { field, seen: HashSet::new() }
    }

    pub fn add(&mut self, line: &Line<'_>, value: T) -> Result<(), TextError> {
        if self.seen.insert(value) {
            return Ok(());
        }
        Err(TextError::Repeated { line: line.number, field: self.field })
    }
}

/// The roster in force when a text was written: its number and the hash of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RosterReference {
    /// Number of the roster, from 1.
    pub seq: u64,
    /// BLAKE3 of the whole object.
    pub hash: ObjectId,
}

impl RosterReference {
    pub(crate) fn read(line: &Line<'_>) -> Result<Self, TextError> {
        let [seq, hash] = line.words()?;
        Ok(Self { seq: line.sequence(seq)?, hash: line.value(hash, "a hash was expected")? })
    }
}

impl fmt::Display for RosterReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.seq, self.hash)
    }
}

/// Checks that a text is the first of its chain exactly if it has no previous one.
pub(crate) fn check_link(seq: u64, prev: ObjectId) -> Result<(), TextError> {
    if (seq == 1) == (prev == NO_PREVIOUS) {
        return Ok(());
    }
    Err(TextError::Contradiction { what: "seq and prev do not agree on being the first" })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crypto::secret::Secret32;
    use crate::crypto::{sealed_size, small};
    use crate::format::limits;

    /// The key pair that a test calls by a number.
    pub(crate) fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&Secret32::from_bytes(&[number; 32]))
    }

    /// Signs lines as they are, also those that no encoder would print.
    pub(crate) fn sign_lines(kind: TextKind, key: &SigningKey, lines: &str) -> Vec<u8> {
        let signature = key.sign(kind.namespace(), lines.as_bytes());
        [lines.as_bytes(), signature.as_bytes()].concat()
    }

    /// The message of a signed object.
    pub(crate) fn message_of(stored: &[u8]) -> String {
        String::from_utf8(SignedText::split(stored).unwrap().message.to_vec()).unwrap()
    }

    /// No flipped bit, no cut and no addition is accepted.
    pub(crate) fn refuses_every_change(stored: &[u8], accepts: impl Fn(&[u8]) -> bool) {
        assert!(accepts(stored));
        for at in 0..stored.len() {
            for bit in [0, 5, 7] {
                let mut changed = stored.to_vec();
                changed[at] ^= 1 << bit;
                assert!(!accepts(&changed), "bit {bit} of byte {at}");
            }
            assert!(!accepts(&stored[..at]), "cut at {at}");
        }
        for added in [&b"\n"[..], b"x", stored] {
            assert!(!accepts(&[stored, added].concat()), "added behind");
            assert!(!accepts(&[added, stored].concat()), "added before");
        }
        let windows: Vec<u8> = String::from_utf8_lossy(stored).replace('\n', "\r\n").into();
        assert!(!accepts(&windows), "CRLF");
    }

    #[test]
    fn numbers_of_the_layer_below_are_those_of_the_format() {
        assert_eq!(sealed_size::SEALED_BYTES_MIN, limits::SEALED_BYTES_MIN);
        assert_eq!(u64::from(small::WINDOW_LOG_MAX), limits::WINDOW_LOG_MAX);
    }

    #[test]
    fn a_text_is_parted_at_the_first_signature() {
        let stored = b"a\n-----BEGIN SSH SIGNATURE-----\nb\n-----BEGIN SSH\n";
        let text = SignedText::split(stored).unwrap();
        assert_eq!(text.message, b"a\n");
        assert!(text.signature.ends_with(b"-----BEGIN SSH\n"));
        for unsigned in [&b""[..], b"a\n", b"a -----BEGIN SSH SIGNATURE-----\n"] {
            assert_eq!(SignedText::split(unsigned).unwrap_err(), TextError::NotSigned);
        }
        let long = vec![b'a'; SIGNED_TEXT_BYTES_MAX as usize + 1];
        assert!(matches!(SignedText::split(&long), Err(TextError::TooLong { .. })));
    }

    #[test]
    fn a_claim_is_the_only_line_of_its_key() {
        let table = [
            ("root a b\n", Some("a b")),
            ("x\nroot a\n", Some("a")),
            ("root a\nroot a\n", None),
            ("rooted a\n root a\n", None),
            ("", None),
        ];
        for (message, expected) in table {
            let stored = format!("{message}-----BEGIN SSH");
            let text = SignedText::split(stored.as_bytes()).unwrap();
            assert_eq!(text.claimed("root"), expected, "{message:?}");
        }
    }

    #[test]
    fn lines_follow_the_grammar() {
        let read = |text: &str| read_lines(text, "title", &["known"]).map(|lines| lines.len());
        let malformed = |line, what| Err(TextError::Malformed { line, what });
        let newer = |line, what: &str| Err(TextError::Unsupported { line, what: what.to_owned() });
        let long = format!("title v1\nx {}\n", "y".repeat(LINE_BYTES_MAX - 1));
        let table = [
            ("title v1\n", Ok(0)),
            ("title v1\na\nb c\ncrit known 1\n", Ok(3)),
            ("", malformed(1, "another title")),
            ("titles v1\n", malformed(1, "another title")),
            ("title v01\n", malformed(1, "another title")),
            ("title v2\n\n\n", newer(1, "version 2")),
            ("title v1\n\ncrit other 1\n", newer(3, "other")),
            ("title v1\ncrit\n", Ok(1)),
            ("title v1\ncrit other", malformed(2, "it has no end")),
            ("title v1", malformed(1, "it has no end")),
            ("title v1\na", malformed(2, "it has no end")),
            ("title v1\n\na\n", malformed(2, "it has no key")),
            ("title v1\n a\n", malformed(2, "it has no key")),
            ("title v1\na b\r\n", malformed(2, "a control character")),
            (&long, malformed(2, "it is too long")),
        ];
        for (text, expected) in table {
            assert_eq!(read(text), expected, "{text:.40?}");
        }
    }

    #[test]
    fn words_and_numbers_have_one_form() {
        let line = |rest| Line { number: 7, key: "k", rest };
        assert_eq!(line("a b").words(), Ok(["a", "b"]));
        for wrong in ["a", "a b c", "a  b", "a ", " a", "", " "] {
            assert!(line(wrong).words::<2>().is_err(), "{wrong:?}");
        }
        let numbers = [("0", 0), ("1", 1), ("18446744073709551615", u64::MAX)];
        for (word, number) in numbers {
            assert_eq!(line("").number(word), Ok(number));
        }
        for wrong in ["", "00", "01", "+1", "-1", "1.0", "1e3", "18446744073709551616", "\u{661}"] {
            assert!(line("").number::<u64>(wrong).is_err(), "{wrong:?}");
        }
        assert!(line("").number::<u32>("4294967296").is_err());
        assert!(line("").sequence("0").is_err());
        assert!(line("2026-11-23T06:38:35Z").only_time().is_ok());
        for wrong in ["2026-11-23T06:38:35+00:00", "2026-11-23", "2026-11-23t06:38:35z", "now"] {
            assert!(line(wrong).only_time().is_err(), "{wrong:?}");
        }
    }
}
