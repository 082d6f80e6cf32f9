//! What is known of a dump before anything of it is given to a server: it is read once for that.
//!
//! Memory: eight bytes for each value that is longer than an atom.

use crate::format::redis::dump_end::Ending;
use crate::format::redis::dump_items::{DumpItems, Head, Item};
use crate::format::redis::grammar::Dialect;
use crate::format::redis::key_counts::KeyCounts;

/// Why a dump is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfitDump {
    /// It is none, or not whole.
    #[error("it is no whole dump of Redis or Valkey")]
    NotWhole,
    /// It has something that no command can say.
    #[error("it holds {0}")]
    Holds(&'static str),
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadPlan {
    /// Whose dump it is.
    pub dialect: Dialect,
    /// Version of its form.
    pub version: u32,
    /// Seconds since 1970 at which it was begun, where it says so.
    pub created: Option<u64>,
    /// Keys of each database.
    pub keys: KeyCounts,
    /// Whether these are all: nothing in the dump was not understood.
    pub is_counted: bool,
    /// Libraries of functions.
    pub functions: u64,
    /// Bytes of the longest value.
    pub longest_bytes: u64,
    /// Bytes of each value of which that is not known when it begins, in the order of the dump.
    pub long_bytes: Vec<u64>,
    /// What commands cannot say, where there is something.
    pub unfit: Option<UnfitDump>,
}

/// Reads a dump for its plan.
#[derive(Debug)]
pub struct LoadPlanner {
    items: DumpItems,
    found: Found,
}

#[derive(Debug)]
struct Found {
    keys: KeyCounts,
    functions: u64,
    longest_bytes: u64,
    long_bytes: Vec<u64>,
    /// Bytes so far, and whether their number is kept.
    open: (u64, bool),
}

impl Found {
    fn see(&mut self, item: Item<'_>) {
        match item {
            Item::Begin(head, length) => {
                self.open = (0, length.is_none());
                match head {
                    Head::Key(key) => self.keys.add(key),
                    Head::Function => self.functions += 1,
                }
            }
            Item::Bytes(bytes) => self.open.0 += bytes.len() as u64,
            Item::End => {
                let (bytes, is_long) = self.open;
                self.longest_bytes = self.longest_bytes.max(bytes);
                if is_long {
                    self.long_bytes.push(bytes);
                }
            }
            Item::Script(_) => {}
        }
    }
}

impl LoadPlanner {
    /// Begins at a moment, in milliseconds since 1970: what has expired is told by it.
    #[must_use]
    pub fn new(now_ms: i64) -> Self {
        let keys = KeyCounts::new(now_ms);
        let found = Found {
            keys,
            functions: 0,
            longest_bytes: 0,
            long_bytes: Vec::new(),
            open: (0, false),
        };
        Self { items: DumpItems::default(), found }
    }

    /// Takes the next bytes of the dump.
    pub fn take(&mut self, bytes: &[u8]) {
        let Self { items, found } = self;
        let Ok(()) = items.take(bytes, &mut |item| {
            found.see(item);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// What is known, now that all bytes were taken.
    #[must_use]
    pub fn finish(mut self) -> LoadPlan {
        let Self { items, found } = &mut self;
        let Ok(ending) = items.finish(&mut |item| {
            found.see(item);
            Ok::<(), std::convert::Infallible>(())
        });
        let unfit = self.items.unfit().map(UnfitDump::Holds);
        let is_whole = ending == Ending::Whole;
        let is_counted = !self.items.is_lost();
        let unfit = unfit.or_else(|| (!is_whole).then_some(UnfitDump::NotWhole));
        let (parts, found) = (self.items.parts(), self.found);
        LoadPlan {
            dialect: parts.dialect(),
            version: parts.version(),
            created: parts.created(),
            keys: found.keys,
            is_counted,
            functions: found.functions,
            longest_bytes: found.longest_bytes,
            long_bytes: found.long_bytes,
            unfit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dump: &[u8]) -> LoadPlan {
        let mut planner = LoadPlanner::new(1);
        planner.take(dump);
        planner.finish()
    }

    #[test]
    fn a_plan_has_the_lengths_of_what_is_long_and_says_what_is_unfit() {
        let mut dump = b"REDIS0009\xfe\x00\x00\x01a\x01b\x00\x01l\x80\x00\x01\x86\xa0".to_vec();
        dump.resize(dump.len() + 100_000, b'x');
        let cut = dump.len();
        dump.extend_from_slice(&[255, 0, 0, 0, 0, 0, 0, 0, 0]);
        let whole = plan(&dump);
        assert_eq!((whole.version, whole.keys.total(), whole.unfit), (9, 2, None));
        assert_eq!((whole.long_bytes, whole.longest_bytes), (vec![100_006], 100_006));
        assert_eq!(plan(&dump[..cut]).unfit, Some(UnfitDump::NotWhole));
        assert_eq!(plan(b"<html>").unfit.map(|unfit| unfit.to_string().len()), Some(52));
        let newer = plan(b"REDIS0099\xfe\x00\x00\x01a\x01b\xff\0\0\0\0\0\0\0\0");
        assert_eq!(newer.unfit, None, "the server decides by the version");
    }
}
