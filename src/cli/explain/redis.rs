//! `HF-REDIS-…`: Redis and Valkey.

use crate::cli::explain::explanations;

explanations! {
    UNREACHABLE: "HF-REDIS-001", SourceFailed, "the Redis server cannot be reached",
"Nobody answers at the address, or the connection broke. What was received until then is no backup:
nothing was saved.

What to do: try the same address with redis-cli -u. A server that sends faster than we can take it
cuts the connection: see client-output-buffer-limit replica in its configuration, and its log.";
    LOGIN: "HF-REDIS-002", SourceFailed, "the Redis server does not let us in",
"It wants a password and has none or a wrong one, or the user may not do what a backup needs.

What to do: the password stands in a file (0600, --redis-password-file), comes from a command
(--redis-password-command), from [sources.NAME] password = \"secret:…\", from a credential of systemd
called holdfast-redis-NAME or from REDISCLI_AUTH, and never from the command line. A user needs:
ACL SETUSER backup on >… +psync +sync +replconf +info +ping.";
    SERVER: "HF-REDIS-003", SourceFailed, "the Redis server ended with an error",
"The server said why; nothing was saved.

What to do: read its message, and its log.";
    NOT_READY: "HF-REDIS-004", SourceFailed, "the Redis server cannot be saved now",
"It is loading its data, has lost its primary, or writes its append-only file anew. A dump of it
would be old or not whole, or burden it too much. Nothing was saved.

What to do: run the backup again when INFO says that it has ended.";
    ADDRESS: "HF-REDIS-005", Usage, "not an address of a Redis server",
"An address is redis://USER@HOST:PORT, rediss:// for TLS (with ?cacert=FILE for an authority of your
own, ?verify=ca or ?verify=none to ask for less), or unix:///PATH for a socket;
redis+sentinel://USER@HOST:PORT,HOST:PORT/NAME for the server that sentinels name (with
?prefer=replica one of its replicas, ?sentinel-user=USER),
redis+cluster://USER@HOST:PORT,HOST:PORT for a cluster; both also with rediss. A password in it
would be seen by every user of the host, so it is refused. A cluster is many servers: only a backup
takes them all.

What to do: correct it; put the password into a file (0600) and name that: --redis-password-file.";
    UNKNOWN: "HF-REDIS-006", Usage, "no Redis source of this name is known",
"The name stands neither in the configuration nor among the servers that were saved from this host.

What to do: holdfast backup --redis NAME=redis://…, or [sources.NAME] with kind = \"redis\" and
connection = \"redis://…\" in the configuration.";
    DUMP: "HF-REDIS-007", SourceFailed, "the dump of the Redis server is not whole",
"It was framed as a whole one, but does not begin or end as one, or its checksum is wrong. Nothing
was saved.

What to do: run it again. If it stays so, the memory of the server may be failing: redis-check-rdb
on a dump that it saves itself says more.";
    SPOOL: "HF-REDIS-008", SourceFailed, "what the Redis server sends cannot be kept",
"What comes faster than it is saved waits in a file of the local state, which cannot be written.

What to do: look at the space and the rights of the state folder.";
    SHRUNKEN: "HF-REDIS-009", Findings, "the Redis server has lost more than half of its keys",
"A snapshot has less than half of the keys of the one before it. That may be meant; it is also what
a server looks like that began with an empty append-only file. The snapshot is kept, and no rule of
retention removes it or the one before it.

What to do: look at the server. If it is meant, nothing; holdfast forget ID removes either.";
    GAP: "HF-REDIS-010", Findings, "the journal of a Redis server has a gap",
"The server could not go on where the journal ends: it was restarted, failed over to a server that
did not follow it, or was without us for longer than its backlog (repl-backlog-size) holds. Moments
between the end of what is saved and the next dump cannot be reached; all others can.

What to do: nothing is left to do for this gap, and a new dump was taken at once. A larger
repl-backlog-size on the server outlasts longer pauses.";
    STREAMING: "HF-REDIS-011", Usage, "the journal of this source is being taken already",
"Another process on this host runs redis stream for the same source and repository.

What to do: leave it to that one, or end it first.";
    JOURNAL: "HF-REDIS-012", Findings, "a journal of Redis cannot be understood",
"What is stored of it does not begin or end as a segment of a journal, or holds what is no command.

What to do: holdfast check --read-data says whether the repository is damaged; restore the dump
before it without --to-time. A journal of a newer version needs that version of Holdfast.";
    SPOOL_FULL: "HF-REDIS-013", SourceFailed, "too many commands wait to be saved",
"The repository has not taken anything for so long that the spool in the local state has reached
its limit (--spool-max). The connection to the server is closed until some of it is saved.

What to do: see why the repository takes nothing; holdfast doctor tries it.";
    UNREACHED: "HF-REDIS-014", Usage, "this moment of the Redis server cannot be reached",
"A moment is reached from a dump that is older, by all commands from there to the moment. Either no
dump is that old, or the journal does not lead there without a gap, or it came so late that the
time of each command is not known.

What to do: take one of the moments that are named; holdfast redis status shows all.";
    NO_BACKUP: "HF-REDIS-015", Usage, "nothing of this Redis source is kept",
"The repository has neither a dump nor a journal of this name that can be read here.

What to do: holdfast snapshots shows the sources that there are.";
    TARGET: "HF-REDIS-016", Usage, "the folder cannot take the data of a Redis server",
"A folder that a server is to start in must not hold an append-only file or a dump already: a
server that found both would take one of them.

What to do: name an empty folder, or one that is not there yet.";
    NO_AOF: "HF-REDIS-020", SourceFailed, "there is no append-only file here",
"A source of --redis-aof is the folder of an append-only file (appendonlydir, with a list *.manifest
and the files that it names), a single file of a server before 7 (appendonly.aof), or the folder of
a server (dir) that has one of both. There is none, there are several, or it cannot be read.

What to do: name the folder itself; CONFIG GET dir, CONFIG GET appenddirname say where it is. Run as
a user that may read it.";
    AOF_DAMAGED: "HF-REDIS-021", SourceFailed, "the append-only file is damaged",
"Its list of files cannot be read, names a file that is not there, or a file has bytes that are no
commands. No server would start from it. Nothing was saved.

What to do: redis-check-aof on the list of the files says where. While the server runs, its data are
whole in memory: holdfast backup --redis saves them, and BGREWRITEAOF writes the files anew.";
    AOF_RESTLESS: "HF-REDIS-022", SourceFailed, "the append-only file does not hold still",
"Each time that its files were opened the server had put others in their place. Nothing was saved.

What to do: look at why it rewrites them again and again (auto-aof-rewrite-percentage, the log of
the server); then run it again.";
    AOF_TAIL: "HF-REDIS-023", Findings, "the end of the append-only file is left out",
"The last file ends within a command or a transaction. Where the server runs it was writing that
just then; where it does not, it was interrupted there. What is saved ends with the last whole
command, so that a server starts from it as it is.

What to do: nothing. What was left out is what a server leaves out, too.";
    SENTINEL: "HF-REDIS-024", SourceFailed, "no sentinel names a primary",
"The sentinels do not answer, do not let us in, do not know the name, or name a server that says
itself that it is a replica, and do so for a minute: a failover that does not end. Nothing was
saved.

What to do: redis-cli -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME NAME asks the same. Passwords of
sentinels come from --redis-sentinel-password-file, --redis-sentinel-password-command,
[sources.NAME] sentinel-password or a credential of systemd called holdfast-redis-sentinel-NAME; the
name of a user from ?sentinel-user=.";
    CLUSTER: "HF-REDIS-025", SourceFailed, "the Redis cluster cannot be saved",
"The server is no cluster, no node has slots, or the nodes do not agree on who is a primary, even
after some seconds. Nothing was saved.

What to do: redis-cli --cluster check HOST:PORT. A single server is redis://HOST:PORT. The user
needs +cluster|nodes beside what a single server asks for.";
    CLUSTER_CHANGED: "HF-REDIS-026", Findings, "the dumps are not one state of the Redis cluster",
"While its primaries were saved one after another, a slot moved from one to another, a primary was
replaced, or a slot had none at all: a key may stand in two of the dumps, or in none. The snapshot
is kept, has the tag holdfast:inconsistent, and says before and after in NAME.cluster.json.

What to do: run it again when the cluster is at rest (redis-cli --cluster check HOST:PORT).";
    UNFIT_SERVER: "HF-REDIS-030", Refused, "the server cannot take the dump",
"A dump is loaded only into a server that has no key in any database, follows nobody, is not loading,
owns all slots where it is a node of a cluster, and reads dumps of that version. It was asked, and
nothing was written.

What to do: name an empty server, of the version that was saved or a newer one; a dump of Valkey 9
needs Valkey 9. FLUSHALL empties a server that may be emptied. A value above proto-max-bulk-len
needs a higher one there. A whole cluster is restored node by node from files: --target FILE.rdb.";
    NOT_LOADED: "HF-REDIS-031", Failed, "the dump was loaded in part only",
"The connection broke, the server refused something (out of memory: maxmemory with noeviction), or
the restore was told to stop. The server holds a part of the data: it must not be used as it is.

What to do: read the cause and remove it, empty the server with FLUSHALL, and run it again. It is
never gone on with from the middle.";
    OTHER_KEYS: "HF-REDIS-032", Findings, "the server does not hold what it was given",
"Every command was answered with success, but the number of keys is another one: the server has
evicted some (maxmemory with another policy than noeviction), or somebody else writes to it.

What to do: keep others away, raise maxmemory, FLUSHALL, and run it again.";
    UNFIT_DUMP: "HF-REDIS-033", Refused, "the dump cannot be loaded by commands",
"It is not whole, or holds what no command can say: what a module keeps beside its keys, slots that
were on their way between nodes, hashes whose fields stand in a template of the dump (HIMPORT), or
something newer than this program. Nothing was written.

What to do: restore the file, which is what the server sent, and start a server on it:
holdfast restore SNAPSHOT --target dump.rdb";
    NO_SERVER: "HF-REDIS-034", Usage, "no server program that reads the dump was found",
"A drill starts a server of its own. It needs one that reads dumps of that version: Redis 5 and 6
read version 9, Redis 7.0 version 10, 7.2 version 11, 7.4 version 12, 8.6 version 13, 8.8
version 14, 8.10 version 15; Valkey 9 reads its own, and those of Redis up to 11.

What to do: install one, or name it: --redis-server PROGRAM, or redis-server = \"PROGRAM\" in
[sources.NAME].";
    NOT_STARTED: "HF-REDIS-035", Findings, "the server of a drill does not come up",
"The server was started on the restored folder and ended, or did not load its data. The last lines of
its log stand with the error.

What to do: read them. A module that the data need is loaded with --set loadmodule=FILE; a folder
that the server's user cannot enter is another one with --workspace.";
    ASSERTION: "HF-REDIS-036", Usage, "an assertion cannot be understood",
"An assertion is a command of Redis, and then perhaps one of = != < <= > >= and a value. Without
these its answer must be there, and neither 0 nor empty. Words with spaces stand in quotes.

What to do: --assert 'EXISTS session:1', --assert 'DBSIZE > 1000', --assert 'GET key = \"a b\"'";
    NO_DUMP: "HF-REDIS-037", Usage, "the snapshot has no dump of Redis or Valkey",
"What was named is another kind of source, or a path that is not there.

What to do: holdfast snapshots; holdfast ls SNAPSHOT. A dump in a tree or stream is named by its
path: SNAPSHOT:PATH.";
    DIGEST: "HF-REDIS-038", Failed, "the digest of the Redis server was not kept",
"--redis-digest asks the server for DEBUG DIGEST when its dump is in. It is kept only where the
position in the history shows that nothing was written from the dump to the digest. The snapshot
is saved; drills count its keys and do not compare a digest.

What to do: save at a quiet time, or from a replica whose primary is quiet. Since 7.0 the server
must be started with enable-debug-command.";
    DRILL_FAILED: "HF-REDIS-039", Findings, "a drill of a Redis source has failed",
"The data did not come back as they were saved, or an assertion was not true. Each check says what it
saw, and the record is kept: holdfast drill report.

What to do: read the checks. If the backup is damaged, holdfast check --read-data and repair; if an
assertion is wrong, correct it.";
}
