//! `holdfast config`: checks or shows the configuration.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::config::{Config, SecretReference};
use crate::cli::config_text::config_text;
use crate::cli::context::{Context, Location};
use crate::cli::error::{CommandError, Exit};
use crate::cli::place::{Place, S3Args};

/// Arguments of `config`.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: ConfigWhat,
}

/// What to do with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigWhat {
    /// Read it, and look that every secret can be read and every path is there
    Check,
    /// Print it as it is understood, secrets as ***
    Show,
}

/// Does it; reading the configuration has been done by the context.
pub fn run(args: &ConfigArgs, context: &Context) -> Result<Exit, CommandError> {
    match args.what {
        ConfigWhat::Check => check(context),
        ConfigWhat::Show => {
            show(context);
            Ok(Exit::Done)
        }
    }
}

fn show(context: &Context) {
    let text = config_text(&context.loaded.config);
    for file in &context.loaded.files {
        context.output.line(&format!("# {}", file.display()));
    }
    context.output.line(text.trim_end());
    context.output.summary(Exit::Done, &json!({ "files": files(context), "config": text }));
}

fn check(context: &Context) -> Result<Exit, CommandError> {
    let config = &context.loaded.config;
    let nowhere = Location {
        place: Place::Folder("/".into()),
        s3: S3Args::default(),
        name: None,
        table: None,
    };
    let secrets = context.secrets(&nowhere);
    for name in config.secrets.keys() {
        secrets.configured(&SecretReference(name.clone()))?;
    }
    let missing = missing_paths(config);
    for path in &missing {
        context.output.warning(&format!("{path} does not exist"));
    }
    for file in files(context) {
        context.output.line(&format!("{file} is right"));
    }
    if context.loaded.files.is_empty() {
        context.output.line("there is no configuration file");
    }
    let exit = if missing.is_empty() { Exit::Done } else { Exit::Partial };
    context.output.summary(exit, &json!({ "files": files(context), "missing": missing }));
    Ok(exit)
}

fn files(context: &Context) -> Vec<String> {
    context.loaded.files.iter().map(|file| file.display().to_string()).collect()
}

/// What `[sources]` would save and read, and is not there.
fn missing_paths(config: &Config) -> Vec<String> {
    let sources = config.sources.values();
    let paths = sources.flat_map(|source| source.paths.iter().chain(&source.exclude_file));
    let identities = config.repositories.values().filter_map(|table| table.identity_file.as_ref());
    paths
        .chain(identities)
        .filter(|path| path.symlink_metadata().is_err())
        .map(|path| path.display().to_string())
        .collect()
}
