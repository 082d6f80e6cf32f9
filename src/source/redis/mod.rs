//! Redis and Valkey as a source: a client of their replication protocol; [`aof`] reads files instead.
//!
//! [`connection`] alone talks to a server; [`payload`] and [`reply`] have no input or output of
//! their own. Nothing here sees a repository. No port or address of ours is ever announced, so
//! nothing can make a primary of us.

pub mod address;
pub mod aof;
pub mod cluster;
pub mod connection;
pub mod digest;
pub mod dump_check;
pub mod error;
pub mod loader;
pub mod local_server;
pub mod payload;
pub mod pipeline;
pub mod replication;
pub mod reply;
pub mod sentinel;
pub mod server;
pub mod server_fitness;
pub mod server_program;
pub mod snapshot;
pub mod spool;
pub mod watch;
