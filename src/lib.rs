//! Holdfast: an encrypted, content-addressed backup repository.
//!
//! # Bird's eye
//!
//! ```text
//! source ─ bytes ─> chunker ─ chunks ─> id ─ known? ─ yes ─> reference
//!                                             └ no ─> frame ─> zstd ─> pack ─> age ─> store
//! tree <─ references;   snapshot = its root;   packs → index → snapshot → refs → commit
//! ```
//!
//! One thread walks and cuts, a pool hashes and compresses, one thread seals and one stores; the
//! thread that calls [`backup::run::run`] takes everything in the order of the tree. A restore
//! plans a window of entries by pack and frame, and decodes on all cores.
//!
//! # Map
//!
//! A module imports from its own layer and from those below it only.
//!
//! | layer | modules |
//! |---|---|
//! | 8 | [`cli`]: arguments, output, exit codes |
//! | 6 | [`backup`], [`restore`], [`maintenance`] (forget, prune, check, repair), [`replica`] (copy, heal, promote), [`view`] (ls, find, diff), [`mount`] (snapshots as a file system) |
//! | 5 | [`repo`]: keys, roster, history, packs in and out, commits |
//! | 4 | [`source`]: files, streams, commands, `PostgreSQL`, Redis; [`index`]: a cache in SQLite |
//! | 3 | [`mod@format`]: bytes to values and back |
//! | 2 | [`crypto`], [`store`] |
//! | 1 | [`chunker`], [`compress`], [`id`], [`clock`], [`progress`], [`units`] |
//!
//! # What is not there
//!
//! * [`mod@format`], [`chunker`] and every plan do no input or output and are handed the time.
//! * [`store`] knows names and bytes, no keys. [`crypto`] reads no files.
//! * [`index`] is never proof that an object exists, and may be deleted at any time.
//! * [`source`] never sees the repository.
//! * Only [`cli`] prints, reads the environment and knows the user's home.
//! * Nothing takes a lock in the repository.
//!
//! The format is described in `format-spec/`; why it is as it is, in `format-spec/departures.md`.

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
pub mod mount;
pub mod progress;
pub mod replica;
pub mod repo;
pub mod restore;
pub mod source;
pub mod store;
pub mod units;
pub mod view;
