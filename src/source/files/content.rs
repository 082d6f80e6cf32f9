//! (unfinished)
