//! Threads that decode the frames which sequential readers will ask for next.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use crate::id::PackHandle;
use crate::mount::frames::Frames;

/// Frames of one pack, in order.
pub struct Batch {
    /// The pack.
    pub pack: PackHandle,
    /// The frames.
    pub frames: Vec<u32>,
}

/// The threads; they end when this is dropped.
pub struct Prefetch {
    batches: Sender<Batch>,
    frames: Arc<Frames>,
}

impl Prefetch {
    /// Starts `threads` threads.
    #[must_use]
    pub fn start(frames: &Arc<Frames>, threads: usize) -> Self {
        let (batches, queue) = bounded::<Batch>(threads * 4);
        for _ in 0..threads {
            let (queue, frames) = (queue.clone(), frames.clone());
            std::thread::spawn(move || {
                for batch in queue {
                    let last = batch.frames.iter().copied().max().unwrap_or_default();
                    for frame in batch.frames {
                        frames.prefetch(&batch.pack, frame, last);
                    }
                }
            });
        }
        Self { batches, frames: frames.clone() }
    }

    /// Puts frames into the queue, those left out that are there; whether it had room.
    #[must_use]
    pub fn push(&self, mut batch: Batch) -> bool {
        batch.frames.retain(|frame| !self.frames.has(batch.pack, *frame));
        batch.frames.is_empty() || self.batches.try_send(batch).is_ok()
    }
}
