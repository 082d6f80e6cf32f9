//! The operator key files of a repository: which there are, and to whom they are sealed.
//!
//! What is shown comes from the headers, which anyone can read and whoever has the store can
//! forge: it is for people only, and nothing is decided by it.

use std::fmt;

use crate::format::keyfile::operator_name;
use crate::format::limits::KEY_FILE_BYTES_MAX;
use crate::repo::error::RepoError;
use crate::store::{Store, StoreError};

const PREFIX: &str = "keys/operator-";
const SUFFIX: &str = ".age";

/// What kind of recipient a stanza of an age header is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecipientKind {
    /// A passphrase (scrypt).
    Passphrase,
    /// An age key.
    X25519,
    /// An SSH key, `ssh-ed25519` or `ssh-rsa`.
    Ssh(String),
    /// An age plugin, by the name of its stanza.
    Plugin(String),
}

impl fmt::Display for RecipientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase => f.write_str("passphrase"),
            Self::X25519 => f.write_str("X25519"),
            Self::Ssh(kind) => f.write_str(kind),
            Self::Plugin(name) => write!(f, "plugin {name}"),
        }
    }
}

/// One operator key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Name of the object.
    pub name: String,
    /// Its bytes, at most [`KEY_FILE_BYTES_MAX`].
    pub sealed: Vec<u8>,
}

impl KeyFile {
    /// The 16 digits in its name.
    #[must_use]
    pub fn id(&self) -> &str {
        key_id(&self.name)
    }

    /// Whom it says it is sealed to, in the order of the header (age v1, "Header").
    #[must_use]
    pub fn recipients(&self) -> Vec<RecipientKind> {
        let lines = self.sealed.split(|byte| *byte == b'\n');
        lines
            .take_while(|line| !line.starts_with(b"---"))
            .filter_map(|line| std::str::from_utf8(line.strip_prefix(b"-> ")?).ok())
            .filter_map(|line| recipient_kind(line.split(' ').next().unwrap_or_default()))
            .collect()
    }
}

/// Stanzas whose tag ends in `-grease` are noise that age implementations add.
fn recipient_kind(tag: &str) -> Option<RecipientKind> {
    match tag {
        "scrypt" => Some(RecipientKind::Passphrase),
        "X25519" => Some(RecipientKind::X25519),
        "ssh-ed25519" | "ssh-rsa" => Some(RecipientKind::Ssh(tag.to_owned())),
        _ if tag.ends_with("-grease") => None,
        _ => Some(RecipientKind::Plugin(tag.to_owned())),
    }
}

/// The 16 digits in the name of an operator key file.
#[must_use]
pub fn key_id(name: &str) -> &str {
    let id = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    id.unwrap_or(name)
}

/// All operator key files whose bytes are those that their name stands for, sorted by name.
pub fn operator_files(store: &dyn Store) -> Result<Vec<KeyFile>, RepoError> {
    let files = read_files(store, PREFIX)?;
    Ok(files.into_iter().filter(|file| operator_name(&file.sealed) == file.name).collect())
}

/// The files below `keys/` whose names begin with `prefix`, sorted by name. One that is removed
/// meanwhile, or is longer than a key file may be, is passed over.
pub fn read_files(store: &dyn Store, prefix: &str) -> Result<Vec<KeyFile>, RepoError> {
    let mut names = Vec::new();
    store.list("keys/", &mut |entry| {
        if entry.name.starts_with(prefix) && entry.name.ends_with(SUFFIX) {
            names.push(entry.name);
        }
    })?;
    names.sort_unstable();
    let mut files = Vec::new();
    for name in names {
        match store.get(&name, KEY_FILE_BYTES_MAX) {
            Ok(sealed) => files.push(KeyFile { name, sealed }),
            Err(StoreError::NotFound { .. }) => {}
            Err(error @ StoreError::WrongSize { .. }) => {
                tracing::warn!("a key file is passed over: {error}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::recipient::{ReadIdentity, Recipient};
    use crate::crypto::small::seal_text;
    use crate::store::memory::MemoryStore;

    #[test]
    fn headers_are_read_and_grease_is_not_a_recipient() {
        let header = "age-encryption.org/v1\n-> X25519 abc\nbody\n-> ssh-ed25519 a b\nx\n\
                      -> piv-p256 q\nx\n-> {Xq-grease <4\nx\n--- mac\n-> scrypt behind\n";
        let file = KeyFile { name: String::new(), sealed: header.into() };
        let expected = [
            RecipientKind::X25519,
            RecipientKind::Ssh("ssh-ed25519".into()),
            RecipientKind::Plugin("piv-p256".into()),
        ];
        assert_eq!(file.recipients(), expected);
    }

    #[test]
    fn only_files_with_their_own_names_are_listed() {
        let store = MemoryStore::new();
        let recipient: Recipient = ReadIdentity::generate().unwrap().recipient().into();
        let sealed = seal_text(&[&recipient], &"text".to_owned().into()).unwrap();
        let name = operator_name(&sealed);
        store.put(&name, &sealed).unwrap();
        store.put("keys/operator-0123456789abcdef.age", &sealed).unwrap();
        let long = vec![0; KEY_FILE_BYTES_MAX as usize + 1];
        store.put(&operator_name(&long), &long).unwrap();
        let files = operator_files(&store).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].name.as_str(), files[0].id().len()), (name.as_str(), 16));
        assert_eq!(files[0].recipients(), [RecipientKind::X25519]);
    }
}
