//! `HF-SRC-…`: where the bytes come from.

use crate::cli::explain::explanations;

explanations! {
    COMMAND_FAILED: "HF-SRC-001", SourceFailed, "the command failed; no snapshot was saved",
"A command whose output was to be saved ended with an error. Its output may be cut off, so nothing
was saved: a truncated dump must not look like a backup.

What to do: read the command's own messages above, and run it by hand.";
    COMMAND_MISSING: "HF-SRC-002", SourceFailed, "the command cannot be started",
"The program does not exist, is not in PATH, or may not be run.

What to do: give its whole path. Commands are run without a shell: for pipes or variables write
sh -c '…'.";
    PATH_MISSING: "HF-SRC-003", Partial, "a path does not exist",
"A path that was to be saved is not there. The others are saved, and the snapshot is marked as
partial.

What to do: correct the list of paths, or mount what should be there.";
    NOTHING: "HF-SRC-004", SourceFailed, "there is nothing to save",
"None of the paths can be read, or a stream ended before its first byte. No snapshot was saved.

What to do: check the paths and their permissions.";
    UNREADABLE: "HF-SRC-005", Partial, "some items could not be read",
"The snapshot is saved without them, and is marked as partial. The next one reads them again.

What to do: the warnings name them. Run as a user who may read them, or exclude them.";
    CHANGED: "HF-SRC-006", Partial, "files changed while they were read",
"They were read twice and changed both times, so what is saved may be of no single moment.

What to do: save databases by --command with their dump program, or from a file system snapshot.";
    UNKNOWN_NAME: "HF-SRC-007", Usage, "no source of this name is configured",
"There is neither a file nor a source in the configuration of this name.

What to do: `holdfast config show` lists the sources.";
    PATTERN: "HF-SRC-008", Usage, "not a pattern",
"A pattern of --exclude or --include cannot be understood.

What to do: patterns are those of .gitignore; put them in quotes, so that the shell leaves them.";
    STDIN: "HF-SRC-009", SourceFailed, "standard input failed",
"Reading from standard input ended with an error. No snapshot was saved.

What to do: prefer `--command NAME -- PROGRAM …` to a pipe: then a failure of the program is seen.";
    NO_DUMP: "HF-SRC-010", SourceFailed, "no dump of Redis or Valkey",
"The file given to --redis-rdb does not begin as a dump does, or cannot be read.

What to do: give the dump.rdb of the server (CONFIG GET dir, CONFIG GET dbfilename). Any other file
is saved by its path.";
    DUMP_DAMAGED: "HF-SRC-011", SourceFailed, "the dump is not whole",
"The dump of Redis or Valkey ends in the middle, or its checksum is another than it says: a server
would refuse it. No snapshot was saved.

What to do: make it again; redis-check-rdb says where the file breaks off. What is to be kept as it
is, damaged or not, is saved with `--stdin NAME --plain`.";
}
