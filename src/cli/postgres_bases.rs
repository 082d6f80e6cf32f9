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

/// All base backups of a source's cluster, in the order of their ends. The cluster is that of the
/// snapshot `of`, else of the newest base backup: one that had the name before is left out.
pub fn bases_of<'a>(
    reading: &'a Reading,
    context: &Context,
    source: &str,
    of: Option<&str>,
) -> Result<Vec<Base<'a>>, CommandError> {
    let mut bases: Vec<Base<'a>> = Vec::new();
    for found in reading.all(context) {
        if found.1.source == source
            && let Some(PostgresFacts::Base(facts)) = facts_of(&found.1)?
        {
            bases.push(Base { found, facts });
        }
    }
    let is_meant = |base: &&Base<'_>| of.is_none_or(|of| base.found.0.name.id.to_string() == of);
    let system = bases.iter().rfind(is_meant).map(|base| base.facts.cluster.system.clone());
    bases.retain(|base| system.as_ref() == Some(&base.facts.cluster.system));
    bases.sort_by_key(|base| (base.facts.timeline, base.facts.stop));
    Ok(bases)
}
