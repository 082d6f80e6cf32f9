//! The log of real servers: archived, fetched, recovered from to a moment, and refused where it
//! would not lead there.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::postgres_base::named;
use crate::postgres_server::{PostgresServer, hand_over, server_user, servers_folder, versions};
use crate::program::Outcome;

/// A repository that a server's user can write to, and a command line that its `archive_command`
/// can run.
pub struct Archive {
    folder: TempDir,
}

impl Archive {
    pub fn new() -> Self {
        Self::at("", &[])
    }

    /// One whose repository is elsewhere, with variables that lead there.
    pub fn at(repository: &str, variables: &[(&str, &str)]) -> Self {
        let folder = servers_folder();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let repository = match repository {
            "" => at("repository"),
            elsewhere => elsewhere.to_owned(),
        };
        fs::write(at("password"), "of the tests\n").unwrap();
        fs::copy(env!("CARGO_BIN_EXE_holdfast"), at("holdfast")).unwrap();
        let (password, state, home) = (at("password"), at("state"), at(""));
        let own = [
            ("HOLDFAST_PASSWORD_FILE", &*password),
            ("HOLDFAST_REPO", &*repository),
            ("HOLDFAST_STATE_DIR", &*state),
            ("HOME", &*home),
        ];
        let mut script = "#!/bin/sh\n".to_owned();
        for (name, value) in own.iter().chain(variables) {
            writeln!(script, "export {name}='{value}'").unwrap();
        }
        writeln!(script, "exec {} \"$@\"", at("holdfast")).unwrap();
        fs::write(at("run"), script).unwrap();
        let archive = Self { folder };
        hand_over(archive.folder.path());
        for name in ["password", "run", "holdfast"] {
            let mode = if name == "password" { 0o600 } else { 0o755 };
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(archive.path(name), permissions).unwrap();
        }
        archive.run(&["init"]).ends(0);
        archive
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program as the server's user, without input.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = as_server_user(&self.path("run"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs the program as the server's user.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    pub fn archive_command(&self) -> String {
        format!("archive_command={} pg wal-push %p", self.path("run").display())
    }

    /// A server that archives here.
    pub fn server(&self, version: u32) -> PostgresServer {
        PostgresServer::with(version, &["archive_mode=on", &self.archive_command()], &[])
    }

    pub fn base(&self, server: &PostgresServer) {
        self.run(&["backup", "--postgres", &named(server, "postgres"), "--method", "base"]).ends(0);
    }

    /// Restores with further arguments and starts what comes out of it.
    pub fn recovered(&self, version: u32, target: &str, arguments: &[&str]) -> PostgresServer {
        let target = self.path(target);
        let all = [&["restore", "source:shop", "--target", target.to_str().unwrap()], arguments];
        self.run(&all.concat()).ends(0);
        let mut server = PostgresServer::on(version, &target, &[]);
        server.wait_for_recovery().unwrap();
        server
    }
}

/// A program as the user that servers run as.
pub fn as_server_user(program: &Path) -> Command {
    let Some((user, group)) = server_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user.to_string(), "--regid", &group.to_string()]);
    // It ends also when this process is killed.
    command.args(["--clear-groups", "--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Ends the segment, and waits until it is archived.
pub fn archived(server: &PostgresServer) {
    // A segment without anything in it is not ended; what is written is no transaction.
    server.sql("postgres", "SELECT pg_logical_emit_message(false, 'test', 'x')");
    let segment = server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    server.sql("postgres", "SELECT pg_switch_wal()");
    let query = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
    server.wait_until("postgres", &query);
}

pub fn mark(server: &PostgresServer, number: u32) {
    server.sql("postgres", &format!("INSERT INTO marks VALUES ({number})"));
}

pub fn marks(server: &PostgresServer) -> String {
    server.sql("postgres", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM marks")
}

fn now(server: &PostgresServer) -> String {
    server.sql(
        "postgres",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    )
}

#[test]
fn any_moment_after_the_base_comes_back_on_every_version() {
    for &version in versions() {
        let archive = Archive::new();
        let server = archive.server(version);
        server.sql("postgres", "CREATE TABLE marks (n int)");
        archive.base(&server);
        mark(&server, 1);
        archived(&server);
        mark(&server, 2);
        let moment = now(&server);
        let lsn = server.sql("postgres", "SELECT pg_current_wal_insert_lsn()");
        mark(&server, 3);
        server.sql("postgres", "SELECT pg_create_restore_point('before four')");
        mark(&server, 4);
        archived(&server);
        let quiet = now(&server);
        archived(&server);
        let at = |target: &str, arguments: &[&str]| {
            marks(&archive.recovered(version, target, arguments))
        };
        assert_eq!(at("a", &["--to-time", &moment]), "1 2", "{version}");
        assert_eq!(at("d", &[]), "1 2 3 4", "{version}");
        if version != 17 {
            continue;
        }
        assert_eq!(at("b", &["--to-lsn", &lsn]), "1 2", "{version}");
        assert_eq!(at("c", &["--to-name", "before four"]), "1 2 3", "{version}");
        // No transaction ended after this moment: the server alone would refuse it.
        assert_eq!(at("e", &["--to-time", &quiet]), "1 2 3 4", "{version}");
        assert_eq!(
            archive
                .recovered(version, "f", &["--to", "immediate"])
                .sql("postgres", "SELECT count(*) FROM marks"),
            "0"
        );
    }
}

#[test]
fn moments_that_cannot_be_reached_are_refused_before_anything_is_written() {
    let archive = Archive::new();
    let server = archive.server(17);
    let before = now(&server);
    archive.base(&server);
    archived(&server);
    let target = archive.path("none");
    let restore = |arguments: &[&str]| {
        let all = [&["restore", "source:shop", "--target", target.to_str().unwrap()], arguments];
        archive.run(&all.concat())
    };
    for (arguments, code) in [
        (&["--to-time", &*before][..], 1),
        (&["--to-time", "2099-01-01T00:00:00Z"], 1),
        (&["--to-lsn", "FF/0"], 1),
        (&["--to-lsn", "0/10"], 1),
        (&["--timeline", "7"], 1),
        (&["--to-lsn", "nonsense"], 2),
        (&["--to-lsn", "0/10", "--to", "latest"], 2),
    ] {
        let refused = restore(arguments).ends(code);
        assert!(code == 2 || refused.stderr.contains("HF-PG-011"), "{}", refused.stderr);
        assert!(!target.exists());
    }
    // Another cluster's directory, a folder with other things, and one with a server at work.
    let other = PostgresServer::start(17);
    for (place, what) in [
        (other.data_dir().to_owned(), "postmaster.pid"),
        (archive.path("repository"), "neither empty nor"),
    ] {
        let target = place.to_str().unwrap();
        let refused = archive.run(&["restore", "source:shop", "--target", target]).ends(15);
        assert!(refused.stderr.contains(what), "{}", refused.stderr);
    }
}

#[test]
fn a_file_is_saved_once_and_other_content_is_refused() {
    let archive = Archive::new();
    let server = archive.server(17);
    archive.base(&server);
    archived(&server);
    let segment = server.sql("postgres", "SELECT last_archived_wal FROM pg_stat_archiver");
    let count = || archive.run(&["snapshots"]).stdout.lines().count();
    let before = count();
    let path = server.data_dir().join("pg_wal").join(&segment);
    archive.run(&["pg", "wal-push", path.to_str().unwrap()]).ends(0);
    let copy = archive.path(&segment);
    fs::copy(&path, &copy).unwrap();
    hand_over(&copy);
    archive.run(&["pg", "wal-push", copy.to_str().unwrap()]).ends(0);
    assert_eq!(count(), before);
    let mut bytes = fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&copy, &bytes).unwrap();
    let refused = archive.run(&["pg", "wal-push", copy.to_str().unwrap()]).ends(20);
    assert!(refused.stderr.contains("HF-PG-008"), "{}", refused.stderr);
    // Another cluster's segment, one under a name that is not its own, and no segment at all.
    let other = PostgresServer::start(17);
    let names = fs::read_dir(other.data_dir().join("pg_wal")).unwrap();
    let foreign = names.flatten().map(|e| e.path()).find(|p| p.is_file()).unwrap();
    let refused = archive.run(&["pg", "wal-push", foreign.to_str().unwrap()]).ends(20);
    assert!(refused.stderr.contains("HF-PG-007"), "{}", refused.stderr);
    let wrong = archive.path("0000000100000000000000EE");
    fs::copy(&path, &wrong).unwrap();
    hand_over(&wrong);
    let refused = archive.run(&["pg", "wal-push", wrong.to_str().unwrap()]).ends(2);
    assert!(refused.stderr.contains("HF-PG-009"), "{}", refused.stderr);
    let refused = archive.run(&["pg", "wal-push", "pg_wal/nonsense"]).ends(2);
    assert!(refused.stderr.contains("HF-PG-009"), "{}", refused.stderr);
    assert_eq!(count(), before);
}

#[test]
fn a_fetch_ends_with_one_only_where_the_file_is_not_there() {
    let archive = Archive::new();
    let server = archive.server(17);
    archive.base(&server);
    archived(&server);
    let segment = server.sql("postgres", "SELECT last_archived_wal FROM pg_stat_archiver");
    let place = archive.path("fetched");
    let place = place.to_str().unwrap();
    archive.run(&["pg", "wal-fetch", &segment, place]).ends(0);
    let original = server.data_dir().join("pg_wal").join(&segment);
    assert!(fs::read(place).unwrap() == fs::read(original).unwrap());
    fs::remove_file(place).unwrap();
    archive.run(&["pg", "wal-fetch", "0000000100000000000000EE", place]).ends(1);
    archive.run(&["pg", "wal-fetch", "00000009.history", place]).ends(1);
    archive.run(&["pg", "wal-fetch", &segment]).ends(255);
    archive.run(&["pg", "wal-fetch", &segment, "/nonexistent/folder/file"]).ends(255);
    archive.run(&["-r", "/nonexistent", "pg", "wal-fetch", &segment, place]).ends(255);
    archive.run(&["pg", "wal-fetch", &segment, place, "--source", "nobody"]).ends(1);
    fs::write(archive.path("password"), "wrong\n").unwrap();
    archive.run(&["pg", "wal-fetch", &segment, place]).ends(255);
    fs::write(archive.path("password"), "of the tests\n").unwrap();
    // Damage of the repository is not the end of the log.
    damage_packs(&archive.path("repository/data"));
    archive.run(&["pg", "wal-fetch", &segment, place]).ends(255);
    assert!(!Path::new(place).exists());
}

fn damage_packs(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            damage_packs(&entry.path());
            continue;
        }
        let mut bytes = fs::read(entry.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(entry.path(), permissions).unwrap();
        fs::write(entry.path(), bytes).unwrap();
    }
}

#[test]
fn a_segment_that_was_lost_is_a_gap_and_ends_what_can_be_reached() {
    let archive = Archive::new();
    let server = archive.server(17);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&server);
    mark(&server, 1);
    archived(&server);
    // An archive_command that lies.
    server.sql("postgres", "ALTER SYSTEM SET archive_command = '/bin/true'");
    server.sql("postgres", "SELECT pg_reload_conf()");
    mark(&server, 2);
    archived(&server);
    server.sql("postgres", "ALTER SYSTEM RESET archive_command");
    server.sql("postgres", "SELECT pg_reload_conf()");
    mark(&server, 3);
    archived(&server);
    let moment = now(&server);
    let status = archive.run(&["pg", "status", "shop"]).ends(4);
    assert!(status.stderr.contains("HF-PG-014"), "{}", status.stderr);
    let target = archive.path("none");
    let target = target.to_str().unwrap();
    let refused =
        archive.run(&["restore", "source:shop", "--to-time", &moment, "--target", target]).ends(1);
    assert!(refused.stderr.contains("HF-PG-011"), "{}", refused.stderr);
    assert_eq!(marks(&archive.recovered(17, "a", &[])), "1");
    // A new base leads on.
    archive.base(&server);
    mark(&server, 4);
    archived(&server);
    assert_eq!(marks(&archive.recovered(17, "b", &[])), "1 2 3 4");
}

#[test]
fn recovery_follows_two_promotions() {
    let archive = Archive::new();
    let first = archive.server(17);
    first.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&first);
    mark(&first, 1);
    archived(&first);
    drop(first);
    for (number, target) in [(2, "second"), (3, "third")] {
        let target = archive.path(target);
        let text = target.to_str().unwrap();
        archive.run(&["restore", "source:shop", "--keep-archiving", "--target", text]).ends(0);
        let mut server = PostgresServer::on(17, &target, &[]);
        server.wait_for_recovery().unwrap();
        assert_eq!(
            server.sql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"),
            number.to_string()
        );
        mark(&server, number);
        archived(&server);
    }
    let newest = archive.recovered(17, "newest", &[]);
    assert_eq!(marks(&newest), "1 2 3");
    drop(newest);
    let second = archive.recovered(17, "back", &["--timeline", "2"]);
    assert_eq!(marks(&second), "1 2");
    let status = archive.run(&["pg", "status", "shop", "--offline", "--json"]).ends(0);
    let summary = status.events().pop().unwrap();
    assert_eq!(summary["bases"][0]["reaches_timeline"], 3, "{summary}");
}

#[test]
fn a_lost_backup_label_stops_the_server_instead_of_corrupting_it() {
    let archive = Archive::new();
    let server = archive.server(17);
    archive.base(&server);
    let target = archive.path("data");
    let text = target.to_str().unwrap();
    archive.run(&["restore", "source:shop", "--target", text]).ends(0);
    fs::remove_file(target.join("backup_label")).unwrap();
    let log = PostgresServer::try_on(17, &target, &[]).err().unwrap();
    assert!(log.contains("checkpoint"), "{log}");
    // Restored once more over it, it starts.
    archive.run(&["restore", "source:shop", "--target", text]).ends(0);
    let mut server = PostgresServer::on(17, &target, &[]);
    server.wait_for_recovery().unwrap();
    server.stop();
    // A restore that ends early leaves nothing that a server starts on, neither new nor old.
    damage_packs(&archive.path("repository/data"));
    let fresh = archive.path("fresh");
    for target in [&fresh, &target] {
        let failed = archive.run(&["restore", "source:shop", "--target", target.to_str().unwrap()]);
        assert_ne!(failed.code, 0, "{}", failed.stdout);
        assert!(!target.join("global/pg_control").exists(), "{}", target.display());
    }
}

#[test]
fn tablespaces_are_put_where_they_are_told_and_nowhere_else() {
    let archive = Archive::new();
    let server = archive.server(17);
    let old = archive.path("old");
    fs::create_dir(&old).unwrap();
    hand_over(&old);
    let old = old.to_str().unwrap();
    server.sql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{old}'"));
    server.sql("postgres", "CREATE TABLE marks TABLESPACE fast AS SELECT 7 AS n");
    archive.base(&server);
    mark(&server, 8);
    archived(&server);
    let target = archive.path("data");
    let refused =
        archive.run(&["restore", "source:shop", "--target", target.to_str().unwrap()]).ends(2);
    assert!(refused.stderr.contains("HF-PG-012"), "{}", refused.stderr);
    assert!(!target.exists());
    let taken = format!("{old}={old}");
    let refused = archive.run(&[
        "restore",
        "source:shop",
        "--target",
        target.to_str().unwrap(),
        "--tablespace-mapping",
        &taken,
    ]);
    refused.ends(2);
    let new = archive.path("new");
    let mapping = format!("{old}={}", new.display());
    let restored = archive.recovered(17, "data", &["--tablespace-mapping", &mapping]);
    assert_eq!(marks(&restored), "7 8");
    let place = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'";
    assert_eq!(restored.sql("postgres", place), new.to_str().unwrap());
    assert_eq!(marks(&server), "7 8");
}

#[test]
fn retention_keeps_the_log_that_leads_on_from_what_it_keeps() {
    let archive = Archive::new();
    let server = archive.server(17);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    archive.base(&server);
    for number in 1..=3 {
        mark(&server, number);
        archived(&server);
    }
    archive.run(&["forget", "--keep-last", "1", "--prune"]).ends(0);
    let listed = archive.run(&["snapshots", "--json"]).ends(0);
    assert_eq!(listed.stdout.matches("\"source\":\"shop.wal\"").count(), 1, "{}", listed.stdout);
    let latest = archive.run(&["ls", "latest"]).ends(0);
    assert!(latest.stdout.contains(" of shop at "), "{}", latest.stdout);
    mark(&server, 4);
    archived(&server);
    assert_eq!(marks(&archive.recovered(17, "data", &[])), "1 2 3 4");
}
