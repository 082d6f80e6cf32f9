//! The threads that hash, read and compress: one pool for all, so that no core waits for another's
//! kind of work.
//!
//! Urgent jobs (compression) go first: what is nearer to the store empties queues, what is nearer
//! to the source fills them. A job must never wait for another job.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};

use crate::compress::{CompressError, FrameDecoder, FrameEncoder, Level};

/// What a worker keeps between jobs.
pub struct Tools {
    /// Compresses at the run's level.
    pub encoder: FrameEncoder,
    /// Room for a compressed frame.
    pub encoded: Vec<u8>,
    /// Checks what was compressed.
    pub decoder: FrameDecoder,
    /// Room for decoded bytes.
    pub scratch: Vec<u8>,
}

impl Tools {
    /// Tools for one thread.
    pub fn new(level: Level) -> Result<Self, CompressError> {
        Ok(Self {
            encoder: FrameEncoder::new(level)?,
            encoded: Vec::new(),
            decoder: FrameDecoder::new()?,
            scratch: Vec::new(),
        })
    }
}

type Job = Box<dyn FnOnce(&mut Tools) + Send>;

/// A pool of worker threads. Dropping it ends them after the jobs they have begun.
pub struct Workers {
    urgent: Option<Sender<Job>>,
    normal: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `threads` workers.
    pub fn start(threads: usize, level: Level) -> Result<Self, CompressError> {
        let (urgent, urgent_jobs) = bounded::<Job>(threads);
        let (normal, normal_jobs) = bounded::<Job>(threads * 2);
        let threads = (0..threads)
            .map(|_| {
                let mut tools = Tools::new(level)?;
                let (urgent, normal) = (urgent_jobs.clone(), normal_jobs.clone());
                Ok(std::thread::spawn(move || work(&mut tools, &urgent, &normal)))
            })
            .collect::<Result<_, CompressError>>()?;
        Ok(Self { urgent: Some(urgent), normal: Some(normal), threads })
    }

    /// Gives a job that empties queues. Waits while all workers are busy with such.
    pub fn urgent(&self, job: impl FnOnce(&mut Tools) + Send + 'static) {
        if let Some(queue) = &self.urgent {
            // Fails only when all workers have panicked; whoever waits for the result sees that.
            drop(queue.send(Box::new(job)));
        }
    }

    /// A handle by which another thread gives jobs that fill queues.
    #[must_use]
    pub fn submitter(&self) -> Submitter {
        Submitter(self.normal.clone())
    }
}

/// Gives jobs to a pool.
#[derive(Clone)]
pub struct Submitter(Option<Sender<Job>>);

impl Submitter {
    /// Gives a job. Waits while the queue is full.
    pub fn submit(&self, job: impl FnOnce(&mut Tools) + Send + 'static) {
        if let Some(queue) = &self.0 {
            drop(queue.send(Box::new(job)));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.urgent = None;
        self.normal = None;
        for thread in self.threads.drain(..) {
            // A panic has been reported by the hook and by the missing result.
            drop(thread.join());
        }
    }
}

fn work(tools: &mut Tools, urgent: &Receiver<Job>, normal: &Receiver<Job>) {
    // The urgent queue closes when the pool is dropped, whoever still holds a submitter.
    loop {
        select_biased! {
            recv(urgent) -> job => match job {
                Ok(job) => job(tools),
                Err(_) => return,
            },
            recv(normal) -> job => match job {
                Ok(job) => job(tools),
                Err(_) => match urgent.recv() {
                    Ok(job) => job(tools),
                    Err(_) => return,
                },
            },
        }
    }
}
