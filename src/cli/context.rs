//! What a command works with: where the repository and the local state are, how to print.
//!
//! Everything ambient (environment, files of configuration, terminal, clock) is read here, once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, Zoned};

use crate::cli::args::{ColorChoice, GlobalArgs, ProgressChoice};
use crate::cli::config::RepositoryConfig;
use crate::cli::config_files::{self, LoadedConfig};
use crate::cli::environment::Environment;
use crate::cli::error::CommandError;
use crate::cli::explain::{repository, usage};
use crate::cli::known_addresses;
use crate::cli::output::{Output, OutputOptions, stderr_is_terminal};
use crate::cli::place::{Place, S3Args};
use crate::cli::progress::{Display, Watch};
use crate::cli::secrets::Secrets;
use crate::cli::selector::Selector;
use crate::cli::time::Moment;
use crate::progress::Progress;
use crate::units::UnitStyle;

/// The surroundings of a command.
pub struct Context {
    /// The global options as given.
    pub global: GlobalArgs,
    /// The environment.
    pub environment: Environment,
    /// The configuration, and its files.
    pub loaded: LoadedConfig,
    /// Where everything is printed.
    pub output: Arc<Output>,
    /// The time at the start, in the local time zone.
    pub now: Zoned,
    progress: ProgressChoice,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The folder or bucket.
    pub place: Place,
    /// How an S3 service is reached, from the options and the configuration.
    pub s3: S3Args,
    /// Its name in the configuration, where it has one.
    pub name: Option<String>,
    /// Its table in the configuration, where it has one.
    pub table: Option<RepositoryConfig>,
}

/// How a command prints, from the options and the environment.
///
/// # Errors
/// `HF-USE-002` for a variable that cannot be read.
pub fn output_options(
    global: &GlobalArgs,
    environment: &Environment,
) -> Result<OutputOptions, CommandError> {
    let units = environment.from_text::<UnitStyle>("HOLDFAST_UNITS")?;
    let color = environment.parsed("HOLDFAST_COLOR", value_of::<ColorChoice>)?;
    let terminal = stderr_is_terminal();
    Ok(OutputOptions {
        json: global.json,
        quiet: global.quiet,
        units: global.units.or(units).unwrap_or_default(),
        colour: match global.color.or(color).unwrap_or_default() {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if environment.value("NO_COLOR").is_some() => false,
            ColorChoice::Auto if environment.value("CLICOLOR_FORCE").is_some_and(|v| v != "0") => {
                true
            }
            ColorChoice::Auto => terminal,
        },
    })
}

fn value_of<T: clap::ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let names: Vec<_> = T::value_variants()
            .iter()
            .filter_map(|value| Some(value.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("{text:?} is not one of {}", names.join(", "))
    })
}

impl Context {
    /// For commands that work with a repository or the configuration.
    ///
    /// # Errors
    /// What is wrong with the configuration (`HF-USE-003`, `-004`) or the environment (`-002`).
    pub fn new(
        global: GlobalArgs,
        environment: Environment,
        output: Arc<Output>,
    ) -> Result<Self, CommandError> {
        let loaded = config_files::load(global.config.as_deref(), &environment)?;
        environment.check_names(&loaded.config.secret_variables().collect::<Vec<_>>())?;
        let progress = environment.parsed("HOLDFAST_PROGRESS", value_of::<ProgressChoice>)?;
        environment.from_text::<u32>("HOLDFAST_PASSWORD_FD")?;
        Ok(Self {
            progress: global.progress.or(progress).unwrap_or_default(),
            loaded,
            ..Self::bare(global, environment, output)
        })
    }

    /// For commands that need neither: they work whatever the configuration is.
    #[must_use]
    pub fn bare(global: GlobalArgs, environment: Environment, output: Arc<Output>) -> Self {
        let loaded = LoadedConfig::default();
        let progress = global.progress.unwrap_or_default();
        Self { global, environment, loaded, output, now: Zoned::now(), progress }
    }

    /// Where the repository is: option, variable, configuration, default place.
    ///
    /// # Errors
    /// `HF-REPO-011` for a name that is not configured, `HF-STORE-007` for an address of an unknown
    /// kind, `HF-REPO-010` where nothing says it and there is no home.
    pub fn location(&self) -> Result<Location, CommandError> {
        self.location_by(&self.global.s3)
    }

    /// As [`Self::location`], the options for S3 aside.
    ///
    /// # Errors
    /// As [`Self::location`].
    pub fn location_without_options(&self) -> Result<Location, CommandError> {
        self.location_by(&S3Args::default())
    }

    fn location_by(&self, s3: &S3Args) -> Result<Location, CommandError> {
        let named = self.global.repo.clone().or_else(|| self.environment.path("HOLDFAST_REPO"));
        if let Some(named) = named {
            return self.named_location(&named, s3);
        }
        if let Some((name, table)) = self.loaded.config.default_repository() {
            return self.configured_location(name, table, s3);
        }
        let data = self.environment.path("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let data = data.or_else(|| self.home().map(|home| home.join(".local/share")));
        let data = data.ok_or_else(|| {
            CommandError::new(
                &repository::NOT_NAMED,
                "no repository was named, and there is no home folder",
            )
            .hint("-r PATH, or HOLDFAST_REPO")
        })?;
        self.finished(Place::Folder(data.join("holdfast/repository")), None, s3)
    }

    /// Whether an option, a variable or the configuration says where the repository is.
    #[must_use]
    pub fn names_repository(&self) -> bool {
        self.global.repo.is_some()
            || self.environment.path("HOLDFAST_REPO").is_some()
            || self.loaded.config.default_repository().is_some()
    }

    /// The place that a text names as `-r` would.
    ///
    /// # Errors
    /// As [`Self::location`].
    pub fn location_named(&self, text: &str) -> Result<Location, CommandError> {
        self.named_location(Path::new(text), &self.global.s3)
    }

    fn named_location(&self, named: &Path, s3: &S3Args) -> Result<Location, CommandError> {
        let text = named.to_string_lossy();
        if let Some((name, table)) = self.loaded.config.repositories.get_key_value(&*text) {
            return self.configured_location(name, table, s3);
        }
        if text.contains("://") {
            return self.finished(Place::parse(&text, self.home().as_deref())?, None, s3);
        }
        // A bare word is a name unless there is such a folder, so that a typing error in a name
        // never makes a new repository in the current folder.
        if !text.contains('/') && text != "." && text != ".." && !named.exists() {
            let what = format!("no repository is called {text:?}, and there is no such folder");
            return Err(CommandError::new(&repository::UNKNOWN_NAME, what)
                .hint(format!("-r ./{text} for a folder")));
        }
        self.finished(Place::Folder(named.to_owned()), None, s3)
    }

    fn configured_location(
        &self,
        name: &str,
        table: &RepositoryConfig,
        s3: &S3Args,
    ) -> Result<Location, CommandError> {
        let place = Place::parse(&table.url, self.home().as_deref())?;
        self.finished(place, Some((name, table)), s3)
    }

    /// Puts options and configuration into the place.
    fn finished(
        &self,
        mut place: Place,
        configured: Option<(&str, &RepositoryConfig)>,
        s3: &S3Args,
    ) -> Result<Location, CommandError> {
        let mut s3 = s3.clone();
        if let Some((_, table)) = configured {
            s3 = s3.completed(table);
        }
        if let Place::S3(address) = &mut place {
            s3.apply(address)?;
            if let Some(known) = known_addresses::find(&self.state_dir()?, address)? {
                address.complete(&known);
            }
        }
        let (name, table) = configured.unzip();
        Ok(Location { place, s3, name: name.map(str::to_owned), table: table.cloned() })
    }

    /// Reads the address of another place, such as a replica; the options for S3 are taken as its.
    ///
    /// # Errors
    /// `HF-STORE-007`.
    pub fn other_place(&self, text: &str) -> Result<Place, CommandError> {
        let mut place = Place::parse(text, self.home().as_deref())?;
        if let Place::S3(address) = &mut place {
            self.global.s3.apply(address)?;
        }
        Ok(place)
    }

    /// The folder of the local state: option, variable, configuration, XDG; not made here.
    ///
    /// # Errors
    /// `HF-USE-011` where nothing says it and there is no home.
    pub fn state_dir(&self) -> Result<PathBuf, CommandError> {
        let config = &self.loaded.config.global;
        let named = self.global.state_dir.clone();
        let named = named.or_else(|| self.environment.path("HOLDFAST_STATE_DIR"));
        self.folder(named.or_else(|| config.state_dir.clone()), "XDG_STATE_HOME", ".local/state")
    }

    /// The folder of caches: option, variable, configuration, XDG; not made here.
    ///
    /// # Errors
    /// As [`Self::state_dir`].
    pub fn cache_dir(&self) -> Result<PathBuf, CommandError> {
        let config = &self.loaded.config.global;
        let named = self.global.cache_dir.clone();
        let named = named.or_else(|| self.environment.path("HOLDFAST_CACHE_DIR"));
        self.folder(named.or_else(|| config.cache_dir.clone()), "XDG_CACHE_HOME", ".cache")
    }

    fn folder(
        &self,
        named: Option<PathBuf>,
        variable: &str,
        below_home: &str,
    ) -> Result<PathBuf, CommandError> {
        // The XDG specification has relative values ignored.
        let xdg = self.environment.path(variable).filter(|path| path.is_absolute());
        named
            .or_else(|| xdg.map(|folder| folder.join("holdfast")))
            .or_else(|| self.home().map(|home| home.join(below_home).join("holdfast")))
            .ok_or_else(|| {
                CommandError::new(
                    &usage::STATE,
                    "there is no home folder to keep the local state in",
                )
                .hint("--state-dir DIR, or HOLDFAST_STATE_DIR")
            })
    }

    fn home(&self) -> Option<PathBuf> {
        self.environment.path("HOME").filter(|home| home.is_absolute())
    }

    /// The places of secrets for that repository.
    #[must_use]
    pub fn secrets<'a>(&'a self, location: &'a Location) -> Secrets<'a> {
        Secrets {
            global: &self.global,
            environment: &self.environment,
            config: &self.loaded.config,
            repository: location.table.as_ref(),
            output: &self.output,
        }
    }

    /// Reads the name of a snapshot.
    ///
    /// # Errors
    /// `HF-USE-005`.
    pub fn selector(&self, text: &str) -> Result<Selector, CommandError> {
        Ok(Selector::parse(text, &self.now)?)
    }

    /// Reads a time of an option; a day means its beginning.
    ///
    /// # Errors
    /// `HF-USE-001`.
    pub fn moment(&self, text: &str) -> Result<Timestamp, CommandError> {
        let moment = Moment::parse(text, &self.now).and_then(|moment| moment.start(&self.now));
        moment.map_err(|error| CommandError::new(&usage::ARGUMENT, error.to_string()))
    }

    /// Shows `progress` until the result is dropped, and passes signals on to it.
    #[must_use]
    pub fn watch(&self, progress: &Arc<Progress>) -> Watch {
        let options = self.output.options();
        let display = Display::for_stderr(self.progress, options, self.global.verbose > 0);
        Watch::start(Arc::clone(progress), Arc::clone(&self.output), display)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::Config;

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn context(repo: Option<&str>, variables: Variables<'_>, config: &str) -> Context {
        let global = GlobalArgs { repo: repo.map(PathBuf::from), ..GlobalArgs::default() };
        let output = Output::to(OutputOptions::default(), Box::new(std::io::sink()));
        let environment = Environment::new(variables.iter().copied());
        let mut context = Context::bare(global, environment, Arc::new(output));
        context.loaded.config = Config::parse(&format!("version = 1\n{config}")).unwrap();
        context
    }

    #[test]
    fn where_the_repository_is() {
        let one = "[repositories.main]\nurl = \"~/main\"\n";
        let home = [("HOME", "/h")];
        let both = [("HOME", "/h"), ("HOLDFAST_REPO", "/env")];
        let xdg = [("HOME", "/h"), ("XDG_DATA_HOME", "/x")];
        let cases: &[(Option<&str>, Variables<'_>, &str, &str)] = &[
            (Some("/opt"), &both, one, "/opt"),
            (None, &both, one, "/env"),
            (None, &home, one, "/h/main"),
            (Some("main"), &both, one, "/h/main"),
            (Some("./main"), &both, one, "./main"),
            (Some("file:///srv/r"), &both, "", "/srv/r"),
            (Some("s3://b/p"), &both, "", "s3://b/p"),
            (None, &home, "", "/h/.local/share/holdfast/repository"),
            (None, &xdg, "", "/x/holdfast/repository"),
        ];
        for (repo, variables, config, path) in cases {
            let location = context(*repo, variables, config).location().unwrap();
            assert_eq!(location.place.to_string(), *path, "{repo:?} {variables:?}");
        }
        let wrong = [
            (Some("mian"), "HF-REPO-011"),
            (Some("ftp://b"), "HF-STORE-007"),
            (None, "HF-REPO-010"),
        ];
        for (repo, id) in wrong {
            assert_eq!(context(repo, &[], "").location().unwrap_err().id(), id);
        }
    }

    #[test]
    fn where_the_state_is() {
        let config = "[global]\nstate-dir = \"/conf\"\n";
        let cases: &[(Variables<'_>, &str, &str)] = &[
            (&[("HOME", "/h"), ("HOLDFAST_STATE_DIR", "/env")], config, "/env"),
            (&[("HOME", "/h")], config, "/conf"),
            (&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")], "", "/x/holdfast"),
            (&[("HOME", "/h"), ("XDG_STATE_HOME", "x")], "", "/h/.local/state/holdfast"),
        ];
        for (variables, config, path) in cases {
            assert_eq!(context(None, variables, config).state_dir().unwrap(), Path::new(path));
        }
        assert!(context(None, &[], "").state_dir().is_err());
    }
}
