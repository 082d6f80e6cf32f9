//! Questions of age plugins and of encrypted SSH keys, asked on the terminal.
//!
//! Answers come from the terminal itself, never from standard input, which may be data.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

use secrecy::SecretString;

use crate::cli::escape::escape_text;
use crate::cli::output::Output;
use crate::crypto::recipient::Prompter;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks whoever sits at the terminal; where there is none, nobody.
pub struct TerminalPrompter {
    output: Arc<Output>,
}

impl TerminalPrompter {
    /// Shows its messages through `output`.
    #[must_use]
    pub fn new(output: &Arc<Output>) -> Self {
        Self { output: Arc::clone(output) }
    }
}

impl Prompter for TerminalPrompter {
    fn show(&self, message: &str) {
        self.output.status(message);
    }

    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let no = no.unwrap_or("cancel");
        let answer = ask_line(&format!("{question} [y = {yes}, n = {no}] "))?;
        Some(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    fn ask_text(&self, question: &str) -> Option<String> {
        ask_line(&format!("{question}: "))
    }

    fn ask_secret(&self, question: &str) -> Option<SecretString> {
        let question = format!("{}: ", escape_text(question));
        rpassword::prompt_password(question).ok().map(SecretString::from)
    }
}

/// Asks for a line; nothing where there is no terminal, or it ends.
#[must_use]
pub fn ask_line(question: &str) -> Option<String> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    terminal.write_all(escape_text(question).as_bytes()).ok()?;
    let mut answer = String::new();
    let mut lines = BufReader::new(std::io::Read::take(&terminal, ANSWER_BYTES_MAX));
    let bytes = lines.read_line(&mut answer).ok()?;
    (bytes > 0).then(|| answer.trim_end_matches(['\r', '\n']).to_owned())
}
