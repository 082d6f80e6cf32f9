//! Splits a command line into words without a shell.
//!
//! Single quotes, double quotes and backslashes group as in POSIX; nothing is expanded, and an
//! unquoted character that a shell would act on is refused rather than passed on by surprise.

/// Why a text is not a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A quote that is not closed.
    #[error("a {quote} is not closed")]
    OpenQuote {
        /// Which quote.
        quote: char,
    },
    /// A backslash at the very end.
    #[error("a backslash at the end has nothing to quote")]
    TrailingBackslash,
    /// Something that only a shell understands.
    #[error(
        "{character:?} would need a shell, and commands are run without one; quote it, or run sh -c"
    )]
    NeedsShell {
        /// The character.
        character: char,
    },
}

/// The words of `text`; none where it is blank.
///
/// # Errors
/// Quotes that do not close, and unquoted `` | & ; < > ( ) $ ` ``.
pub fn split(text: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => single_quoted(&mut rest, word.get_or_insert_default())?,
            '"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            '\\' => {
                let next = rest.next().ok_or(WordsError::TrailingBackslash)?;
                word.get_or_insert_default().push(next);
            }
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' => {
                return Err(WordsError::NeedsShell { character: c });
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    for c in rest {
        if c == '\'' {
            return Ok(());
        }
        word.push(c);
    }
    Err(WordsError::OpenQuote { quote: '\'' })
}

fn double_quoted(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    let open = WordsError::OpenQuote { quote: '"' };
    while let Some(c) = rest.next() {
        match c {
            '"' => return Ok(()),
            '\\' => match rest.next() {
                Some(next @ ('"' | '\\' | '$' | '`')) => word.push(next),
                Some(next) => word.extend(['\\', next]),
                None => return Err(open),
            },
            '$' | '`' => return Err(WordsError::NeedsShell { character: c }),
            _ => word.push(c),
        }
    }
    Err(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_a_shell_would_have_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  pg_dump   shop ", &["pg_dump", "shop"]),
            ("a 'b c' \"d e\" f\\ g", &["a", "b c", "d e", "f g"]),
            ("a '' \"\"", &["a", "", ""]),
            ("x'y'\"z\"", &["xyz"]),
            (r#""a\"b\\c\d""#, &[r#"a"b\c\d"#]),
            ("'$HOME|`'", &["$HOME|`"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), *words, "{text}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for text in ["a | b", "a > f", "a $X", "\"$X\"", "a; b", "`a`", "'a", "\"a", "a\\", "\"a\\"]
        {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
