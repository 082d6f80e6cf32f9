//! `HF-CHECK-…`: what a check found.

use crate::cli::explain::explanations;

explanations! {
    DAMAGE: "HF-CHECK-001", Findings, "the repository is damaged",
"The check ran to its end; the findings above name each object that is missing or wrong, and the
snapshots that need it. Other snapshots are sound.

What to do: look at the disk first. Fetch the objects from a replica:
`holdfast repair --from`. Where no copy has them, move the damaged objects away: the next backup
stores again what is missing and the source still has. As long as a damaged object is in its place,
backups take it for whole.";
    INCOMPLETE: "HF-CHECK-002", Failed, "the check did not come to its end",
"Something kept it from looking at everything, so there is no verdict.

What to do: mend what the causes say, and run it again.";
    KEYLESS: "HF-CHECK-003", Done, "checked without a key",
"Signatures, chains, names and lengths are verified. What is inside the objects was not looked at,
since no passphrase or identity was used; which snapshots are concerned can be told only in part.

What to do: nothing; to look inside as well give one.";
}
