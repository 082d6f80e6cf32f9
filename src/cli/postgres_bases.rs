//! The base backups of a source.

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::reading::{FoundSnapshot, Reading};
use crate::cli::wal_archive::facts_of;
use crate::format::postgres::facts::{BaseFacts, PostgresFacts};

/// A base backup.
pub struct Base<'a> {
    /// The snapshot.
    pub found: FoundSnapshot<'a>,
    /// What it says about itself.
    pub facts: BaseFacts,
}

/// All base backups of a source, in the order of their ends.
pub fn bases_of<'a>(
    reading: &'a Reading,
    context: &Context,
    source: &str,
) -> Result<Vec<Base<'a>>, CommandError> {
    let mut bases = Vec::new();
    for found in reading.all(context) {
        if found.1.source == source
            && let Some(PostgresFacts::Base(facts)) = facts_of(&found.1)?
        {
            bases.push(Base { found, facts });
        }
    }
    bases.sort_by_key(|base| (base.facts.timeline, base.facts.stop));
    Ok(bases)
}
