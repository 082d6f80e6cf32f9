//! From a passphrase or identities to the keys of a repository.
//!
//! Anyone who knows a recipient can seal a key file to it, a hostile store too: nothing that is
//! opened counts before it agrees with the roster that ROOT has signed.

use crate::crypto::ids::repository_id;
use crate::crypto::recipient::{Identity, NativeRecipient};
use crate::crypto::signature::SigningKey;
use crate::crypto::small::open_text;
use crate::crypto::unseal::OpenError;
use crate::format::keyfile::{DomainFile, Label, MaintainerKeys, OperatorKeys, ReadKey};
use crate::format::limits::KEY_FILE_BYTES_MAX;
use crate::format::roster::Roster;
use crate::id::{ActorId, DomainId};
use crate::repo::error::RepoError;
use crate::repo::key_files::{KeyFile, operator_files, read_files};
use crate::repo::open::Repository;

/// All keys that a passphrase or identity leads to. Each was compared with the roster.
#[derive(Debug, Clone)]
pub struct Unlocked {
    /// Root key, read identities, maintainers: those of all key files that opened.
    pub operator: OperatorKeys,
    /// Domains, each once, with the labels of all its files.
    pub domains: Vec<DomainFile>,
    /// Names of the operator key files that opened.
    pub opened: Vec<String>,
}

impl Unlocked {
    /// Opens the key files of a repository.
    ///
    /// # Errors
    /// [`RepoError::WrongKey`] when none opens; [`RepoError::Open`] when a plugin failed or a
    /// passphrase file asks for too much work, and no other opens.
    pub fn open(repository: &Repository, identities: &[Identity]) -> Result<Self, RepoError> {
        let identities: Vec<&Identity> = identities.iter().collect();
        let (operator, opened) = open_operator(repository, &identities)?;
        let domains = open_domains(repository, &operator)?;
        Ok(Self { operator, domains, opened })
    }

    /// The read identities of all epochs.
    #[must_use]
    pub fn read_identities(&self) -> Vec<Identity> {
        self.operator.reads.iter().map(|read| read.identity.to_identity()).collect()
    }

    /// The recipient of the active epoch.
    ///
    /// # Errors
    /// [`RepoError::RecipientUnknown`] when only keys of retired epochs were opened.
    pub fn active_recipient(&self, roster: &Roster) -> Result<NativeRecipient, RepoError> {
        let active = roster.active_epoch().number;
        let read = self.operator.reads.iter().find(|read| read.epoch == active);
        read.map(|read| read.identity.recipient())
            .ok_or(RepoError::RecipientUnknown { epoch: active })
    }

    /// The root key.
    ///
    /// # Errors
    /// [`RepoError::NoKey`] where it is kept elsewhere.
    pub fn root(&self) -> Result<&SigningKey, RepoError> {
        let repository = self.operator.repository;
        self.operator.root.as_ref().ok_or(RepoError::NoKey { role: "root", repository })
    }

    /// A domain by id.
    #[must_use]
    pub fn domain(&self, id: DomainId) -> Option<&DomainFile> {
        self.domains.iter().find(|file| file.domain == id)
    }

    /// The name of a writer for people.
    #[must_use]
    pub fn label(&self, writer: ActorId) -> Option<&Label> {
        let mut labels = self.domains.iter().flat_map(|file| &file.labels);
        labels.find(|(id, _)| *id == writer).map(|(_, label)| label)
    }
}

/// The keys of a maintainer: those of this host, else those of the opened key files.
///
/// # Errors
/// [`RepoError::NoKey`] where neither has any that the roster lists.
pub fn maintainer_keys(
    repository: &Repository,
    unlocked: Option<&Unlocked>,
) -> Result<MaintainerKeys, RepoError> {
    let local = repository.state.maintainer()?;
    let local = local.filter(|file| file.repository == repository.id).map(|file| file.keys);
    let opened = unlocked.into_iter().flat_map(|unlocked| unlocked.operator.maintainers.clone());
    local
        .into_iter()
        .chain(opened)
        .find(|keys| is_listed(&repository.roster, keys))
        .ok_or(RepoError::NoKey { role: "maintainer", repository: repository.id })
}

fn is_listed(roster: &Roster, keys: &MaintainerKeys) -> bool {
    roster.maintainer(keys.id).is_some_and(|entry| {
        entry.key == keys.key.verifying_key() && entry.recipient == keys.identity.recipient()
    })
}

fn open_operator(
    repository: &Repository,
    identities: &[&Identity],
) -> Result<(OperatorKeys, Vec<String>), RepoError> {
    let files = operator_files(&*repository.store)?;
    let tried = files.len();
    let mut all = OperatorKeys {
        repository: repository.id,
        root: None,
        reads: Vec::new(),
        maintainers: Vec::new(),
    };
    let (mut opened, mut failure) = (Vec::new(), None);
    for file in files {
        match open_text(identities, &file.sealed, KEY_FILE_BYTES_MAX) {
            Ok(text) => match OperatorKeys::parse(&text) {
                Ok(keys) => {
                    if adopt(&mut all, keys, &repository.roster) {
                        opened.push(file.name);
                    } else {
                        tracing::warn!("{} holds no key of this repository", file.name);
                    }
                }
                Err(error) => tracing::warn!("{} is passed over: {error}", file.name),
            },
            Err(OpenError::NoMatchingKey) => {}
            Err(source @ (OpenError::Plugin { .. } | OpenError::ExcessiveWork { .. })) => {
                failure = failure.or(Some(RepoError::Open { object: file.name, source }));
            }
            Err(error) => tracing::warn!("{} is passed over: {error}", file.name),
        }
    }
    if all.reads.is_empty() {
        return Err(failure.unwrap_or(RepoError::WrongKey { tried }));
    }
    all.reads.sort_unstable_by_key(|read| read.epoch);
    Ok((all, opened))
}

/// Takes over what the roster vouches for; whether there was anything.
fn adopt(all: &mut OperatorKeys, keys: OperatorKeys, roster: &Roster) -> bool {
    if keys.repository != all.repository {
        return false;
    }
    let root = keys.root.filter(|root| repository_id(&root.verifying_key()) == all.repository);
    let is_of_epoch = |read: &ReadKey| {
        let epoch = roster.epoch(read.epoch);
        epoch.is_some_and(|epoch| epoch.has_recipient(&read.identity.recipient()))
    };
    let reads: Vec<ReadKey> = keys.reads.into_iter().filter(is_of_epoch).collect();
    let maintainers = keys.maintainers.into_iter().filter(|keys| is_listed(roster, keys));
    let maintainers: Vec<MaintainerKeys> = maintainers.collect();
    let has_any = root.is_some() || !reads.is_empty() || !maintainers.is_empty();
    all.root = all.root.take().or(root);
    for read in reads {
        if all.reads.iter().all(|known| known.epoch != read.epoch) {
            all.reads.push(read);
        }
    }
    for keys in maintainers {
        if all.maintainers.iter().all(|known| known.id != keys.id) {
            all.maintainers.push(keys);
        }
    }
    has_any
}

fn open_domains(
    repository: &Repository,
    operator: &OperatorKeys,
) -> Result<Vec<DomainFile>, RepoError> {
    let reads: Vec<Identity> = operator.reads.iter().map(|r| r.identity.to_identity()).collect();
    let reads: Vec<&Identity> = reads.iter().collect();
    let mut domains: Vec<DomainFile> = Vec::new();
    for file in read_files(&*repository.store, "keys/domain-")? {
        let Some(found) = open_domain(repository, &reads, &file) else { continue };
        match domains.iter_mut().find(|known| known.domain == found.domain) {
            None => domains.push(found),
            Some(known) if known.secret.expose_secret() == found.secret.expose_secret() => {
                for (writer, label) in found.labels {
                    if known.labels.iter().all(|(id, _)| *id != writer) {
                        known.labels.push((writer, label));
                    }
                }
            }
            Some(_) => {
                let what = "another file gives its domain another secret";
                return Err(RepoError::Misplaced { object: file.name, what });
            }
        }
    }
    Ok(domains)
}

fn open_domain(repository: &Repository, reads: &[&Identity], file: &KeyFile) -> Option<DomainFile> {
    let text = open_text(reads, &file.sealed, KEY_FILE_BYTES_MAX);
    let text =
        text.inspect_err(|error| tracing::debug!("{} is passed over: {error}", file.name)).ok()?;
    let parsed = DomainFile::parse(&text);
    let parsed =
        parsed.inspect_err(|error| tracing::warn!("{} is passed over: {error}", file.name)).ok()?;
    let is_of_roster = parsed.repository == repository.id
        && repository.roster.domains.contains(&parsed.domain)
        && file.name.starts_with(&format!("keys/domain-{}-", parsed.domain));
    is_of_roster.then_some(parsed)
}
