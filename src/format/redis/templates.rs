//! How many fields the hashes have whose fields stand in a template of the dump.
//!
//! Memory: bounded. Of a template too many nothing is known, as of one that never came.

use std::collections::BTreeMap;

use crate::format::redis::text::{Front, number};

/// So many templates are kept.
const TEMPLATES_MAX: usize = 64 * 1024;

/// The templates of one dump.
#[derive(Debug, Default)]
pub struct Templates {
    fields: BTreeMap<u64, u64>,
}

impl Templates {
    /// Takes the front of a template, behind its opcode: its number, and that of its fields.
    pub fn see(&mut self, bytes: &[u8]) {
        if let Front::Is(template, length) = number(bytes)
            && let Front::Is(fields, _) = number(&bytes[length as usize..])
            && self.fields.len() < TEMPLATES_MAX
        {
            self.fields.insert(template, fields);
        }
    }

    /// The number of the fields of the template whose number stands at the front.
    #[must_use]
    pub fn fields(&self, bytes: &[u8]) -> Front<u64> {
        match number(bytes) {
            Front::Is(template, length) => match self.fields.get(&template) {
                Some(fields) => Front::Is(*fields, length),
                None => Front::No,
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_template_and_templates_are_bounded() {
        let mut templates = Templates::default();
        templates.see(b"\x07\x02\x01a\x01b");
        templates.see(b"\x09");
        assert_eq!(templates.fields(b"\x07\x01x"), Front::Is(2, 1));
        assert_eq!(templates.fields(b"\x09"), Front::No);
        assert_eq!(templates.fields(b"\x40"), Front::More);
        for template in 0..100_000_u32 {
            let number = [&[0x80][..], &template.to_be_bytes(), b"\x03"].concat();
            templates.see(&number);
        }
        assert_eq!(templates.fields.len(), TEMPLATES_MAX);
    }
}
