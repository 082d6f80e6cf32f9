//! Moving objects from one store to another: several at once, each compared with its name on the
//! way, and no more bytes in memory than a budget allows.

use std::sync::{Condvar, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use crate::crypto::ids::object_id;
use crate::format::commit::ObjectName;
use crate::store::{Put, Store, StoreError};

/// Bytes of objects that are held at once.
const BYTES_MAX: u64 = 160 * 1024 * 1024;
/// Objects on their way at once.
const THREADS_MAX: usize = 16;

/// One object to be moved.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub name: ObjectName,
    pub bytes: u64,
    /// What it belongs to, for whoever waits.
    pub tag: usize,
}

/// What became of an object.
#[derive(Debug)]
pub(super) enum Moved {
    /// It is at the target now, or was there already.
    Done,
    /// The source does not have it.
    Missing,
    /// What the source has is not what the name stands for.
    Damaged(&'static str),
    /// The target has other bytes under the name.
    Occupied,
    /// The source failed.
    SourceFailed(StoreError),
    /// The target failed.
    TargetFailed(StoreError),
    /// The run is over.
    Dropped,
}

/// Bytes that may be held at once.
struct Budget {
    free: Mutex<u64>,
    changed: Condvar,
}

impl Budget {
    fn take(&self, bytes: u64) -> u64 {
        let bytes = bytes.min(BYTES_MAX);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        bytes
    }

    fn give(&self, bytes: u64) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.changed.notify_all();
    }
}

/// Runs `plan` beside the threads that move what it sends; the answers come in any order.
pub(super) fn transfer<T>(
    source: &dyn Store,
    target: &dyn Store,
    is_over: &(dyn Fn() -> bool + Sync),
    plan: impl FnOnce(Sender<Job>, &Receiver<(Job, Moved)>) -> T,
) -> T {
    let wanted = source.read_slots().max(target.upload_slots()).max(2);
    let threads = wanted.min(THREADS_MAX);
    let (jobs, queue) = crossbeam_channel::bounded::<Job>(threads);
    let (answer, answers) = crossbeam_channel::unbounded();
    let budget = Budget { free: Mutex::new(BYTES_MAX), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, answer, budget) = (queue.clone(), answer.clone(), &budget);
            scope.spawn(move || {
                for job in queue {
                    let moved = if is_over() {
                        Moved::Dropped
                    } else {
                        let held = budget.take(job.bytes);
                        let moved = move_object(source, target, &job);
                        budget.give(held);
                        moved
                    };
                    // Nobody listens any more once the plan has failed.
                    drop(answer.send((job, moved)));
                }
            });
        }
        drop((answer, queue));
        plan(jobs, &answers)
    })
}

fn move_object(source: &dyn Store, target: &dyn Store, job: &Job) -> Moved {
    let object = job.name.to_string();
    let bytes = match source.get(&object, job.bytes) {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Moved::Missing,
        Err(StoreError::WrongSize { .. }) => return Moved::Damaged("it is too long"),
        Err(error) if error.is_unreadable() => return Moved::Damaged("it cannot be read"),
        Err(error) => return Moved::SourceFailed(error),
    };
    if object_id(&bytes) != job.name.id() {
        return Moved::Damaged("its bytes are not those that its name stands for");
    }
    match target.put_owned(&object, bytes) {
        Ok(Put::Created) => Moved::Done,
        // Another copy was faster, or an object is there that the listing did not show.
        Ok(Put::Exists) => match target.stat(&object) {
            Ok(entry) if entry.size == job.bytes => Moved::Done,
            Ok(_) => Moved::Occupied,
            Err(error) => Moved::TargetFailed(error),
        },
        Err(error) => Moved::TargetFailed(error),
    }
}
