//! A walk on a thread of its own, some batches ahead of whoever consumes it.
//!
//! The end of the events is the end of the walk: should the walking thread panic, so does the
//! consumer, since a tree cut short must never pass for a whole one.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};

use crate::source::files::entry::Root;
use crate::source::files::exclude::ExcludeRules;
use crate::source::files::walk::{WalkEvent, Walker};

/// Batches (some hundreds of events each) that the walk may be ahead.
const BATCHES_AHEAD: usize = 16;

/// A walk that runs ahead. Dropping it ends the walk at its next batch.
#[derive(Debug)]
pub struct PrefetchedWalk {
    batches: Receiver<Vec<WalkEvent>>,
    thread: Option<JoinHandle<()>>,
}

impl PrefetchedWalk {
    /// Starts walking everything below `root`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(root: &Root, rules: Arc<ExcludeRules>) -> Result<Self, std::io::Error> {
        let walker = Walker::new(root, rules);
        let (sender, batches) = bounded(BATCHES_AHEAD);
        let run = move || send_batches(walker, &sender);
        let thread = std::thread::Builder::new().name("walk".to_owned()).spawn(run)?;
        Ok(Self { batches, thread: Some(thread) })
    }

    /// The next events in order, at least one; nothing when the walk is done.
    pub fn next_batch(&mut self) -> Option<Vec<WalkEvent>> {
        if let Ok(batch) = self.batches.recv() {
            return Some(batch);
        }
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

fn send_batches(mut walker: Walker, sender: &crossbeam_channel::Sender<Vec<WalkEvent>>) {
    let mut more = true;
    while more {
        let mut events = Vec::new();
        more = walker.next_batch(&mut events);
        if !events.is_empty() && sender.send(events).is_err() {
            return;
        }
    }
}
