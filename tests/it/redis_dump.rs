//! Dumps of real servers over the replication protocol: saved whole, or not at all.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::postgres_base::{done, nothing_is_saved, repository};
use crate::program::{Outcome, Program};
use crate::redis_server::{KINDS, RedisServer, check_dump, free_port, server_program};

pub fn named(server: &RedisServer) -> String {
    format!("cache={}", server.uri())
}

fn backup(program: &Program, server: &RedisServer) -> Outcome {
    program.run(&["backup", "--redis", &named(server)])
}

#[track_caller]
pub fn fails(outcome: &Outcome, id: &str) {
    assert!(outcome.stderr.contains(id), "{id}: {}\n{}", outcome.stdout, outcome.stderr);
    assert!(matches!(outcome.code, 2 | 20), "{}: {}", outcome.code, outcome.stderr);
}

/// A file that only its owner reads.
fn secret(program: &Program, name: &str, text: &str) -> String {
    let path = program.write(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The dump of the newest snapshot, as a file of a folder in which a server can start.
fn restored(program: &Program) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let target = folder.path().to_str().unwrap();
    done(&program.run(&["restore", "source:cache", "--target", target]));
    fs::rename(folder.path().join("cache.rdb"), folder.path().join("dump.rdb")).unwrap();
    folder
}

#[test]
fn redis_dump_of_every_server_comes_back_by_name() {
    for kind in KINDS {
        let Some(server) = RedisServer::start(kind, &[]) else { continue };
        server.fill(5000);
        for command in ["SELECT 0", "SADD set a b c", "RPUSH list 1 2 3", "HSET hash a b"] {
            server.ask(command);
        }
        let program = repository();
        done(&backup(&program, &server));
        // The way to it is remembered.
        server.ask("SET later 1");
        done(&program.run(&["backup", "--redis", "cache"]));
        let facts = program.run(&["snapshots", "--json"]);
        assert_eq!(facts.stdout.matches("\"source\":\"cache\"").count(), 2, "{}", facts.stdout);
        let folder = restored(&program);
        if kind != "valkey-9" {
            check_dump(kind, &folder.path().join("dump.rdb"));
        }
        let digest = server.digest();
        drop(server);
        let copy = RedisServer::start_in(kind, folder, &[]).unwrap();
        assert_eq!(copy.ask("DBSIZE"), "5004");
        assert_eq!(copy.digest(), digest, "{kind}");
    }
}

#[test]
fn redis_dump_of_valkey_holds_fields_that_expire() {
    let Some(server) = RedisServer::start("valkey-9", &[]) else { return };
    server.ask("HSETEX hash PX 100000000 FIELDS 1 field value");
    let program = repository();
    done(&backup(&program, &server));
    let copy = RedisServer::start_in("valkey-9", restored(&program), &[]).unwrap();
    assert_eq!(copy.ask("HPEXPIRETIME hash FIELDS 1 field"), {
        server.ask("HPEXPIRETIME hash FIELDS 1 field")
    });
}

#[test]
fn redis_dump_by_length_and_by_mark_under_load() {
    for diskless in ["yes", "no"] {
        let arguments = ["--repl-diskless-sync", diskless];
        let Some(server) = RedisServer::start("redis-7", &arguments) else { return };
        server.fill(20_000);
        let program = repository();
        let mut load = Command::new("redis-benchmark");
        load.args(["-s", server.path("server.sock").to_str().unwrap(), "-t", "set,lpush", "-l"]);
        let mut load = load.args(["-q", "-r", "1000"]).stdout(std::process::Stdio::null());
        let mut load = {
            load = load.stderr(std::process::Stdio::null());
            load.spawn().unwrap()
        };
        done(&backup(&program, &server));
        load.kill().unwrap();
        load.wait().unwrap();
        check_dump("redis-7", &restored(&program).path().join("dump.rdb"));
    }
}

#[test]
fn redis_passwords_come_from_anywhere_but_the_command_line() {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let users = "user default off\nuser backup on >tell-nobody +psync +sync +replconf +info\n";
    fs::write(folder.path().join("users.acl"), users).unwrap();
    let users = ["--aclfile", "users.acl"];
    let Some(server) = RedisServer::start_in("redis-7", folder, &users) else { return };
    let mut program = repository();
    let uri = server.uri().replace("unix://", "redis+unix://backup@");
    let backup = |program: &Program, more: &[&str]| {
        let named = format!("cache={uri}");
        program.run(&[&["backup", "--redis", &named], more].concat())
    };
    fails(&backup(&program, &[]), "HF-REDIS-002");
    let wrong = secret(&program, "wrong", "guessed\n");
    fails(&backup(&program, &["--redis-password-file", &wrong]), "HF-REDIS-002");
    let shown = program.run(&["backup", "--redis", "cache=redis://backup:tell-nobody@localhost"]);
    fails(&shown, "HF-REDIS-005");
    assert!(!shown.stderr.contains("tell-nobody"), "{}", shown.stderr);
    nothing_is_saved(&program);
    let right = secret(&program, "right", "tell-nobody\n");
    done(&backup(&program, &["--redis-password-file", &right]));
    // Where the password is, is remembered.
    done(&program.run(&["backup", "--redis", "cache"]));
    done(&backup(&program, &["--redis-password-command", &format!("cat {right}")]));
    let others = [
        ("HOLDFAST_REDIS_PASSWORD_FILE", &*right),
        ("HOLDFAST_REDIS_PASSWORD_COMMAND", &*format!("cat {right}")),
        ("REDISCLI_AUTH", "tell-nobody"),
        ("CREDENTIALS_DIRECTORY", &program.arg("credentials")),
    ];
    for (number, (name, value)) in others.iter().enumerate() {
        secret(&program, &format!("credentials/holdfast-redis-other{number}"), "tell-nobody\n");
        program.set(name, value);
        done(&program.run(&["backup", "--redis", &format!("other{number}={uri}")]));
        program.set(name, "");
    }
    let config = format!(
        "version = 1\n[secrets]\np = {{ file = \"{right}\" }}\n[sources.cache]\nkind = \"redis\"\n\
         connection = \"{uri}\"\npassword = \"secret:p\"\n"
    );
    let config = program.write("config.toml", &config);
    done(&program.run(&["-c", &config, "backup", "cache"]));
    let state = fs::read_to_string(walk(&program.path(".local"), "redis.json")).unwrap();
    assert!(!state.contains("tell-nobody"), "{state}");
}

fn walk(folder: &Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with(name) {
                return path;
            }
        }
    }
    panic!("{name} is nowhere");
}

/// Passes bytes on between a server and one client, but no more than so many of the server's.
fn cutting_proxy(server: &RedisServer, bytes_max: usize, damage: Option<usize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("redis://{}", listener.local_addr().unwrap());
    let socket = server.path("server.sock");
    std::thread::spawn(move || {
        let mut number = 0;
        while let Ok((client, _)) = listener.accept() {
            number += 1;
            // The first connection asks for the state only.
            let bytes_max = if number == 1 { usize::MAX } else { bytes_max };
            let damage = damage.filter(|_| number > 1);
            let upstream = UnixStream::connect(&socket).unwrap();
            relay(client, upstream, bytes_max, damage);
        }
    });
    address
}

fn relay(client: TcpStream, server: UnixStream, bytes_max: usize, damage: Option<usize>) {
    let (mut up, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut up, &mut to_server));
    std::thread::spawn(move || {
        let (mut client, mut server, mut passed) = (client, server, 0);
        let mut buffer = vec![0; 10_000];
        while passed < bytes_max {
            let Ok(length @ 1..) = server.read(&mut buffer) else { break };
            let length = length.min(bytes_max - passed);
            if let Some(at) = damage.filter(|at| (passed..passed + length).contains(at)) {
                buffer[at - passed] ^= 1;
            }
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
            passed += length;
        }
        drop(client.shutdown(std::net::Shutdown::Both));
        drop(server.shutdown(std::net::Shutdown::Both));
    });
}

#[test]
fn redis_transfers_that_are_cut_or_damaged_save_nothing() {
    for diskless in ["yes", "no"] {
        let arguments = ["--repl-diskless-sync", diskless, "--rdbcompression", "no"];
        let Some(server) = RedisServer::start("redis-7", &arguments) else { return };
        server.fill(3000);
        let program = repository();
        for bytes_max in [0, 5, 40, 140, 200, 1000, 300_000, 900_000] {
            let address = cutting_proxy(&server, bytes_max, None);
            let outcome = program.run(&["backup", "--redis", &format!("cache={address}")]);
            fails(&outcome, "HF-REDIS-001");
        }
        let address = cutting_proxy(&server, usize::MAX, Some(500_000));
        fails(&program.run(&["backup", "--redis", &format!("cache={address}")]), "HF-REDIS-007");
        nothing_is_saved(&program);
        let address = cutting_proxy(&server, usize::MAX, None);
        done(&program.run(&["backup", "--redis", &format!("cache={address}")]));
    }
}

#[test]
fn redis_server_killed_in_mid_snapshot_saves_nothing() {
    let Some(mut server) = RedisServer::start("redis-7", &["--rdb-key-save-delay", "200"]) else {
        return;
    };
    server.fill(100_000);
    let program = repository();
    let named = named(&server);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| program.run(&["backup", "--redis", &named]));
        server.wait_until("the dump has begun", |info| info.contains("rdb_bgsave_in_progress:1"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        server.kill();
        fails(&run.join().unwrap(), "HF-REDIS-001");
    });
    nothing_is_saved(&program);
    fails(&program.run(&["backup", "--redis", &named]), "HF-REDIS-001");
}

#[test]
fn redis_server_that_lost_its_keys_is_kept_beside_what_was() {
    let Some(server) = RedisServer::start("redis-7", &[]) else { return };
    server.fill(1000);
    let program = repository();
    done(&backup(&program, &server));
    let first = program.run(&["snapshots", "--json"]).stdout;
    server.ask("FLUSHALL");
    let shrunk = backup(&program, &server);
    done(&shrunk);
    assert!(shrunk.stderr.contains("HF-REDIS-009"), "{}", shrunk.stderr);
    for _ in 0..3 {
        done(&backup(&program, &server));
    }
    let forgotten = program.run(&["forget", "--keep-last", "1"]);
    done(&forgotten);
    let kept = program.run(&["snapshots", "--json"]).stdout;
    let id = |text: &str| {
        let event: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        event["id"].as_str().unwrap().to_owned()
    };
    assert!(kept.contains(&id(&first)), "{kept}");
    assert_eq!(kept.matches("\"source\":\"cache\"").count(), 3, "{}", forgotten.stdout);
}

#[test]
fn redis_tls_proves_the_server() {
    let Some(program) = server_program("redis-7") else { return };
    let help = Command::new(program).args(["--port", "0", "--tls-port", "x"]).output().unwrap();
    if String::from_utf8_lossy(&help.stdout).contains("Bad directive") {
        eprintln!("skipped: the server was built without TLS");
        return;
    }
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    for (authority, name) in [("ca", "server"), ("other", "unused")] {
        crate::postgres_tls::make_authority(folder.path(), authority);
        crate::postgres_tls::make_signed(folder.path(), authority, name);
    }
    let port = free_port();
    let tls = [
        "--tls-port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        "server.crt",
        "--tls-key-file",
        "server.key",
        "--tls-ca-cert-file",
        "ca.pem",
    ];
    let server = RedisServer::start_in("redis-7", folder, &tls).unwrap();
    server.fill(1000);
    let program = repository();
    let backup = |address: String| program.run(&["backup", "--redis", &format!("cache={address}")]);
    let ca = |name: &str| server.path(name).display().to_string();
    fails(&backup(format!("rediss://localhost:{port}")), "HF-REDIS-001");
    fails(&backup(format!("rediss://localhost:{port}?cacert={}", ca("other.pem"))), "HF-REDIS-001");
    fails(&backup(format!("rediss://127.0.0.1:{port}?cacert={}", ca("ca.pem"))), "HF-REDIS-001");
    nothing_is_saved(&program);
    done(&backup(format!("rediss://localhost:{port}?cacert={}", ca("ca.pem"))));
    done(&backup(format!("rediss://127.0.0.1:{port}?verify=ca&cacert={}", ca("ca.pem"))));
    done(&backup(format!("rediss://127.0.0.1:{port}?verify=none")));
}
