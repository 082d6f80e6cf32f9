//! The registry of error ids: what each means, why it comes up, and what to do.
//!
//! An error can only be made from an entry here, so there is no id without a text. Ids are never
//! reused for another meaning.

pub mod check;
pub mod key;
pub mod mount;
pub mod postgres;
pub mod prune;
pub mod redis;
pub mod replica;
pub mod repository;
pub mod restore;
pub mod source;
pub mod store;
pub mod trust;
pub mod usage;

use crate::cli::error::Exit;

/// One kind of error.
#[derive(Debug, PartialEq, Eq)]
pub struct Explanation {
    /// `HF-GROUP-NNN`.
    pub id: &'static str,
    /// The exit code that errors of this kind end with.
    pub exit: Exit,
    /// What it is, in one line.
    pub title: &'static str,
    /// What it means, why it comes up, what to do: paragraphs of at most 100 columns.
    pub text: &'static str,
}

/// Makes a constant of each entry, and the list of all of a group.
macro_rules! explanations {
    ($($name:ident: $id:literal, $exit:ident, $title:literal, $text:literal;)*) => {
        $(
            #[doc = concat!("`", $id, "`: ", $title, ".")]
            pub const $name: crate::cli::explain::Explanation = crate::cli::explain::Explanation {
                id: $id,
                exit: crate::cli::error::Exit::$exit,
                title: $title,
                text: $text,
            };
        )*
        /// All of this group, by number.
        pub const ALL: &[&crate::cli::explain::Explanation] = &[$(&$name),*];
    };
}
pub(crate) use explanations;

/// All entries, by group and number.
pub fn all() -> impl Iterator<Item = &'static Explanation> {
    [
        usage::ALL,
        repository::ALL,
        key::ALL,
        store::ALL,
        source::ALL,
        postgres::ALL,
        redis::ALL,
        restore::ALL,
        mount::ALL,
        check::ALL,
        prune::ALL,
        replica::ALL,
        trust::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The entry of an id, written exactly.
#[must_use]
pub fn find(id: &str) -> Option<&'static Explanation> {
    all().find(|entry| entry.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_well_formed() {
        let groups = [
            "USE", "REPO", "KEY", "STORE", "SRC", "RESTORE", "MOUNT", "CHECK", "PRUNE", "TRUST",
            "REPLICA", "PG", "REDIS",
        ];
        let mut seen = BTreeSet::new();
        for entry in all() {
            assert!(seen.insert(entry.id), "{} twice", entry.id);
            let parts: Vec<_> = entry.id.split('-').collect();
            assert!(
                matches!(parts[..], ["HF", group, number]
                if groups.contains(&group) && number.len() == 3
                && number.bytes().all(|b| b.is_ascii_digit())),
                "{}",
                entry.id
            );
        }
    }

    #[test]
    fn texts_fit_a_terminal_and_say_what_to_do() {
        for entry in all() {
            assert!(entry.title.len() <= 80 && !entry.title.ends_with('.'), "{}", entry.id);
            assert!(entry.text.lines().all(|line| line.chars().count() <= 100), "{}", entry.id);
            assert!(entry.text.contains("What to do: "), "{}", entry.id);
        }
    }
}
