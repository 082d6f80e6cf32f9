//! What a store was seen to keep of its contract, and what that means in plain words.
//!
//! Found by a probe, recorded by whoever asked for it; a later probe that finds something else is
//! worth a look.

use serde::{Deserialize, Serialize};

/// Difference of clocks, in seconds, that nothing suffers from.
const SKEW_SECONDS_MAX: u64 = 60;

/// What happens to the second of two puts of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CreateIfAbsent {
    /// It is refused; of many at once exactly one succeeds.
    Atomic,
    /// It is refused when the first is through; of many at once several succeed.
    OneAfterAnother,
    /// It overwrites the first.
    Ignored,
    /// Requests with a condition are refused.
    Rejected,
}

/// Object Lock of the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockCapability {
    /// Objects can be locked.
    pub is_enabled: bool,
    /// The mode that new objects get, such as `COMPLIANCE`.
    pub default_mode: Option<String>,
    /// Days that new objects are locked.
    pub default_days: Option<u32>,
}

/// What a probe has found. A question that the credentials may not ask has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `If-None-Match: *`, or what does the same.
    pub create_if_absent: CreateIfAbsent,
    /// Of 20 that made one name at once, how many were told that they did; nothing where it was
    /// not tried.
    pub winners_of_20: Option<u32>,
    /// A range is exactly that range.
    pub ranges: Option<bool>,
    /// What was put is listed at once.
    pub list_after_put: Option<bool>,
    /// These credentials can overwrite an object, if they want to.
    pub can_overwrite: Option<bool>,
    /// These credentials can delete an object.
    pub can_delete: Option<bool>,
    /// Locks; nothing where there is no such thing.
    pub lock: Option<LockCapability>,
    /// The store's clock less this host's, in seconds; whole seconds only.
    pub clock_skew_seconds: Option<i64>,
    /// Bytes that may still be stored.
    pub free_bytes: Option<u64>,
    /// Whether the place is one where anyone but the owner can read or change objects.
    pub open_to_others: Option<bool>,
}

/// How a finding is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Kept,
    /// Not offered; what is not promised then is said.
    NotOffered,
    /// Wrong: something will fail or be lost.
    Broken,
}

/// One line of a probe's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeLine {
    /// How it is meant.
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// What follows from it, or what to do.
    pub advice: Option<&'static str>,
}

impl Capabilities {
    /// The findings for people.
    #[must_use]
    pub fn lines(&self) -> Vec<ProbeLine> {
        let mut lines = vec![self.create_line()];
        lines.extend(self.ranges.map(|kept| {
            let advice = "reads of parts of objects will fail: use another service";
            line(if kept { Verdict::Kept } else { Verdict::Broken }, "ranges are exact", advice)
        }));
        lines.extend(self.list_after_put.map(|kept| {
            let advice = "what was saved may not be seen at once: use another service";
            let what = "what is stored is listed at once";
            line(if kept { Verdict::Kept } else { Verdict::Broken }, what, advice)
        }));
        lines.extend(self.credential_lines());
        lines.extend(self.lock_line());
        lines.extend(self.clock_line());
        if self.open_to_others == Some(true) {
            let advice = "chmod 700, so that nobody but its owner can remove objects";
            lines.push(line(Verdict::Broken, "others can write to the folder", advice));
        }
        lines
    }

    fn create_line(&self) -> ProbeLine {
        let advice = "never copy a writer's key to a second host: two hosts with one key could \
                      overwrite each other's commits; everything else is safe, as objects are \
                      named by their content";
        match self.create_if_absent {
            CreateIfAbsent::Atomic => {
                let what = match self.winners_of_20 {
                    Some(_) => "a name is given once: of 20 at the same time one succeeded",
                    None => "a name is given once",
                };
                line(Verdict::Kept, what, "")
            }
            CreateIfAbsent::OneAfterAnother => {
                let winners = self.winners_of_20.unwrap_or(2);
                let what = format!("a name is given twice when two come at once ({winners} of 20)");
                line(Verdict::NotOffered, &what, advice)
            }
            CreateIfAbsent::Ignored => {
                line(Verdict::NotOffered, "this service ignores conditional writes", advice)
            }
            CreateIfAbsent::Rejected => {
                line(Verdict::NotOffered, "this service refuses conditional writes", advice)
            }
        }
    }

    fn credential_lines(&self) -> Vec<ProbeLine> {
        let policy = "for a host that only saves, see: holdfast writer policy";
        let abilities = [("overwrite", self.can_overwrite), ("delete", self.can_delete)];
        let told = abilities.into_iter().filter_map(|(verb, ability)| {
            let (verdict, can) =
                if ability? { (Verdict::NotOffered, "can") } else { (Verdict::Kept, "cannot") };
            Some(line(verdict, &format!("these credentials {can} {verb} objects"), policy))
        });
        told.collect()
    }

    fn lock_line(&self) -> Option<ProbeLine> {
        let lock = self.lock.as_ref()?;
        let advice = "make the bucket with Object Lock, so that nobody can remove snapshots";
        if !lock.is_enabled {
            return Some(line(Verdict::NotOffered, "the bucket has no Object Lock", advice));
        }
        let what = match (&lock.default_mode, lock.default_days) {
            (Some(mode), Some(days)) => {
                format!("the bucket has Object Lock: {mode}, {days} days for every new object")
            }
            _ => "the bucket has Object Lock, without a default for new objects".to_owned(),
        };
        Some(line(Verdict::Kept, &what, ""))
    }

    fn clock_line(&self) -> Option<ProbeLine> {
        let skew = self.clock_skew_seconds?;
        let seconds = skew.unsigned_abs();
        if seconds <= SKEW_SECONDS_MAX {
            return Some(line(Verdict::Kept, "the clocks agree", ""));
        }
        let side = if skew > 0 { "behind" } else { "ahead of" };
        let what = format!("this host's clock is {seconds} seconds {side} the store's");
        let advice = "set the clock: requests are refused from some minutes on, and times of \
                      snapshots are wrong";
        Some(line(Verdict::Broken, &what, advice))
    }

    /// What is worse than in `before`, in words.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.create_if_absent != before.create_if_absent {
            let word = |value: CreateIfAbsent| match value {
                CreateIfAbsent::Atomic => "given once",
                CreateIfAbsent::OneAfterAnother => "given once, if not at the same moment",
                CreateIfAbsent::Ignored => "overwritten",
                CreateIfAbsent::Rejected => "without conditions",
            };
            let (was, is) = (word(before.create_if_absent), word(self.create_if_absent));
            changes.push(format!("names were {was}, and now are {is}"));
        }
        let has_lock = |one: &Self| one.lock.as_ref().is_some_and(|lock| lock.is_enabled);
        if has_lock(before) && !has_lock(self) {
            changes.push("the bucket had Object Lock, and now has none".to_owned());
        } else if has_lock(self) && self.lock != before.lock {
            changes.push("the default of the bucket's Object Lock is another one".to_owned());
        }
        changes
    }
}

fn line(verdict: Verdict, what: &str, advice: &'static str) -> ProbeLine {
    let is_said = verdict != Verdict::Kept && !advice.is_empty();
    let what = match verdict {
        Verdict::Broken if what.starts_with("ranges") || what.starts_with("what is stored") => {
            format!("not true here: {what}")
        }
        _ => what.to_owned(),
    };
    ProbeLine { verdict, what, advice: is_said.then_some(advice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Capabilities {
        Capabilities {
            create_if_absent: CreateIfAbsent::Atomic,
            winners_of_20: Some(1),
            ranges: Some(true),
            list_after_put: Some(true),
            can_overwrite: Some(false),
            can_delete: Some(false),
            lock: Some(LockCapability { is_enabled: true, ..LockCapability::default() }),
            clock_skew_seconds: Some(-60),
            free_bytes: None,
            open_to_others: None,
        }
    }

    #[test]
    fn what_is_good_needs_no_advice() {
        for line in good().lines() {
            assert_eq!((line.verdict, line.advice), (Verdict::Kept, None), "{}", line.what);
        }
        assert!(good().changes_since(&good()).is_empty());
    }

    #[test]
    fn what_is_not_promised_is_said() {
        let poor = Capabilities {
            create_if_absent: CreateIfAbsent::Ignored,
            can_delete: Some(true),
            lock: Some(LockCapability::default()),
            clock_skew_seconds: Some(3600),
            ranges: Some(false),
            ..good()
        };
        let lines = poor.lines();
        let verdict = |word: &str| lines.iter().find(|l| l.what.contains(word)).unwrap().verdict;
        assert_eq!(verdict("ignores conditional"), Verdict::NotOffered);
        assert_eq!(verdict("3600 seconds behind"), Verdict::Broken);
        assert_eq!(verdict("not true here: ranges"), Verdict::Broken);
        assert_eq!(verdict("no Object Lock"), Verdict::NotOffered);
        assert!(lines.iter().all(|l| l.verdict == Verdict::Kept || l.advice.is_some()));
        assert_eq!(poor.changes_since(&good()).len(), 2);
        let text = serde_json::to_string(&poor).unwrap();
        assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), poor);
    }
}
