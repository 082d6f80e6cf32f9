//! Signals: the first SIGINT or SIGTERM asks the operation to stop, the second ends the program.
//!
//! While no operation runs, the first one ends the program at once, as if nothing were installed.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::cli::error::Exit;

/// What signals have set.
#[derive(Debug)]
pub struct Signals {
    /// The next SIGINT or SIGTERM ends the program at once.
    at_once: Arc<AtomicBool>,
    /// The exit code of the signal that came, or 0.
    came: Arc<AtomicUsize>,
    status: Arc<AtomicBool>,
}

static SIGNALS: OnceLock<Signals> = OnceLock::new();

/// The signals of the process, installed at the first call.
///
/// Where the system refuses a handler, that signal keeps its usual effect.
pub fn signals() -> &'static Signals {
    SIGNALS.get_or_init(|| {
        let this = Signals::without_handlers();
        for (signal, exit) in [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)] {
            let code = exit.code();
            // The order matters: the flag that the second signal finds is set by the first.
            let installed =
                flag::register_conditional_shutdown(signal, code.into(), Arc::clone(&this.at_once))
                    .and_then(|_| flag::register_usize(signal, Arc::clone(&this.came), code.into()))
                    .and_then(|_| flag::register(signal, Arc::clone(&this.at_once)));
            if let Err(error) = installed {
                tracing::warn!(signal, %error, "no handler");
            }
        }
        if let Err(error) = flag::register(SIGUSR1, Arc::clone(&this.status)) {
            tracing::warn!(signal = SIGUSR1, %error, "no handler");
        }
        this
    })
}

impl Signals {
    /// Flags that no signal sets.
    pub(crate) fn without_handlers() -> Self {
        Self {
            at_once: Arc::new(AtomicBool::new(true)),
            came: Arc::default(),
            status: Arc::default(),
        }
    }

    /// Sets what the signal that ends with `exit` would set.
    #[cfg(test)]
    pub(crate) fn pretend(&self, exit: Exit) {
        self.came.store(exit.code().into(), SeqCst);
        self.at_once.store(true, SeqCst);
    }

    /// Whether the next SIGINT or SIGTERM ends the program at once.
    #[must_use]
    pub fn ends_at_once(&self) -> bool {
        self.at_once.load(SeqCst)
    }

    /// An operation begins that looks at [`Signals::came`].
    pub fn arm(&self) {
        if self.came().is_none() {
            self.at_once.store(false, SeqCst);
        }
    }

    /// It has ended.
    pub fn disarm(&self) {
        self.at_once.store(true, SeqCst);
    }

    /// Whether SIGINT or SIGTERM came, and how the program then ends.
    #[must_use]
    pub fn came(&self) -> Option<Exit> {
        match self.came.load(SeqCst) {
            0 => None,
            code if code == usize::from(Exit::Terminated.code()) => Some(Exit::Terminated),
            _ => Some(Exit::Interrupted),
        }
    }

    /// Whether SIGUSR1 came since the last call.
    #[must_use]
    pub fn take_status_request(&self) -> bool {
        self.status.swap(false, SeqCst)
    }
}

/// How the program ends because of a signal, if one came while an operation ran.
#[must_use]
pub fn interrupted() -> Option<Exit> {
    SIGNALS.get().and_then(Signals::came)
}
