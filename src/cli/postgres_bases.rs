//! The base backups of a source.

use crate::backup::postgres_base::PostgresBase;
use crate::backup::postgres_tool::PostgresTool;
use crate::backup::run::{RootSource, SnapshotLabel};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::postgres::NamedServer;
use crate::cli::reading::{FoundSnapshot, Reading};
use crate::cli::wal_archive::facts_of;
use crate::format::postgres::facts::{BaseFacts, PostgresFacts};
use crate::source::postgres::base_backup::BaseBackupOptions;

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

/// The root of a base backup.
#[must_use]
pub fn base_root(
    server: &NamedServer,
    label: &SnapshotLabel,
    is_forced: bool,
) -> Box<dyn RootSource> {
    let text = format!("holdfast {} {}", label.source, label.time);
    if let Some(tools) = &server.tools {
        let (name, expected) = (server.name.clone(), server.expected.clone());
        return Box::new(PostgresTool::new(name, tools.clone(), text, expected));
    }
    let options = BaseBackupOptions {
        label: text,
        fast_checkpoint: true,
        rate_kilobytes_max: None,
        incremental: !is_forced,
    };
    let (name, access) = (server.name.clone(), server.access.clone());
    Box::new(PostgresBase::new(name, access, options, server.expected.clone()))
}
