//! `holdfast recovery-kit`: what is needed to restore after losing everything else.
#![allow(clippy::doc_markdown, reason = "the doc comments are help texts, read in a terminal")]

use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::key;
use crate::cli::open_repository::{generated_identity_path, open, unlock};
use crate::cli::private_file;
use crate::cli::secret_file::{Ending, FileKind, read_file};
use crate::id::RepositoryId;
use crate::repo::key_files::operator_files;

const AFTER_HELP: &str = "\
Examples:
  holdfast recovery-kit --test                    look that your key really opens the repository
  holdfast recovery-kit --with-identity -o kit.txt

Print it, and keep it where a fire or a thief does not find the repository as well. Without
--with-identity there is no secret in it.";

/// Arguments of `recovery-kit`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RecoveryKitArgs {
    /// Write it to a new file that only you can read, not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Put the identity in that `backup --init` has made: whoever has the kit can read everything
    #[arg(long)]
    pub with_identity: bool,
    /// Open the repository with the key given before anything is printed
    #[arg(long)]
    pub test: bool,
}

/// Prints the kit, or writes it.
pub fn run(args: &RecoveryKitArgs, context: &Context) -> Result<Exit, CommandError> {
    let repository = open(context)?;
    let opened = if args.test { unlock(context, &repository)?.opened } else { Vec::new() };
    let files = operator_files(&*repository.store)?;
    let key_files = files.iter().map(|file| {
        let kinds: Vec<String> = file.recipients().iter().map(ToString::to_string).collect();
        let tested = opened.contains(&file.name);
        KitKey { id: file.id().to_owned(), kinds: kinds.join(", "), tested }
    });
    let kit = Kit {
        repository: repository.id,
        location: repository.store.location(),
        key_files: key_files.collect(),
        identity: generated(args.with_identity, context, repository.id)?,
    };
    let lines = kit.lines();
    if let Some(path) = &args.output {
        private_file::create(path, lines.join("\n") + "\n")?;
        context.output.note(&format!("the recovery kit is in {}", path.display()));
    } else {
        for line in &lines {
            context.output.line(line);
        }
    }
    let text = args.output.is_none().then(|| lines.join("\n"));
    context.output.summary(
        Exit::Done,
        &json!({ "repository": repository.id.to_string(), "tested": args.test, "kit": text }),
    );
    Ok(Exit::Done)
}

/// The identity that `backup --init` has made on this host, if it is there.
fn generated(
    with_identity: bool,
    context: &Context,
    repository: RepositoryId,
) -> Result<Option<(PathBuf, Secret)>, CommandError> {
    let path = generated_identity_path(context, repository)?;
    if !path.exists() {
        if with_identity {
            let what = "there is no generated identity on this host";
            return Err(CommandError::new(&key::FILE_UNREADABLE, what)
                .hint(format!("it would be {}", path.display())));
        }
        return Ok(None);
    }
    if !with_identity {
        return Ok(Some((path, Secret::Hidden)));
    }
    let text = read_file(&path, FileKind::Private, Ending::Whole).map_err(|error| {
        CommandError::new(&key::FILE_UNREADABLE, "the identity cannot be read").because(&error)
    })?;
    let secret = text.expose_secret().lines().find(|line| !line.starts_with('#'));
    Ok(Some((path, Secret::Shown(secret.unwrap_or_default().to_owned().into()))))
}

/// Whether the kit shows the secret.
#[derive(Debug, Clone)]
pub enum Secret {
    /// It does: an `AGE-SECRET-KEY-1…`.
    Shown(SecretString),
    /// It does not.
    Hidden,
}

/// A key file as the kit lists it.
#[derive(Debug, Clone)]
pub struct KitKey {
    /// Its digits.
    pub id: String,
    /// The kinds of its recipients.
    pub kinds: String,
    /// Whether it was opened just now.
    pub tested: bool,
}

/// What a recovery kit says.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The repository.
    pub repository: RepositoryId,
    /// Where it is.
    pub location: String,
    /// What opens it.
    pub key_files: Vec<KitKey>,
    /// The identity that `backup --init` has made: where it is, and itself.
    pub identity: Option<(PathBuf, Secret)>,
}

impl Kit {
    /// The page.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Self { repository, location, .. } = self;
        let mut lines = vec![
            "HOLDFAST RECOVERY KIT".to_owned(),
            String::new(),
            format!("Repository  {repository}"),
            format!("Location    {location}"),
        ];
        let keys = self.key_files.iter().map(|KitKey { id, kinds, tested }| {
            format!(
                "Key file    {id}  {kinds}{}",
                if *tested { "  (tested: it opens)" } else { "" }
            )
        });
        lines.extend(keys);
        lines.extend(self.identity_lines());
        lines.push(String::new());
        lines.push("With Holdfast, on any machine".to_owned());
        let is_bucket = location.starts_with("s3://");
        if is_bucket {
            lines.push(
                "  export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…   # who may read it".into(),
            );
        }
        lines.push(format!("  holdfast -r '{location}' snapshots{}", self.option("-i")));
        let restore =
            format!("  holdfast -r '{location}' restore latest --target /somewhere/empty");
        lines.push(restore + &self.option("-i"));
        lines.push(String::new());
        lines.push("Without Holdfast: Python 3, age and zstd of any distribution".to_owned());
        // The reader takes a folder: what is in a bucket is fetched first.
        let folder = if is_bucket { "/somewhere/repository" } else { location.as_str() };
        if is_bucket {
            let (bucket, options) = location.split_once('?').unwrap_or((location, ""));
            let endpoint = options.split('&').find_map(|option| option.strip_prefix("endpoint="));
            let endpoint = endpoint.map(|url| format!(" --endpoint-url {url}")).unwrap_or_default();
            lines.push(format!(
                "  aws s3 sync{endpoint} {bucket} {folder}   # or any other tool for S3"
            ));
        }
        let script = format!("  python3 {folder}/recovery/restore.py {folder} --id {repository}");
        lines.push(format!("{script}{} list", self.option("--identity")));
        let restore = "restore latest /somewhere/empty";
        lines.push(format!("{script}{} {restore}", self.option("--identity")));
        lines.push(format!("  {folder}/RECOVERY.md says how to do it by hand."));
        lines.push(String::new());
        lines
            .push("Keep apart from the repository and from the machines that it saves:".to_owned());
        lines.push(
            "this page, a copy of the repository, and the passphrase or identity. Without"
                .to_owned(),
        );
        lines.push("one of the keys nobody can read the repository.".to_owned());
        lines
    }

    fn identity_lines(&self) -> Vec<String> {
        let Some((path, secret)) = &self.identity else {
            return Vec::new();
        };
        let place = format!("Identity    {}", path.display());
        match secret {
            Secret::Hidden => vec![place + "  (--with-identity shows it)"],
            Secret::Shown(secret) => vec![
                place,
                "            Whoever has this line can read everything; write it into a file:"
                    .into(),
                format!("            {}", secret.expose_secret()),
            ],
        }
    }

    /// The option that names the identity; nothing where a passphrase opens the repository.
    fn option(&self, name: &str) -> String {
        let has_passphrase = self.key_files.iter().any(|file| file.kinds == "passphrase");
        match &self.identity {
            Some(_) => format!(" {name} identity.txt"),
            None if has_passphrase => String::new(),
            None => format!(" {name} IDENTITY_FILE"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit(identity: Option<Secret>) -> Kit {
        Kit {
            repository: RepositoryId([7; 32]),
            location: "/srv/repo".into(),
            key_files: vec![KitKey { id: "0123".into(), kinds: "passphrase".into(), tested: true }],
            identity: identity.map(|secret| ("/h/x.identity".into(), secret)),
        }
    }

    #[test]
    fn a_bucket_is_fetched_before_it_is_read_without_holdfast() {
        let location = "s3://acme/main?endpoint=https://eu.example.net&region=eu";
        let page = Kit { location: location.into(), ..kit(None) }.lines().join("\n");
        assert!(page.contains(&format!("holdfast -r '{location}' snapshots")), "{page}");
        let sync = "aws s3 sync --endpoint-url https://eu.example.net s3://acme/main /somewhere/";
        assert!(page.contains(sync), "{page}");
        assert!(page.contains("python3 /somewhere/repository/recovery/restore.py"), "{page}");
    }

    #[test]
    fn the_secret_is_shown_only_where_it_is_asked_for() {
        let secret = || SecretString::from("AGE-SECRET-KEY-1TEST");
        let page = |identity| kit(identity).lines().join("\n");
        assert!(page(Some(Secret::Shown(secret()))).contains("AGE-SECRET-KEY-1TEST"));
        for identity in [None, Some(Secret::Hidden)] {
            assert!(!page(identity).contains("AGE-SECRET"));
        }
        let page = page(None);
        for needed in ["07070707", "/srv/repo", "restore.py", "0123  passphrase", "RECOVERY.md"] {
            assert!(page.contains(needed), "{needed}");
        }
        assert!(!page.contains("--identity"), "a passphrase is asked for");
    }
}
