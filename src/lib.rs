//! Holdfast: an encrypted, content-addressed backup repository.
//!
//! Modules by layer; a module imports from its own layer and from those below it only.
//!
//! | layer | modules |
//! |---|---|
//! | 8 | [`cli`] |
//! | 6 | [`backup`], [`restore`], [`maintenance`], [`view`] |
//! | 5 | [`repo`] |
//! | 4 | [`source`], [`index`] |
//! | 3 | [`mod@format`] |
//! | 2 | [`crypto`], [`store`] |
//! | 1 | [`chunker`], [`compress`], [`id`], [`clock`], [`progress`], [`units`] |

pub mod backup;
pub mod chunker;
pub mod cli;
pub mod clock;
pub mod compress;
pub mod crypto;
pub mod format;
pub mod id;
pub mod index;
pub mod maintenance;
pub mod progress;
pub mod repo;
pub mod restore;
pub mod source;
pub mod store;
pub mod units;
pub mod view;
