//! `holdfast serve`: shows the snapshots to other programs.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain;
use crate::cli::mounting::Shown;
use crate::mount::webdav::Server;
use crate::units::parse_size;

/// Arguments of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: ServeWhat,
}

/// How to show them.
#[derive(Debug, Clone, Subcommand)]
pub enum ServeWhat {
    /// As files, read only, by WebDAV: for hosts without FUSE
    Webdav(WebdavArgs),
}

/// Arguments of `serve webdav`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  holdfast serve webdav\n  \
    curl http://127.0.0.1:8480/SOURCE/latest/etc/hosts\n\n\
    There is no password: everybody who can log in on this host can read all of it.")]
pub struct WebdavArgs {
    /// Address and port to answer at; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8480")]
    pub listen: SocketAddr,
    /// Allow an address that other hosts reach: they can read everything, without a password
    #[arg(long)]
    pub allow_remote: bool,
    /// Show this source only (repeatable)
    #[arg(long, value_name = "NAME")]
    pub source: Vec<String>,
    /// Memory for decoded data
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "128MiB")]
    pub cache_size: u64,
}

/// Serves until the end.
pub fn run(args: &ServeArgs, context: &Context) -> Result<Exit, CommandError> {
    let ServeWhat::Webdav(args) = &args.what;
    let is_local = args.listen.ip().is_loopback();
    if !is_local && !args.allow_remote {
        let what = format!("{} is reached by other hosts", args.listen);
        return Err(CommandError::new(&explain::mount::REMOTE, what)
            .hint("--listen 127.0.0.1:8480, and ssh -L from elsewhere")
            .hint("--allow-remote"));
    }
    let shown = Shown::open(context, &args.source, args.cache_size)?;
    shown.arm();
    let server = Server::start(shown.file_system.clone(), args.listen).map_err(|error| {
        let what = format!("cannot listen on {}", args.listen);
        CommandError::new(&explain::mount::LISTEN, what).because(&error)
    })?;
    let output = &context.output;
    let url = format!("http://{}/", server.address());
    if !is_local {
        output.warning("everybody who reaches this address can read all snapshots");
    }
    output.note(&format!("serving at {url}; Ctrl-C ends it"));
    let (sources, snapshots) = shown.counts();
    output.item(&json!({ "url": url, "sources": sources, "snapshots": snapshots }));
    shown.wait(context, || false);
    server.end();
    output.summary(Exit::Done, &json!({ "damaged": shown.file_system.damaged() }));
    Ok(Exit::Done)
}
