//! What retention is told and what it says of one snapshot.
//!
//! A decision to keep always has a reason, and every reason can be said in words.

use std::fmt;

use jiff::Timestamp;

use crate::id::{ActorId, ObjectId};
use crate::maintenance::retention::policy::{CalendarSpan, KeepCount, Period};

/// What retention needs to know of one snapshot that is not forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionInput {
    /// The snapshot object.
    pub snapshot: ObjectId,
    /// Who wrote it.
    pub writer: ActorId,
    /// Name of its source; with the writer it is the group within which rules count.
    pub source: String,
    /// When it was made, as the writer says.
    pub claimed: Timestamp,
    /// When the store took it in. On a copy: the earliest such time that is known, since the copy's
    /// own is the time of copying.
    pub first_seen: Timestamp,
    /// Its tags.
    pub tags: Vec<String>,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot object.
    pub snapshot: ObjectId,
    /// The time it was judged by.
    pub time: Timestamp,
    /// Keep or remove.
    pub verdict: Verdict,
}

/// Keep or remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Kept, for these reasons (at least one).
    Keep(Vec<KeepReason>),
    /// No rule keeps it.
    Remove,
}

/// Why a snapshot is kept; `Display` says it in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepReason {
    /// It has all tags of this list of the policy; the empty tag stands for "no tags at all".
    Tags(Vec<String>),
    /// It is less than this older than the newest one.
    Within(CalendarSpan),
    /// A counting rule keeps it.
    Counted {
        /// Of which period it is the newest.
        period: Period,
        /// Newest of its period, or oldest of all.
        place: Place,
        /// The how manieth the rule keeps, from 1.
        nth: u32,
        /// How many the rule keeps.
        count: KeepCount,
    },
    /// It is the newest of its period, within a duration.
    PeriodWithin {
        /// Of which period it is the newest.
        period: Period,
        /// Newest of its period, or oldest of all.
        place: Place,
        /// The duration.
        span: CalendarSpan,
    },
    /// First seen less than the floor ago.
    Floor {
        /// The floor.
        floor_seconds: u64,
    },
    /// Its claimed time lies in the future of when it was first seen.
    Suspicious {
        /// By how much.
        ahead_seconds: i64,
    },
    /// Part of the log of a database, without which a moment could not be reached.
    Log,
    /// It has far less than the one before it, or is that one.
    Shrunken,
    /// Nothing of its group is removed, see [`crate::maintenance::retention::GroupPlan::refusal`].
    GroupRefused,
}

/// Which snapshot of a period it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The newest of its hour, day, week, month or year.
    Newest,
    /// Not the newest of its period, but the oldest of the group, and the rule has count left.
    Oldest,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Newest => "",
            Self::Oldest => "oldest ",
        })
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags(tags) if tags.is_empty() => f.write_str("any tags"),
            Self::Tags(tags) if tags.iter().all(String::is_empty) => f.write_str("no tags"),
            Self::Tags(tags) if tags.len() == 1 => write!(f, "tag {}", tags[0]),
            Self::Tags(tags) => write!(f, "tags {}", tags.join(",")),
            Self::Within(span) => write!(f, "within {span}"),
            Self::Counted { period, place, nth, count: KeepCount::AtMost(count) } => {
                write!(f, "{place}{period} snapshot ({nth} of {count})")
            }
            Self::Counted { period, place, .. } => write!(f, "{place}{period} snapshot"),
            Self::PeriodWithin { period, place, span } => {
                write!(f, "{place}{period} within {span}")
            }
            Self::Floor { floor_seconds } => {
                write!(f, "first seen less than {floor_seconds} s ago (retention floor)")
            }
            Self::Suspicious { ahead_seconds } => {
                write!(f, "suspicious: dated {ahead_seconds} s after it was first seen")
            }
            Self::Log => f.write_str("log that leads on from a base backup"),
            Self::Shrunken => {
                f.write_str("the source has shrunk from here to the next, or to here")
            }
            Self::GroupRefused => f.write_str("nothing of this source is removed"),
        }
    }
}
