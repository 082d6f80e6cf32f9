//! The only way to standard output and standard error.
//!
//! With `--json` standard output has JSON lines and nothing else, the last one a summary or an
//! error. Text has no character that acts on a terminal. A reader that goes away (`| head`) ends
//! the output quietly; any other failure to write is reported in the end.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use crate::cli::error::{CommandError, ErrorStyle, Exit};
use crate::cli::escape::{escape_text, is_hidden};
use crate::cli::explain::usage;
use crate::cli::table::Table;
use crate::units::UnitStyle;

/// Version of the JSON events; grows when a field changes its meaning.
const EVENTS_VERSION: u8 = 1;

/// How a command prints.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutputOptions {
    /// JSON lines instead of text.
    pub json: bool,
    /// Results and troubles only.
    pub quiet: bool,
    /// How sizes are written in text.
    pub units: UnitStyle,
    /// Whether standard error is coloured.
    pub colour: bool,
}

/// Standard output and standard error of a command.
pub struct Output {
    options: OutputOptions,
    stdout: Mutex<Stdout>,
    bar: Mutex<Option<ProgressBar>>,
}

struct Stdout {
    writer: Box<dyn Write + Send>,
    /// What went wrong first; nothing is written after it.
    failed: Option<io::Error>,
}

impl Stdout {
    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            let written = self.writer.write_all(bytes).and_then(|()| self.writer.flush());
            self.failed = written.err();
        }
    }
}

#[derive(Serialize)]
struct Event<'a, T: Serialize> {
    v: u8,
    r#type: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct Ended<'a, T: Serialize> {
    exit_code: u8,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct Failure<'a> {
    error_id: &'a str,
    message: &'a str,
    causes: &'a [String],
    hint: String,
}

impl Output {
    /// To the standard output of the process.
    #[must_use]
    pub fn new(options: OutputOptions) -> Self {
        Self::to(options, Box::new(io::stdout()))
    }

    /// To `writer` instead of standard output.
    #[must_use]
    pub fn to(options: OutputOptions, writer: Box<dyn Write + Send>) -> Self {
        let stdout = Mutex::new(Stdout { writer, failed: None });
        Self { options, stdout, bar: Mutex::new(None) }
    }

    /// How it prints.
    #[must_use]
    pub fn options(&self) -> &OutputOptions {
        &self.options
    }

    /// A size as this command writes it.
    #[must_use]
    pub fn size(&self, bytes: u64) -> String {
        crate::units::format_size(bytes, self.options.units)
    }

    /// A part of the result, as text; nothing with `--json`.
    pub fn line(&self, text: &str) {
        if !self.options.json {
            self.above_the_bar(|| self.stdout().write((escape_text(text) + "\n").as_bytes()));
        }
    }

    /// Something worth knowing that is not the result: nothing with `--json` or `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.options.quiet {
            self.line(text);
        }
    }

    /// A table, as text; nothing with `--json`.
    pub fn table(&self, table: &Table) {
        for line in table.lines() {
            self.line(&line);
        }
    }

    /// Bytes that are the result themselves, whatever the form: a script, the content of a file.
    pub fn bytes(&self, bytes: &[u8]) {
        self.stdout().write(bytes);
    }

    /// Standard output for a long stream of bytes; failures to write, a reader that went away
    /// among them, are the caller's to see, so that it stops.
    #[must_use]
    pub fn stream(&self) -> OutputStream<'_> {
        OutputStream(self)
    }

    /// One element of a list, with `--json`.
    pub fn item(&self, item: &impl Serialize) {
        self.event("item", item);
    }

    /// How far an operation is: an event on standard output with `--json`, on standard error else.
    pub fn progress(&self, state: &impl Serialize) {
        let line = json_line(&Event { v: EVENTS_VERSION, r#type: "progress", body: state });
        if self.options.json {
            self.stdout().write(&line);
        } else {
            self.stderr(&String::from_utf8_lossy(&line));
        }
    }

    /// The last event of a command that did not fail, with `--json`; `exit` is what it ends with.
    pub fn summary(&self, exit: Exit, summary: &impl Serialize) {
        self.event("summary", &Ended { exit_code: exit.code(), body: summary });
    }

    /// A trouble that does not end the command.
    pub fn warning(&self, message: &str) {
        if self.options.json {
            self.event("warning", &serde_json::json!({ "message": message }));
        } else {
            let (on, off) = if self.options.colour { ("\x1b[33m", "\x1b[0m") } else { ("", "") };
            self.stderr(&format!("{on}warning{off}: {}\n", escape_text(message)));
        }
    }

    /// The error that ends the command.
    pub fn error(&self, error: &CommandError) {
        if self.options.json {
            let body = Failure {
                error_id: error.id(),
                message: error.what(),
                causes: error.causes(),
                hint: error.hints().join("; "),
            };
            self.event("error", &Ended { exit_code: error.exit().code(), body: &body });
            if self.stdout().failed.is_some() {
                self.stderr(&error.render(&ErrorStyle::default()));
            }
        } else {
            let coloured = self.options.colour;
            let style = if coloured { ErrorStyle::COLOURED } else { ErrorStyle::default() };
            self.stderr(&error.render(&style));
        }
    }

    /// A line for standard error that is neither warning nor error: plain progress.
    pub fn status(&self, text: &str) {
        self.stderr(&(escape_text(text) + "\n"));
    }

    /// Whether the reader of standard output went away: a listing may stop then.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.stdout().failed.as_ref().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    }

    /// The first failure to write, other than a reader that went away.
    ///
    /// # Errors
    /// `HF-USE-006`.
    pub fn finish(&self) -> Result<(), CommandError> {
        match &self.stdout().failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(CommandError::new(&usage::OUTPUT, "cannot write to standard output")
                    .because(error))
            }
            _ => Ok(()),
        }
    }

    /// Draws `bar` from now on, and prints everything else above it.
    pub fn attach(&self, bar: ProgressBar) {
        *lock(&self.bar) = Some(bar);
    }

    /// Takes the bar away from the terminal.
    pub fn detach(&self) {
        if let Some(bar) = lock(&self.bar).take() {
            bar.finish_and_clear();
        }
    }

    fn event(&self, kind: &str, body: &impl Serialize) {
        if self.options.json {
            let line = json_line(&Event { v: EVENTS_VERSION, r#type: kind, body });
            self.stdout().write(&line);
        }
    }

    fn stderr(&self, text: &str) {
        // Nothing can be told to anyone when standard error itself fails.
        self.above_the_bar(|| drop(io::stderr().lock().write_all(text.as_bytes())));
    }

    fn above_the_bar(&self, print: impl FnOnce()) {
        let bar = lock(&self.bar).clone();
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn stdout(&self) -> MutexGuard<'_, Stdout> {
        lock(&self.stdout)
    }
}

/// Standard output as a writer; see [`Output::stream`].
pub struct OutputStream<'a>(&'a Output);

impl Write for OutputStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.stdout().writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.stdout().writer.flush()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole after any panic: whole lines and flags only.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name or path as a member of a JSON object: `key` with text, or `key64` with base64 where the
/// bytes are not UTF-8, so that nothing is lost.
#[must_use]
pub fn json_bytes(key: &str, bytes: &[u8]) -> (String, Value) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (key.to_owned(), text.into()),
        Err(_) => (format!("{key}64"), BASE64.encode(bytes).into()),
    }
}

/// Whether standard error is a terminal.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether standard output is a terminal, where raw bytes should not go.
#[must_use]
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A value as one line of JSON in which no character acts on a terminal.
fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut line, VisibleFormatter))
        .expect("events have text keys, and a vector takes all that is written");
    line.push(b'\n');
    line
}

/// Compact JSON with `\uXXXX` for what would be hidden: exact, and harmless on a terminal.
struct VisibleFormatter;

impl Formatter for VisibleFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let mut rest = text;
        while let Some((at, hidden)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            to.write_all(&rest.as_bytes()[..at])?;
            for unit in hidden.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            rest = &rest[at + hidden.len_utf8()..];
        }
        to.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(json: bool, print: impl FnOnce(&Output)) -> String {
        let buffer = Buffer::default();
        let options = OutputOptions { json, ..OutputOptions::default() };
        print(&Output::to(options, Box::new(buffer.clone())));
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_and_json_do_not_mix() {
        let print = |output: &Output| {
            output.line("a\x1bb");
            output.item(&serde_json::json!({ "size": 7 }));
            output.summary(Exit::Partial, &serde_json::json!({ "items": 1 }));
        };
        assert_eq!(written(false, print), "a\\x1bb\n");
        assert_eq!(
            written(true, print),
            "{\"v\":1,\"type\":\"item\",\"size\":7}\n\
             {\"v\":1,\"type\":\"summary\",\"exit_code\":3,\"items\":1}\n"
        );
    }

    #[test]
    fn errors_are_the_last_event() {
        let error = CommandError::new(&usage::ARGUMENT, "no\u{202e}way").hint("x");
        assert_eq!(
            written(true, |output| output.error(&error)),
            "{\"v\":1,\"type\":\"error\",\"exit_code\":2,\"error_id\":\"HF-USE-001\",\
             \"message\":\"no\\u202eway\",\"causes\":[],\"hint\":\"x\"}\n"
        );
    }

    #[test]
    fn hidden_characters_survive_json() {
        let text = "a\u{e0041}\u{9b}\"\\\n\u{7f}é";
        let line = json_line(&text);
        assert!(!line.trim_ascii_end().iter().any(u8::is_ascii_control));
        assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
    }

    #[test]
    fn names_that_are_not_text_are_base64() {
        assert_eq!(json_bytes("path", "/ä".as_bytes()), ("path".into(), "/ä".into()));
        assert_eq!(json_bytes("path", b"/\xff"), ("path64".into(), "L/8=".into()));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_but_a_full_disk_is() {
        for (kind, fails) in [(ErrorKind::BrokenPipe, false), (ErrorKind::StorageFull, true)] {
            let output = Output::to(OutputOptions::default(), Box::new(Failing(kind)));
            output.line("x");
            assert_eq!(output.finish().is_err(), fails);
            assert_eq!(output.is_closed(), !fails);
        }
    }
}
