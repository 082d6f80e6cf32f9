//! What a check finds: which object, what is wrong, whom it concerns, what to try.

use serde::Serialize;

use crate::format::commit::SnapshotName;

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// A signed log, roster or tombstone is refused, or is not the one seen before.
    Log,
    /// A commit names it, and the store has not.
    Missing,
    /// Its length is not the one that its commit says.
    WrongSize,
    /// Its bytes are not those that its name stands for.
    WrongName,
    /// It does not open or decode, or belongs elsewhere.
    Unreadable,
    /// It is newer than this program: no damage.
    Unsupported,
    /// No index segment describes the pack.
    NotIndexed,
    /// References of a snapshot lead nowhere.
    Reference,
    /// The refs of a snapshot are not what its trees use.
    Refs,
    /// The pack does not hold what the index says.
    Content,
}

impl Problem {
    /// What to try.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Log => "fetch the object from a replica; until then nothing is written",
            Self::Missing | Self::WrongSize | Self::WrongName | Self::Content => {
                "look at the disk, and fetch the object from a replica; or move it away, and back up again"
            }
            Self::Unreadable | Self::Reference => {
                "fetch the object from a replica, or forget the snapshots concerned"
            }
            Self::Unsupported => "install a newer version of Holdfast",
            Self::NotIndexed => "holdfast repair index",
            Self::Refs => "do not prune; forget the snapshot, or back up the source again first",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the object.
    pub object: String,
    /// What kind of trouble.
    pub problem: Problem,
    /// What is wrong, in words.
    pub what: String,
    /// Snapshots that are concerned, as far as that can be known.
    pub snapshots: Vec<SnapshotName>,
}

impl Finding {
    /// A finding that concerns no snapshot that is known yet.
    #[must_use]
    pub fn new(object: impl Into<String>, problem: Problem, what: impl Into<String>) -> Self {
        Self { object: object.into(), problem, what: what.into(), snapshots: Vec::new() }
    }

    /// The same, concerning these snapshots.
    #[must_use]
    pub fn of(mut self, snapshots: impl IntoIterator<Item = SnapshotName>) -> Self {
        self.snapshots.extend(snapshots);
        self
    }
}
