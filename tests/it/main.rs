//! All integration tests in one binary: they go through the public interface only.
#![allow(clippy::print_stderr, reason = "a test that is skipped says why")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::type_complexity,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    reason = "tables of cases are long, and say what they hold"
)]

mod architecture;
mod canary;
mod check;
mod cli;
mod crash;
mod damage;
mod delay_proxy;
mod doomed;
#[cfg(feature = "s3")]
mod fault_proxy;
mod file_system;
mod forget;
mod healing;
mod hooked;
mod hostile;
mod household;
mod keys;
mod kill;
mod maintenance_cli;
mod model;
#[cfg(feature = "mount")]
mod mount;
mod moved_clock;
mod postgres_base;
mod postgres_drill;
mod postgres_dump;
mod postgres_faults;
mod postgres_incremental;
mod postgres_kill;
#[cfg(feature = "s3")]
mod postgres_outage;
mod postgres_server;
mod postgres_standby;
mod postgres_start;
mod postgres_stream;
mod postgres_targets;
mod postgres_tls;
mod postgres_tool;
mod postgres_tour;
mod postgres_wal;
mod program;
mod prune;
mod redis_aof;
mod redis_canonical;
mod redis_cluster;
mod redis_drill;
mod redis_dump;
mod redis_faults;
mod redis_fuzz;
mod redis_hostile;
mod redis_into;
mod redis_moments;
mod redis_newest;
mod redis_records;
mod redis_sentinel;
mod redis_server;
mod redis_stream;
mod redis_tour;
mod redis_vectors;
mod replica;
mod replica_cli;
mod replica_kill;
mod roles;
#[cfg(feature = "s3")]
mod s3_conformance;
#[cfg(feature = "s3")]
mod s3_faults;
#[cfg(feature = "s3")]
mod s3_services;
#[cfg(feature = "s3")]
mod servers;
mod simulation;
mod sink;
mod spec;
mod surprises;
mod tour;
#[cfg(feature = "s3")]
mod two_regions;
mod vectors;
#[cfg(feature = "webdav")]
mod webdav;
