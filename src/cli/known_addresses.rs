//! How buckets are reached that this host has used: where a command names the bucket only, the
//! endpoint and the region are those of the last time.
//!
//! A file of the local state; losing it means that they must be named again.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::error::CommandError;
use crate::cli::place::Place;
use crate::repo::error::RepoError;
use crate::repo::state::write_private;
use crate::store::address::S3Address;

const FILE: &str = "addresses.json";

/// What is known of the bucket that `address` names.
///
/// # Errors
/// `HF-USE-011` for a file that cannot be read.
pub fn find(states: &Path, address: &S3Address) -> Result<Option<S3Address>, CommandError> {
    let known = read(states)?;
    // An address that comes from a file of this host is parsed like any other.
    Ok(known.get(&address.place()).and_then(|text| text.parse().ok()))
}

/// Remembers how the place is reached.
///
/// # Errors
/// `HF-USE-011`.
pub fn remember(states: &Path, place: &Place) -> Result<(), CommandError> {
    let Place::S3(address) = place else { return Ok(()) };
    let mut known = read(states)?;
    if known.insert(address.place(), address.to_string()) == Some(address.to_string()) {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&known).expect("writing JSON to memory cannot fail");
    Ok(write_private(&states.join(FILE), &text)?)
}

fn read(states: &Path) -> Result<BTreeMap<String, String>, CommandError> {
    let path = states.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(RepoError::State { action: "read", path, source }.into()),
    };
    serde_json::from_slice(&bytes)
        .map_err(|_| RepoError::StateContent { path, what: "what this program wrote" }.into())
}
