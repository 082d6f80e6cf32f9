//! `HF-REPO-…`: the repository as a whole.

use crate::cli::explain::explanations;

explanations! {
    MISSING: "HF-REPO-001", RepositoryMissing, "there is no repository at this place",
"The location can be reached, but has no FORMAT object. Either the path is wrong, or the disk that
should be mounted there is not.

What to do: check the path and the mount. `holdfast init -r PATH` creates a new repository.";
    EXISTS: "HF-REPO-002", Usage, "there is a repository already",
"`init` never touches an existing repository, so that no keys are lost.

What to do: use it as it is, or choose another place.";
    TOO_NEW: "HF-REPO-003", FormatTooNew, "the repository is newer than this program",
"Its format number, or something marked as critical in one of its objects, is unknown to this
version. That is not damage, and nothing was changed.

What to do: install a newer version of Holdfast.";
    IS_REPLICA: "HF-REPO-018", Refused, "this place is a replica",
"It follows another place by `holdfast copy`. What were written to it would be a second history, and
the next copy would find that the two do not agree.

What to do: write to the primary. Where that is lost for good, `holdfast promote` makes this replica
the new primary.";
    BUSY: "HF-REPO-004", Busy, "something else is at work",
"Backups and prunes of different hosts never block each other. But one writer's log is written by
one process at a time, and the local state belongs to one process at a time.

What to do: wait until the other run has ended; `ps` shows it. Nothing stale can stay behind.";
    SNAPSHOT_MISSING: "HF-REPO-005", Failed, "no such snapshot",
"No snapshot has this name, or none fits the filters.

What to do: `holdfast snapshots` lists them, `holdfast snapshots --forgotten` the forgotten ones.";
    SNAPSHOT_AMBIGUOUS: "HF-REPO-006", Usage, "more than one snapshot has this name",
"The digits given are the beginning of several ids.

What to do: give more digits.";
    PATH_MISSING: "HF-REPO-007", Failed, "no such path in the snapshot",
"The snapshot has no file or folder of this name.

What to do: `holdfast ls SNAPSHOT` shows what it has, `holdfast find NAME` searches all.";
    NOT_A_WRITER: "HF-REPO-008", WrongKey, "this host is not a writer of the repository",
"The state folder has no writer's keys for this repository, so nothing can be committed.

What to do: on a host that has the root key, `holdfast writer add NAME --output FILE`; here,
`holdfast writer install FILE`.";
    REVOKED: "HF-REPO-009", Refused, "this host's right to write was revoked",
"The roster says that commits of this writer are not accepted any more.

What to do: if that is a mistake, add the host again with `holdfast writer add`.";
    NOT_NAMED: "HF-REPO-010", Usage, "no repository was named",
"Neither -r, nor HOLDFAST_REPO, nor the configuration says which repository is meant, and there is
none at the default place.

What to do: `holdfast backup --init FOLDER` creates one there; or name one with -r.";
    UNKNOWN_NAME: "HF-REPO-011", Usage, "no repository of this name is configured",
"A name without a slash is looked up in [repositories] of the configuration.

What to do: write ./NAME if a folder is meant, or add the repository to the configuration.";
    LOCAL_INDEX: "HF-REPO-012", Failed, "the local index cannot be used",
"The index in the state folder is a cache. It is damaged, or of another version.

What to do: `holdfast repair index` builds it anew; nothing is lost but time.";
    UNFINISHED: "HF-REPO-013", Refused, "a repository was begun here and never finished",
"There are keys or a roster, but no FORMAT object, which is written last. Either an `init` was
stopped, or one is at work just now, or a repository has lost its FORMAT. Nothing was changed.

What to do: if `roster` has an object `replica-…`, a copy was stopped: run `holdfast copy` again,
and remove nothing. If there is no folder `log` beside them, nothing was ever backed up there:
remove `keys`, `roster`, `recovery` and RECOVERY.md, and run `init` again. If there is one, put
FORMAT back instead: one line, `holdfast 1 ` and the repository id that stands in
roster/0000000000000001.";
    ROSTER_TAKEN: "HF-REPO-014", Busy, "another host changed the roster at the same time",
"Writers and keys are listed in the roster, a chain of signed texts. Another host was faster, and
nothing of this change counts.

What to do: look at what the other one did (`holdfast writer list`), and run the command again.";
    NO_SUCH_WRITER: "HF-REPO-015", Usage, "no such writer",
"No writer has this id, or name. Names are seen only with a key that opens the repository.

What to do: `holdfast writer list` shows them.";
    BUNDLE: "HF-REPO-016", Usage, "not a writer's bundle",
"The file is not what `holdfast writer add` makes, or it was cut off.

What to do: copy it again, or make another one with `holdfast writer add`.";
    WRITER_PRESENT: "HF-REPO-017", Refused, "this host is another writer already",
"The state folder has the keys of another writer of this repository. They are not overwritten.

What to do: if this host should become the new writer, remove writer.key from the repository's
folder in the state folder, and revoke the old one with `holdfast writer revoke`.";
}
