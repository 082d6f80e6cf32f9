//! How buckets are reached that this host has used: where a command names the bucket only, the
//! endpoint and the region are those of the last time.
//!
//! A file of the local state; losing it means that they must be named again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::place::Place;
use crate::repo::state::{make_private_dir, read_json, write_json};
use crate::store::Store;
use crate::store::address::S3Address;

const FILE: &str = "addresses.json";

/// What this host knows of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    url: String,
    /// Whether the service keeps conditions, once that was tried.
    keeps_conditions: Option<bool>,
}

/// The address by which the bucket was reached last.
///
/// # Errors
/// `HF-USE-011` for a file that cannot be read.
pub fn find(states: &Path, address: &S3Address) -> Result<Option<S3Address>, CommandError> {
    // An address that comes from a file of this host is parsed like any other.
    Ok(read(states)?.get(&address.place()).and_then(|known| known.url.parse().ok()))
}

/// Whether the service there keeps conditions, where that is known.
///
/// # Errors
/// `HF-USE-011` for a file that cannot be read.
pub fn keeps_conditions(states: &Path, place: &Place) -> Result<Option<bool>, CommandError> {
    let Place::S3(address) = place else { return Ok(None) };
    Ok(read(states)?.get(&address.place()).and_then(|known| known.keeps_conditions))
}

/// Remembers how the place is reached, and what its store has found out.
///
/// # Errors
/// `HF-USE-011`.
pub fn remember(states: &Path, place: &Place, store: &dyn Store) -> Result<(), CommandError> {
    let Place::S3(address) = place else { return Ok(()) };
    let mut all = read(states)?;
    let before = all.get(&address.place()).filter(|known| known.url == address.to_string());
    let keeps_conditions =
        store.keeps_conditions().or_else(|| before.and_then(|known| known.keeps_conditions));
    let known = Known { url: address.to_string(), keeps_conditions };
    if before == Some(&known) {
        return Ok(());
    }
    all.insert(address.place(), known);
    make_private_dir(states)?;
    Ok(write_json(&states.join(FILE), &all)?)
}

/// As [`remember`], after what was asked has been done: failing to remember it is no failure of that.
pub fn remember_or_warn(context: &Context, place: &Place, store: &dyn Store) {
    let remembered = context.state_dir().and_then(|states| remember(&states, place, store));
    if let Err(error) = remembered {
        let causes = error.causes().join(": ");
        let what = format!("how {place} is reached is not remembered: {}", error.what());
        context.output.warning(what.trim_end());
        if !causes.is_empty() {
            context.output.note(&format!("  {causes}"));
        }
    }
}

fn read(states: &Path) -> Result<BTreeMap<String, Known>, CommandError> {
    Ok(read_json(&states.join(FILE))?.unwrap_or_default())
}
