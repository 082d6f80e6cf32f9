//! `HF-PG-…`: PostgreSQL.

use crate::cli::explain::explanations;

explanations! {
    UNREACHABLE: "HF-PG-001", SourceFailed, "the PostgreSQL server cannot be reached",
"Nobody answers at the address, or the connection broke. What was received until then is no backup:
nothing was saved.

What to do: try the same address with psql. A server on this host is reached by its socket:
postgres://USER@/DATABASE?host=/var/run/postgresql.";
    LOGIN: "HF-PG-002", SourceFailed, "the PostgreSQL server does not let us in",
"The role or its password is wrong, pg_hba.conf has no line for it, or the role may not do what a
backup needs. Base backups and streaming need a role with REPLICATION and a line for the database
\"replication\" in pg_hba.conf.

What to do: CREATE ROLE backup LOGIN REPLICATION IN ROLE pg_monitor; passwords stand in ~/.pgpass
(0600), in PGPASSWORD, or in the file that PGPASSFILE names, and never on the command line. Where
the way of authentication is not known here, --method base --via-tool lets pg_basebackup talk to
the server.";
    SERVER: "HF-PG-003", SourceFailed, "the PostgreSQL server ended with an error",
"The server said why; nothing was saved.

What to do: read its message, and its log.";
    UNFIT: "HF-PG-004", SourceFailed, "the PostgreSQL server cannot be backed up so",
"Its version or a setting of it does not have what this way of saving needs. Versions 15 and later
can be saved.

What to do: the message names what is missing.";
    ADDRESS: "HF-PG-005", Usage, "not a connection string",
"Where the server is was not understood. A connection string is postgres://USER@HOST:PORT/DATABASE
or host=… port=… user=… dbname=…; what it leaves out comes from PGHOST, PGPORT, PGUSER, PGDATABASE.
A password in it would be seen by every user of the host, so it is refused.

What to do: correct it; put the password into ~/.pgpass (0600).";
    UNKNOWN: "HF-PG-006", Usage, "no PostgreSQL source of this name is known",
"The name stands neither in the configuration nor among the servers that were saved from this host.

What to do: holdfast backup --postgres NAME=postgres://…, or [sources.NAME] with kind = \"postgres\"
and connection = \"postgres://…\" in the configuration.";
    OTHER_CLUSTER: "HF-PG-007", SourceFailed, "this is another PostgreSQL cluster",
"The system identifier of the server or of its data directory is not the one that was saved under
this name before. Mixing two clusters would make both unrestorable.

What to do: choose another name for the new cluster. If the old one is gone for good and the new one
is to take its name, say so: --new-cluster.";
    WAL_DIFFERS: "HF-PG-008", SourceFailed, "another file of the log was saved under this name",
"A segment that was saved before has other content now. Two servers archive under one name, or a
restored server still has the archive_command of the old one. Nothing was overwritten.

What to do: find the other server. A restored copy must not archive into the source it came from.";
    WAL_NAME: "HF-PG-009", Usage, "not a file of the write-ahead log",
"wal-push and wal-fetch take the names that the server gives them: segments, partial ones, histories
and backup labels.

What to do: archive_command = 'holdfast pg wal-push %p', restore_command = 'holdfast pg wal-fetch %f
%p'.";
    NO_BACKUP: "HF-PG-010", Failed, "there is nothing of this PostgreSQL source to restore from",
"No base backup of it is kept.

What to do: holdfast snapshots lists what there is.";
    UNREACHABLE_POINT: "HF-PG-011", Failed, "that point in time cannot be reached",
"No kept base backup ends before it with all of the log from there on, or the log that was saved
ends before it. A transaction or a restore point must be in that log: parts of a transaction have no
end of their own, and what another timeline has needs --timeline. Nothing was written.

What to do: holdfast pg status NAME shows what can be reached.";
    TABLESPACES: "HF-PG-012", Usage, "tablespaces need a place",
"The cluster has tablespaces outside its data directory. They are not put where they came from
unless that is asked for: a server that still runs there would lose its files.

What to do: --tablespace-mapping OLD=NEW for each, with empty or absent folders.";
    RESTORED: "HF-PG-013", Failed, "the restored data directory is not ready to start",
"The files are there, but a last step failed.

What to do: read the cause, and restore again into an empty folder.";
    GAP: "HF-PG-014", Findings, "the saved log has a gap",
"Part of the write-ahead log is missing, so nothing after it can be reached from a base backup before
it.

What to do: take a base backup now; holdfast pg status NAME shows the gap.";
    WAL_UNREADABLE: "HF-PG-015", SourceFailed, "a file of the log cannot be read",
"The server named a file that is not there or cannot be opened, or nothing says whose it is.

What to do: archive_command runs in the data directory, as the server's user; %p is enough.";
    FACTS: "HF-PG-016", Failed, "what a snapshot says about itself cannot be understood",
"A snapshot of PostgreSQL carries a statement that this version does not know. It may be newer.

What to do: update holdfast. The files themselves can be restored as those of any snapshot.";
    SPOOL: "HF-PG-017", Failed, "the log on its way cannot be kept",
"Between the server and the repository the last segments lie in a folder of the local state. It
cannot be written, or the server sent something else than what comes next. Nothing is lost: the
server keeps its log until it is saved.

What to do: look at the space and the rights of the state folder.";
    INCREMENT: "HF-PG-018", SourceFailed, "changes do not go together with the last base backup",
"The server sent only what changed since the last base backup, and it cannot be put together with
what was saved or is remembered here. Nothing was saved.

What to do: run the backup again: the next one takes the whole cluster. If it happens more than
once, the disk of the server or of this host may be failing.";
    PROGRAM: "HF-PG-019", SourceFailed, "a client program of PostgreSQL failed",
"With --via-tool the server is asked by psql and sends its cluster to pg_basebackup. One of them is
not there, or says why it failed. Nothing was saved. --via-tool PROGRAM names pg_basebackup, or a
program that takes its arguments; psql is looked for in the same folder.

What to do: try psql with the same connection string; passwords stand in ~/.pgpass (0600), in
PGPASSWORD, or in the file that PGPASSFILE names.";
    TOOLS: "HF-PG-030", SourceFailed, "no pg_dump fits this server",
"A dump is what pg_dump and pg_dumpall of the server's major version or a later one decide it to be.
An older one does not know what the server has, so it is refused before anything is read. They are
looked for in the folders of PATH and in /usr/lib/postgresql/*/bin.

What to do: install the client package of the server's version, or name the folder: --pg-bin DIR, or
pg-bin = \"DIR\" in [sources.NAME].";
    ROW_SECURITY: "HF-PG-031", SourceFailed, "the role does not see every row",
"Row security hides rows of the named tables from the role, and a dump without them would look
whole. Nothing was saved.

What to do: ALTER ROLE backup BYPASSRLS, or take a role that owns the tables or is a superuser.";
    DUMP: "HF-PG-032", SourceFailed, "the dump is not whole",
"What pg_dump wrote, what the server sent and what it said that it sent do not agree. Nothing was
saved.

What to do: run it again. If it stays so, the versions of pg_dump and of the server do not go
together: take the pg_dump of the server's own version, --pg-bin DIR.";
    EXISTS: "HF-PG-033", Refused, "the database is there already",
"A dump is restored into a new database only, so that nothing that is in use is overwritten.

What to do: restore under another name and rename the databases when you have looked at it, or drop
the old one first.";
    NOT_RESTORED: "HF-PG-034", Failed, "the dump could not be restored into the server",
"pg_restore failed; its last words stand above. The new database was dropped again, nothing else was
touched.

What to do: if roles or tablespaces are missing, restore them first: holdfast cat
SNAPSHOT:/NAME.globals.sql | psql, or leave owners and privileges out with --no-owner. Extensions
must be installed on the server.";
    NOT_A_DUMP: "HF-PG-035", Usage, "this is no dump of a database",
"Only a snapshot with a dump, and only a table that the dump has, can be restored into a server. A
snapshot of a whole cluster is restored into a folder.

What to do: holdfast ls SNAPSHOT shows what is in it, holdfast cat SNAPSHOT:/NAME.tables.json the
tables.";
    NOT_STARTED: "HF-PG-040", Failed, "PostgreSQL does not start on the backup",
"The programs of the cluster's major version are needed on this host, in the folders of PATH or in
/usr/lib/postgresql/*/bin, and a user for them where you are root. A server that ends by itself says
why in its log: it lacks memory, an extension that shared_preload_libraries names, or the log does
not lead to the point.

What to do: read the last lines above; --pg-bin DIR names the programs, --user NAME the user,
--set NAME=VALUE outweighs a setting of the original, such as --set shared_buffers=128MB.";
    LAYER: "HF-PG-041", Failed, "the folder for what is local cannot be used",
"A database that runs on a backup keeps what it has read and written in a folder. It must be empty,
or be what an interrupted pg start --hydrate of the same source has left, lie on a file system with
extended attributes, and have room for all that is fetched.

What to do: name an empty folder on another file system: --hydrate DIR, --workspace DIR.";
    DRILL_FAILED: "HF-PG-042", Findings, "the drill has failed",
"The database did not come back, or a check of it failed: what stands above is what would happen in
a real recovery. Nothing but the drill's own server and folder was touched.

What to do: read the checks that failed; holdfast drill report NAME shows since when. Take a new
backup, and drill that one.";
    DRILL_NOT_KEPT: "HF-PG-043", Failed, "the record of the drill could not be saved",
"The drill ran to its end; its record stands above, but not in the repository. A host that may only
read cannot keep it.

What to do: run the drill on a host that may write, or with --no-record.";
}
