//! `backup_manifest` on its way into a snapshot: made whole where it is that of an increment, and
//! copied for the next base backup.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};

use crate::format::postgres::manifest::{LINE_BYTES_MAX, ManifestError, ManifestRewriter};

/// Bytes that are dealt with at once.
const PART_BYTES: usize = 64 * 1024;

/// Reading gives the manifest as it is to be stored.
pub struct ManifestStream<'a, R> {
    source: BufReader<R>,
    rewriter: Option<&'a mut ManifestRewriter>,
    copy: Option<File>,
    line: Vec<u8>,
    out: Vec<u8>,
    at: usize,
    failure: Option<ManifestError>,
}

impl<'a, R: Read> ManifestStream<'a, R> {
    /// Passes on what `source` gives, through the rewriter where there is one, and copies it. A
    /// copy that cannot be written ends early; who reads it knows by its hash.
    pub fn new(source: R, rewriter: Option<&'a mut ManifestRewriter>, copy: Option<File>) -> Self {
        let source = BufReader::with_capacity(PART_BYTES, source);
        Self { source, rewriter, copy, line: Vec::new(), out: Vec::new(), at: 0, failure: None }
    }

    /// Why reading failed, where it was the manifest.
    pub fn take_failure(&mut self) -> Option<ManifestError> {
        self.failure.take()
    }

    fn fill(&mut self) -> std::io::Result<()> {
        self.out.clear();
        self.at = 0;
        match &mut self.rewriter {
            None => {
                let part = self.source.fill_buf()?;
                self.out.extend_from_slice(part);
                let length = part.len();
                self.source.consume(length);
            }
            Some(rewriter) => {
                while self.out.len() < PART_BYTES {
                    let goes_on = next_line(&mut self.source, &mut self.line)?;
                    let taken = if goes_on {
                        rewriter.take(&self.line, &mut self.out)
                    } else {
                        rewriter.finish()
                    };
                    if let Err(error) = taken {
                        self.failure = Some(error);
                        return Err(std::io::ErrorKind::InvalidData.into());
                    }
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        let is_copied = self.copy.as_mut().is_none_or(|copy| copy.write_all(&self.out).is_ok());
        if !is_copied {
            self.copy = None;
        }
        Ok(())
    }
}

impl<R: Read> Read for ManifestStream<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.out.len() {
            self.fill()?;
        }
        let length = buffer.len().min(self.out.len() - self.at);
        buffer[..length].copy_from_slice(&self.out[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Replaces `line` by the next one, with its end; `false` when there is none.
pub fn next_line(source: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    source.take(LINE_BYTES_MAX as u64).read_until(b'\n', line)?;
    Ok(!line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::postgres::manifest::ManifestSummary;

    fn through(text: &[u8], rewriter: Option<&mut ManifestRewriter>) -> (Option<Vec<u8>>, Vec<u8>) {
        let mut copy = tempfile::NamedTempFile::new().unwrap();
        let mut stream = ManifestStream::new(text, rewriter, Some(copy.reopen().unwrap()));
        let mut out = Vec::new();
        let is_whole = stream.read_to_end(&mut out).is_ok();
        assert_eq!(stream.take_failure().is_some(), !is_whole);
        let mut copied = Vec::new();
        copy.read_to_end(&mut copied).unwrap();
        (is_whole.then_some(out), copied)
    }

    #[test]
    fn what_is_read_is_what_is_copied() {
        let text: Vec<u8> = (0..3 * PART_BYTES).map(|at| (at % 251) as u8).collect();
        assert_eq!(through(&text, None), (Some(text.clone()), text));
        let file = "{ \"Path\": \"a\", \"Size\": 1 },\n".repeat(9999);
        let text = format!("\"Files\": [\n{file}],\n\"Manifest-Checksum\": \"\"}}\n");
        let mut rewriter = ManifestRewriter::new(ManifestSummary::default());
        let (out, copied) = through(text.as_bytes(), Some(&mut rewriter));
        assert_eq!(out.as_ref(), Some(&copied));
        assert_eq!(copied.len(), text.len() + 64);
    }

    #[test]
    fn a_line_without_end_is_not_waited_for() {
        let text = vec![b'x'; LINE_BYTES_MAX + 1];
        let mut rewriter = ManifestRewriter::new(ManifestSummary::default());
        assert_eq!(through(&text, Some(&mut rewriter)).0, None);
    }
}
