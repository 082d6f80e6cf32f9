//! `HF-USE-…`: the arguments, the configuration, the environment, the program itself.

use crate::cli::explain::explanations;

explanations! {
    ARGUMENT: "HF-USE-001", Usage, "wrong arguments",
"The command line does not say what to do, or says two things at once. Nothing was begun.

What to do: `holdfast COMMAND --help` shows what the command takes, with examples.";
    ENVIRONMENT: "HF-USE-002", Usage, "wrong environment variable",
"A variable whose name begins with HOLDFAST_ is unknown, or its value cannot be read. Such a
variable is an error rather than ignored, because a backup that silently uses other settings than
you meant is worse than none.

What to do: correct or unset the variable that the message names.";
    CONFIG: "HF-USE-003", Usage, "wrong configuration",
"A configuration file has an unknown key, a value of the wrong kind, or the same table as another
file. The message says where.

What to do: correct it; `holdfast config check` reads the configuration and does nothing else.";
    CONFIG_UNREADABLE: "HF-USE-004", Usage, "the configuration cannot be read",
"A configuration file was named, or is at its usual place, and the system does not let us read it.

What to do: check its name and its permissions.";
    SELECTOR: "HF-USE-005", Usage, "not a name of a snapshot",
"A snapshot is named by `latest`, `latest~2`, `source:NAME`, `source:NAME~1`, at least four digits
of its id, `@TIME`, `today` or `yesterday`, each with `:PATH` behind it where a part is meant.

What to do: `holdfast snapshots` lists the ids.";
    OUTPUT: "HF-USE-006", Failed, "the result could not be written",
"Standard output, or a file that was asked for, did not take what the command printed. The work
itself may be done.

What to do: look whether the disk is full, and run the command again.";
    INTERRUPTED: "HF-USE-007", Interrupted, "interrupted",
"The program got SIGINT (Ctrl-C) and stopped at a safe point. Snapshots that existed are untouched;
what an unfinished backup had stored is used by the next one.

What to do: run the command again when you like. A second Ctrl-C ends the program at once.";
    TERMINATED: "HF-USE-008", Terminated, "terminated",
"The program got SIGTERM and stopped at a safe point. Snapshots that existed are untouched; what an
unfinished backup had stored is used by the next one.

What to do: run the command again. If a service manager ended it, look at its time limit.";
    INTERNAL: "HF-USE-009", Failed, "a fault in Holdfast itself",
"The program came into a state that should not exist. It stopped rather than go on; snapshots that
existed are untouched.

What to do: run the command again with -vv, and report the place that the message names.";
    STATE: "HF-USE-011", Failed, "the folder of the local state cannot be used",
"Keys, the local index and what was last seen of a repository are kept in the state folder
($HOLDFAST_STATE_DIR, else state-dir of the configuration, else $XDG_STATE_HOME/holdfast, else
~/.local/state/holdfast). It cannot be made, or is not yours.

What to do: check its permissions, or name another with --state-dir.";
    CONFIRM: "HF-USE-012", Usage, "a confirmation is needed",
"What was asked cannot be undone, and there is no terminal to ask on.

What to do: give --yes if it is what you mean.";
}
