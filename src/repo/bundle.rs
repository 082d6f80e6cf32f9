//! A writer's bundle: what carries a new writer's keys to its host.
//!
//! It is the text of [`WriterFile`] with a line more, so that whoever knows the one can read the
//! other. It is secret, and never an object.

use secrecy::{ExposeSecret, SecretString};

use crate::crypto::recipient::{Identity, Recipient};
use crate::crypto::seal::SealError;
use crate::crypto::small::{open_text, seal_text};
use crate::format::keyfile::WriterFile;
use crate::format::limits::KEY_FILE_BYTES_MAX;
use crate::format::signed_text::TextError;
use crate::repo::error::RepoError;
use crate::repo::open::Repository;
use crate::repo::state::StateDir;

const LOCATION: &str = "location ";

/// What `writer add` makes and `writer install` takes.
#[derive(Debug, Clone)]
pub struct WriterBundle {
    /// The keys.
    pub keys: WriterFile,
    /// Where the repository is, as the maker saw it; one line.
    pub location: Option<String>,
}

impl WriterBundle {
    /// The text; a location that is no single line is left out.
    #[must_use]
    pub fn print(&self) -> SecretString {
        let keys = self.keys.print();
        let location = self.location.as_deref();
        match location.filter(|place| !place.is_empty() && !place.chars().any(char::is_control)) {
            Some(place) => format!("{}{LOCATION}{place}\n", keys.expose_secret()).into(),
            None => keys,
        }
    }

    /// Reads the text.
    ///
    /// # Errors
    /// As [`WriterFile::parse`].
    pub fn parse(text: &SecretString) -> Result<Self, TextError> {
        let keys = WriterFile::parse(text)?;
        let mut lines = text.expose_secret().lines();
        let location = lines.find_map(|line| line.strip_prefix(LOCATION)).map(str::to_owned);
        Ok(Self { keys, location })
    }

    /// The text, sealed to a passphrase.
    ///
    /// # Errors
    /// Those of sealing.
    pub fn seal(&self, passphrase: SecretString) -> Result<Vec<u8>, SealError> {
        seal_text(&[&Recipient::passphrase(passphrase)], &self.print())
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    /// [`RepoError::Open`], [`RepoError::Text`].
    pub fn open(sealed: &[u8], passphrase: SecretString) -> Result<Self, RepoError> {
        let object = || "the bundle".to_owned();
        let text = open_text(&[&Identity::passphrase(passphrase)], sealed, KEY_FILE_BYTES_MAX)
            .map_err(|source| RepoError::Open { object: object(), source })?;
        Self::parse(&text).map_err(|source| RepoError::Text { object: object(), source })
    }
}

/// Whether two writer files hold the keys of one writer.
fn is_same(one: &WriterFile, other: &WriterFile) -> bool {
    one.id == other.id && one.key.verifying_key() == other.key.verifying_key()
}

/// Makes this host the writer of the bundle.
///
/// # Errors
/// [`RepoError::NotInRoster`] unless the roster lists the writer with this key and domain, and it
/// is not revoked; [`RepoError::OtherWriter`] when this host is another writer already.
pub fn install(repository: &Repository, keys: &WriterFile) -> Result<(), RepoError> {
    let listed = repository.roster.writer(keys.id).is_some_and(|entry| {
        entry.key == keys.key.verifying_key()
            && entry.domain == keys.domain
            && entry.revoked_after.is_none()
    });
    if !listed || keys.repository != repository.id {
        return Err(RepoError::NotInRoster { role: "writer", id: keys.id });
    }
    let state: &StateDir = &repository.state;
    let _lock = state.lock("witness.lock")?;
    match state.writer()? {
        Some(present) if is_same(&present, keys) => Ok(()),
        Some(present) => Err(RepoError::OtherWriter { present: present.id }),
        None => state.set_writer(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::recipient::ReadIdentity;
    use crate::crypto::secret::Secret32;
    use crate::crypto::signature::SigningKey;
    use crate::id::{ActorId, DomainId, RepositoryId};

    fn bundle(location: Option<&str>) -> WriterBundle {
        let keys = WriterFile {
            repository: RepositoryId([1; 32]),
            id: ActorId([2; 8]),
            key: SigningKey::generate().unwrap(),
            name: "web 1".parse().unwrap(),
            domain: DomainId([3; 8]),
            secret: Secret32::random().unwrap(),
            epoch: 2,
            read_recipient: ReadIdentity::generate().unwrap().recipient(),
        };
        WriterBundle { keys, location: location.map(str::to_owned) }
    }

    #[test]
    fn the_location_comes_along_where_it_is_one_line() {
        let cases = [
            (Some("/srv/a repo"), Some("/srv/a repo")),
            (Some("/srv/\nwriter x"), None),
            (Some(""), None),
            (None, None),
        ];
        for (location, expected) in cases {
            let bundle = bundle(location);
            let read = WriterBundle::parse(&bundle.print()).unwrap();
            assert_eq!(read.location.as_deref(), expected);
            assert!(is_same(&read.keys, &bundle.keys));
        }
    }
}
