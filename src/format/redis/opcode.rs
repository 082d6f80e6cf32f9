//! The codes that stand between the records of a dump, and before them.
//!
//! Source: `rdb.h` of Redis and Valkey; of templates what Redis 8.10 writes, and `internal/rdb` of
//! Rediscope; of what modules keep beside a key `keymeta.c` of Redis.

/// Redis: the names of the fields that hashes share.
pub const HASH_TEMPLATE: u8 = 242;
/// Redis: what a module keeps beside a key. Valkey: slots that were on their way.
pub const KEY_META_OR_SLOT_IMPORT: u8 = 243;
/// Slots of a cluster and their sizes.
pub const SLOT_INFO: u8 = 244;
/// A library of functions.
pub const FUNCTION: u8 = 245;
/// What a module keeps beside keys.
pub const MODULE_AUX: u8 = 247;
/// Seconds since the last access.
pub const IDLE: u8 = 248;
/// Frequency of access.
pub const FREQUENCY: u8 = 249;
/// A name and a value.
pub const AUX: u8 = 250;
/// How large the tables of a database are.
pub const RESIZE: u8 = 251;
/// Expiry in milliseconds since 1970.
pub const EXPIRE_MS: u8 = 252;
/// Expiry in seconds since 1970.
pub const EXPIRE_S: u8 = 253;
/// Number of the database of what follows.
pub const SELECT: u8 = 254;
/// The end.
pub const END: u8 = 255;

/// Redis: type of a hash in one text, its fields those of the template that the text begins with.
pub const TEMPLATE_HASH: u8 = 30;
/// Redis: type of a hash in a text for each field of the template that stands before them.
pub const TEMPLATE_VALUES: u8 = 32;

/// Whether a part between records that begins so holds no data of its own.
#[must_use]
pub fn is_framing(code: u8) -> bool {
    matches!(code, HASH_TEMPLATE | SLOT_INFO | RESIZE | SELECT | END)
}
