//! What a drill of Redis is to find: a command, and what its answer must be.

use std::cmp::Ordering;

use crate::cli::words::{WordsError, split};
use crate::source::redis::reply::Reply;

/// How an answer is compared; the longer sign first.
const OPERATORS: [(&str, &[Ordering]); 6] = [
    ("!=", &[Ordering::Less, Ordering::Greater]),
    ("<=", &[Ordering::Less, Ordering::Equal]),
    (">=", &[Ordering::Greater, Ordering::Equal]),
    ("=", &[Ordering::Equal]),
    ("<", &[Ordering::Less]),
    (">", &[Ordering::Greater]),
];

/// Why a text is no assertion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Its words cannot be told apart.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// There is no command, or not one value behind the sign.
    #[error("it is no COMMAND, and no COMMAND = VALUE")]
    Form,
}

/// One.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// As it was given.
    pub text: String,
    /// The words of the command.
    pub command: Vec<String>,
    wanted: Option<(&'static [Ordering], String)>,
}

impl Assertion {
    /// Reads one: `EXISTS key`, `DBSIZE > 1000`, `GET key = "some value"`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, AssertionError> {
        let (command, wanted) = match operator(text) {
            Some((at, sign, orderings)) => {
                let mut values = split(&text[at + sign.len()..])?;
                let (Some(value), true) = (values.pop(), values.is_empty()) else {
                    return Err(AssertionError::Form);
                };
                (&text[..at], Some((orderings, value)))
            }
            None => (text, None),
        };
        let command = split(command)?;
        if command.is_empty() {
            return Err(AssertionError::Form);
        }
        Ok(Self { text: text.to_owned(), command, wanted })
    }

    /// Whether the answer is as it should be; what it was, as text.
    pub fn judge(&self, reply: &Reply) -> Result<String, String> {
        let said = shown(reply);
        let is_right = match &self.wanted {
            Some((orderings, value)) => match reply {
                Reply::Array(_) | Reply::Error(_) => false,
                // What is not there is unequal to everything, and not to be ordered.
                Reply::Bulk(None) => orderings.len() == 2 && !orderings.contains(&Ordering::Equal),
                _ => orderings.contains(&compared(&said, value)),
            },
            None => is_true(reply),
        };
        if is_right { Ok(said) } else { Err(said) }
    }
}

/// Where the last sign stands that is a word of its own and not in quotes.
fn operator(text: &str) -> Option<(usize, &'static str, &'static [Ordering])> {
    let (mut quote, mut is_escaped, mut found) = (None, false, None);
    for (at, c) in text.char_indices() {
        if std::mem::take(&mut is_escaped) {
            continue;
        }
        match (quote, c) {
            (None | Some('"'), '\\') => is_escaped = true,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, _) if at == 0 || text[..at].ends_with([' ', '\t']) => {
                let is_word = |sign: &str| {
                    let rest = text[at..].strip_prefix(sign);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
                };
                let sign = OPERATORS.iter().find(|(sign, _)| is_word(sign));
                found = sign.map(|(sign, orderings)| (at, *sign, *orderings)).or(found);
            }
            _ => {}
        }
    }
    found
}

/// As numbers where both are, else as texts.
fn compared(said: &str, value: &str) -> Ordering {
    if let (Ok(said), Ok(value)) = (said.parse::<i128>(), value.parse::<i128>()) {
        return said.cmp(&value);
    }
    let numbers = (said.parse::<f64>(), value.parse::<f64>());
    let ordering = match numbers {
        (Ok(said), Ok(value)) => said.partial_cmp(&value),
        _ => None,
    };
    ordering.unwrap_or_else(|| said.cmp(value))
}

fn is_true(reply: &Reply) -> bool {
    match reply {
        Reply::Error(_) | Reply::Bulk(None) => false,
        Reply::Number(number) => *number != 0,
        Reply::Line(text) => !text.is_empty(),
        Reply::Bulk(Some(bytes)) => !bytes.is_empty() && bytes != b"0",
        Reply::Array(elements) => !elements.is_empty(),
    }
}

/// An answer as text.
#[must_use]
pub fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Line(text) | Reply::Error(text) => text.clone(),
        Reply::Number(number) => number.to_string(),
        Reply::Bulk(None) => "nothing".to_owned(),
        Reply::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Array(elements) => format!("{} elements", elements.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        let bulk = |text: &str| Reply::Bulk(Some(text.into()));
        let table = [
            ("EXISTS key", Reply::Number(1), true),
            ("EXISTS key", Reply::Number(0), false),
            ("GET key", Reply::Bulk(None), false),
            ("GET key", bulk(""), false),
            ("GET key", bulk("x"), true),
            ("HGETALL key", Reply::Array(Vec::new()), false),
            ("DBSIZE > 1000", Reply::Number(1001), true),
            ("DBSIZE > 1000", Reply::Number(999), false),
            ("DBSIZE >= 1000", Reply::Number(1000), true),
            ("ZSCORE z m <= 2.5", bulk("2.25"), true),
            ("GET key = \"some value\"", bulk("some value"), true),
            ("GET key = value", bulk("other"), false),
            ("GET key != value", bulk("other"), true),
            ("GET key != value", Reply::Bulk(None), true),
            ("GET key < 5", Reply::Bulk(None), false),
            ("GET key = nothing", Reply::Bulk(None), false),
            ("HGETALL key = x", Reply::Array(Vec::new()), false),
            ("GET '=' = 1", bulk("1"), true),
        ];
        for (text, reply, is_right) in table {
            let assertion = Assertion::parse(text).unwrap();
            assert_eq!(assertion.judge(&reply).is_ok(), is_right, "{text}");
        }
        let quoted = Assertion::parse("HGET \"user one\" 'a = b' = 7").unwrap();
        assert_eq!(quoted.command, ["HGET", "user one", "a = b"]);
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "  ", "= 5", "GET key =", "GET key = a b", "GET 'key", "GET a>b"] {
            assert!(Assertion::parse(text).is_err(), "{text}");
        }
    }
}
