//! Servers on a backup: at a moment, killed and gone on with, and as a data directory of their own
//! in the end.
//!
//! Runs where the system lets us mount, as the tests of `mount.rs` do.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::mount::can_mount;
use crate::postgres_server::{
    PostgresServer, bin, hand_over, server_user, servers_folder, versions,
};
use crate::postgres_wal::{Archive, archived};

const PATIENCE: Duration = Duration::from_mins(1);

/// A `pg start` that runs.
struct Live {
    child: Child,
    version: u32,
    socket: TempDir,
    workspace: TempDir,
    said: Vec<serde_json::Value>,
}

/// The program with the repository of an archive, as the user of the tests.
fn program(archive: &Archive) -> Command {
    let password = archive.path("password-of-root");
    fs::write(&password, "of the tests\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .env("HOLDFAST_PASSWORD_FILE", password)
        .env("HOLDFAST_REPO", archive.path("repository"))
        .env("HOLDFAST_STATE_DIR", archive.path("state-of-root"))
        .env("HOME", archive.path(""));
    command
}

impl Live {
    /// Starts, and waits until the server takes connections.
    fn start(archive: &Archive, version: u32, arguments: &[&str]) -> Self {
        let (socket, workspace) = (servers_folder(), servers_folder());
        let mut child = program(archive)
            .args(["pg", "start", "source:shop", "--json", "--socket"])
            .arg(socket.path())
            .arg("--workspace")
            .arg(workspace.path())
            .arg("--pg-bin")
            .arg(bin(version, "postgres").parent().unwrap())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            let is_ready = event["socket"].is_string();
            said.push(event);
            line.clear();
            if is_ready {
                child.stdout = Some(lines.into_inner());
                return Self { child, version, socket, workspace, said };
            }
        }
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        child.wait().unwrap();
        panic!("it does not start: {said:?} {errors}");
    }

    fn sql(&self, text: &str) -> String {
        let output = Command::new(bin(self.version, "psql"))
            .args(["-XAtq", "-U", "postgres", "-d", "postgres", "-c", text, "-h"])
            .arg(self.socket.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn wait_until(&self, query: &str) {
        let begun = Instant::now();
        while self.sql(query) != "t" {
            assert!(begun.elapsed() < PATIENCE, "never came: {query}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for its end; its exit code.
    fn ended(&mut self) -> i32 {
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Stops it as Ctrl-C does; nothing of it is left.
    fn stop(mut self) -> i32 {
        self.signal(Signal::INT);
        let code = self.ended();
        assert_eq!(fs::read_dir(self.workspace.path()).unwrap().count(), 0);
        assert!(!self.socket.path().join(".s.PGSQL.5432").exists());
        code
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        for entry in fs::read_dir(self.workspace.path()).into_iter().flatten().flatten() {
            drop(Command::new("umount").arg("-l").arg(entry.path().join("data")).output());
        }
    }
}

/// A server with rows up to 1000, a base backup, and rows 1001 to 1500 in the archive.
fn saved(version: u32) -> (Archive, PostgresServer) {
    let archive = Archive::new();
    let server = archive.server(version);
    server.sql(
        "postgres",
        "CREATE TABLE rows (n int PRIMARY KEY, t text); \
         INSERT INTO rows SELECT n, repeat('x', 500) FROM generate_series(1, 1000) n; CHECKPOINT",
    );
    archive.base(&server);
    server.sql("postgres", "INSERT INTO rows SELECT n, 'y' FROM generate_series(1001, 1500) n");
    archived(&server);
    (archive, server)
}

fn count(live: &Live) -> String {
    live.sql("SELECT count(*) || ' ' || sum(length(t)) FROM rows")
}

#[test]
fn a_server_answers_on_the_backup_at_any_moment_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    for &version in versions() {
        let (archive, server) = saved(version);
        let place = server.socket_dir().join("space");
        fs::create_dir(&place).unwrap();
        hand_over(&place);
        server.sql(
            "postgres",
            &format!(
                "CREATE TABLESPACE space LOCATION '{}'; \
                 CREATE TABLE apart TABLESPACE space AS SELECT generate_series(1, 70) n",
                place.display()
            ),
        );
        // Of an earlier recovery: to be passed over.
        let configuration = server.data_dir().join("postgresql.conf");
        let mut configuration = fs::File::options().append(true).open(configuration).unwrap();
        configuration.write_all(b"recovery_target_xid = '3'\n").unwrap();
        archive.base(&server);
        let moment = server.sql("postgres", "SELECT pg_current_wal_insert_lsn()");
        server.sql("postgres", "DELETE FROM rows; DROP TABLE apart");
        archived(&server);
        let live = Live::start(&archive, version, &["--to-lsn", &moment]);
        live.wait_until("SELECT NOT pg_is_in_recovery()");
        assert_eq!(count(&live), "1500 500500", "{version}");
        assert_eq!(live.sql("SELECT sum(n) FROM apart"), "2485");
        assert_eq!(live.sql("SHOW archive_mode"), "off");
        for statement in ["INSERT INTO rows VALUES (0, 'z')", "VACUUM FULL rows", "CHECKPOINT"] {
            live.sql(statement);
        }
        assert_eq!(count(&live), "1501 500501");
        let checked = Command::new(bin(version, "pg_amcheck"))
            .args(["-U", "postgres", "--install-missing", "--heapallindexed", "postgres", "-h"])
            .arg(live.socket.path())
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        assert_eq!(live.stop(), 0);
        // The original's files were not touched.
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        // All of the log leads to the end of it.
        let live = Live::start(&archive, version, &[]);
        live.wait_until("SELECT NOT pg_is_in_recovery()");
        assert_eq!(live.sql("SELECT count(*) FROM rows"), "0");
        assert_eq!(live.stop(), 0);
    }
}

#[test]
fn what_was_committed_survives_a_kill_and_becomes_a_directory_of_its_own() {
    if !can_mount() {
        return;
    }
    for &version in &[15, 18] {
        let (archive, server) = saved(version);
        drop(server);
        let folder = servers_folder();
        let target = folder.path().join("data");
        let hydrate = ["--hydrate", target.to_str().unwrap()];
        let live = Live::start(&archive, version, &hydrate);
        live.wait_until("SELECT NOT pg_is_in_recovery()");
        live.sql("INSERT INTO rows SELECT n, 'z' FROM generate_series(1501, 2000) n; CHECKPOINT");
        live.sql("UPDATE rows SET t = 'w' WHERE n <= 10");
        assert_eq!(count(&live), "2000 496010");
        // Nobody else gets at the folder, or at the server.
        let (other, programs) = (servers_folder(), bin(version, "postgres"));
        let at = ["--socket", other.path().to_str().unwrap(), "--pg-bin"];
        let at = [&at[..], &[programs.parent().unwrap().to_str().unwrap()], &hydrate].concat();
        let (code, said) = refusal(&archive, &at);
        assert!(code != 0 && said.contains("another pg start works in"), "{said}");
        assert_eq!(count(&live), "2000 496010");
        live.signal(Signal::KILL);
        drop(live);
        assert!(!target.join("PG_VERSION").exists());
        // No server takes it for whole.
        let refused = PostgresServer::try_on(version, &target, &[]);
        assert!(refused.is_err());
        let (code, said) = refusal(&archive, &[&at[..], &["--to", "immediate"]].concat());
        assert!(code != 0 && said.contains("begun with the point latest"), "{said}");
        let mut live =
            Live::start(&archive, version, &[&hydrate[..], &["--until-hydrated"]].concat());
        assert_eq!(live.ended(), 0, "{:?}", live.said);
        assert!(target.join("PG_VERSION").is_file());
        assert!(!target.join(".holdfast.start.json").exists());
        fs::rename(archive.path("repository"), archive.path("away")).unwrap();
        let own = PostgresServer::on(version, &target, &[]);
        let query = "SELECT count(*) || ' ' || sum(length(t)) FROM rows";
        assert_eq!(own.sql("postgres", query), "2000 496010", "{version}");
        own.run("pg_amcheck", &["--install-missing", "--heapallindexed", "postgres"]);
    }
}

/// What a `pg start` that fails says.
fn refusal(archive: &Archive, arguments: &[&str]) -> (i32, String) {
    let output = program(archive).args(["pg", "start", "source:shop"]).args(arguments).output();
    let output = output.unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_cannot_start_is_refused_and_nothing_is_left() {
    if !can_mount() {
        return;
    }
    let (archive, server) = saved(17);
    drop(server);
    let (folder, workspace) = (servers_folder(), servers_folder());
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let programs = text(bin(17, "postgres").parent().unwrap());
    let (socket, space) = (text(folder.path()), text(workspace.path()));
    let with = |more: &[&str]| {
        let all = ["--socket", &socket, "--workspace", &space, "--pg-bin", &programs];
        let (code, said) = refusal(&archive, &[&all[..], more].concat());
        assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0, "{said}");
        (code, said)
    };
    let other = text(bin(15, "postgres").parent().unwrap());
    let full: PathBuf = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "x").unwrap();
    let full = text(&full);
    let cases: [(&[&str], &str); 5] = [
        (&["--to-lsn", "F/0"], "HF-PG-011"),
        (&["--hydrate", &full], "is not empty"),
        (&["--set", "shared_preload_libraries=nothing"], "nothing"),
        (&["--set", "wrong"], "is no NAME=VALUE"),
        (&["--user", "no-such-user"], "there is no user of that name"),
    ];
    for (arguments, wanted) in cases {
        if arguments[0] == "--user" && server_user().is_none() {
            continue;
        }
        let (code, said) = with(arguments);
        assert!(code != 0 && said.contains(wanted), "{arguments:?} {said}");
    }
    let (code, said) = refusal(&archive, &["--socket", &socket, "--pg-bin", &other]);
    assert!(code != 0 && said.contains("HF-PG-040"), "{said}");
    assert_eq!(fs::read(Path::new(&full).join("mine")).unwrap(), b"x");
}

#[test]
fn one_table_comes_out_of_a_base_backup_as_it_was_at_a_moment() {
    if !can_mount() {
        return;
    }
    for version in [15, 18] {
        let archive = Archive::new();
        let server = archive.server(version);
        server.run("createdb", &["shop"]);
        server.run("createdb", &["other"]);
        server.sql(
            "shop",
            "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE people (n int PRIMARY KEY); \
             CREATE TABLE orders (n int PRIMARY KEY, k kind, who int REFERENCES people); \
             CREATE TABLE \"Odd.Name\" (n int); INSERT INTO people VALUES (1); \
             INSERT INTO \"Odd.Name\" VALUES (1), (2); \
             INSERT INTO orders SELECT n, 'b', 1 FROM generate_series(1, 400) n",
        );
        archive.base(&server);
        let moment = server.sql("shop", "SELECT pg_current_wal_insert_lsn()");
        server.sql("shop", "DROP TABLE orders");
        archived(&server);
        let workspace = servers_folder();
        let programs = bin(version, "postgres");
        let restore = |name: &str, more: &[&str]| {
            let mut command = program(&archive);
            let command = command.args(["restore", "source:shop", "--into", &server.uri(name)]);
            let command = command.arg("--workspace").arg(workspace.path());
            let command = command.arg("--pg-bin").arg(programs.parent().unwrap()).args(more);
            let output = command.output().unwrap();
            assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code().unwrap_or(-1), said)
        };
        let (code, said) = restore("back", &["--to-lsn", &moment]);
        assert!(code != 0 && said.contains("--from-database"), "{said}");
        let of_shop = ["--from-database", "shop", "--to-lsn", &moment];
        let (code, said) = restore("back", &[&of_shop[..], &["--table", "public.orders"]].concat());
        assert_eq!(code, 0, "{said}");
        let counts = "SELECT (SELECT count(*) FROM orders WHERE k = 'b'), \
                      (SELECT count(*) FROM people), (SELECT count(*) FROM \"Odd.Name\")";
        assert_eq!(server.sql("back", counts), "400|0|0", "{version}");
        let (code, said) = restore("whole", &of_shop);
        assert_eq!(code, 0, "{said}");
        assert_eq!(server.sql("whole", counts), "400|1|2");
        // The name is taken, and a table that was dropped is not there any more.
        let (code, said) = restore("whole", &of_shop);
        assert!(code != 0 && said.contains("HF-PG-033"), "{said}");
        let gone = ["--from-database", "shop", "--table", "orders"];
        let (code, said) = restore("third", &gone);
        assert!(code != 0 && said.contains("no rows of a table orders"), "{said}");
        let left = "SELECT count(*) FROM pg_database WHERE datname LIKE '%holdfast%'";
        assert_eq!(server.sql("postgres", left), "0");
    }
}
