//! `holdfast man`: writes the manual pages.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use serde_json::json;

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::usage;

/// Arguments of `man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Folder to write into; made if absent
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Writes `holdfast.1` and a page for each command.
pub fn run(args: &ManArgs, context: &Context) -> Result<Exit, CommandError> {
    let failed = |path: &Path, error: &std::io::Error| {
        CommandError::new(&usage::OUTPUT, format!("cannot write {}", path.display())).because(error)
    };
    let directory = &args.directory;
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    let mut root = Cli::command();
    root.build();
    let mut pages = Vec::new();
    collect_pages(&root, &mut pages);
    for (name, page) in &pages {
        let path = directory.join(format!("{name}.1"));
        // The process makes files for their owner only; manual pages are for everyone.
        fs::write(&path, page)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)))
            .map_err(|error| failed(&path, &error))?;
    }
    context.output.line(&format!("{} pages written to {}", pages.len(), directory.display()));
    context.output.summary(Exit::Done, &json!({ "pages": pages.len() }));
    Ok(Exit::Done)
}

fn collect_pages(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) {
    // A command that has been built has a display name such as `holdfast-key-add`.
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .expect("a vector takes all that is written");
    pages.push((name, page));
    for child in command.get_subcommands() {
        collect_pages(child, pages);
    }
}
