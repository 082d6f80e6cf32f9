//! Base backups of real servers: saved, restored, started, and refused where they are not whole.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::postgres_server::{
    ON_LOOPBACK, PostgresServer, hand_over, server_user, servers_folder, versions,
};
use crate::program::{Outcome, Program};

/// A repository beside a server.
pub fn repository() -> Program {
    let mut program = Program::new();
    let password = program.write("password", "of the tests\n");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    program.set("HOLDFAST_PASSWORD_FILE", &password);
    let repository = program.arg("repository");
    program.set("HOLDFAST_REPO", &repository);
    done(&program.run(&["init"]));
    program
}

pub fn done(outcome: &Outcome) {
    assert_eq!(outcome.code, 0, "{}\n{}", outcome.stdout, outcome.stderr);
}

pub fn nothing_is_saved(program: &Program) {
    let listed = program.run(&["snapshots"]);
    let said = format!("{}{}", listed.stdout, listed.stderr);
    assert!(said.contains("0 snapshots"), "{said}");
}

/// The argument that names a server's database.
pub fn named(server: &PostgresServer, database: &str) -> String {
    format!("shop={}", server.uri(database))
}

fn backup(program: &Program, server: &PostgresServer) -> Outcome {
    program.run(&["backup", "--postgres", &named(server, "postgres"), "--method", "base"])
}

fn stored_bytes(outcome: &Outcome) -> u64 {
    let last = outcome.stdout.lines().last().unwrap();
    let summary: serde_json::Value = serde_json::from_str(last).unwrap();
    summary["statistics"]["stored_bytes"].as_u64().unwrap()
}

/// Restores the newest base backup to where its server's user can read it.
fn restore(program: &Program, target: &Path) {
    let target_text = target.to_str().unwrap();
    done(&program.run(&["restore", "source:shop:/shop", "--target", target_text]));
    hand_over(target);
}

#[test]
fn a_base_backup_starts_on_every_version_though_taken_under_load() {
    for &version in versions() {
        let server = PostgresServer::start(version);
        server.run("createdb", &["shop"]);
        server.run("pgbench", &["-i", "-q", "-s", "2", "shop"]);
        let program = repository();
        let mut load = server.command("pgbench");
        let mut load = load.args(["-n", "-c", "2", "-T", "600", "shop"]).spawn().unwrap();
        server.wait_until("shop", "SELECT count(*) > 50 FROM pgbench_history");
        done(&backup(&program, &server));
        load.kill().unwrap();
        load.wait().unwrap();
        let folder = servers_folder();
        let target = folder.path().join("data");
        restore(&program, &target);
        let text = target.to_str().unwrap();
        server.run("pg_verifybackup", &[text]);
        let mut restored = PostgresServer::on(version, &target, &[]);
        restored.wait_for_recovery().unwrap();
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT sum(delta) FROM pgbench_history) AND count(*) > 50 \
                    FROM pgbench_history";
        assert_eq!(restored.sql("shop", sums), "t", "{version}");
        restored.run("pg_amcheck", &["--install-missing", "--heapallindexed", "shop"]);
    }
}

#[test]
fn the_second_base_backup_costs_what_changed() {
    let server = PostgresServer::start(17);
    server.run("createdb", &["shop"]);
    server.run("pgbench", &["-i", "-q", "-s", "5", "shop"]);
    server.sql("shop", "VACUUM FREEZE");
    let program = repository();
    let named = named(&server, "postgres");
    let save = || program.run(&["backup", "--postgres", &named, "--method", "base", "--json"]);
    let first = save();
    done(&first);
    server.sql("shop", "UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 5000 = 0");
    // The name is known now.
    let second = program.run(&["backup", "--postgres", "shop", "--method", "base", "--json"]);
    done(&second);
    let (first, second) = (stored_bytes(&first), stored_bytes(&second));
    assert!(second * 4 < first, "{first} {second}");
    let folder = servers_folder();
    let target = folder.path().join("data");
    restore(&program, &target);
    server.run("pg_verifybackup", &[target.to_str().unwrap()]);
    // Restored by root it belongs to the server's user all the same.
    let ready = folder.path().join("ready");
    done(&program.run(&["restore", "source:shop", "--target", ready.to_str().unwrap()]));
    for path in [ready.clone(), ready.join("postgresql.auto.conf"), ready.join("base")] {
        let found = fs::metadata(&path).unwrap();
        let (user, group) = server_user().unwrap_or((found.uid(), found.gid()));
        assert_eq!((found.uid(), found.gid()), (user, group), "{}", path.display());
    }
    assert_eq!(fs::metadata(&ready).unwrap().mode() & 0o777, 0o700);
    let mut restored = PostgresServer::on(17, &target, &[]);
    restored.wait_for_recovery().unwrap();
    assert_eq!(restored.sql("shop", "SELECT sum(abalance) FROM pgbench_accounts"), "100");
}

#[test]
fn a_damaged_page_is_named_and_the_rest_is_saved() {
    let mut server = PostgresServer::start(17);
    server.sql(
        "postgres",
        "CREATE TABLE t AS SELECT g, repeat('x', 100) FROM generate_series(1, 9999) g",
    );
    server.sql("postgres", "CHECKPOINT");
    let relation = server.sql("postgres", "SELECT pg_relation_filepath('t')");
    server.stop();
    let path = server.data_dir().join(&relation);
    let mut bytes = fs::read(&path).unwrap();
    bytes[3 * 8192 + 5000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    server.start_again();
    let program = repository();
    let saved = backup(&program, &server);
    done(&saved);
    let expected = format!("page 3 of {relation} is damaged on the server");
    assert!(saved.stderr.contains(&expected), "{}", saved.stderr);
    assert_eq!(saved.stderr.matches("is damaged").count(), 1, "{}", saved.stderr);
}

#[test]
fn tablespaces_are_saved_below_the_data_directory() {
    let server = PostgresServer::start(18);
    let folder = servers_folder();
    let place = folder.path().join("fast");
    fs::create_dir(&place).unwrap();
    hand_over(&place);
    server.sql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    server.sql("postgres", "CREATE TABLE t TABLESPACE fast AS SELECT generate_series(1, 1000) g");
    let program = repository();
    done(&backup(&program, &server));
    let oid = server.sql("postgres", "SELECT oid FROM pg_tablespace WHERE spcname = 'fast'");
    let relation = server.sql("postgres", "SELECT pg_relation_filepath('t')");
    assert!(relation.starts_with(&format!("pg_tblspc/{oid}/")), "{relation}");
    let saved = program.path("saved");
    let saved_text = program.arg("saved");
    done(&program.run(&["restore", "source:shop:/shop", "--target", &saved_text]));
    assert_eq!(
        fs::read(saved.join(&relation)).unwrap(),
        fs::read(server.data_dir().join(&relation)).unwrap()
    );
}

/// Passes everything on to a port, up to so many bytes of the server's over all connections.
fn cutting_proxy(port: u16, bytes_max: i64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let left = Arc::new(AtomicI64::new(bytes_max));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) =
                (client, TcpStream::connect(("127.0.0.1", port)))
            else {
                return;
            };
            let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up, &mut to));
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = server.read(&mut buffer) {
                    let before = left.fetch_sub(length.cast_signed() as i64, Ordering::Relaxed);
                    let whole = length.min(usize::try_from(before).unwrap_or(0));
                    if client.write_all(&buffer[..whole]).is_err() || whole < length {
                        break;
                    }
                }
                drop(client.shutdown(std::net::Shutdown::Both));
                drop(server.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    own
}

#[test]
fn a_base_backup_that_is_cut_anywhere_saves_nothing() {
    let server = PostgresServer::with(17, &[ON_LOOPBACK], &[]);
    let program = repository();
    let whole: i64 = server
        .sql("postgres", "SELECT sum(pg_database_size(oid)) FROM pg_database")
        .parse()
        .unwrap();
    let connection =
        |port| format!("shop=postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
    for bytes in [0, 10, 300, 2000, 9000, 20_000, 100_000, 1_000_000, whole / 2, whole] {
        let port = cutting_proxy(server.port(), bytes);
        let cut = program.run(&["backup", "--postgres", &connection(port), "--method", "base"]);
        assert_eq!(cut.code, 20, "{bytes}: {}", cut.stderr);
        assert!(cut.stderr.contains("HF-PG-001"), "{bytes}: {}", cut.stderr);
    }
    nothing_is_saved(&program);
    let port = cutting_proxy(server.port(), i64::MAX / 2);
    done(&program.run(&["backup", "--postgres", &connection(port), "--method", "base"]));
}

#[test]
fn passwords_come_from_where_nobody_else_looks() {
    let folder = servers_folder();
    let file = folder.path().join("password");
    fs::write(&file, "se:cret\n").unwrap();
    hand_over(&file);
    let file = file.to_str().unwrap();
    let arguments = ["-A", "scram-sha-256", "--pwfile", file];
    let server =
        PostgresServer::with(17, &[ON_LOOPBACK, "unix_socket_permissions=0777"], &arguments);
    let mut program = repository();
    let place = format!("127.0.0.1:{}", server.port());
    let connection = format!("shop=postgresql://postgres@{place}/postgres");
    let save =
        |program: &Program| program.run(&["backup", "--postgres", &connection, "--method", "base"]);
    let without = save(&program);
    assert_eq!(without.code, 20);
    assert!(without.stderr.contains("HF-PG-002"), "{}", without.stderr);
    program.set("PGPASSWORD", "wrong");
    let wrong = save(&program);
    assert!(wrong.stderr.contains("HF-PG-002"), "{}", wrong.stderr);
    program.set("PGPASSWORD", "se:cret");
    done(&save(&program));
    program.set("PGPASSWORD", "");
    let pass = program.write(".pgpass", "127.0.0.1:*:*:postgres:se\\:cret\n");
    fs::set_permissions(&pass, fs::Permissions::from_mode(0o600)).unwrap();
    done(&save(&program));
    let shown = format!("shop=postgresql://postgres:se:cret@{place}/postgres");
    let refused = program.run(&["backup", "--postgres", &shown, "--method", "base"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("HF-PG-005"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("se:cret"));
}

#[test]
fn restore_py_gives_back_what_stock_programs_take() {
    let server = PostgresServer::start(17);
    server.run("createdb", &["shop"]);
    server.sql(
        "shop",
        "CREATE TABLE t AS SELECT g, md5(g::text) AS h FROM generate_series(1, 5000) g",
    );
    let mut program = Program::new();
    let command = |name: &str, arguments: &[&str]| {
        let output = std::process::Command::new(name).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let key = program.arg("key");
    command("age-keygen", &["-o", &key]);
    let recipient = command("age-keygen", &["-y", &key]);
    let repository = program.arg("repository");
    program.set("HOLDFAST_REPO", &repository);
    program.set("HOLDFAST_IDENTITY_FILE", &key);
    done(&program.run(&["init", "--recipient", recipient.trim()]));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec/restore.py");
    let folder = servers_folder();
    let restored = |name: &str| {
        let target = folder.path().join(name);
        let text = target.to_str().unwrap();
        command("python3", &[script, &repository, "--identity", &key, "restore", "latest", text]);
        hand_over(folder.path());
        hand_over(&target.join("shop"));
        target.join("shop")
    };
    done(&backup(&program, &server));
    let data = restored("physical");
    server.run("pg_verifybackup", &[data.to_str().unwrap()]);
    fs::remove_file(data.join("tablespace_map")).unwrap();
    let mut started = PostgresServer::on(17, &data, &[]);
    started.wait_for_recovery().unwrap();
    let sum = "SELECT count(*) || ' ' || md5(string_agg(h, '' ORDER BY g)) FROM t";
    let expected = server.sql("shop", sum);
    assert_eq!(started.sql("shop", sum), expected);
    let tools = crate::postgres_server::bin(17, "pg_dump");
    let tools = tools.parent().unwrap().to_str().unwrap();
    done(&program.run(&["backup", "--postgres", &named(&server, "shop"), "--pg-bin", tools]));
    let dump = restored("logical");
    server.run("createdb", &["again"]);
    server.run("pg_restore", &["-e", "-j", "2", "-d", "again", dump.to_str().unwrap()]);
    assert_eq!(server.sql("again", sum), expected);
}
