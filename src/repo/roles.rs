//! Who may do what: changes of the roster, of writers, of epochs and of key files.
//!
//! A roster is created if absent, so of two hosts that change it at once one wins and the other is
//! told. Keys that a new roster needs are stored before it: a crash leaves keys that no roster
//! vouches for, which nobody believes, never a roster whose keys are missing.

use crate::crypto::ids::object_id;
use crate::crypto::recipient::{ReadIdentity, Recipient};
use crate::crypto::secret::{Secret32, random_bytes};
use crate::crypto::signature::SigningKey;
use crate::format::keyfile::{DomainFile, Label, OperatorKeys, ReadKey, WriterFile};
use crate::format::roster::{Epoch, EpochState, Roster};
use crate::id::{ActorId, DomainId};
use crate::repo::create::{
    put_domain_file, put_domain_files, put_epoch_file, put_operator_file, writer_entry,
};
use crate::repo::error::RepoError;
use crate::repo::history::History;
use crate::repo::key_files::operator_files;
use crate::repo::open::Repository;
use crate::repo::unlock::Unlocked;
use crate::store::Put;

/// Where a new writer deduplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewDomain {
    /// In a domain of its own.
    Own,
    /// In the domain of that writer.
    Of(ActorId),
}

/// Draws the keys of a new writer. Nothing is stored: [`add_writer`] makes it one.
///
/// # Errors
/// [`RepoError::NotFound`] when the writer whose domain is to be shared, or the secret of its
/// domain, is not known; [`RepoError::RecipientUnknown`].
pub fn draw_writer(
    repository: &Repository,
    unlocked: &Unlocked,
    name: Label,
    domain: NewDomain,
) -> Result<WriterFile, RepoError> {
    let (domain, secret) = match domain {
        NewDomain::Own => (DomainId(random_bytes()?), Secret32::random()?),
        NewDomain::Of(writer) => {
            let entry = repository.roster.writer(writer);
            let file = entry.and_then(|entry| unlocked.domain(entry.domain));
            let unknown = RepoError::NotFound { kind: "writer", name: writer.to_string() };
            let file = file.ok_or(unknown)?;
            (file.domain, file.secret.clone())
        }
    };
    Ok(WriterFile {
        repository: repository.id,
        id: ActorId(random_bytes()?),
        key: SigningKey::generate()?,
        name,
        domain,
        secret,
        epoch: repository.roster.active_epoch().number,
        read_recipient: unlocked.active_recipient(&repository.roster)?,
    })
}

/// Makes the holder of `keys` a writer.
///
/// # Errors
/// [`RepoError::NoKey`] without the root key, [`RepoError::RosterTaken`].
pub fn add_writer(
    repository: &mut Repository,
    unlocked: &Unlocked,
    keys: &WriterFile,
) -> Result<(), RepoError> {
    let root = unlocked.root()?;
    let read = unlocked.active_recipient(&repository.roster)?;
    put_domain_files(&*repository.store, keys, &read.into())?;
    let mut next = repository.roster.next(repository.roster_hash);
    if !next.domains.contains(&keys.domain) {
        next.domains.push(keys.domain);
    }
    next.writers.push(writer_entry(keys));
    publish(repository, root, next)
}

/// Takes a writer's right: its commits after `after` do not count any more.
///
/// # Errors
/// [`RepoError::NotFound`], [`RepoError::NoKey`], [`RepoError::RosterTaken`].
pub fn revoke_writer(
    repository: &mut Repository,
    unlocked: &Unlocked,
    writer: ActorId,
    after: u64,
) -> Result<(), RepoError> {
    let root = unlocked.root()?;
    let mut next = repository.roster.next(repository.roster_hash);
    let entry = next.writers.iter_mut().find(|entry| entry.id == writer);
    let unknown = RepoError::NotFound { kind: "writer", name: writer.to_string() };
    entry.ok_or(unknown)?.revoked_after = Some(after);
    publish(repository, root, next)
}

/// The writer that is called so: an id, or the label of one writer.
///
/// # Errors
/// [`RepoError::NotFound`] also where several have the label.
pub fn find_writer(
    repository: &Repository,
    unlocked: &Unlocked,
    name: &str,
) -> Result<ActorId, RepoError> {
    let writers = || repository.roster.writers.iter().map(|entry| entry.id);
    if let Some(id) = name.parse().ok().filter(|id| writers().any(|writer| writer == *id)) {
        return Ok(id);
    }
    let is_called = |id: &ActorId| unlocked.label(*id).is_some_and(|label| label.as_str() == name);
    let mut called = writers().filter(is_called);
    match (called.next(), called.next()) {
        (Some(id), None) => Ok(id),
        _ => Err(RepoError::NotFound { kind: "writer", name: name.to_owned() }),
    }
}

/// The newest commit of a writer: what a revocation leaves valid unless it is told otherwise.
#[must_use]
pub fn last_commit(history: &History, writer: ActorId) -> u64 {
    history.head(writer).map_or(0, |(seq, _)| seq)
}

/// Lets another set of recipients open the repository; the name of its key file.
///
/// # Errors
/// The recipients do not go together, or the store fails.
pub fn add_key(
    repository: &Repository,
    unlocked: &Unlocked,
    recipients: &[Recipient],
) -> Result<String, RepoError> {
    put_operator_file(&*repository.store, &unlocked.operator, recipients)
}

/// Removes the key file whose id begins with `id`; its name. What it held stays known to whoever
/// had opened or copied it.
///
/// # Errors
/// [`RepoError::NotFound`] when none or several begin so, [`RepoError::LastKey`].
pub fn remove_key(repository: &Repository, id: &str) -> Result<String, RepoError> {
    let name = find_key(repository, id)?;
    if operator_files(&*repository.store)?.len() <= 1 {
        return Err(RepoError::LastKey);
    }
    repository.store.delete(&name)?;
    Ok(name)
}

/// The key file whose id begins with `id`, of which at least four digits are needed.
///
/// # Errors
/// [`RepoError::NotFound`] when none or several begin so.
pub fn find_key(repository: &Repository, id: &str) -> Result<String, RepoError> {
    let files = operator_files(&*repository.store)?;
    let mut fitting = files.iter().filter(|file| id.len() >= 4 && file.id().starts_with(id));
    match (fitting.next(), fitting.next()) {
        (Some(file), None) => Ok(file.name.clone()),
        _ => Err(RepoError::NotFound { kind: "key file", name: id.to_owned() }),
    }
}

/// Begins a new epoch: what is written from now on opens with none of the old key files.
///
/// `operators` are the sets of recipients that open the repository afterwards; all key files that
/// were there before are removed, once the roster names the new epoch.
///
/// # Errors
/// [`RepoError::LastKey`] without recipients, [`RepoError::NoKey`] without the root key,
/// [`RepoError::NotFound`] when the secret of a domain is not known, [`RepoError::RosterTaken`].
pub fn rotate(
    repository: &mut Repository,
    unlocked: &Unlocked,
    operators: &[Vec<Recipient>],
) -> Result<u32, RepoError> {
    if operators.is_empty() {
        return Err(RepoError::LastKey);
    }
    let root = unlocked.root()?;
    let read = ReadIdentity::generate()?;
    let number = 1 + repository.roster.epochs.iter().map(|epoch| epoch.number).max().unwrap_or(0);
    let before = operator_files(&*repository.store)?;
    let domains = all_domains(&repository.roster, unlocked)?;
    let mut keys: OperatorKeys = unlocked.operator.clone();
    keys.reads.push(ReadKey { epoch: number, identity: read.clone() });
    for recipients in operators {
        put_operator_file(&*repository.store, &keys, recipients)?;
    }
    let recipient: Recipient = read.recipient().into();
    for domain in domains {
        put_domain_file(&*repository.store, domain, &recipient)?;
        put_epoch_file(&*repository.store, domain, number, &read.recipient())?;
    }
    let mut next = repository.roster.next(repository.roster_hash);
    for epoch in &mut next.epochs {
        epoch.state = EpochState::Retired;
    }
    next.epochs.push(Epoch::active(number, &read.recipient()));
    publish(repository, root, next)?;
    for file in before {
        repository.store.delete(&file.name)?;
    }
    Ok(number)
}

fn all_domains<'a>(
    roster: &Roster,
    unlocked: &'a Unlocked,
) -> Result<Vec<&'a DomainFile>, RepoError> {
    let find = |id: &DomainId| {
        let unknown = RepoError::NotFound { kind: "key of domain", name: id.to_string() };
        unlocked.domain(*id).ok_or(unknown)
    };
    roster.domains.iter().map(find).collect()
}

/// Signs a successor of the roster and makes it the newest.
///
/// # Errors
/// [`RepoError::RosterTaken`] when another host was first: nothing has changed then.
pub(crate) fn publish(
    repository: &mut Repository,
    root: &SigningKey,
    next: Roster,
) -> Result<(), RepoError> {
    // A promotion is what makes a replica one that is written to.
    if next.generation == repository.roster.generation {
        repository.require_primary()?;
    }
    let signed = next.encode_and_sign(root).map_err(RepoError::Sign)?;
    let object = Roster::object_name(next.seq);
    if repository.store.put(&object, &signed)? == Put::Exists {
        return Err(RepoError::RosterTaken { object });
    }
    repository.roster = next;
    repository.roster_hash = object_id(&signed);
    repository.see(|witness| witness.see_roster(&repository.roster, repository.roster_hash))
}
