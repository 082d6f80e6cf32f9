//! Sealed objects that are held in memory as a whole: zstd frames and padding (`index/`, `snap/`,
//! `refs/`), and plain texts (`keys/`).
//!
//! A decoder here allocates what a frame declares only after that was checked against the limit.

use secrecy::SecretString;
use zeroize::Zeroizing;
use zstd::zstd_safe;

use crate::crypto::recipient::{Identity, Recipient};
use crate::crypto::seal::{ObjectSize, SealError, Sealer};
use crate::crypto::unseal::{OpenError, open_whole};

/// Magic number of the skippable frame that is padding.
pub const PADDING_MAGIC: u32 = 0x184D_2A50;
/// Bytes of a skippable frame before its content.
pub const SKIPPABLE_HEADER_BYTES: usize = 8;
/// Largest zstd window, as a power of two. `format::limits` has the same number.
pub const WINDOW_LOG_MAX: u32 = 23;
/// Highest compression level whose window stays within [`WINDOW_LOG_MAX`].
const LEVEL_MAX: i32 = 19;
const FRAME_MAGIC: u32 = 0xFD2F_B528;

/// Compresses `content` into one zstd frame, pads it to a Padmé size of at least 16 KiB, and seals.
///
/// `level` is that of zstd, at most 19.
///
/// # Errors
/// The recipients do not go together, or the content is larger than zstd takes at once.
pub fn seal_small(
    recipients: &[&Recipient],
    content: &[u8],
    level: i32,
) -> Result<Vec<u8>, SealError> {
    let content_bytes = content.len() as u64;
    let frame = zstd::bulk::compress(content, level.min(LEVEL_MAX))
        .map_err(|source| SealError::Compress { content_bytes, source })?;
    let mut sealer = Sealer::begin(recipients, Vec::new(), ObjectSize::Free)?;
    let used = (frame.len() + SKIPPABLE_HEADER_BYTES) as u64;
    let padding = u32::try_from(sealer.tail_plain_bytes(used) - used)
        .map_err(|_| SealError::TooLarge { content_bytes })?;
    sealer.write(&frame)?;
    sealer.write(&PADDING_MAGIC.to_le_bytes())?;
    sealer.write(&padding.to_le_bytes())?;
    sealer.write(&vec![0; padding as usize])?;
    Ok(sealer.finish())
}

/// Opens what [`seal_small`] sealed; also content in several frames.
///
/// # Errors
/// Any of [`OpenError`]: the content is longer than `content_bytes_max`, a frame does not declare
/// its size, has a window of more than 8 MiB or a dictionary, or anything but frames and zero
/// padding is found.
pub fn open_small(
    identities: &[&Identity],
    object: &[u8],
    content_bytes_max: u64,
) -> Result<Vec<u8>, OpenError> {
    let mut plain = Vec::new();
    open_whole(identities, object, &mut plain)?;
    decode_frames(&plain, content_bytes_max)
}

fn decode_frames(plain: &[u8], content_bytes_max: u64) -> Result<Vec<u8>, OpenError> {
    let mut content = Vec::new();
    let mut rest = plain;
    while !rest.is_empty() {
        let (frame, after) = match magic(rest)? {
            PADDING_MAGIC => {
                let frame_bytes = padding_frame_bytes(rest)?;
                rest = &rest[frame_bytes..];
                continue;
            }
            FRAME_MAGIC => rest.split_at(
                zstd_safe::find_frame_compressed_size(rest)
                    .map_err(|_| damaged("a zstd frame is cut short"))?,
            ),
            _ => return Err(damaged("an unknown frame")),
        };
        decode_frame(frame, &mut content, content_bytes_max)?;
        rest = after;
    }
    Ok(content)
}

fn decode_frame(
    frame: &[u8],
    content: &mut Vec<u8>,
    content_bytes_max: u64,
) -> Result<(), OpenError> {
    let declared = declared_bytes(frame)?;
    let content_bytes = (content.len() as u64).saturating_add(declared);
    if content_bytes > content_bytes_max {
        return Err(OpenError::TooLarge { content_bytes, content_bytes_max });
    }
    let decoded = zstd::bulk::decompress(frame, declared as usize)
        .ok()
        .filter(|decoded| decoded.len() as u64 == declared)
        .ok_or(damaged("a zstd frame does not decode"))?;
    if content.is_empty() {
        *content = decoded;
    } else {
        content.extend_from_slice(&decoded);
    }
    Ok(())
}

/// The content size a frame declares, after its window and dictionary were checked (RFC 8878,
/// section 3.1.1.1).
fn declared_bytes(frame: &[u8]) -> Result<u64, OpenError> {
    let declared = zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .ok_or(damaged("a zstd frame does not declare its size"))?;
    let descriptor = frame[4];
    if descriptor & 0b11 != 0 {
        return Err(damaged("a zstd frame needs a dictionary"));
    }
    let single_segment = descriptor & 0b10_0000 != 0;
    let window_bytes = if single_segment {
        declared
    } else {
        let (exponent, mantissa) = (frame[5] >> 3, u64::from(frame[5] & 0b111));
        let base = 1_u64 << (10 + exponent);
        base + base / 8 * mantissa
    };
    if window_bytes > 1 << WINDOW_LOG_MAX {
        return Err(damaged("a zstd frame has too large a window"));
    }
    Ok(declared)
}

fn padding_frame_bytes(rest: &[u8]) -> Result<usize, OpenError> {
    let length = rest.get(4..8).ok_or(damaged("the padding is cut short"))?;
    let length = u32::from_le_bytes(length.try_into().expect("a slice of four bytes"));
    let end = SKIPPABLE_HEADER_BYTES + length as usize;
    let padding =
        rest.get(SKIPPABLE_HEADER_BYTES..end).ok_or(damaged("the padding is cut short"))?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(damaged("the padding is not zeros"));
    }
    Ok(end)
}

fn magic(rest: &[u8]) -> Result<u32, OpenError> {
    let bytes = rest.first_chunk::<4>().ok_or(damaged("trailing bytes"))?;
    Ok(u32::from_le_bytes(*bytes))
}

fn damaged(what: &'static str) -> OpenError {
    OpenError::Damaged { what }
}

/// Seals a text as it is: a key file.
///
/// # Errors
/// The recipients do not go together: a passphrase must be alone.
pub fn seal_text(recipients: &[&Recipient], text: &SecretString) -> Result<Vec<u8>, SealError> {
    let mut sealer = Sealer::begin(recipients, Vec::new(), ObjectSize::Free)?;
    sealer.write(secrecy::ExposeSecret::expose_secret(text).as_bytes())?;
    Ok(sealer.finish())
}

/// Opens a sealed text of at most `text_bytes_max` bytes of UTF-8.
///
/// # Errors
/// Any of [`OpenError`].
pub fn open_text(
    identities: &[&Identity],
    object: &[u8],
    text_bytes_max: u64,
) -> Result<SecretString, OpenError> {
    let mut plain = Zeroizing::new(Vec::new());
    open_whole(identities, object, &mut plain)?;
    let content_bytes = plain.len() as u64;
    if content_bytes > text_bytes_max {
        let content_bytes_max = text_bytes_max;
        return Err(OpenError::TooLarge { content_bytes, content_bytes_max });
    }
    let text = std::str::from_utf8(&plain).map_err(|_| damaged("the text is not UTF-8"))?;
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::recipient::{Prompter, ReadIdentity, Unattended};
    use crate::crypto::sealed_size::{SEALED_BYTES_MIN, padme};
    use crate::crypto::secret::Secret32;
    use secrecy::ExposeSecret;
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    fn pair() -> (Recipient, Identity) {
        let identity = ReadIdentity::from_secret(&Secret32::from_bytes(&[9; 32]));
        (identity.recipient().into(), identity.to_identity())
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn round_trip_at_padme_sizes() {
        for length in [0, 1, 15_000, 16_384, 65_500, 65_536, 131_072, 700_000] {
            for level in [1, 3, 22] {
                let object = seal_small(&[&pair().0], &noise(length), level).unwrap();
                let size = object.len() as u64;
                assert!(size >= SEALED_BYTES_MIN && padme(size) == size, "{size}");
                let content = open_small(&[&pair().1], &object, length as u64).unwrap();
                assert!(content == noise(length), "{length}");
            }
        }
    }

    #[test]
    fn content_longer_than_the_limit_is_refused() {
        let object = seal_small(&[&pair().0], &vec![0; 1_000_000], 3).unwrap();
        let error = open_small(&[&pair().1], &object, 999_999).unwrap_err();
        let expected = "holds 1000000 bytes where at most 999999 are accepted";
        assert_eq!(error.to_string(), expected);
    }

    /// A frame of one run-length block: `descriptor`, then window or size bytes, then the block.
    fn frame(header: &[u8], repeat: u32) -> Vec<u8> {
        let block = (repeat << 3 | 0b011).to_le_bytes();
        [&FRAME_MAGIC.to_le_bytes()[..], header, &block[..3], b"z"].concat()
    }

    fn skippable(magic: u32, declared: u32, content: &[u8]) -> Vec<u8> {
        [&magic.to_le_bytes()[..], &declared.to_le_bytes(), content].concat()
    }

    #[test]
    fn only_declared_frames_and_zero_padding_are_accepted() {
        let good = frame(&[0b10_0000, 100], 100);
        let padding = skippable(PADDING_MAGIC, 3, &[0; 3]);
        let join = |parts: &[&[u8]]| parts.concat();
        let accepted = [
            (join(&[]), 0),
            (join(&[&good]), 100),
            (join(&[&good, &padding]), 100),
            (join(&[&good, &good, &padding]), 200),
        ];
        for (plain, length) in accepted {
            assert_eq!(decode_frames(&plain, 200).unwrap(), vec![b'z'; length]);
        }
        let refused = [
            (join(&[&good, &good, &good]), "holds 300 bytes where at most 200 are accepted"),
            (frame(&[0, 0], 100), "damaged: a zstd frame does not declare its size"),
            (frame(&[0b10_0001, 7, 100], 100), "damaged: a zstd frame needs a dictionary"),
            (frame(&[0b10_0000, 99], 100), "damaged: a zstd frame does not decode"),
            (frame(&[0b10_0000, 101], 100), "damaged: a zstd frame does not decode"),
            (
                frame(&[0b1000_0000, 13 << 3 | 1, 100, 0, 0, 0], 100),
                "damaged: a zstd frame has too large a window",
            ),
            (good[..good.len() - 1].to_vec(), "damaged: a zstd frame is cut short"),
            (join(&[&good, b"x"]), "damaged: trailing bytes"),
            (join(&[&good, b"xxxx"]), "damaged: an unknown frame"),
            (skippable(0x184D_2A51, 0, b""), "damaged: an unknown frame"),
            (skippable(PADDING_MAGIC, 3, b"\0\0x"), "damaged: the padding is not zeros"),
            (skippable(PADDING_MAGIC, 4, b"\0\0\0"), "damaged: the padding is cut short"),
            (padding[..6].to_vec(), "damaged: the padding is cut short"),
        ];
        for (plain, expected) in refused {
            assert_eq!(decode_frames(&plain, 200).unwrap_err().to_string(), expected);
        }
        let window_at_limit = frame(&[0b1000_0000, 13 << 3, 100, 0, 0, 0], 100);
        assert_eq!(decode_frames(&window_at_limit, 200).unwrap().len(), 100);
        let vast = frame(&[0b1100_0000, 0, 255, 255, 255, 255, 255, 255, 255, 127], 100);
        assert!(matches!(decode_frames(&vast, 200), Err(OpenError::TooLarge { .. })));
    }

    #[test]
    fn texts_round_trip_and_are_bounded() {
        let text = SecretString::from("holdfast-keys v1\n");
        let object = seal_text(&[&pair().0], &text).unwrap();
        let opened = open_text(&[&pair().1], &object, 17).unwrap();
        assert_eq!(opened.expose_secret(), text.expose_secret());
        assert!(matches!(open_text(&[&pair().1], &object, 16), Err(OpenError::TooLarge { .. })));
    }

    /// Runs a command on `input`; `None`, said aloud, where there is no such program.
    #[allow(clippy::print_stderr)]
    fn run(program: &str, arguments: &[&str], input: Vec<u8>) -> Option<(bool, Vec<u8>)> {
        let spawned = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED: {program} cannot be run ({error}); nothing was compared");
                return None;
            }
        };
        let mut stdin = child.stdin.take().unwrap();
        // The command may refuse its arguments and be gone before it reads.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Some((output.status.success(), output.stdout))
    }

    #[test]
    fn the_stock_commands_open_what_is_sealed_here() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity");
        let secret = ReadIdentity::from_secret(&Secret32::from_bytes(&[9; 32])).to_secret_text();
        std::fs::write(&file, secret.expose_secret()).unwrap();
        for length in [0, 1, 65_536, 300_000] {
            let object = seal_small(&[&pair().0], &noise(length), 3).unwrap();
            let open = ["-d", "-i", file.to_str().unwrap()];
            let Some((opened, frames)) = run("age", &open, object) else { return };
            assert!(opened);
            let Some((decoded, content)) = run("zstd", &["-d", "-c"], frames) else { return };
            assert!(decoded && content == noise(length), "{length}");
        }
    }

    #[test]
    fn what_the_stock_command_seals_opens_here() {
        let text = pair().0.text().to_owned();
        let Some((sealed, object)) = run("age", &["-r", &text], b"a text\n".to_vec()) else {
            return;
        };
        assert!(sealed);
        let opened = open_text(&[&pair().1], &object, 100).unwrap();
        assert_eq!(opened.expose_secret(), "a text\n");
    }

    /// Knows one passphrase.
    struct Knows(&'static str);

    impl Prompter for Knows {
        fn show(&self, _: &str) {}
        fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
            None
        }
        fn ask_text(&self, _: &str) -> Option<String> {
            None
        }
        fn ask_secret(&self, _: &str) -> Option<SecretString> {
            Some(SecretString::from(self.0))
        }
    }

    #[test]
    fn ssh_keys_open_with_their_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let prompters: [(Arc<dyn Prompter>, bool); 3] = [
            (Arc::new(Knows("open sesame")), true),
            (Arc::new(Knows("open barley")), false),
            (Arc::new(Unattended), false),
        ];
        for passphrase in ["", "open sesame"] {
            let file = folder.path().join(format!("key{}", passphrase.len()));
            let path = file.to_str().unwrap();
            let new = ["-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-f", path];
            let Some((made, _)) = run("ssh-keygen", &new, Vec::new()) else { return };
            assert!(made);
            let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
            let private = std::fs::read_to_string(&file).unwrap();
            for (prompter, knows) in &prompters {
                let recipient = Recipient::parse(&public, prompter).unwrap();
                let object = seal_text(&[&recipient], &SecretString::from("a text")).unwrap();
                let identity = Identity::parse_file(&private, prompter).unwrap().remove(0);
                let opened = open_text(&[&identity], &object, 100);
                assert_eq!(opened.is_ok(), *knows || passphrase.is_empty());
                assert!(matches!(opened, Ok(_) | Err(OpenError::NoMatchingKey)));
            }
        }
    }
}
