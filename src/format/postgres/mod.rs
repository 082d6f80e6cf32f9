//! What the snapshots of `PostgreSQL` say about themselves, and the positions they speak of.
//!
//! Values and their text forms only: nothing here reads or connects.

pub mod coverage;
pub mod crc32c;
pub mod dump_tables;
pub mod dump_toc;
pub mod facts;
pub mod history_file;
pub mod increment;
pub mod label;
pub mod lsn;
pub mod manifest;
pub mod segment;
pub mod wal_page;
pub mod wal_records;
