//! `holdfast writer`: the hosts that may write to the repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::command::writer_policy;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{repository, usage};
use crate::cli::open_repository::{open, open_at, unlock, unlock_unasked};
use crate::cli::private_file;
use crate::cli::secret_file::SECRET_BYTES_MAX;
use crate::cli::secrets::{Purpose, ask_new_passphrase, new_passphrase_of_file};
use crate::cli::table::{Align, Table};
use crate::format::keyfile::Label;
use crate::id::ActorId;
use crate::repo::bundle::{self, WriterBundle};
use crate::repo::history::History;
use crate::repo::roles::{self, NewDomain};

/// How every age file begins.
const AGE_MAGIC: &[u8] = b"age-encryption.org/";

/// Arguments of `writer`.
#[derive(Debug, Clone, Args)]
pub struct WriterArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a doc comment here would replace the subcommand's help")]
    pub what: WriterWhat,
}

/// What to do with the writers.
#[derive(Debug, Clone, Subcommand)]
pub enum WriterWhat {
    /// Let another host write: makes a bundle to install there
    Add(WriterAddArgs),
    /// Take a host's right to write
    Revoke(WriterRevokeArgs),
    /// List the writers
    List,
    /// Install a bundle on this host
    Install(WriterInstallArgs),
    /// Print the access policy of a bucket for a host that can only add (AWS)
    Policy(WriterPolicyArgs),
}

/// Arguments of `writer add`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  holdfast writer add web1 --output web1.bundle")]
pub struct WriterAddArgs {
    /// Name of the host
    #[arg(value_name = "NAME")]
    pub name: String,
    /// File for the bundle, which is secret; it is made readable by you only
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Share the deduplication of this writer (a compromised host can then harm the other's data)
    #[arg(long, value_name = "WRITER", alias = "share-domain")]
    pub domain_of: Option<String>,
    /// Seal the bundle with a passphrase, which is asked for
    #[arg(long)]
    pub protect: bool,
    /// Seal the bundle with the passphrase in a file that only you can read
    #[arg(long, value_name = "FILE")]
    pub bundle_password_file: Option<PathBuf>,
}

/// Arguments of `writer policy`.
#[derive(Debug, Clone, Args)]
pub struct WriterPolicyArgs {
    /// The writer, by name or id
    #[arg(value_name = "WRITER")]
    pub writer: String,
    /// Let it extend locks, for `backup --lock-for`; it can never shorten one
    #[arg(long)]
    pub locks: bool,
}

/// Arguments of `writer revoke`.
#[derive(Debug, Clone, Args)]
pub struct WriterRevokeArgs {
    /// The writer, by name or id
    #[arg(value_name = "WRITER")]
    pub writer: String,
    /// Do not trust its commits after this one [default: its newest]
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
}

/// Arguments of `writer install`.
#[derive(Debug, Clone, Args)]
pub struct WriterInstallArgs {
    /// The bundle; - is standard input
    #[arg(value_name = "FILE")]
    pub bundle: PathBuf,
}

/// Does what is asked with the writers.
pub fn run(args: &WriterArgs, context: &Context) -> Result<Exit, CommandError> {
    match &args.what {
        WriterWhat::Add(args) => add(args, context),
        WriterWhat::Revoke(args) => revoke(args, context),
        WriterWhat::List => list(context),
        WriterWhat::Install(args) => install(args, context),
        WriterWhat::Policy(args) => writer_policy::run(&args.writer, args.locks, context),
    }
}

fn add(args: &WriterAddArgs, context: &Context) -> Result<Exit, CommandError> {
    let name: Label = args.name.parse().map_err(|error| {
        let what = format!("{:?} cannot be the name of a writer", args.name);
        CommandError::new(&usage::ARGUMENT, what).because(&error)
    })?;
    let mut repository = open(context)?;
    let unlocked = unlock(context, &repository)?;
    unlocked.root()?;
    let is_taken = |id: &ActorId| unlocked.label(*id) == Some(&name);
    if repository.roster.writers.iter().any(|entry| is_taken(&entry.id)) {
        let what = format!("there is a writer {:?} already", name.as_str());
        return Err(CommandError::new(&usage::ARGUMENT, what).hint("holdfast writer list"));
    }
    let domain = match &args.domain_of {
        Some(other) => NewDomain::Of(roles::find_writer(&repository, &unlocked, other)?),
        None => NewDomain::Own,
    };
    let keys = roles::draw_writer(&repository, &unlocked, name, domain)?;
    let location = Some(repository.store.location());
    let bundle = WriterBundle { keys, location };
    let path = args.output.clone().unwrap_or_else(|| bundle_name(&args.name));
    // Durable before the roster lists the writer: else nobody might have its key.
    write_bundle(args, &bundle, &path)?;
    if let Err(error) = roles::add_writer(&mut repository, &unlocked, &bundle.keys) {
        if !repository.roster.writers.iter().any(|entry| entry.id == bundle.keys.id) {
            let _ = std::fs::remove_file(&path);
        }
        return Err(error.into());
    }
    report_added(context, &bundle, &path);
    Ok(Exit::Done)
}

fn report_added(context: &Context, bundle: &WriterBundle, path: &Path) {
    let WriterBundle { keys, .. } = bundle;
    let (output, place) = (&context.output, path.display());
    output.line(&format!("writer {:?} ({}) may write", keys.name.as_str(), keys.id));
    output.line(&format!("its keys are in {place}; on its host: holdfast writer install {place}"));
    output.note("The bundle is secret: copy it over a safe way, and remove it here afterwards.");
    output.summary(
        Exit::Done,
        &json!({
            "writer": keys.id.to_string(),
            "domain": keys.domain.to_string(),
            "bundle": place.to_string(),
        }),
    );
}

/// A file in the current folder, whatever is in the name.
fn bundle_name(name: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    PathBuf::from(format!("{}.bundle", name.chars().map(plain).collect::<String>()))
}

fn write_bundle(
    args: &WriterAddArgs,
    bundle: &WriterBundle,
    path: &Path,
) -> Result<(), CommandError> {
    let passphrase = match &args.bundle_password_file {
        Some(file) => Some(new_passphrase_of_file(file)?),
        None if args.protect => Some(ask_new_passphrase()?),
        None => None,
    };
    match passphrase {
        None => private_file::create(path, bundle.print().expose_secret()),
        Some(passphrase) => {
            let sealed = bundle.seal(passphrase);
            let sealed =
                sealed.map_err(|error| CommandError::classify(&error, &usage::INTERNAL))?;
            private_file::create(path, sealed)
        }
    }
}

fn install(args: &WriterInstallArgs, context: &Context) -> Result<Exit, CommandError> {
    let bundle = read_bundle(args, context)?;
    let path = match &bundle.location {
        Some(place) if !context.names_repository() => context.other_place(place)?,
        _ => context.location()?.place,
    };
    let s3 = &context.global.s3;
    let repository = open_at(context, &path, s3, Some(bundle.keys.repository))?;
    bundle::install(&repository, &bundle.keys)?;
    let (name, place) = (bundle.keys.name.as_str(), repository.store.location());
    context.output.line(&format!("this host is now writer {name:?} of {place}"));
    context.output.note(&format!("Remove the bundle, and begin: holdfast backup -r {place} PATH"));
    let repository = repository.id.to_string();
    let id = bundle.keys.id.to_string();
    context.output.summary(
        Exit::Done,
        &json!({ "writer": id, "name": name, "repository": repository, "location": place }),
    );
    Ok(Exit::Done)
}

fn read_bundle(args: &WriterInstallArgs, context: &Context) -> Result<WriterBundle, CommandError> {
    let place = args.bundle.display();
    let not_one = || CommandError::new(&repository::BUNDLE, format!("{place} is not a bundle"));
    let bytes = read_bytes(&args.bundle).map_err(|error| not_one().because(&error))?;
    if bytes.starts_with(AGE_MAGIC) {
        let location = context.location()?;
        let passphrase = context.secrets(&location).passphrase(Purpose::Open)?;
        return Ok(WriterBundle::open(&bytes, passphrase)?);
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| not_one().because(&error))?;
    let text = SecretString::from(text);
    WriterBundle::parse(&text).map_err(|error| not_one().because(&error))
}

fn read_bytes(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path)?)
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 32));
    source.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn list(context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let unlocked = unlock_unasked(context, &context.location()?, &repository)?;
    let history = History::read(&repository)?;
    for finding in &history.findings {
        context.output.warning(&finding.to_string());
    }
    let own = repository.state.writer()?;
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("DOMAIN", Align::Left),
        ("COMMITS", Align::Right),
        ("LAST", Align::Left),
        ("", Align::Left),
    ]);
    for entry in &repository.roster.writers {
        let own = own.as_ref().filter(|keys| keys.id == entry.id);
        let label = unlocked.as_ref().and_then(|keys| keys.label(entry.id));
        let name = label.or(own.map(|keys| &keys.name)).map(Label::as_str);
        let last = history.logs.get(&entry.id).and_then(|log| log.last());
        let last = last.map(|record| (record.commit.seq, record.commit.time.to_string()));
        let (seq, time) = last.clone().unwrap_or_default();
        let mark = match (entry.revoked_after, own) {
            (Some(after), _) => format!("revoked after {after}"),
            (None, Some(_)) => "this host".to_owned(),
            (None, None) => String::new(),
        };
        let (id, domain) = (entry.id.to_string(), entry.domain.to_string());
        table.row([&id, name.unwrap_or("?"), &domain, &seq.to_string(), &time, &mark]);
        context.output.item(&json!({
            "id": id,
            "name": name,
            "domain": domain,
            "commits": seq,
            "last_commit": last.map(|(_, time)| time),
            "revoked_after": entry.revoked_after,
            "this_host": own.is_some(),
        }));
    }
    context.output.table(&table);
    if unlocked.is_none() {
        context.output.note("Names of other hosts are seen with a key that opens the repository.");
    }
    context.output.summary(Exit::Done, &json!({ "writers": repository.roster.writers.len() }));
    Ok(Exit::Done)
}

fn revoke(args: &WriterRevokeArgs, context: &Context) -> Result<Exit, CommandError> {
    let mut repository = open(context)?;
    let unlocked = unlock(context, &repository)?;
    let writer = roles::find_writer(&repository, &unlocked, &args.writer)?;
    let history = History::read(&repository)?;
    for finding in &history.findings {
        context.output.warning(&finding.to_string());
    }
    let newest = roles::last_commit(&history, writer);
    let after = args.after.unwrap_or(newest);
    if after > newest {
        let what = format!("the newest commit of {writer} is {newest}");
        return Err(CommandError::new(&usage::ARGUMENT, what).hint(format!("--after {newest}")));
    }
    roles::revoke_writer(&mut repository, &unlocked, writer, after)?;
    let output = &context.output;
    output.line(&format!("commits of writer {writer} after {after} do not count any more"));
    if after < newest {
        let lost = newest - after;
        output.warning(&format!("{lost} commits that were there are not seen any more"));
    }
    output.summary(Exit::Done, &json!({ "writer": writer.to_string(), "revoked_after": after }));
    Ok(Exit::Done)
}
