//! A stream of bytes as a source: standard input, the output of a command.
//!
//! A failed read is an error and never an end, and a stream counts as whole only when
//! [`ByteStream::finish`] has said so: a dump that broke off must not become a snapshot.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use crate::source::error::SourceError;

/// Bytes that come once, from the first to the last.
pub trait ByteStream: Send {
    /// Fills the front of `buffer` (not empty); 0 is the end. After an error every further call
    /// fails too.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError>;

    /// Says whether the stream was whole. Without a call to it nothing that was read may be kept.
    ///
    /// # Errors
    /// [`SourceError::Unfinished`] when its end was not read, or a read failed; what the producer
    /// of the bytes has to say ([`SourceError::CommandFailed`]).
    fn finish(self: Box<Self>) -> Result<(), SourceError>;
}

/// A [`ByteStream`] over any reader.
#[derive(Debug)]
pub struct ReaderStream<R> {
    name: String,
    reader: R,
    state: StreamState,
}

/// How far a stream was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamState {
    Open,
    Ended,
    Failed,
}

impl ReaderStream<std::io::Stdin> {
    /// Standard input.
    #[must_use]
    pub fn standard_input() -> Self {
        Self::new("standard input", std::io::stdin())
    }
}

impl<R: Read> ReaderStream<R> {
    /// Reads from `reader`, called `name` in messages.
    pub fn new(name: impl Into<String>, reader: R) -> Self {
        Self { name: name.into(), reader, state: StreamState::Open }
    }

    /// As [`ByteStream::read`].
    pub(crate) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        match self.state {
            StreamState::Ended => return Ok(0),
            StreamState::Failed => return Err(self.unfinished()),
            StreamState::Open => {}
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.reader.read(buffer) {
                Ok(0) => {
                    self.state = StreamState::Ended;
                    return Ok(0);
                }
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    self.state = StreamState::Failed;
                    let path = PathBuf::from(&self.name);
                    return Err(SourceError::Io { action: "read", path, source });
                }
            }
        }
    }

    /// Whether its end was read.
    ///
    /// # Errors
    /// [`SourceError::Unfinished`] where it was not.
    pub(crate) fn check_ended(&self) -> Result<(), SourceError> {
        match self.state {
            StreamState::Ended => Ok(()),
            StreamState::Open | StreamState::Failed => Err(self.unfinished()),
        }
    }

    fn unfinished(&self) -> SourceError {
        SourceError::Unfinished { name: self.name.clone() }
    }
}

impl<R: Read + Send> ByteStream for ReaderStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        self.read_some(buffer)
    }

    fn finish(self: Box<Self>) -> Result<(), SourceError> {
        self.check_ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives the results out one after another, then the end.
    struct Script(Vec<std::io::Result<&'static [u8]>>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let bytes = self.0.remove(0)?;
            buffer[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        }
    }

    fn boxed(script: Script) -> Box<dyn ByteStream> {
        Box::new(ReaderStream::new("script", script))
    }

    #[test]
    fn an_end_is_an_end() {
        let interrupted = std::io::Error::from(ErrorKind::Interrupted);
        let mut stream = boxed(Script(vec![Ok(b"ab"), Err(interrupted), Ok(b"c")]));
        let mut buffer = [0; 8];
        assert_eq!(stream.read(&mut buffer).unwrap(), 2);
        assert_eq!(stream.read(&mut buffer).unwrap(), 1);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        stream.finish().unwrap();
    }

    #[test]
    fn an_error_never_becomes_an_end() {
        let broken = std::io::Error::from(ErrorKind::BrokenPipe);
        let mut stream = boxed(Script(vec![Ok(b"ab"), Err(broken)]));
        let mut buffer = [0; 8];
        assert_eq!(stream.read(&mut buffer).unwrap(), 2);
        assert!(matches!(stream.read(&mut buffer), Err(SourceError::Io { .. })));
        assert!(stream.read(&mut buffer).is_err());
        assert!(matches!(stream.finish(), Err(SourceError::Unfinished { .. })));
    }

    #[test]
    fn a_stream_given_up_is_not_whole() {
        let mut stream = boxed(Script(vec![Ok(b"ab")]));
        stream.read(&mut [0; 8]).unwrap();
        assert!(matches!(stream.finish(), Err(SourceError::Unfinished { .. })));
    }
}
