//! `HF-TRUST-…`: the repository is not what it claims, or not what it was.

use crate::cli::explain::explanations;

explanations! {
    ROLLBACK: "HF-TRUST-001", Rollback, "the repository is older than what this host has seen",
"A commit or a roster that this host saw before is gone. Either the store was reset to an older
state (a restored disk, a file system snapshot), or someone removed the newest backups.

What to do: find out which. Compare with a replica. Nothing was written.";
    FORK: "HF-TRUST-002", Rollback, "a log has two different continuations",
"Two different commits stand at the same place of one writer's log. Either the writer's keys are in
use on two machines (a cloned disk or virtual machine), or the store shows different things to
different readers.

What to do: give each machine its own writer with `holdfast writer add`.";
    SWAPPED: "HF-TRUST-003", Rollback, "this is another repository than before",
"The root key at this location is not the one that this host pinned when it first used it.

What to do: if you replaced the repository on purpose, remove its folder in the state directory. If
not, do not give it your passphrase.";
    SIGNATURE: "HF-TRUST-004", Findings, "a signature is wrong",
"A roster, commit or tombstone was not signed by whom it names, or was changed afterwards. It is
not used.

What to do: `holdfast check` lists all of them; fetch the object from a replica.";
    NAME: "HF-TRUST-005", Findings, "an object is not what its name says",
"Objects are named by the hash of their bytes. This one was changed, by decay or by hand.

What to do: `holdfast check --read-data` finds all of them; fetch them from a replica.";
    RECIPIENT: "HF-TRUST-006", Rollback, "the repository would have the data sealed to someone else",
"The read recipient that the repository offers is not the one in its signed roster. Nothing was
saved, since whoever put it there could have read it.

What to do: treat the store as hostile until you know who changed it.";
    CONTENT: "HF-TRUST-007", Findings, "a chunk is not what its id says",
"What was decrypted does not have the id under which it is referenced: damage that was sealed in,
or a writer that lied.

What to do: `holdfast check --read-data` lists the snapshots concerned.";
    CHAIN: "HF-TRUST-008", Rollback, "a signed log has a gap",
"A commit does not follow the one before it: an object is missing in between, or was replaced.

What to do: fetch the missing one from a replica; `holdfast check` names it.";
    MISPLACED: "HF-TRUST-009", Rollback, "an object belongs to another place",
"What is inside an object says that it is of another writer, domain or repository than its name and
its commit say. That does not come from decay: somebody has put it there.

What to do: `holdfast check` names all of them; treat the store as hostile until you know who.";
}
