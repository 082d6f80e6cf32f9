//! From the arguments to an opened repository, and from what its owner has to its keys.
//!
//! Identities are tried before anyone is asked for a passphrase; no secret leaves this process.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::context::{Context, Location};
use crate::cli::error::CommandError;
use crate::cli::explain::{key, usage};
use crate::cli::known_addresses;
use crate::cli::place::{Place, S3Args, open_store};
use crate::cli::secret_file::{Ending, FileKind, read_file};
use crate::cli::secrets::Purpose;
use crate::cli::terminal::TerminalPrompter;
use crate::crypto::recipient::{Identity, Prompter};
use crate::crypto::unseal::is_sealed_to_passphrase;
use crate::id::RepositoryId;
use crate::repo::error::RepoError;
use crate::repo::key_files::operator_files;
use crate::repo::open::Repository;
use crate::repo::unlock::Unlocked;

/// Opens the repository that the arguments name, and checks its roster.
///
/// # Errors
/// `HF-REPO-001` where there is none, and what the roster's checks say.
pub fn open(context: &Context) -> Result<Repository, CommandError> {
    let location = context.location()?;
    open_at(context, &location.place, &location.s3, None)
}

/// As [`open`], where the options for S3 mean another place: the repository's own are those of the
/// configuration, and of the last time.
///
/// # Errors
/// As [`open`].
pub fn open_without_options(context: &Context) -> Result<Repository, CommandError> {
    let location = context.location_without_options()?;
    open_at(context, &location.place, &location.s3, None)
}

/// Opens the repository at a place, which must have the id `pinned` if one is given.
///
/// # Errors
/// As [`open`].
pub fn open_at(
    context: &Context,
    place: &Place,
    s3: &S3Args,
    pinned: Option<RepositoryId>,
) -> Result<Repository, CommandError> {
    let states = context.state_dir()?;
    let s3 = S3Args {
        keeps_conditions: known_addresses::keeps_conditions(&states, place)?,
        ..s3.clone()
    };
    let store = open_store(place, &s3)?;
    let repository = Repository::open(store, &states, pinned)?;
    known_addresses::remember(&states, place, &*repository.store)?;
    Ok(repository)
}

/// Opens the key files: with the identity files that are named, else with the identity that
/// `backup --init` has made, else with the passphrase.
///
/// # Errors
/// `HF-KEY-001` when nothing opens them, `HF-KEY-002` when nothing is given and nobody can be
/// asked, and what is wrong with a place of secrets.
pub fn unlock(context: &Context, repository: &Repository) -> Result<Unlocked, CommandError> {
    let location = context.location()?;
    match unlock_unasked(context, &location, repository)? {
        Some(unlocked) => Ok(unlocked),
        None => unlock_asking(context, &location, repository),
    }
}

/// As [`unlock`], but nobody is asked: nothing where no key is given.
///
/// # Errors
/// A key is given, and it does not open the repository.
pub fn unlock_unasked(
    context: &Context,
    location: &Location,
    repository: &Repository,
) -> Result<Option<Unlocked>, CommandError> {
    let secrets = context.secrets(location);
    let named = named_identities(context, location)?;
    let mut refused = None;
    if !named.is_empty() {
        match Unlocked::open(repository, &named) {
            Ok(unlocked) => return Ok(Some(unlocked)),
            Err(error @ RepoError::WrongKey { .. }) => refused = Some(error),
            Err(error) => return Err(error.into()),
        }
    } else if let Some(generated) = generated_identity(context, repository.id)? {
        match Unlocked::open(repository, &generated) {
            Ok(unlocked) => return Ok(Some(unlocked)),
            Err(RepoError::WrongKey { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(passphrase) = secrets.named_passphrase()? {
        let identity = Identity::passphrase(passphrase);
        return Ok(Some(Unlocked::open(repository, &[identity])?));
    }
    refused.map_or(Ok(None), |error| Err(error.into()))
}

fn unlock_asking(
    context: &Context,
    location: &Location,
    repository: &Repository,
) -> Result<Unlocked, CommandError> {
    let files = operator_files(&*repository.store)?;
    if !files.is_empty() && !files.iter().any(|file| is_sealed_to_passphrase(&file.sealed)) {
        let what = "the repository opens with an identity only, and none was given";
        return Err(CommandError::new(&key::NONE, what)
            .hint("--identity-file FILE, or HOLDFAST_IDENTITY_FILE")
            .hint("holdfast key list shows the kinds of recipients"));
    }
    let passphrase = context.secrets(location).passphrase(Purpose::Open)?;
    Ok(Unlocked::open(repository, &[Identity::passphrase(passphrase)])?)
}

/// The identities of the files that the options, the environment or the configuration name.
///
/// # Errors
/// `HF-KEY-003`, `-004`, `-008` and `-010`.
pub fn named_identities(
    context: &Context,
    location: &Location,
) -> Result<Vec<Identity>, CommandError> {
    let prompter = prompter(context);
    let mut identities = Vec::new();
    for file in context.secrets(location).identities()? {
        let text = secrecy::ExposeSecret::expose_secret(&file.text);
        identities.extend(Identity::parse_file(text, &prompter).map_err(|error| {
            let place = file.path.display();
            CommandError::classify(&error, &key::IDENTITY).hint(format!("look at {place}"))
        })?);
    }
    Ok(identities)
}

/// Asks on the terminal.
#[must_use]
pub fn prompter(context: &Context) -> Arc<dyn Prompter> {
    Arc::new(TerminalPrompter::new(&context.output))
}

/// Where the identity is that `backup --init` makes: `holdfast/<repository id>.identity` in the
/// folder of configurations.
///
/// # Errors
/// `HF-USE-011` where there is no home.
pub fn generated_identity_path(
    context: &Context,
    repository: RepositoryId,
) -> Result<PathBuf, CommandError> {
    let folder = config_folder(context).ok_or_else(|| {
        CommandError::new(&usage::STATE, "there is no home folder to keep the identity in")
            .hint("set XDG_CONFIG_HOME")
    })?;
    Ok(folder.join("holdfast").join(format!("{repository}.identity")))
}

fn config_folder(context: &Context) -> Option<PathBuf> {
    let absolute = |name| context.environment.path(name).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))
}

fn generated_identity(
    context: &Context,
    repository: RepositoryId,
) -> Result<Option<Vec<Identity>>, CommandError> {
    let Ok(path) = generated_identity_path(context, repository) else { return Ok(None) };
    if !path.exists() {
        return Ok(None);
    }
    let text = read_file(&path, FileKind::Private, Ending::Whole).map_err(|error| {
        CommandError::new(&key::FILE_UNREADABLE, "the generated identity is not used")
            .because(&error)
            .hint(format!("chmod 600 {}", path.display()))
    })?;
    let text = secrecy::ExposeSecret::expose_secret(&text);
    let identities = Identity::parse_file(text, &prompter(context));
    identities.map(Some).map_err(|error| CommandError::classify(&error, &key::IDENTITY))
}
