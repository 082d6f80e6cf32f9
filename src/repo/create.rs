//! Making a repository: all keys in one step, for one person with one machine.
//!
//! Order: keys, then the first roster, then FORMAT. A crash before FORMAT leaves a place that is
//! no repository yet, and that a second `create` refuses until the keys and the roster are removed:
//! nothing tells it apart from a repository that has lost its FORMAT.

use std::path::Path;
use std::sync::Arc;

use crate::crypto::ids::{DomainKeys, content_hash, repository_id};
use crate::crypto::recipient::{NativeRecipient, ReadIdentity, Recipient};
use crate::crypto::secret::{Secret32, random_bytes};
use crate::crypto::signature::SigningKey;
use crate::crypto::small::seal_text;
use crate::format::keyfile::{
    DomainFile, EpochFile, Label, MaintainerFile, MaintainerKeys, OperatorKeys, ReadKey,
    WriterFile, domain_name, epoch_name, operator_name,
};
use crate::format::roster::{
    Epoch, Generation, MaintainerEntry, RecoveryFile, Roster, WriterEntry,
};
use crate::format::signed_text::NO_PREVIOUS;
use crate::id::{ActorId, DomainId, RepositoryId};
use crate::repo::error::RepoError;
use crate::repo::state::StateDir;
use crate::store::{Put, Store, StoreError};

/// The independent reader that every repository carries.
pub const RESTORE_PY: &str = include_str!("../../format-spec/restore.py");
/// What a person reads who has nothing but the repository.
pub const RECOVERY_MD: &str = include_str!("../../format-spec/RECOVERY.md");
/// Seconds between an intent to delete and the deletion, unless the maker says otherwise.
pub const GRACE_SECONDS_DEFAULT: u64 = 72 * 60 * 60;

/// What the maker of a repository decides.
pub struct CreateOptions {
    /// Sets of recipients, one key file each; a passphrase is alone in its set.
    pub operators: Vec<Vec<Recipient>>,
    /// Name of this host among the writers.
    pub writer_label: Label,
    /// Size of full packs in bytes.
    pub pack_bytes: u64,
    /// Grace time of prunes in seconds.
    pub grace_seconds: u64,
    /// No snapshot younger than this may be forgotten, in seconds.
    pub retention_floor_seconds: u64,
    /// Whether this host keeps the maintainer's keys, so that retention runs unattended.
    pub keep_maintainer: bool,
}

/// The keys of a repository that is about to be made; nothing is stored yet.
pub struct NewKeys {
    root: SigningKey,
    read: ReadIdentity,
    maintainer: MaintainerKeys,
    writer: WriterFile,
}

impl NewKeys {
    /// Draws all keys; `writer_label` is the name of this host among the writers.
    pub fn draw(writer_label: Label) -> Result<Self, RepoError> {
        let root = SigningKey::generate()?;
        let read = ReadIdentity::generate()?;
        let maintainer = MaintainerKeys {
            id: ActorId(random_bytes()?),
            key: SigningKey::generate()?,
            identity: ReadIdentity::generate()?,
        };
        let writer = WriterFile {
            repository: repository_id(&root.verifying_key()),
            id: ActorId(random_bytes()?),
            key: SigningKey::generate()?,
            name: writer_label,
            domain: DomainId(random_bytes()?),
            secret: Secret32::random()?,
            epoch: 1,
            read_recipient: read.recipient(),
        };
        Ok(Self { root, read, maintainer, writer })
    }

    /// The repository that they make.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.writer.repository
    }
}

/// Looks that no repository is there, nor the beginning of one.
///
/// # Errors
/// [`RepoError::Exists`], [`RepoError::Unfinished`].
pub fn check_vacant(store: &dyn Store) -> Result<(), RepoError> {
    let location = store.location();
    match store.stat("FORMAT") {
        Ok(_) => return Err(RepoError::Exists { location }),
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut is_begun = false;
    for folder in ["keys/", "roster/"] {
        store.list(folder, &mut |_| is_begun = true)?;
    }
    if is_begun { Err(RepoError::Unfinished { location }) } else { Ok(()) }
}

/// Creates a repository in an empty store and makes this host its first writer.
///
/// # Errors
/// As [`create_with`].
pub fn create(
    store: &Arc<dyn Store>,
    states: &Path,
    options: &CreateOptions,
) -> Result<RepositoryId, RepoError> {
    create_with(store, states, options, NewKeys::draw(options.writer_label.clone())?)
}

/// As [`create`], of keys that were drawn before: what opens the repository can then be made
/// durable before there is anything to be opened.
///
/// # Errors
/// [`RepoError::Exists`] when there is one, [`RepoError::Unfinished`] when another maker was
/// stopped. A failure leaves no repository, but perhaps objects.
pub fn create_with(
    store: &Arc<dyn Store>,
    states: &Path,
    options: &CreateOptions,
    keys: NewKeys,
) -> Result<RepositoryId, RepoError> {
    check_vacant(&**store)?;
    let NewKeys { root, read, maintainer, writer } = keys;
    let repository = writer.repository;
    let location = store.location();
    let roster = first_roster(&root, &read, &maintainer, &writer, options);
    let operator = OperatorKeys {
        repository,
        root: Some(root),
        reads: vec![ReadKey { epoch: 1, identity: read.clone() }],
        maintainers: vec![maintainer.clone()],
    };
    for recipients in &options.operators {
        put_operator_file(&**store, &operator, recipients)?;
    }
    put_domain_files(&**store, &writer, &read.recipient().into())?;
    put_new(&**store, "RECOVERY.md", RECOVERY_MD.as_bytes())?;
    put_new(&**store, "recovery/restore.py", RESTORE_PY.as_bytes())?;
    let root = operator.root.as_ref().expect("it was put in above");
    let signed = roster.encode_and_sign(root).map_err(RepoError::Sign)?;
    put_new(&**store, &Roster::object_name(1), &signed)?;

    let state = StateDir::open(states, repository)?;
    state.set_writer(&writer)?;
    if options.keep_maintainer {
        state.set_maintainer(&MaintainerFile { repository, keys: maintainer })?;
    }
    put_new(&**store, "FORMAT", format!("holdfast 1 {repository}\n").as_bytes())?;
    StateDir::remember(states, &location, repository)?;
    Ok(repository)
}

/// Seals `keys` to a set of recipients, as a key file of its own; its name.
pub fn put_operator_file(
    store: &dyn Store,
    keys: &OperatorKeys,
    recipients: &[Recipient],
) -> Result<String, RepoError> {
    let recipients: Vec<&Recipient> = recipients.iter().collect();
    let sealed = seal_text(&recipients, &keys.print())?;
    let name = operator_name(&sealed);
    put_new(store, &name, &sealed)?;
    Ok(name)
}

fn first_roster(
    root: &SigningKey,
    read: &ReadIdentity,
    maintainer: &MaintainerKeys,
    writer: &WriterFile,
    options: &CreateOptions,
) -> Roster {
    let recovery = RecoveryFile {
        name: "restore.py".parse().expect("a plain file name"),
        hash: content_hash(RESTORE_PY.as_bytes()),
    };
    Roster {
        repository: writer.repository,
        seq: 1,
        prev: NO_PREVIOUS,
        root: root.verifying_key(),
        pack_bytes: options.pack_bytes,
        epochs: vec![Epoch::active(1, &read.recipient())],
        domains: vec![writer.domain],
        writers: vec![writer_entry(writer)],
        maintainers: vec![MaintainerEntry {
            id: maintainer.id,
            key: maintainer.key.verifying_key(),
            recipient: maintainer.identity.recipient(),
        }],
        verifiers: Vec::new(),
        retention_floor_seconds: options.retention_floor_seconds,
        grace_seconds: options.grace_seconds,
        recovery: vec![recovery],
        generation: Generation::default(),
    }
}

/// The roster's line for a new writer.
#[must_use]
pub fn writer_entry(writer: &WriterFile) -> WriterEntry {
    WriterEntry {
        id: writer.id,
        key: writer.key.verifying_key(),
        domain: writer.domain,
        from: 1,
        revoked_after: None,
    }
}

/// Stores the domain's secret for readers, and the read recipient for the domain's writers.
pub fn put_domain_files(
    store: &dyn Store,
    writer: &WriterFile,
    read: &Recipient,
) -> Result<(), RepoError> {
    let domain = DomainFile {
        repository: writer.repository,
        domain: writer.domain,
        secret: writer.secret.clone(),
        labels: vec![(writer.id, writer.name.clone())],
    };
    put_domain_file(store, &domain, read)?;
    put_epoch_file(store, &domain, writer.epoch, &writer.read_recipient)
}

/// Stores a domain's secret and labels for readers.
pub fn put_domain_file(
    store: &dyn Store,
    domain: &DomainFile,
    read: &Recipient,
) -> Result<(), RepoError> {
    let sealed = seal_text(&[read], &domain.print())?;
    put_new(store, &domain_name(domain.domain, &sealed), &sealed)
}

/// Tells the writers of a domain what to seal to in an epoch.
pub fn put_epoch_file(
    store: &dyn Store,
    domain: &DomainFile,
    epoch: u32,
    recipient: &NativeRecipient,
) -> Result<(), RepoError> {
    let file = EpochFile { repository: domain.repository, epoch, recipient: recipient.clone() };
    let index: Recipient = DomainKeys::derive(&domain.secret).index_recipient().into();
    let sealed = seal_text(&[&index], &file.print())?;
    put_new(store, &epoch_name(epoch, domain.domain, &sealed), &sealed)
}

/// Stores an object that must not be there yet.
pub fn put_new(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<(), RepoError> {
    match store.put(name, bytes)? {
        Put::Created => Ok(()),
        Put::Exists if store.get(name, bytes.len() as u64)? == bytes => Ok(()),
        Put::Exists => Err(RepoError::Exists { location: store.location() }),
    }
}
