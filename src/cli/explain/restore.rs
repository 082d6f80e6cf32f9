//! `HF-RESTORE-…`: writing snapshots back.

use crate::cli::explain::explanations;

explanations! {
    PARTIAL: "HF-RESTORE-001", Partial, "some items could not be restored",
"Everything else is in place. The warnings name what is not, and why.

What to do: owners, devices and some attributes need root. Run the same command again: what is
right already is not written twice.";
    TARGET: "HF-RESTORE-002", Refused, "the target cannot be used",
"It is not a folder, cannot be made, or may not be written to.

What to do: choose another with --target.";
    DIFFERS: "HF-RESTORE-004", Findings, "what was read back differs from the snapshot",
"With --verify everything is read again after writing. These items are not what was written: the
disk, the memory, or another program changed them.

What to do: restore to another disk, and test this one.";
    DAMAGED: "HF-RESTORE-005", Findings, "data of the snapshot is damaged or missing",
"Items whose data cannot be verified are not restored: wrong bytes never look like right ones.

What to do: `holdfast check --read-data` finds the damaged objects; fetch them from a replica, or
restore those items from another snapshot.";
}
