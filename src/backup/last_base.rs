//! Whether the next base backup of a cluster can build upon the last one.
//!
//! Only where everything that did not change is known here and is still in the repository, and
//! where the server stands on the same line of history behind it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use crate::backup::manifest_stream::next_line;
use crate::backup::previous_files::PreviousFiles;
use crate::crypto::ids::content_hasher;
use crate::format::node::Node;
use crate::format::postgres::lsn::Lsn;
use crate::format::postgres::manifest::{MANIFEST_NAME, ManifestSummary};
use crate::format::tree::EntryKey;
use crate::source::postgres::replication::SystemIdentity;

/// A base backup that can be built upon.
pub struct LastBase {
    /// Its list of files.
    pub manifest: PathBuf,
    /// What the list says.
    pub summary: ManifestSummary,
    /// Where it began: what the server changed since then it has to send.
    pub start: Lsn,
}

impl LastBase {
    /// The last base backup of the cluster that is on the other side.
    ///
    /// # Errors
    /// Why it cannot be built upon.
    pub fn find(
        previous: &mut PreviousFiles,
        manifest: &Path,
        identity: &SystemIdentity,
    ) -> Result<Self, &'static str> {
        if !previous.is_whole() {
            return Err("parts of the last one are not in the repository any more");
        }
        let key = EntryKey { dir: Vec::new(), name: MANIFEST_NAME.to_vec() };
        let listed = previous.find(&key);
        let summary = listed.and_then(|entry| read_manifest(manifest, &entry.node));
        let summary =
            summary.ok_or("what is remembered of the last one is not whole, or it found damage")?;
        if summary.system != identity.system {
            return Err("the last one is of another cluster");
        }
        match summary.range {
            Some(range) if summary.ranges == 1 && range.timeline == identity.timeline => {
                if range.end > identity.flushed {
                    return Err("the server's log ends before the last one did");
                }
                Ok(Self { manifest: manifest.to_owned(), summary, start: range.start })
            }
            _ => Err("the server is on another timeline now"),
        }
    }
}

/// Reads the kept list, if it is the one that the snapshot has.
fn read_manifest(path: &Path, node: &Node) -> Option<ManifestSummary> {
    let mut file = BufReader::new(File::open(path).ok()?);
    let (mut summary, mut hasher) = (ManifestSummary::default(), content_hasher());
    let mut line = Vec::new();
    while next_line(&mut file, &mut line).ok()? {
        hasher.update(&line);
        summary.take(&line).ok()?;
    }
    (file.fill_buf().ok()?.is_empty() && node.hash == Some(hasher.content_hash()))
        .then_some(summary)
}
