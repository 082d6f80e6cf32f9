//! Where a repository is: a folder or a bucket, and how the store there is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::cli::config::RepositoryConfig;
use crate::cli::error::CommandError;
use crate::cli::explain::{repository, store};
use crate::store::address::S3Address;
use crate::store::local::LocalStore;
use crate::store::{Store, StoreError};
use crate::units::parse_size;

/// A place that can hold a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of this host.
    Folder(PathBuf),
    /// A bucket, or a part of it.
    S3(S3Address),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::S3(address) => write!(f, "{address}"),
        }
    }
}

impl Place {
    /// Reads an address or a path; `home` is what `~/` stands for.
    ///
    /// # Errors
    /// `HF-STORE-007` for an address of an unknown kind.
    pub fn parse(text: &str, home: Option<&Path>) -> Result<Self, CommandError> {
        if let Some(rest) = text.strip_prefix("file://") {
            return Ok(Self::Folder(PathBuf::from(rest)));
        }
        if text.starts_with("s3://") {
            return text.parse().map(Self::S3).map_err(|error| {
                CommandError::new(&store::LOCATION, "the address is wrong")
                    .because(&error)
                    .hint("s3://BUCKET/PREFIX")
            });
        }
        if let Some((scheme, _)) = text.split_once("://") {
            let what = format!("repositories at {scheme}:// addresses are not known");
            return Err(CommandError::new(&store::LOCATION, what).hint("a path, or s3://…"));
        }
        match (text.strip_prefix("~/"), home) {
            (Some(rest), Some(home)) => Ok(Self::Folder(home.join(rest))),
            _ => Ok(Self::Folder(PathBuf::from(text))),
        }
    }

    /// How the local state calls it, whether it is there or not.
    #[must_use]
    pub fn remembered(&self, s3: &S3Args) -> String {
        match open_store(self, s3) {
            Ok(store) => store.location(),
            // A folder that is gone has no real path any more: it is known by the one that it had.
            Err(_) => match self.folder().map(std::path::absolute) {
                Some(Ok(path)) => path.display().to_string(),
                _ => self.to_string(),
            },
        }
    }

    /// The folder, where it is one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::S3(_) => None,
        }
    }
}

/// How an S3 service is reached; of the repository, or of the replica that is being added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct S3Args {
    /// S3: URL of the service, where it is not AWS
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub endpoint: Option<String>,
    /// S3: region
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub region: Option<String>,
    /// S3: profile of the shared AWS configuration
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub profile: Option<String>,
    /// S3: whether the bucket stands in the path [default: with --endpoint]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_short_help = true)]
    pub path_style: Option<bool>,
    /// S3: send at most so many bytes a second
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    #[arg(hide_short_help = true)]
    pub limit_upload: Option<u64>,
    /// S3: receive at most so many bytes a second
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    #[arg(hide_short_help = true)]
    pub limit_download: Option<u64>,
    /// What is known of the service from before.
    #[arg(skip)]
    pub keeps_conditions: Option<bool>,
    /// Whether another copy can be asked where this one does not answer.
    #[arg(skip)]
    pub has_copies: bool,
}

impl S3Args {
    /// What options say, and what they leave open taken from the configuration.
    #[must_use]
    pub fn completed(&self, table: &RepositoryConfig) -> Self {
        Self {
            endpoint: self.endpoint.clone().or_else(|| table.endpoint.clone()),
            region: self.region.clone().or_else(|| table.region.clone()),
            profile: self.profile.clone().or_else(|| table.profile.clone()),
            path_style: self.path_style.or(table.path_style),
            limit_upload: self.limit_upload.or(table.limit_upload),
            limit_download: self.limit_download.or(table.limit_download),
            keeps_conditions: self.keeps_conditions,
            has_copies: self.has_copies,
        }
    }

    /// Puts the options into an address; they win over what stands in it.
    ///
    /// # Errors
    /// `HF-STORE-007` for an endpoint that is none.
    pub fn apply(&self, address: &mut S3Address) -> Result<(), CommandError> {
        if let Some(endpoint) = &self.endpoint {
            crate::store::address::check_endpoint(endpoint)
                .map_err(|reason| CommandError::new(&store::LOCATION, reason))?;
        }
        let named = S3Address {
            bucket: address.bucket.clone(),
            prefix: address.prefix.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            profile: self.profile.clone(),
            path_style: self.path_style,
        };
        let before = std::mem::replace(address, named);
        address.complete(&before);
        Ok(())
    }
}

/// Opens the store at a place: a folder under its real path, so that what this host has seen is
/// remembered by it, whatever way leads there.
///
/// # Errors
/// `HF-REPO-001` where there is no such folder; what keeps a client from being made.
pub fn open_store(place: &Place, args: &S3Args) -> Result<Arc<dyn Store>, CommandError> {
    match place {
        Place::Folder(path) => Ok(Arc::new(open_folder(path)?)),
        Place::S3(address) => open_s3(address, args),
    }
}

#[cfg(feature = "s3")]
fn open_s3(address: &S3Address, args: &S3Args) -> Result<Arc<dyn Store>, CommandError> {
    use crate::store::s3::{Patience, S3Options, S3Store};
    let patience =
        if args.has_copies { Patience::with_other_copies() } else { Patience::default() };
    let options = S3Options {
        limit_upload: args.limit_upload,
        limit_download: args.limit_download,
        conditional_put: args.keeps_conditions,
        patience,
        ..S3Options::default()
    };
    Ok(Arc::new(S3Store::open(address, options)?))
}

#[cfg(not(feature = "s3"))]
fn open_s3(_: &S3Address, _: &S3Args) -> Result<Arc<dyn Store>, CommandError> {
    Err(CommandError::new(&store::LOCATION, "this program was built without S3"))
}

/// Opens a folder.
///
/// # Errors
/// As [`open_store`].
pub fn open_folder(path: &Path) -> Result<LocalStore, CommandError> {
    let real = std::fs::canonicalize(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            let what = format!("there is no repository at {}", path.display());
            CommandError::new(&repository::MISSING, what)
                .because(&error)
                .hint(format!("holdfast init -r {}", path.display()))
                .hint("look whether the disk is mounted that should be there")
        }
        std::io::ErrorKind::PermissionDenied => {
            let name = path.display().to_string();
            CommandError::from(StoreError::Refused { name, source: error })
        }
        _ => StoreError::Io { action: "open", path: path.into(), source: error }.into(),
    })?;
    Ok(LocalStore::open(real)?)
}
