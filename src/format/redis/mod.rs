//! Redis and Valkey: dumps taken apart into records and put together again bit for bit; what their
//! snapshots and journals say about themselves; commands on their way.
//!
//! `format-spec/redis.md` has the forms. Nothing here does IO; what is not understood is kept as it is.

pub mod aof_facts;
pub mod aof_log;
pub mod aof_manifest;
pub mod aux_fields;
pub mod bits;
pub mod cluster_view;
pub mod column;
pub mod command_stream;
pub mod crc64;
pub mod dump_end;
pub mod dump_items;
pub mod dump_parts;
pub mod facts;
pub mod frame;
pub mod grammar;
pub mod journal;
pub mod key_counts;
pub mod load_plan;
pub mod lzf;
pub mod opcode;
pub mod order;
pub mod reach;
pub mod record;
pub mod replay;
pub mod server_facts;
pub mod stored;
pub mod templates;
pub mod text;
