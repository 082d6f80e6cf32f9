//! Buffers that the reading thread fills and whoever is done with them gives back.
//!
//! A block's memory is zeroed once, when it is first allocated, and then used again for the next
//! block: a run touches no more pages than it holds blocks at a time.

use std::ops::{Deref, DerefMut};

use crossbeam_channel::{Receiver, Sender, unbounded};

/// Where blocks come from and return to.
#[derive(Debug, Clone)]
pub struct BlockPool {
    home: Sender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
}

impl Default for BlockPool {
    fn default() -> Self {
        let (home, spare) = unbounded();
        Self { home, spare }
    }
}

impl BlockPool {
    /// A block of that length in bytes; what it holds is left from earlier use.
    #[must_use]
    pub fn block(&self, length: usize) -> Block {
        let mut memory = self.spare.try_recv().unwrap_or_default();
        if memory.len() < length {
            memory.resize(length, 0);
        }
        Block { memory, length, home: Some(self.home.clone()) }
    }
}

/// Some bytes, in memory that returns to its pool when they are dropped.
#[derive(Debug, Default)]
pub struct Block {
    memory: Vec<u8>,
    length: usize,
    home: Option<Sender<Vec<u8>>>,
}

impl Block {
    /// Keeps the first `length` bytes; a shorter block stays as it is.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl From<Vec<u8>> for Block {
    fn from(memory: Vec<u8>) -> Self {
        Self { length: memory.len(), memory, home: None }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // Nobody needs the memory any more when the pool is gone.
            let _ = home.send(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_lengths_are_those_asked_for() {
        let pool = BlockPool::default();
        let mut first = pool.block(100);
        first.fill(7);
        let address = first.as_ptr();
        first.truncate(40);
        assert_eq!(&*first, [7; 40]);
        drop(first);
        let second = pool.block(60);
        assert_eq!((second.len(), second.as_ptr()), (60, address));
        assert_eq!(*pool.block(10), [0; 10], "another one while the first is in use");
        drop(second);
        assert_eq!(pool.block(200).len(), 200);
    }
}
