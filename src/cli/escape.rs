//! Makes text from anywhere safe to print: names in a repository are the attacker's to choose.
//!
//! What comes out has no control character, no character that changes the direction or hides
//! others, and no byte that is not UTF-8; what was such is shown as `\xHH` or `\u{HHHH}`.

use std::fmt::Write as _;

/// Whether a character acts on a terminal, or on how its neighbours are shown.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}'..='\u{1160}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

fn push(out: &mut String, c: char, line_ends: bool) {
    match c {
        '\n' if line_ends => out.push('\n'),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\\' if !line_ends => out.push_str("\\\\"),
        c if c.is_ascii_control() => {
            let _ = write!(out, "\\x{:02x}", c as u32);
        }
        c if is_hidden(c) => {
            let _ = write!(out, "\\u{{{:04x}}}", c as u32);
        }
        c => out.push(c),
    }
}

/// A file name or path for a terminal, one line; `\` is doubled so that the form is unambiguous.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut out, c, false));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// A message for a terminal: keeps its line ends and backslashes, escapes the rest as [`escape`].
#[must_use]
pub fn escape_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut out, c, true));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain name.txt", "plain name.txt"),
            ("Größe 漢字 🦀".as_bytes(), "Größe 漢字 🦀"),
            (b"\x1b]0;x\x07", "\\x1b]0;x\\x07"),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"a\\x41", "a\\\\x41"),
            (b"\xff\xfe.txt", "\\xff\\xfe.txt"),
            ("exe.\u{202e}gpj".as_bytes(), "exe.\\u{202e}gpj"),
            ("\u{9b}2J".as_bytes(), "\\u{009b}2J"),
            ("a\u{200b}b\u{feff}".as_bytes(), "a\\u{200b}b\\u{feff}"),
        ];
        for (bytes, text) in cases {
            assert_eq!(escape(bytes), *text);
        }
        assert_eq!(escape_text("a\\b\n\x1bc"), "a\\b\n\\x1bc");
    }

    proptest! {
        #[test]
        fn nothing_hidden_comes_out(bytes in prop::collection::vec(any::<u8>(), 0..64), text: String) {
            assert!(!escape(&bytes).chars().any(is_hidden));
            assert!(!escape(text.as_bytes()).chars().any(is_hidden));
            assert!(!escape_text(&text).chars().any(|c| c != '\n' && is_hidden(c)));
        }
    }
}
