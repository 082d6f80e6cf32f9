//! One zstd frame at a time: the unit of compression.
//!
//! Every frame carries its content size and nothing that needs a dictionary; what is decoded is
//! bounded by the length that the caller was told beforehand (RFC 8878).

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

/// A zstd compression level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub i32);

/// Why a frame could not be made or taken apart.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// zstd refused the input or the parameters.
    #[error("zstd could not compress {raw_bytes} bytes")]
    Encode {
        /// Length of the input.
        raw_bytes: usize,
        /// What zstd said.
        source: std::io::Error,
    },
    /// The frame is damaged, or larger than it may be.
    #[error("a zstd frame of {stored_bytes} bytes does not decode to {raw_bytes} bytes")]
    Decode {
        /// Length of the frame.
        stored_bytes: usize,
        /// Length it should decode to.
        raw_bytes: usize,
        /// What zstd said, where it said anything.
        source: Option<std::io::Error>,
    },
}

/// Compresses frames; keeps its tables between them.
pub struct FrameEncoder {
    inner: Compressor<'static>,
}

impl FrameEncoder {
    /// An encoder for one level.
    pub fn new(level: Level) -> Result<Self, CompressError> {
        let failed = |source| CompressError::Encode { raw_bytes: 0, source };
        let mut inner = Compressor::new(level.0).map_err(failed)?;
        inner.set_parameter(CParameter::ChecksumFlag(false)).map_err(failed)?;
        inner.set_parameter(CParameter::ContentSizeFlag(true)).map_err(failed)?;
        Ok(Self { inner })
    }

    /// Replaces `frame` by the compressed form of `raw`.
    pub fn encode(&mut self, raw: &[u8], frame: &mut Vec<u8>) -> Result<(), CompressError> {
        frame.clear();
        frame.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.inner
            .compress_to_buffer(raw, frame)
            .map(drop)
            .map_err(|source| CompressError::Encode { raw_bytes: raw.len(), source })
    }
}

/// Decodes frames; keeps its tables between them.
pub struct FrameDecoder {
    inner: Decompressor<'static>,
}

impl FrameDecoder {
    /// A decoder without a dictionary.
    pub fn new() -> Result<Self, CompressError> {
        Decompressor::new().map(|inner| Self { inner }).map_err(|source| CompressError::Decode {
            stored_bytes: 0,
            raw_bytes: 0,
            source: Some(source),
        })
    }

    /// Replaces `raw` by what `frame` holds, which must be exactly `raw_bytes` long.
    ///
    /// The caller has checked `raw_bytes` against the format's limits. The output goes straight
    /// into `raw`, whose capacity bounds it whatever the frame declares; no window is allocated.
    pub fn decode(
        &mut self,
        frame: &[u8],
        raw_bytes: usize,
        raw: &mut Vec<u8>,
    ) -> Result<(), CompressError> {
        raw.clear();
        raw.reserve(raw_bytes);
        match self.inner.decompress_to_buffer(frame, raw) {
            Ok(length) if length == raw_bytes => Ok(()),
            other => Err(CompressError::Decode {
                stored_bytes: frame.len(),
                raw_bytes,
                source: other.err(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_lies_about_length_are_refused() {
        let raw: Vec<u8> = (0..300_000_u32).map(|i| (i / 7 % 251) as u8).collect();
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        FrameEncoder::new(Level(3)).unwrap().encode(&raw, &mut frame).unwrap();
        let mut decoder = FrameDecoder::new().unwrap();
        decoder.decode(&frame, raw.len(), &mut back).unwrap();
        assert_eq!(raw, back);
        for wrong in [0, raw.len() - 1, raw.len() + 1] {
            assert!(decoder.decode(&frame, wrong, &mut back).is_err(), "{wrong}");
        }
        for cut in [0, 1, frame.len() / 2, frame.len() - 1] {
            assert!(decoder.decode(&frame[..cut], raw.len(), &mut back).is_err(), "{cut}");
        }
    }
}
