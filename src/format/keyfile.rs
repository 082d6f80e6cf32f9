//! The texts that hold keys: three kinds inside age files below `keys/`, and two local ones, of a
//! writer and of a maintainer, that never are objects.
//!
//! Secrets are wiped on drop, and no error holds what stands in a line.

use std::fmt::Write;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::crypto::ids::object_id;
use crate::crypto::recipient::{NativeRecipient, ReadIdentity};
use crate::crypto::secret::Secret32;
use crate::crypto::signature::SigningKey;
use crate::format::limits::KEY_FILE_BYTES_MAX;
use crate::format::signed_text::{Distinct, Line, Once, TextError, read_lines};
use crate::id::{ActorId, DomainId, RepositoryId};

/// Longest label of a writer, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;

/// A person's name for a writer: one line of text, no control characters, no space at either end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label(String);

impl Label {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that cannot be the label of a writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a label has 1 to {LABEL_BYTES_MAX} bytes, no control characters, no space at its ends")]
pub struct LabelError;

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let fits = !text.is_empty() && text.len() <= LABEL_BYTES_MAX;
        if fits && text.trim() == text && !text.chars().any(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        Err(LabelError)
    }
}

/// The read identity of an epoch.
#[derive(Debug, Clone)]
pub struct ReadKey {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// What opens its packs and snapshots.
    pub identity: ReadIdentity,
}

/// Both keys of a maintainer.
#[derive(Debug, Clone)]
pub struct MaintainerKeys {
    /// Its name in the roster.
    pub id: ActorId,
    /// Signs tombstones.
    pub key: SigningKey,
    /// Opens refs.
    pub identity: ReadIdentity,
}

/// `keys/operator-*.age`: everything.
#[derive(Debug, Clone)]
pub struct OperatorKeys {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The root key; `None` where it is kept elsewhere.
    pub root: Option<SigningKey>,
    /// Read identities, each epoch once.
    pub reads: Vec<ReadKey>,
    /// Maintainers, each id once.
    pub maintainers: Vec<MaintainerKeys>,
}

/// `keys/domain-<domain>-*.age`: what a reader needs to check chunks and to read the index.
#[derive(Debug, Clone)]
pub struct DomainFile {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The domain.
    pub domain: DomainId,
    /// Its secret.
    pub secret: Secret32,
    /// Names of its writers for people.
    pub labels: Vec<(ActorId, Label)>,
}

/// `keys/epoch-<n>-<domain>-*.age`: tells the writers of a domain what to seal to. They compare it
/// with the hash in the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochFile {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Its read recipient.
    pub recipient: NativeRecipient,
}

/// The local keys of a writer: they write backups and read none.
#[derive(Debug, Clone)]
pub struct WriterFile {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Its name in the roster.
    pub id: ActorId,
    /// Signs its commits.
    pub key: SigningKey,
    /// Its name for people.
    pub name: Label,
    /// Its domain.
    pub domain: DomainId,
    /// The secret of its domain.
    pub secret: Secret32,
    /// The epoch that the recipient is of.
    pub epoch: u32,
    /// What it seals packs to, if the roster agrees.
    pub read_recipient: NativeRecipient,
}

/// The local keys of a maintainer.
#[derive(Debug, Clone)]
pub struct MaintainerFile {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Both keys.
    pub keys: MaintainerKeys,
}

/// `keys/operator-<16 hex>.age`, of the sealed bytes.
#[must_use]
pub fn operator_name(sealed: &[u8]) -> String {
    format!("keys/operator-{}.age", short_id(sealed))
}

/// `keys/domain-<domain>-<16 hex>.age`, of the sealed bytes.
#[must_use]
pub fn domain_name(domain: DomainId, sealed: &[u8]) -> String {
    format!("keys/domain-{domain}-{}.age", short_id(sealed))
}

/// `keys/epoch-<n>-<domain>-<16 hex>.age`, of the sealed bytes.
#[must_use]
pub fn epoch_name(epoch: u32, domain: DomainId, sealed: &[u8]) -> String {
    format!("keys/epoch-{epoch}-{domain}-{}.age", short_id(sealed))
}

fn short_id(sealed: &[u8]) -> String {
    object_id(sealed).to_string()[..16].to_owned()
}

/// A text in the making: allocated once, so that growing leaves no copies of secrets.
struct Printer(Zeroizing<String>);

impl Printer {
    fn new(title: &str, repository: RepositoryId) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES_MAX as usize));
        let _ = writeln!(text, "{title} v1\nrepository {repository}");
        Self(text)
    }

    fn words(&mut self, words: &[&str]) {
        for (i, word) in words.iter().enumerate() {
            self.0.push_str(if i == 0 { "" } else { " " });
            self.0.push_str(word);
        }
        self.0.push('\n');
    }

    fn maintainer(&mut self, keys: &MaintainerKeys) {
        let (seed, identity) = (keys.key.seed().to_hex(), keys.identity.to_secret_text());
        let secrets = [seed.expose_secret(), identity.expose_secret()];
        self.words(&["maintainer", &keys.id.to_string(), secrets[0], secrets[1]]);
    }

    fn finish(self) -> SecretString {
        SecretString::from(self.0.as_str())
    }
}

fn lines<'a>(text: &'a SecretString, title: &str) -> Result<Vec<Line<'a>>, TextError> {
    let text = text.expose_secret();
    let (bytes, bytes_max) = (text.len() as u64, KEY_FILE_BYTES_MAX);
    if bytes > bytes_max {
        return Err(TextError::TooLong { bytes, bytes_max });
    }
    read_lines(text, title, &[])
}

fn read_seed(line: &Line<'_>, word: &str) -> Result<SigningKey, TextError> {
    read_secret(line, word).map(|seed| SigningKey::from_seed(&seed))
}

fn read_secret(line: &Line<'_>, word: &str) -> Result<Secret32, TextError> {
    Secret32::from_hex(word).ok_or_else(|| line.malformed("64 hexadecimal digits were expected"))
}

fn read_identity(line: &Line<'_>, word: &str) -> Result<ReadIdentity, TextError> {
    ReadIdentity::parse(word).ok_or_else(|| line.malformed("an age identity was expected"))
}

fn read_epoch(line: &Line<'_>, word: &str) -> Result<u32, TextError> {
    line.sequence(word)?;
    line.number(word)
}

fn read_recipient(line: &Line<'_>) -> Result<(u32, NativeRecipient), TextError> {
    let [epoch, recipient] = line.words()?;
    let epoch = read_epoch(line, epoch)?;
    Ok((epoch, line.value(recipient, "an age recipient was expected")?))
}

fn read_domain(line: &Line<'_>) -> Result<(DomainId, Secret32), TextError> {
    let [domain, secret] = line.words()?;
    let domain = line.value(domain, "a domain was expected")?;
    Ok((domain, read_secret(line, secret)?))
}

fn read_maintainer(line: &Line<'_>) -> Result<MaintainerKeys, TextError> {
    let [id, seed, identity] = line.words()?;
    Ok(MaintainerKeys {
        id: line.value(id, "an id was expected")?,
        key: read_seed(line, seed)?,
        identity: read_identity(line, identity)?,
    })
}

fn read_repository(line: &Line<'_>) -> Result<RepositoryId, TextError> {
    line.only("a repository was expected")
}

impl OperatorKeys {
    const TITLE: &'static str = "holdfast-keys";

    /// The text to be sealed.
    #[must_use]
    pub fn print(&self) -> SecretString {
        let mut out = Printer::new(Self::TITLE, self.repository);
        if let Some(root) = &self.root {
            out.words(&["root", root.seed().to_hex().expose_secret()]);
        }
        for ReadKey { epoch, identity } in &self.reads {
            let identity = identity.to_secret_text();
            out.words(&["read", &epoch.to_string(), identity.expose_secret()]);
        }
        for maintainer in &self.maintainers {
            out.maintainer(maintainer);
        }
        out.finish()
    }

    /// Reads the opened text.
    ///
    /// # Errors
    /// Too long, too new, or malformed.
    pub fn parse(text: &SecretString) -> Result<Self, TextError> {
        let (mut repository, mut root) = (Once::new("repository"), Once::new("root"));
        let (mut reads, mut epochs) = (Vec::new(), Distinct::new("read"));
        let (mut maintainers, mut ids) = (Vec::new(), Distinct::new("maintainer"));
        for line in &lines(text, Self::TITLE)? {
            match line.key {
                "repository" => repository.set(line, read_repository(line)?)?,
                "root" => root.set(line, read_seed(line, line.rest)?)?,
                "read" => {
                    let [epoch, identity] = line.words()?;
                    let epoch = read_epoch(line, epoch)?;
                    epochs.add(line, epoch)?;
                    reads.push(ReadKey { epoch, identity: read_identity(line, identity)? });
                }
                "maintainer" => {
                    let keys = read_maintainer(line)?;
                    ids.add(line, keys.id)?;
                    maintainers.push(keys);
                }
                _ => {}
            }
        }
        let (repository, root) = (repository.take()?, root.optional());
        Ok(Self { repository, root, reads, maintainers })
    }
}

impl DomainFile {
    const TITLE: &'static str = "holdfast-domain";

    /// The text to be sealed.
    #[must_use]
    pub fn print(&self) -> SecretString {
        let mut out = Printer::new(Self::TITLE, self.repository);
        let secret = self.secret.to_hex();
        out.words(&["domain", &self.domain.to_string(), secret.expose_secret()]);
        for (writer, label) in &self.labels {
            out.words(&["label", &writer.to_string(), label.as_str()]);
        }
        out.finish()
    }

    /// Reads the opened text.
    ///
    /// # Errors
    /// Too long, too new, or malformed.
    pub fn parse(text: &SecretString) -> Result<Self, TextError> {
        let (mut repository, mut domain) = (Once::new("repository"), Once::new("domain"));
        let (mut labels, mut writers) = (Vec::new(), Distinct::new("label"));
        for line in &lines(text, Self::TITLE)? {
            match line.key {
                "repository" => repository.set(line, read_repository(line)?)?,
                "domain" => domain.set(line, read_domain(line)?)?,
                "label" => {
                    let (writer, label) = line.rest.split_once(' ').unwrap_or((line.rest, ""));
                    let writer = line.value(writer, "an id was expected")?;
                    writers.add(line, writer)?;
                    labels.push((writer, line.value(label, "a label was expected")?));
                }
                _ => {}
            }
        }
        let (repository, (domain, secret)) = (repository.take()?, domain.take()?);
        Ok(Self { repository, domain, secret, labels })
    }
}

impl EpochFile {
    const TITLE: &'static str = "holdfast-epoch";

    /// The text to be sealed.
    #[must_use]
    pub fn print(&self) -> SecretString {
        let mut out = Printer::new(Self::TITLE, self.repository);
        out.words(&["epoch", &self.epoch.to_string(), &self.recipient.to_string()]);
        out.finish()
    }

    /// Reads the opened text.
    ///
    /// # Errors
    /// Too long, too new, or malformed.
    pub fn parse(text: &SecretString) -> Result<Self, TextError> {
        let (mut repository, mut epoch) = (Once::new("repository"), Once::new("epoch"));
        for line in &lines(text, Self::TITLE)? {
            match line.key {
                "repository" => repository.set(line, read_repository(line)?)?,
                "epoch" => epoch.set(line, read_recipient(line)?)?,
                _ => {}
            }
        }
        let (repository, (epoch, recipient)) = (repository.take()?, epoch.take()?);
        Ok(Self { repository, epoch, recipient })
    }
}

impl WriterFile {
    const TITLE: &'static str = "holdfast-writer";

    /// The text to be kept with mode 0600, or sealed into a bundle.
    #[must_use]
    pub fn print(&self) -> SecretString {
        let mut out = Printer::new(Self::TITLE, self.repository);
        let (seed, secret) = (self.key.seed().to_hex(), self.secret.to_hex());
        out.words(&["writer", &self.id.to_string(), seed.expose_secret()]);
        out.words(&["name", self.name.as_str()]);
        out.words(&["domain", &self.domain.to_string(), secret.expose_secret()]);
        let recipient = self.read_recipient.to_string();
        out.words(&["read-recipient", &self.epoch.to_string(), &recipient]);
        out.finish()
    }

    /// Reads the text.
    ///
    /// # Errors
    /// Too long, too new, or malformed.
    pub fn parse(text: &SecretString) -> Result<Self, TextError> {
        let (mut repository, mut writer) = (Once::new("repository"), Once::new("writer"));
        let (mut name, mut domain) = (Once::new("name"), Once::new("domain"));
        let mut recipient = Once::new("read-recipient");
        for line in &lines(text, Self::TITLE)? {
            match line.key {
                "repository" => repository.set(line, read_repository(line)?)?,
                "writer" => {
                    let [id, seed] = line.words()?;
                    let id = line.value(id, "an id was expected")?;
                    writer.set(line, (id, read_seed(line, seed)?))?;
                }
                "name" => name.set(line, line.value(line.rest, "a label was expected")?)?,
                "domain" => domain.set(line, read_domain(line)?)?,
                "read-recipient" => recipient.set(line, read_recipient(line)?)?,
                _ => {}
            }
        }
        let (repository, (id, key)) = (repository.take()?, writer.take()?);
        let (name, (domain, secret)) = (name.take()?, domain.take()?);
        let (epoch, read_recipient) = recipient.take()?;
        Ok(Self { repository, id, key, name, domain, secret, epoch, read_recipient })
    }
}

impl MaintainerFile {
    const TITLE: &'static str = "holdfast-maintainer";

    /// The text to be kept with mode 0600.
    #[must_use]
    pub fn print(&self) -> SecretString {
        let mut out = Printer::new(Self::TITLE, self.repository);
        out.maintainer(&self.keys);
        out.finish()
    }

    /// Reads the text.
    ///
    /// # Errors
    /// Too long, too new, or malformed.
    pub fn parse(text: &SecretString) -> Result<Self, TextError> {
        let (mut repository, mut keys) = (Once::new("repository"), Once::new("maintainer"));
        for line in &lines(text, Self::TITLE)? {
            match line.key {
                "repository" => repository.set(line, read_repository(line)?)?,
                "maintainer" => keys.set(line, read_maintainer(line)?)?,
                _ => {}
            }
        }
        Ok(Self { repository: repository.take()?, keys: keys.take()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    const REPOSITORY: RepositoryId = RepositoryId([0x0f; 32]);

    fn secret(byte: u8) -> Secret32 {
        Secret32::from_bytes(&[byte; 32])
    }

    fn identity(byte: u8) -> ReadIdentity {
        ReadIdentity::from_secret(&secret(byte))
    }

    fn maintainer() -> MaintainerKeys {
        let key = SigningKey::from_seed(&secret(0x11));
        MaintainerKeys { id: ActorId([4; 8]), key, identity: identity(7) }
    }

    /// Each kind: a golden text, and its parser followed by its printer.
    type Kind = (String, fn(&SecretString) -> Result<SecretString, TextError>);

    fn kinds() -> [Kind; 5] {
        let head = |title| format!("{title} v1\nrepository {REPOSITORY}\n");
        let (age, public) = (identity(7).to_secret_text(), identity(7).recipient());
        let age = age.expose_secret();
        let maintainer = format!("maintainer 0404040404040404 {HEX} {age}\n");
        [
            (
                head("holdfast-keys")
                    + &format!("root {HEX}\nread 1 {age}\nread 2 {age}\n{maintainer}"),
                |text| OperatorKeys::parse(text).map(|keys| keys.print()),
            ),
            (
                head("holdfast-domain")
                    + &format!("domain d0d0d0d0d0d0d0d0 {HEX}\n")
                    + "label 0202020202020202 Gr\u{fc}ner Server 2\nlabel 0303030303030303 b\n",
                |text| DomainFile::parse(text).map(|keys| keys.print()),
            ),
            (head("holdfast-epoch") + &format!("epoch 2 {public}\n"), |text| {
                EpochFile::parse(text).map(|keys| keys.print())
            }),
            (
                head("holdfast-writer")
                    + &format!("writer 0202020202020202 {HEX}\nname web 1\n")
                    + &format!("domain d0d0d0d0d0d0d0d0 {HEX}\nread-recipient 2 {public}\n"),
                |text| WriterFile::parse(text).map(|keys| keys.print()),
            ),
            (head("holdfast-maintainer") + &maintainer, |text| {
                MaintainerFile::parse(text).map(|keys| keys.print())
            }),
        ]
    }

    fn error_of(kind: fn(&SecretString) -> Result<SecretString, TextError>, text: &str) -> String {
        let error = kind(&SecretString::from(text)).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("11111111") && !shown.contains("SECRET"), "{shown}");
        shown
    }

    #[test]
    fn golden_texts_round_trip() {
        for (text, round_trip) in kinds() {
            let printed = round_trip(&SecretString::from(text.as_str())).unwrap();
            assert_eq!(printed.expose_secret(), text);
        }
    }

    #[test]
    fn values_are_where_they_belong() {
        let text = |i: usize| SecretString::from(kinds()[i].0.as_str());
        let operator = OperatorKeys::parse(&text(0)).unwrap();
        assert_eq!(operator.root.unwrap().seed().expose_secret(), &[0x11; 32]);
        assert_eq!(operator.reads.iter().map(|read| read.epoch).collect::<Vec<_>>(), [1, 2]);
        let domain = DomainFile::parse(&text(1)).unwrap();
        assert_eq!(domain.labels[0].1.as_str(), "Gr\u{fc}ner Server 2");
        let writer = WriterFile::parse(&text(3)).unwrap();
        assert_eq!((writer.id, writer.epoch, writer.name.as_str()), (ActorId([2; 8]), 2, "web 1"));
        assert_eq!(writer.read_recipient, identity(7).recipient());
        let keys = MaintainerFile::parse(&text(4)).unwrap().keys;
        assert_eq!(keys.key.verifying_key(), maintainer().key.verifying_key());
        assert_eq!(keys.identity.recipient(), maintainer().identity.recipient());
    }

    #[test]
    fn a_root_key_may_be_elsewhere() {
        let text = kinds()[0].0.replace(&format!("root {HEX}\n"), "");
        let keys = OperatorKeys::parse(&SecretString::from(text.as_str())).unwrap();
        assert!(keys.root.is_none());
        assert_eq!(keys.print().expose_secret(), text);
    }

    #[test]
    fn every_line_stands_once_and_no_error_shows_a_secret() {
        for (text, kind) in kinds() {
            for line in text.split_inclusive('\n').skip(1) {
                let doubled = text.replacen(line, &format!("{line}{line}"), 1);
                assert!(error_of(kind, &doubled).contains("repeats"), "{line}");
            }
            for cut in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
                // A cut at the end of an optional line leaves a shorter whole.
                if !text[..cut].ends_with('\n') {
                    error_of(kind, &text[..cut]);
                }
            }
            for (from, to) in [
                ("\n", "\r\n"),
                (" v1", " v2"),
                ("holdfast", "steadfast"),
                (HEX, &HEX[1..]),
                (HEX, &HEX.replace('1', "A")),
                ("repository ", "repository 0"),
                ("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-2"),
                (" age1", " age2"),
                (" 2 ", " 02 "),
                ("repository", "crit thing\nrepository"),
                (" 0404", " 4040404040"),
                ("name web 1", "name  web 1"),
                ("label 0303030303030303 b", "label 0303030303030303"),
            ] {
                // Inside a label anything may stand.
                if text.contains(from) && !(from == " 2 " && text.contains("label")) {
                    error_of(kind, &text.replacen(from, to, 1));
                }
            }
            let ignored = text.replacen("\nrepository", "\nfuture thing\nrepository", 1);
            assert!(kind(&SecretString::from(ignored)).is_ok());
        }
    }

    #[test]
    fn long_texts_are_refused() {
        let long = format!("{}{}", kinds()[2].0, "x y\n".repeat(20_000));
        let error = EpochFile::parse(&SecretString::from(long)).unwrap_err();
        assert!(matches!(error, TextError::TooLong { .. }), "{error}");
    }

    #[test]
    fn labels_are_one_line() {
        for wrong in ["", " a", "a ", "a\nb", "a\u{7f}", &"x".repeat(LABEL_BYTES_MAX + 1)] {
            assert_eq!(wrong.parse::<Label>(), Err(LabelError), "{wrong:?}");
        }
        assert_eq!("Gr\u{fc}n 1".parse::<Label>().unwrap().as_str(), "Gr\u{fc}n 1");
    }

    #[test]
    fn names_carry_the_first_digits_of_the_object_id() {
        let (sealed, domain) = (b"", DomainId([0xd0; 8]));
        assert_eq!(operator_name(sealed), "keys/operator-af1349b9f5f9a1a6.age");
        let name = domain_name(domain, sealed);
        assert_eq!(name, "keys/domain-d0d0d0d0d0d0d0d0-af1349b9f5f9a1a6.age");
        let name = epoch_name(3, domain, sealed);
        assert_eq!(name, "keys/epoch-3-d0d0d0d0d0d0d0d0-af1349b9f5f9a1a6.age");
    }
}
