//! The output of a command as a stream: `pg_dump`, `mysqldump`, anything that writes its data to
//! standard output.
//!
//! The stream is whole only when the command has ended with status 0: one that failed after writing
//! half of its dump fails the source. No shell comes in between, and no variable that can hold one
//! of our secrets is passed on.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::source::error::SourceError;
use crate::source::stream::{ByteStream, ReaderStream};

/// Bytes of standard error that are kept for the message.
pub const STDERR_TAIL_BYTES: usize = 64 * 1024;
/// A line of standard error longer than this is passed on in parts.
const STDERR_LINE_BYTES_MAX: usize = 8 * 1024;
/// Variables that begin so are ours, passphrases among them.
const OWN_VARIABLE_PREFIX: &[u8] = b"HOLDFAST_";
/// How long the last of standard error is waited for, where a process left behind holds it open.
const STDERR_PATIENCE: Duration = Duration::from_secs(2);

/// Called with each line of standard error, without its end, on another thread.
pub type StderrLines = Box<dyn FnMut(&[u8]) + Send>;

/// A running command. Dropping it kills it, with the processes of its group, and reaps it.
#[derive(Debug)]
pub struct CommandStream {
    program: String,
    child: Option<Child>,
    stdout: Option<ReaderStream<ChildStdout>>,
    stderr_tail: Arc<Mutex<VecDeque<u8>>>,
    stderr_ended: Receiver<()>,
}

impl CommandStream {
    /// Starts `argv` (program, then its arguments) with the given environment less our variables.
    ///
    /// It has no standard input and a process group of its own: it must not ask on the terminal,
    /// and a Ctrl-C there does not reach it.
    ///
    /// # Errors
    /// [`SourceError::EmptyCommand`]; [`SourceError::Io`] when it cannot be started.
    pub fn start(
        argv: &[OsString],
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        stderr_lines: Option<StderrLines>,
    ) -> Result<Self, SourceError> {
        let (program, arguments) = argv.split_first().ok_or(SourceError::EmptyCommand)?;
        let failed =
            |source| SourceError::Io { action: "start", path: PathBuf::from(program), source };
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment.into_iter().filter(|(name, _)| !is_own_variable(name)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        let program_name = program.to_string_lossy().into_owned();
        let (ended, stderr_ended) = bounded(1);
        // From here on a failure drops the stream, and with it ends the child.
        let stream = Self {
            stdout: Some(ReaderStream::new(format!("output of {program_name}"), stdout)),
            program: program_name,
            child: Some(child),
            stderr_tail: Arc::default(),
            stderr_ended,
        };
        let tail = Arc::clone(&stream.stderr_tail);
        let collect = move || {
            collect_stderr(stderr, &tail, stderr_lines);
            // Nobody waits any more where the stream was dropped.
            let _ = ended.send(());
        };
        let thread = std::thread::Builder::new().name("stderr".to_owned());
        thread.spawn(collect).map_err(failed)?;
        Ok(stream)
    }

    /// Closes the pipe, waits for the command to end, and for the last of its standard error.
    ///
    /// A command still writing gets `SIGPIPE`.
    fn wait(&mut self, child: &mut Child) -> Result<ExitStatus, SourceError> {
        let path = PathBuf::from(&self.program);
        let status =
            child.wait().map_err(|source| SourceError::Io { action: "wait for", path, source })?;
        let _ = self.stderr_ended.recv_timeout(STDERR_PATIENCE);
        Ok(status)
    }

    fn failure(&self, status: ExitStatus) -> SourceError {
        let mut tail = self.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner);
        let stderr_tail = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
        SourceError::CommandFailed { program: self.program.clone(), status, stderr_tail }
    }
}

impl ByteStream for CommandStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        self.stdout.as_mut().expect("only finish takes the pipe").read_some(buffer)
    }

    /// The command's failure comes first: it is why a stream ended early.
    fn finish(mut self: Box<Self>) -> Result<(), SourceError> {
        let ended = match self.stdout.take() {
            Some(stdout) => stdout.check_ended(),
            None => Ok(()),
        };
        let Some(mut child) = self.child.take() else { return ended };
        let status = match self.wait(&mut child) {
            Ok(status) => status,
            Err(error) => {
                self.child = Some(child);
                return Err(error);
            }
        };
        if status.success() { ended } else { Err(self.failure(status)) }
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // The child has not been reaped, so neither its number nor its group's can be another's.
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        // Fails only when it has ended already.
        drop(child.kill());
        drop(child.wait());
    }
}

fn is_own_variable(name: &OsStr) -> bool {
    name.as_bytes().starts_with(OWN_VARIABLE_PREFIX)
}

/// Reads standard error to its end: keeps the tail, passes the lines on.
fn collect_stderr(
    mut stderr: ChildStderr,
    tail: &Mutex<VecDeque<u8>>,
    mut lines: Option<StderrLines>,
) {
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    loop {
        let length = match stderr.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        keep_tail(&mut tail.lock().unwrap_or_else(PoisonError::into_inner), &buffer[..length]);
        if let Some(lines) = &mut lines {
            split_lines(&mut line, &buffer[..length], lines);
        }
    }
    if let (Some(lines), false) = (&mut lines, line.is_empty()) {
        lines(&line);
    }
}

fn keep_tail(tail: &mut VecDeque<u8>, bytes: &[u8]) {
    tail.extend(bytes);
    let excess = tail.len().saturating_sub(STDERR_TAIL_BYTES);
    tail.drain(..excess);
}

fn split_lines(line: &mut Vec<u8>, bytes: &[u8], lines: &mut StderrLines) {
    for &byte in bytes {
        let ends = byte == b'\n';
        if !ends {
            line.push(byte);
        }
        if ends || line.len() == STDERR_LINE_BYTES_MAX {
            lines(line);
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> CommandStream {
        let environment =
            [("PATH", "/usr/bin:/bin"), ("HOLDFAST_PASSPHRASE", "secret"), ("PGHOST", "db")];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let argv = ["sh", "-c", script].map(OsString::from);
        CommandStream::start(&argv, environment, None).unwrap()
    }

    fn read_all(stream: &mut CommandStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return bytes,
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }

    #[test]
    fn output_and_environment_come_as_they_are() {
        let mut stream = start("printf '%s|%s|' \"$PGHOST\" \"$HOLDFAST_PASSPHRASE\"; cat");
        assert_eq!(read_all(&mut stream), b"db||");
        Box::new(stream).finish().unwrap();
    }

    #[test]
    fn failures_are_errors_after_the_last_byte() {
        let table = [
            ("echo data; echo why >&2; exit 3", "exit status: 3", "why"),
            ("echo data; kill -9 $$", "signal: 9", ""),
            ("echo data; echo a >&2; echo last >&2; exit 1", "last", "a\nlast"),
        ];
        for (script, said, told) in table {
            let mut stream = start(script);
            assert_eq!(read_all(&mut stream), b"data\n");
            let error = Box::new(stream).finish().unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            let SourceError::CommandFailed { stderr_tail, program, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!((stderr_tail.trim(), &program[..]), (told, "sh"));
        }
    }

    #[test]
    fn a_stream_given_up_is_not_whole() {
        let mut stream = start("echo data");
        assert_eq!(stream.read(&mut [0; 2]).unwrap(), 2);
        assert!(matches!(Box::new(stream).finish(), Err(SourceError::Unfinished { .. })));
        let endless = start("while :; do echo data; done");
        assert!(matches!(Box::new(endless).finish(), Err(SourceError::CommandFailed { .. })));
    }

    #[test]
    fn what_cannot_start_is_an_error() {
        let none: [(OsString, OsString); 0] = [];
        let empty = CommandStream::start(&[], none.clone(), None);
        assert!(matches!(empty, Err(SourceError::EmptyCommand)));
        let missing = CommandStream::start(&["/nonexistent/program".into()], none, None);
        assert!(matches!(missing, Err(SourceError::Io { action: "start", .. })));
    }

    #[test]
    fn dropping_ends_the_command_and_its_children() {
        // Both hold the write end of a pipe of ours: it ends only when both are gone.
        let mut stream = start("sleep 1000 & echo $!; exec sleep 1000");
        let mut buffer = [0; 32];
        let length = stream.read(&mut buffer).unwrap();
        let background = std::str::from_utf8(&buffer[..length]).unwrap().trim().to_owned();
        let main = stream.child.as_ref().unwrap().id();
        drop(stream);
        assert!(!std::path::Path::new(&format!("/proc/{main}")).exists(), "it was reaped");
        // The grandchild is init's to reap; until then it is a zombie.
        let gone = || match std::fs::read_to_string(format!("/proc/{background}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_and_tail_of_standard_error() {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let lines: StderrLines = Box::new(move |line| sender.send(line.to_vec()).unwrap());
        let script = "printf 'one\\ntwo' >&2; head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1";
        let argv = ["sh", "-c", script].map(OsString::from);
        let path = [("PATH".into(), "/usr/bin:/bin".into())];
        let mut stream = CommandStream::start(&argv, path, Some(lines)).unwrap();
        assert_eq!(read_all(&mut stream), b"");
        let SourceError::CommandFailed { stderr_tail, .. } = Box::new(stream).finish().unwrap_err()
        else {
            panic!("no failure")
        };
        assert_eq!(stderr_tail, "x".repeat(STDERR_TAIL_BYTES));
        let lines: Vec<Vec<u8>> = receiver.iter().collect();
        assert_eq!(lines[0], b"one");
        assert!(lines[1].starts_with(b"twox"));
        assert!(lines.iter().all(|line| line.len() <= STDERR_LINE_BYTES_MAX));
        assert_eq!(lines.iter().map(Vec::len).sum::<usize>(), 100_006);
    }
}
