//! `HF-PRUNE-…`: retention, forget, prune, recover.

use crate::cli::explain::explanations;

explanations! {
    NO_RULE: "HF-PRUNE-001", Usage, "no rule says what to keep",
"Neither --keep-… nor the configuration has a rule, and no snapshot was named. Forgetting all of
them is never what a missing rule means.

What to do: give at least one rule, such as --keep-daily 14.";
    WOULD_EMPTY: "HF-PRUNE-002", Refused, "the rules would keep nothing of a source",
"A rule that removes the last snapshot of a source is taken for a mistake.

What to do: try the rule with --dry-run. To remove a source altogether name its snapshots.";
    FLOOR: "HF-PRUNE-003", Refused, "the repository requires that these snapshots are kept",
"Its roster, signed by the root key, says how long every snapshot must be kept at least.

What to do: wait, or have the owner of the root key change it.";
    NOT_MAINTAINER: "HF-PRUNE-004", WrongKey, "this host may not forget or prune",
"That needs the maintainer's keys, which are not in the state folder.

What to do: run it on the host that made the repository, or give the passphrase or identity.";
    GONE: "HF-PRUNE-005", Failed, "the snapshot cannot be brought back",
"Prune has removed some of its data since it was forgotten.

What to do: `holdfast snapshots --forgotten` shows which ones are still whole.";
    UNSURE: "HF-PRUNE-006", Refused, "prune does not remove what it is not sure of",
"A snapshot, or what a snapshot refers to, cannot be read, so what is unused is not known.

What to do: `holdfast check` says what is wrong; mend it first.";
}
