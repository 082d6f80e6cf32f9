//! `holdfast init`: creates a repository.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Span;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::cli::command::recovery_kit::{Kit, Secret};
use crate::cli::context::{Context, Location};
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::{key, usage};
use crate::cli::known_addresses;
use crate::cli::open_repository::{generated_identity_path, prompter};
use crate::cli::place::{Place, open_store};
use crate::cli::private_file;
use crate::cli::secrets::Purpose;
use crate::cli::time::fixed_span;
use crate::crypto::recipient::{KeyTextError, ReadIdentity, Recipient};
use crate::format::keyfile::Label;
use crate::format::limits::{PACK_BYTES_DEFAULT, PACK_BYTES_MAX, PACK_BYTES_MIN};
use crate::id::RepositoryId;
use crate::repo::create::{
    CreateOptions, GRACE_SECONDS_DEFAULT, NewKeys, check_vacant, create_with,
};
use crate::repo::state::StateDir;
use crate::store::capabilities::Verdict;
use crate::store::local::{LocalStore, RESERVE_BYTES_DEFAULT};
use crate::store::{Store, StoreError};
use crate::units::{parse_size, parse_span};

const AFTER_HELP: &str = "\
Examples:
  holdfast init -r /srv/repo                               asks for a passphrase, twice
  holdfast init -r /srv/repo --password-file ~/.holdfast-pass
  holdfast init -r /srv/repo --recipient age1… --recipient 'ssh-ed25519 AAAA…'

This host keeps the keys to write and to prune, so that backups run unattended. To read back, it
takes the passphrase or the identity of a recipient. Print the recovery kit and keep it elsewhere.";

/// Arguments of `init`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = AFTER_HELP)]
pub struct InitArgs {
    /// Who can open the repository: an age recipient, an SSH public key, or a plugin's recipient
    /// (repeatable); instead of a passphrase
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// Read recipients from a file, one a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub recipients_file: Vec<std::path::PathBuf>,
    /// Name of this host as a writer [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub writer: Option<String>,
    /// Do not keep the maintainer's keys on this host: forget and prune need the passphrase then
    #[arg(long)]
    pub no_maintainer: bool,
    /// Size of full packs [default: 32MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, hide_short_help = true)]
    pub pack_size: Option<u64>,
    /// Time between the decision to delete an object and its deletion [default: 72h]
    #[arg(long, value_name = "SPAN", value_parser = parse_span, hide_short_help = true)]
    pub grace: Option<Span>,
    /// No snapshot younger than this can be forgotten, whoever asks [default: 0s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span, hide_short_help = true)]
    pub retention_floor: Option<Span>,
}

/// Creates a repository and says what is needed to read it back.
pub fn run(args: &InitArgs, context: &Context) -> Result<Exit, CommandError> {
    let location = context.location()?;
    // Before anyone is asked for a passphrase that would be for nothing.
    look_for_room(&location)?;
    let mut options = options_of(args)?;
    let recipients = recipients_of(args, context)?;
    let secrets = context.secrets(&location);
    let passphrase = match secrets.named_passphrase()? {
        Some(named) => Some(named),
        None if recipients.is_empty() => Some(asked_passphrase(context)?),
        None => None,
    };
    let opens = opened_by(&recipients, passphrase.is_some());
    options.operators.extend((!recipients.is_empty()).then_some(recipients));
    options.operators.extend(passphrase.map(|secret| vec![Recipient::passphrase(secret)]));
    let keys = NewKeys::draw(options.writer_label.clone())?;
    let (id, place) = create_at(context, &location, &options, keys)?;
    report(context, &options, id, &place, &opens, "holdfast recovery-kit");
    let summary = json!({
        "repository": id.to_string(),
        "location": place,
        "key_files": options.operators.len(),
        "writer": options.writer_label.as_str(),
        "keeps_maintainer": options.keep_maintainer,
    });
    context.output.summary(Exit::Done, &summary);
    Ok(Exit::Done)
}

/// Creates the repository that the arguments name, sealed to a new identity, and prints the
/// recovery kit with the identity in it.
///
/// The identity is durable before the repository is begun: a crash leaves an identity that opens
/// nothing, never a repository that nothing opens.
///
/// # Errors
/// As `init`: `HF-REPO-002` where there is a repository, `HF-STORE-003` where the folder is not
/// empty.
pub fn init_with_generated_key(context: &Context) -> Result<RepositoryId, CommandError> {
    let location = context.location()?;
    look_for_room(&location)?;
    let identity = ReadIdentity::generate().map_err(|error| {
        CommandError::new(&usage::INTERNAL, "no key could be drawn").because(&error)
    })?;
    let mut options = options_of(&InitArgs::default())?;
    options.operators.push(vec![identity.recipient().into()]);
    let keys = NewKeys::draw(options.writer_label.clone())?;
    let path = generated_identity_path(context, keys.repository())?;
    private_file::create(&path, identity_file(&identity, keys.repository()).expose_secret())?;
    let created = create_at(context, &location, &options, keys);
    if created.is_err() && !may_exist(&location) {
        let _ = std::fs::remove_file(&path);
    }
    let (id, place) = created?;
    let opens = [format!("the identity in {}", path.display())];
    report(context, &options, id, &place, &opens, "holdfast recovery-kit --with-identity");
    let kit = Kit {
        repository: id,
        location: place.clone(),
        key_files: Vec::new(),
        identity: Some((path.clone(), Secret::Shown(identity.to_secret_text()))),
    };
    for line in kit.lines() {
        context.output.line(&line);
    }
    context.output.item(&json!({
        "repository": id.to_string(),
        "location": place,
        "identity_file": path.display().to_string(),
        "recovery_kit": kit.lines().join("\n"),
    }));
    Ok(id)
}

/// Whether there is a repository after a failure; when in doubt, its identity is kept.
fn may_exist(location: &Location) -> bool {
    let Ok(store) = open_store(&location.place, &location.s3) else {
        return location.place.folder().is_none_or(Path::exists);
    };
    !matches!(store.stat("FORMAT"), Err(StoreError::NotFound { .. }))
}

fn identity_file(identity: &ReadIdentity, repository: RepositoryId) -> SecretString {
    let secret = identity.to_secret_text();
    let secret = secret.expose_secret();
    let public = identity.recipient_text();
    format!("# opens Holdfast repository {repository}\n# public key: {public}\n{secret}\n").into()
}

/// Refuses a place that has anything in it, before any question is asked.
fn look_for_room(location: &Location) -> Result<(), CommandError> {
    if location.place.folder().is_some_and(|path| !path.is_dir()) {
        return Ok(());
    }
    Ok(check_vacant(&*open_store(&location.place, &location.s3)?)?)
}

fn create_at(
    context: &Context,
    location: &Location,
    options: &CreateOptions,
    keys: NewKeys,
) -> Result<(RepositoryId, String), CommandError> {
    if let Some(path) = location.place.folder() {
        LocalStore::create(path, RESERVE_BYTES_DEFAULT)
            .map_err(|error| not_created(path, error))?;
    }
    let store = open_store(&location.place, &location.s3)?;
    let states = context.state_dir()?;
    let id = create_with(&store, &states, options, keys)?;
    // The repository is there from here on: whoever made it must be told how it is opened.
    if matches!(location.place, Place::S3(_))
        && let Err(error) = look_at_service(context, &*store, &states, id)
    {
        let what = format!("what the service keeps was not found out: {}", error.what());
        context.output.warning(&what);
        for cause in error.causes() {
            context.output.note(&format!("  {cause}"));
        }
        context.output.note("  try `holdfast doctor`");
    }
    known_addresses::remember_or_warn(context, &location.place, &*store);
    Ok((id, store.location()))
}

/// Tries what the service keeps, remembers it, and says what is not promised there.
fn look_at_service(
    context: &Context,
    store: &dyn Store,
    states: &Path,
    id: RepositoryId,
) -> Result<(), CommandError> {
    let found = store.probe()?;
    StateDir::open(states, id)?.set_capabilities(&found)?;
    for line in found.lines().iter().filter(|line| line.verdict != Verdict::Kept) {
        let what = format!("the service: {}", line.what);
        match line.verdict {
            Verdict::Broken => context.output.warning(&what),
            _ => context.output.note(&what),
        }
        if let Some(advice) = line.advice {
            context.output.note(&format!("  {advice}"));
        }
    }
    Ok(())
}

fn not_created(path: &Path, error: StoreError) -> CommandError {
    let is_occupied = matches!(&error, StoreError::Refused { source, .. }
        if source.kind() == std::io::ErrorKind::DirectoryNotEmpty);
    let this = CommandError::from(error);
    if !is_occupied {
        return this;
    }
    this.hint(format!("-r {}/holdfast, or another empty folder", path.display()))
}

fn options_of(args: &InitArgs) -> Result<CreateOptions, CommandError> {
    let pack_bytes = args.pack_size.unwrap_or(PACK_BYTES_DEFAULT);
    if !(PACK_BYTES_MIN..=PACK_BYTES_MAX).contains(&pack_bytes) {
        let what = format!("packs have {PACK_BYTES_MIN} to {PACK_BYTES_MAX} bytes");
        return Err(CommandError::new(&usage::ARGUMENT, what).hint("--pack-size 32MiB"));
    }
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let label = args.writer.clone().unwrap_or_else(host);
    let writer_label: Label = label.parse().map_err(|error| {
        let what = format!("{label:?} cannot be the name of a writer");
        CommandError::new(&usage::ARGUMENT, what).because(&error).hint("--writer NAME")
    })?;
    Ok(CreateOptions {
        operators: Vec::new(),
        writer_label,
        pack_bytes,
        grace_seconds: seconds(args.grace.as_ref(), GRACE_SECONDS_DEFAULT)?,
        retention_floor_seconds: seconds(args.retention_floor.as_ref(), 0)?,
        keep_maintainer: !args.no_maintainer,
    })
}

fn seconds(span: Option<&Span>, default: u64) -> Result<u64, CommandError> {
    span.map_or(Ok(default), |span| fixed_span(*span).map(|span| span.as_secs()))
}

fn recipients_of(args: &InitArgs, context: &Context) -> Result<Vec<Recipient>, CommandError> {
    let mut texts = args.recipient.clone();
    for file in &args.recipients_file {
        texts.extend(recipient_lines(file)?);
    }
    parse_recipients(&texts, context)
}

fn recipient_lines(file: &PathBuf) -> Result<Vec<String>, CommandError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let what = format!("cannot read the recipients in {}", file.display());
        CommandError::new(&key::RECIPIENT, what).because(&error)
    })?;
    let lines = text.lines().map(str::trim);
    let lines: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if lines.is_empty() {
        let what = format!("there is no recipient in {}", file.display());
        return Err(CommandError::new(&key::RECIPIENT, what));
    }
    Ok(lines)
}

/// Reads recipients as `--recipient` takes them.
///
/// # Errors
/// `HF-KEY-006`, and `HF-KEY-010` where a plugin is missing.
pub fn parse_recipients(
    texts: &[String],
    context: &Context,
) -> Result<Vec<Recipient>, CommandError> {
    let prompter = prompter(context);
    let parsed = texts.iter().map(|text| Recipient::parse(text, &prompter));
    parsed
        .collect::<Result<_, KeyTextError>>()
        .map_err(|error| CommandError::classify(&error, &key::RECIPIENT))
}

fn asked_passphrase(context: &Context) -> Result<SecretString, CommandError> {
    let location = context.location()?;
    context.secrets(&location).passphrase(Purpose::Create).map_err(|error| {
        if error.id() == key::NONE.id { error.hint("--recipient age1…") } else { error }
    })
}

fn opened_by(recipients: &[Recipient], has_passphrase: bool) -> Vec<String> {
    let named = recipients.iter().map(|recipient| format!("the identity of {}", recipient.text()));
    named.chain(has_passphrase.then(|| "the passphrase".to_owned())).collect()
}

fn report(
    context: &Context,
    options: &CreateOptions,
    id: RepositoryId,
    place: &str,
    opens: &[String],
    kit: &str,
) {
    let keeps = if options.keep_maintainer {
        "the keys to write and to prune"
    } else {
        "the keys to write; forget and prune need the key that reads"
    };
    let output = &context.output;
    output.note(&format!("created repository {id}"));
    output.note(&format!("  at:            {place}"));
    output.note(&format!("  this host:     writer {:?}", options.writer_label.as_str()));
    output.note(&format!("  it keeps:      {keeps}"));
    output.note(&format!("  to read back:  {}", opens.join(", or ")));
    output.note("Without it nobody can read the repository, on any machine.");
    output.note(&format!("Print `{kit}` and keep it elsewhere."));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::cli::args::GlobalArgs;
    use crate::cli::environment::Environment;
    use crate::cli::open_repository::{open, unlock};
    use crate::cli::output::{Output, OutputOptions};

    fn context(home: &Path) -> Context {
        let global = GlobalArgs { repo: Some(home.join("repo")), ..GlobalArgs::default() };
        let output = Output::to(OutputOptions::default(), Box::new(std::io::sink()));
        let environment = Environment::new([("HOME", home.as_os_str())]);
        Context::bare(global, environment, Arc::new(output))
    }

    #[test]
    fn a_generated_identity_is_private_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let context = context(home.path());
        let id = init_with_generated_key(&context).unwrap();
        let path = home.path().join(format!(".config/holdfast/{id}.identity"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let repository = open(&context).unwrap();
        assert_eq!(repository.id, id);
        assert!(unlock(&context, &repository).unwrap().root().is_ok());
        // Neither the repository nor its identity is touched by a second one.
        let again = init_with_generated_key(&context).unwrap_err();
        assert_eq!(again.id(), "HF-REPO-002");
        assert!(unlock(&context, &repository).is_ok());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_identity_of_nothing_is_not_left_behind() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("repo")).unwrap();
        std::fs::write(home.path().join("repo/letter"), "dear").unwrap();
        let error = init_with_generated_key(&context(home.path())).unwrap_err();
        assert_eq!(error.id(), "HF-STORE-003");
        let folder = home.path().join(".config/holdfast");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    }

    #[test]
    fn spans_without_a_fixed_length_are_refused() {
        let of = |text: &str| seconds(Some(&parse_span(text).unwrap()), 1);
        assert_eq!(of("2w").unwrap(), 14 * 86_400);
        assert_eq!(of("0s").unwrap(), 0);
        assert!(of("1y").is_err() && of("1m").is_err());
        assert_eq!(seconds(None, 7).unwrap(), 7);
    }
}
