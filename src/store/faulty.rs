//! A store that fails on schedule, so that a test can stop a run at every operation.
//!
//! Deterministic: faults are chosen by counting operations, never by chance or time.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use rustix::io::Errno;

use crate::store::recording::OperationKind;
use crate::store::{Entry, Put, Store, StoreError, pass_on};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation is not done and fails with `EIO`.
    Broken,
    /// The operation is not done and fails as a full disk does.
    NoSpace,
    /// The operation is done, but its answer is lost: the caller sees `EIO`.
    AnswerLost,
    /// The process dies before the operation: it and every later one fail.
    CrashBefore,
    /// The process dies after the operation: its caller and every later one see a failure.
    CrashAfter,
    /// A store that lies: half of the bytes are stored (put) or returned (get), the second half of
    /// a range reads as zeros, a listing ends in the middle; success is reported. Calls that carry
    /// no bytes are done as usual.
    Torn,
}

/// One fault and when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Count only operations of this kind; all where `None`.
    pub kind: Option<OperationKind>,
    /// Which one of those, the first is 1.
    pub nth: u64,
    /// What then happens.
    pub fault: Fault,
}

/// Whether an operation is done as asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    Whole,
    Torn,
}

impl Truth {
    /// How many of `length` are true.
    fn part_of(self, length: usize) -> usize {
        if self == Self::Torn { length / 2 } else { length }
    }
}

struct Armed {
    strike: Strike,
    seen: AtomicU64,
}

/// Passes calls on until a strike is due.
pub struct FaultyStore<S> {
    inner: S,
    armed: Vec<Armed>,
    operations: AtomicU64,
    crashed: AtomicBool,
}

impl<S: Store> FaultyStore<S> {
    /// Wraps `inner`; without strikes nothing ever fails, and [`Self::operations`] says how many
    /// operations a run has, for a loop over all of them.
    pub fn new(inner: S, strikes: impl IntoIterator<Item = Strike>) -> Self {
        let arm = |strike| Armed { strike, seen: AtomicU64::new(0) };
        let armed = strikes.into_iter().map(arm).collect();
        Self { inner, armed, operations: AtomicU64::new(0), crashed: AtomicBool::new(false) }
    }

    /// The store behind: what a new process would find.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The store behind, for the life after the crash.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Operations asked for so far, failed ones among them.
    pub fn operations(&self) -> u64 {
        self.operations.load(SeqCst)
    }

    /// Whether a crash has struck.
    pub fn is_crashed(&self) -> bool {
        self.crashed.load(SeqCst)
    }

    /// Counts the operation and says what goes wrong with it.
    fn next(&self, kind: OperationKind) -> Option<Fault> {
        self.operations.fetch_add(1, SeqCst);
        if self.is_crashed() {
            return Some(Fault::CrashBefore);
        }
        let mut due = None;
        for armed in &self.armed {
            if armed.strike.kind.is_none_or(|only| only == kind)
                && armed.seen.fetch_add(1, SeqCst) + 1 == armed.strike.nth
            {
                due = due.or(Some(armed.strike.fault));
            }
        }
        due
    }

    /// Does what the schedule says with one operation; `run` is told whether to lie.
    fn strike<T>(
        &self,
        kind: OperationKind,
        name: &str,
        run: impl FnOnce(Truth) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.next(kind) {
            None => run(Truth::Whole),
            Some(Fault::Torn) => run(Truth::Torn),
            Some(Fault::Broken) => Err(broken(name)),
            Some(Fault::NoSpace) => {
                let name = name.to_owned();
                Err(StoreError::NoSpace { name, source: Errno::NOSPC.into() })
            }
            Some(Fault::AnswerLost) => run(Truth::Whole).and_then(|_| Err(broken(name))),
            Some(Fault::CrashBefore) => {
                self.crashed.store(true, SeqCst);
                Err(broken(name))
            }
            Some(Fault::CrashAfter) => {
                let _ = run(Truth::Whole);
                self.crashed.store(true, SeqCst);
                Err(broken(name))
            }
        }
    }
}

fn broken(name: &str) -> StoreError {
    let source = io::Error::from(Errno::IO);
    StoreError::Io { action: "reach", path: PathBuf::from(name), source }
}

impl<S: Store> Store for FaultyStore<S> {
    pass_on!(self => self.inner);

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StoreError> {
        self.strike(OperationKind::Put, name, |truth| {
            self.inner.put(name, &bytes[..truth.part_of(bytes.len())])
        })
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.strike(OperationKind::Get, name, |truth| {
            let mut bytes = self.inner.get(name, bytes_max)?;
            bytes.truncate(truth.part_of(bytes.len()));
            Ok(bytes)
        })
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.strike(OperationKind::ReadAt, name, |truth| {
            self.inner.read_at(name, offset, buffer)?;
            let kept = truth.part_of(buffer.len());
            buffer[kept..].fill(0);
            Ok(())
        })
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        self.strike(OperationKind::List, prefix, |truth| {
            let mut found = Vec::new();
            self.inner.list(prefix, &mut |entry| found.push(entry))?;
            found.truncate(truth.part_of(found.len()));
            found.into_iter().for_each(visit);
            Ok(())
        })
    }

    fn stat(&self, name: &str) -> Result<Entry, StoreError> {
        self.strike(OperationKind::Stat, name, |_| self.inner.stat(name))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.strike(OperationKind::Delete, name, |_| self.inner.delete(name))
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, FaultyStore, Strike};
    use crate::store::memory::MemoryStore;
    use crate::store::recording::OperationKind;
    use crate::store::{Store, StoreError, conformance};

    fn faulty(kind: Option<OperationKind>, nth: u64, fault: Fault) -> FaultyStore<MemoryStore> {
        FaultyStore::new(MemoryStore::new(), [Strike { kind, nth, fault }])
    }

    #[test]
    fn conforms_without_strikes() {
        conformance::run(|| Box::new(FaultyStore::new(MemoryStore::new(), [])));
    }

    #[test]
    fn each_fault_does_what_it_says() {
        // fault, second put succeeds, third put succeeds, objects then stored
        let table = [
            (Fault::Broken, false, true, vec!["a", "c"]),
            (Fault::NoSpace, false, true, vec!["a", "c"]),
            (Fault::AnswerLost, false, true, vec!["a", "b", "c"]),
            (Fault::CrashBefore, false, false, vec!["a"]),
            (Fault::CrashAfter, false, false, vec!["a", "b"]),
            (Fault::Torn, true, true, vec!["a", "b", "c"]),
        ];
        for (fault, second, third, stored) in table {
            let store = faulty(Some(OperationKind::Put), 2, fault);
            store.put("a", b"1234").unwrap();
            store.stat("a").unwrap();
            assert_eq!(store.put("b", b"1234").is_ok(), second, "{fault:?}");
            assert_eq!(store.put("c", b"1234").is_ok(), third, "{fault:?}");
            assert_eq!(store.is_crashed(), !third, "{fault:?}");
            assert_eq!(store.operations(), 4);
            assert_eq!(store.inner().names(), stored, "{fault:?}");
        }
    }

    #[test]
    fn torn_answers_look_like_success() {
        let inner = || {
            let store = MemoryStore::new();
            store.put("a", b"1234").unwrap();
            store.put("b", b"1234").unwrap();
            store
        };
        for nth in 1..=3 {
            let strike = Strike { kind: None, nth, fault: Fault::Torn };
            let store = FaultyStore::new(inner(), [strike]);
            let got = store.get("a", 9).unwrap();
            let mut read = [0; 4];
            store.read_at("a", 0, &mut read).unwrap();
            let mut listed = 0;
            store.list("", &mut |_| listed += 1).unwrap();
            assert_eq!(got, if nth == 1 { &b"12"[..] } else { b"1234" });
            assert_eq!(read, if nth == 2 { *b"12\0\0" } else { *b"1234" });
            assert_eq!(listed, if nth == 3 { 1 } else { 2 });
        }
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let store = faulty(None, 1, Fault::NoSpace);
        assert!(matches!(store.put("a", b"x"), Err(StoreError::NoSpace { .. })));
    }
}
