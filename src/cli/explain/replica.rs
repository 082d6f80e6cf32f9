//! `HF-REPLICA-…`: copies in other places.

use crate::cli::explain::explanations;

explanations! {
    UNKNOWN: "HF-REPLICA-001", Usage, "no such replica",
"Replicas have names on the host that copies; the name is neither among them nor in the
configuration.

What to do: `holdfast replica list` shows them, `holdfast replica add NAME PLACE` makes one.";
    OTHER: "HF-REPLICA-002", Refused, "the place holds something else",
"A replica is made in an empty place, and afterwards only copied to from its own repository.
Nothing was changed there.

What to do: choose an empty folder or prefix.";
    AHEAD: "HF-REPLICA-003", Rollback, "the replica knows more than the source",
"The copy has texts that the source has not, or has other ones. Either the source was set back to an
earlier state, or somebody wrote to the replica. Nothing was copied, so that the newer state stays.

What to do: `holdfast check` on both. Where the source has lost objects,
`holdfast repair --from REPLICA` brings them back.";
    PROMOTED: "HF-REPLICA-004", Refused, "a replica was promoted",
"One of the two is the primary now, and the other has not followed it: their logs may have gone
different ways, so neither is copied to nor healed from the older one.

What to do: use the newer one as the repository (`-r`), and copy from it. `holdfast copy -r NEW --to
OLD` makes a replica of the old primary; what it had written alone is kept aside there.";
    NOT_REPLICA: "HF-REPLICA-005", Usage, "the place is no replica",
"Only a replica can be made the primary, and only a replica is copied to. This place is the primary
of its generation; where another place was promoted since, that one is the newer primary.

What to do: `holdfast copy` goes from the primary to the replica. To make a replica of this place,
copy to it from the newer primary.";
    SAME: "HF-REPLICA-006", Usage, "source and target are the same place",
"A repository cannot be a replica of itself.

What to do: name another place.";
    NOT_HEALED: "HF-REPLICA-007", Findings, "no copy has it whole",
"What is damaged here is missing or damaged in every copy that was asked.

What to do: ask another copy; `holdfast check` says which snapshots are concerned.";
    DAMAGED: "HF-REPLICA-008", Findings, "the copy is not whole",
"Everything that is whole was copied. What is damaged or missing in the source, or damaged in the
copy, is named above.

What to do: `holdfast check --read-data` on both; `holdfast repair --from` heals the one from the
other.";
}
