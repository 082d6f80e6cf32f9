//! Stores and streams that fail: an error that says so, no snapshot, and the earlier ones whole.

use std::io::{self, Read};
use std::sync::Arc;

use holdfast::backup::error::BackupError;
use holdfast::backup::stream::StreamRoot;
use holdfast::repo::history::History;
use holdfast::repo::open::Repository;
use holdfast::source::stream::ReaderStream;
use holdfast::store::StoreError;
use holdfast::store::faulty::{Fault, FaultyStore, Strike};
use holdfast::store::recording::OperationKind;

use crate::household::{Household, copy_of, noise, stream};

/// The store's error at the bottom of an error.
fn store_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a StoreError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[test]
fn a_store_that_refuses_a_put_saves_nothing_and_says_so() {
    let home = Household::new();
    let (old, new) = (noise(1, 200_000), noise(2, 2_500_000));
    home.backup("a", &[], &old);
    for fault in [Fault::NoSpace, Fault::Broken] {
        for nth in 1.. {
            let states = copy_of(home.states.path());
            let strike = Strike { kind: Some(OperationKind::Put), nth, fault };
            let faulty = Arc::new(FaultyStore::new(home.store.image(), [strike]));
            let repository =
                Repository::open(faulty.clone(), states.path(), Some(home.id)).unwrap();
            let ended = home.backup_roots(repository, "a", &[], vec![Box::new(stream("a", &new))]);
            let after = home.open_in(Arc::new(faulty.inner().image()), states.path());
            let history = History::read(&after).unwrap();
            let when = format!("{fault:?} at put {nth}");
            match ended {
                Ok(_) => {
                    assert!(nth > 5, "{when}: success was reported");
                    assert_eq!(history.snapshots.len(), 2, "{when}");
                    assert!(home.read(&after, &history.snapshots[1]) == new, "{when}");
                    break;
                }
                Err(error) => {
                    let found = store_error(&error);
                    let is_told = match fault {
                        Fault::NoSpace => matches!(found, Some(StoreError::NoSpace { .. })),
                        _ => matches!(found, Some(StoreError::Io { .. })),
                    };
                    assert!(is_told, "{when}: {error:?}");
                    assert_eq!(history.snapshots.len(), 1, "{when}");
                }
            }
            assert!(home.read(&after, &history.snapshots[0]) == old, "{when}");
            home.assert_sound(&after, &when);
        }
    }
}

/// Some bytes, and then a failure.
struct Broken {
    left: usize,
    state: u64,
}

impl Read for Broken {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other("the cable was pulled"));
        }
        let length = out.len().min(self.left);
        self.state += 1;
        out[..length].copy_from_slice(&noise(self.state, length));
        self.left -= length;
        Ok(length)
    }
}

#[test]
fn a_stream_that_breaks_off_saves_nothing() {
    let home = Household::new();
    let old = noise(1, 100_000);
    home.backup("a", &[], &old);
    for left in [0, 1, 4096, 65_536, 1_048_576, 1_310_720, 1_310_721, 5_000_000] {
        for ending in [false, true] {
            let broken = ReaderStream::new("dump", Broken { left, state: 0 });
            let root = StreamRoot::new("dump".into(), Box::new(|| Ok(Box::new(broken))));
            let mut roots: Vec<Box<dyn holdfast::backup::run::RootSource>> = vec![Box::new(root)];
            if ending {
                roots.insert(0, Box::new(stream("whole", &noise(3, 50_000))));
            }
            let ended = home.backup_roots(home.open(), "a", &[], roots);
            let is_told = matches!(ended, Err(BackupError::Source { .. }));
            assert!(is_told, "after {left} bytes: {ended:?}");
            let repository = home.open();
            let history = History::read(&repository).unwrap();
            assert_eq!(history.snapshots.len(), 1, "after {left} bytes");
        }
    }
    let repository = home.open();
    let history = History::read(&repository).unwrap();
    assert!(home.read(&repository, &history.snapshots[0]) == old);
    home.assert_sound(&repository, "after all");
    home.backup("a", &[], &noise(4, 100_000));
    home.assert_sound(&repository, "and a whole one");
}
