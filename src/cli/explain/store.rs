//! `HF-STORE-…`: the place where the objects are.

use crate::cli::explain::explanations;

explanations! {
    IO: "HF-STORE-001", Failed, "the store failed",
"The system reported an error that has no id of its own. Snapshots that existed are untouched.

What to do: the last `caused by` line is the system's own word. For a folder look at the disk and
its log; for a bucket at its name, the endpoint and the region.";
    NO_SPACE: "HF-STORE-002", NoSpace, "no space left",
"The disk is full or a quota is reached. Nothing that was saved before is harmed, and what this run
stored is used by the next one.

What to do: make room; `holdfast forget --prune` frees space of old snapshots without needing much.";
    REFUSED: "HF-STORE-003", Refused, "the store refuses",
"Missing permission, a read-only file system, or an object that must not be changed yet.

What to do: for a folder check its owner and how it is mounted; for a bucket the credentials, and
what they are allowed to do.";
    UNREACHABLE: "HF-STORE-004", StoreUnreachable, "the store does not answer",
"The connection failed again and again, or timed out.

What to do: check the network and the address; the same command can simply be run again. Where no
--endpoint was ever named for a bucket, AWS is asked. While a primary is gone, `holdfast restore
--from-any` reads from its replicas, and `holdfast promote` makes one of them the primary.";
    OBJECT_MISSING: "HF-STORE-005", Failed, "an object is missing",
"A commit names an object that the store does not have.

What to do: `holdfast check` says what else is missing and which snapshots need it; fetch it from a
replica, if there is one.";
    OBJECT_SIZE: "HF-STORE-006", Failed, "an object has the wrong length",
"An object is shorter or longer than its commit says: it was cut off or replaced.

What to do: `holdfast check --read-data` finds all that are damaged; fetch them from a replica.";
    LOCATION: "HF-STORE-007", Usage, "not a place for a repository",
"The location is neither a path nor an address of a kind that this program knows.

What to do: give a path, such as /srv/repo, or s3://BUCKET/PREFIX.";
    LOCKS: "HF-STORE-009", Failed, "the snapshot is saved, but not locked",
"The service did not lock an object that the snapshot needs: the bucket has no Object Lock, or the
credentials may not set it. The snapshot is there and can be restored.

What to do: `holdfast doctor` shows what the service offers; `holdfast writer policy --locks` prints
what the credentials need. The next backup tries it again.";
    UNSUPPORTED: "HF-STORE-008", Failed, "the store cannot do that",
"The service does not offer what was asked for, such as locks on objects.

What to do: `holdfast doctor` shows what it offers; choose another service, or do without.";
}
