//! `PostgreSQL` as a source: a client for its frontend/backend protocol, replication included.
//!
//! Messages are taken apart in [`wire`] without any input or output of its own; [`connection`]
//! is the only module that talks to a server; [`dump_proxy`] talks to `pg_dump`. Nothing here sees a repository.

pub mod address;
pub mod base_backup;
pub mod client_tools;
pub mod connection;
pub mod dump;
pub mod dump_proxy;
pub mod dump_restore;
pub mod dump_tools;
pub mod error;
pub mod local_server;
pub mod page;
pub mod password_file;
pub mod private_folder;
pub mod queries;
pub mod replication;
pub mod row_sums;
pub mod server;
pub mod wal_stream;
pub mod wire;
