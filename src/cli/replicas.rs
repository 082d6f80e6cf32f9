//! The replicas of a repository by name: a file of the local state, and the configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::explain::replica;
use crate::cli::open_repository::open_without_options;
use crate::cli::place::{Place, S3Args, open_store};
use crate::repo::state::{StateDir, read_json, write_json};
use crate::store::Store;

const FILE: &str = "replicas.json";

/// One replica as this host remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its address or folder.
    pub url: String,
    /// When this host has copied to it last.
    pub copied: Option<String>,
}

/// All replicas that this host remembers.
pub type Replicas = BTreeMap<String, Known>;

/// A replica that a command names.
pub struct Named {
    /// Its name, or its address.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// How it is reached.
    pub s3: S3Args,
}

impl Named {
    /// Opens its store.
    ///
    /// # Errors
    /// What keeps it from being opened.
    pub fn store(&self) -> Result<Arc<dyn Store>, CommandError> {
        open_store(&self.place, &self.s3)
    }
}

/// Reads the replicas of the repository whose local state is in `folder`.
///
/// # Errors
/// `HF-USE-011`.
pub fn read(folder: &Path) -> Result<Replicas, CommandError> {
    Ok(read_json(&folder.join(FILE))?.unwrap_or_default())
}

/// Replaces the replicas of the repository whose local state is in `folder`.
///
/// # Errors
/// `HF-USE-011`.
pub fn write(folder: &Path, replicas: &Replicas) -> Result<(), CommandError> {
    Ok(write_json(&folder.join(FILE), replicas)?)
}

/// The replica of that name; a configured repository, an address or a path will do.
///
/// # Errors
/// `HF-REPLICA-001`.
pub fn find(context: &Context, folder: &Path, name: &str) -> Result<Named, CommandError> {
    if let Some(known) = read(folder)?.get(name) {
        let mut place = Place::parse(&known.url, None)?;
        let mut s3 = S3Args::default();
        s3.limit_upload = context.global.s3.limit_upload;
        s3.limit_download = context.global.s3.limit_download;
        if let Place::S3(address) = &mut place {
            s3.apply(address)?;
        }
        return Ok(Named { name: name.to_owned(), place, s3 });
    }
    if context.loaded.config.repositories.contains_key(name) || name.contains('/') {
        let location = context.location_named(name)?;
        return Ok(Named { name: name.to_owned(), place: location.place, s3: location.s3 });
    }
    let what = format!("no replica is called {name:?}");
    Err(CommandError::new(&replica::UNKNOWN, what)
        .hint("holdfast replica list")
        .hint(format!("holdfast replica add {name} s3://BUCKET/PREFIX")))
}

/// The folder of the local state of the repository that is named, without asking the repository
/// where this host has seen it before: it may have burned down.
///
/// # Errors
/// What keeps an unknown repository from being opened.
pub fn folder(context: &Context) -> Result<std::path::PathBuf, CommandError> {
    let location = context.location_without_options()?;
    let states = context.state_dir()?;
    match StateDir::known_at(&states, &location.place.remembered(&location.s3))? {
        Some(id) => Ok(StateDir::open(&states, id)?.path().to_owned()),
        None => Ok(open_without_options(context)?.state.path().to_owned()),
    }
}

/// All replicas that this host remembers, in the order of their names.
///
/// # Errors
/// As [`find`].
pub fn all(context: &Context, folder: &Path) -> Result<Vec<Named>, CommandError> {
    read(folder)?.keys().map(|name| find(context, folder, name)).collect()
}
