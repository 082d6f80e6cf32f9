//! Work done by many threads, taken in the order in which it was given.
//!
//! Whoever gives holds a ticket for each piece until it has been taken, so no more than a fixed
//! number is in memory. Results wait for those before them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

/// The giving side. Clones of it give into the same order: what one thread gives stays in the
/// order of that thread.
pub struct Giver<T> {
    tickets: Receiver<()>,
    results: Sender<(u64, T)>,
    next: Arc<AtomicU64>,
}

impl<T> Clone for Giver<T> {
    fn clone(&self) -> Self {
        let (tickets, results) = (self.tickets.clone(), self.results.clone());
        Self { tickets, results, next: Arc::clone(&self.next) }
    }
}

/// The taking side; used by one thread.
pub struct Taker<T> {
    tickets: Sender<()>,
    results: Receiver<(u64, T)>,
    early: BTreeMap<u64, T>,
    next: u64,
}

/// A place in the order, to be filled from any thread.
pub struct Slot<T> {
    number: u64,
    results: Sender<(u64, T)>,
}

/// Both sides, with room for `window` pieces.
#[must_use]
pub fn ordered<T>(window: usize) -> (Giver<T>, Taker<T>) {
    let (ticket_sender, tickets) = bounded(window);
    for _ in 0..window {
        ticket_sender.send(()).expect("the channel has room for all tickets");
    }
    let (sender, results) = unbounded();
    (
        Giver { tickets, results: sender, next: Arc::default() },
        Taker { tickets: ticket_sender, results, early: BTreeMap::new(), next: 0 },
    )
}

impl<T> Giver<T> {
    /// The next place in the order; waits for room. `None` when nobody takes any more.
    pub fn slot(&mut self) -> Option<Slot<T>> {
        self.tickets.recv().ok()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Some(Slot { number, results: self.results.clone() })
    }

    /// Fills the next place at once; `false` when nobody takes any more.
    pub fn give(&mut self, piece: T) -> bool {
        self.slot().is_some_and(|slot| slot.fill(piece))
    }
}

impl<T> Slot<T> {
    /// Fills the place; `false` when nobody takes any more.
    pub fn fill(self, piece: T) -> bool {
        self.results.send((self.number, piece)).is_ok()
    }
}

impl<T> Taker<T> {
    /// The next piece in order; `None` when the giver is gone and all pieces are taken, or when
    /// a place was left empty.
    pub fn take(&mut self) -> Option<T> {
        loop {
            if let Some(piece) = self.early.remove(&self.next) {
                self.next += 1;
                // The giver may be gone already; then nobody needs the ticket.
                let _ = self.tickets.try_send(());
                return Some(piece);
            }
            let (number, piece) = self.results.recv().ok()?;
            self.early.insert(number, piece);
        }
    }

    /// Whether pieces are left that an empty place holds back.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.early.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_the_order_of_their_places() {
        let (mut giver, mut taker) = ordered(4);
        let threads = std::thread::spawn(move || {
            for number in 0..100_u64 {
                let slot = giver.slot().unwrap();
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_micros(number * 37 % 500));
                    slot.fill(number)
                });
            }
        });
        let taken: Vec<u64> = std::iter::from_fn(|| taker.take()).collect();
        threads.join().unwrap();
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        assert!(!taker.is_broken());
    }

    #[test]
    fn each_of_several_givers_keeps_its_order() {
        let (giver, mut taker) = ordered(3);
        for thread in 0..4 {
            let mut giver = giver.clone();
            std::thread::spawn(move || (0..100).all(|number| giver.give((thread, number))));
        }
        drop(giver);
        let mut next = [0; 4];
        while let Some((thread, number)) = taker.take() {
            assert_eq!(number, next[thread]);
            next[thread] += 1;
        }
        assert_eq!(next, [100; 4]);
        assert!(!taker.is_broken());
    }

    #[test]
    fn an_empty_place_is_seen() {
        let (mut giver, mut taker) = ordered(4);
        drop(giver.slot());
        assert!(giver.give(1));
        drop(giver);
        assert_eq!(taker.take(), None);
        assert!(taker.is_broken());
    }

    #[test]
    fn the_giver_ends_when_nobody_takes() {
        let (mut giver, taker) = ordered(1);
        assert!(giver.give(1));
        drop(taker);
        assert!(!giver.give(2));
    }
}
