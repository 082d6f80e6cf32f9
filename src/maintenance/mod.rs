//! What keeps a repository at its size: which snapshots go, and which objects go with them.
//!
//! [`retention`] decides and does nothing: it does no IO and asks no clock, and the same input
//! gives the same plan. Whoever carries a plan out signs it, writes it and deletes.

pub mod retention;
