//! Servers that real sentinels name, before and after a failover.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use holdfast::source::redis::address::Address;
use holdfast::source::redis::connection::{Access, Connection};
use secrecy::SecretString;
use tempfile::TempDir;

use crate::postgres_base::{done, nothing_is_saved, repository};
use crate::program::{Outcome, Program};
use crate::redis_server::{PATIENCE, RedisServer, ask, free_port, server_program, shown};
use crate::redis_stream::{Stream, durable, restored, status};

const PASSWORD: &str = "of-the-sentinel";

/// A sentinel with a password, ended with the test.
struct Sentinel {
    process: Child,
    port: u16,
    /// How it is reached: by an address without the place, and what stands after it.
    way: (&'static str, String),
    _folder: TempDir,
}

impl Sentinel {
    fn start(primary: u16) -> Self {
        let port = free_port();
        let lines = format!("port {port}\nbind 127.0.0.1\n");
        Self::start_with(primary, port, &lines, ("redis", String::new()))
    }

    fn start_with(primary: u16, port: u16, lines: &str, way: (&'static str, String)) -> Self {
        let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
        let config = format!(
            "{lines}requirepass {PASSWORD}\n\
             sentinel monitor db 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds db 500\nsentinel failover-timeout db 2000\n"
        );
        let path = folder.path().join("sentinel.conf");
        fs::write(&path, config).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(server_program("redis-7").unwrap());
        command.arg(&path).arg("--sentinel").current_dir(folder.path()).stdin(Stdio::null());
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let this = Self { process, port, way, _folder: folder };
        this.wait_until("it answers", |connection| {
            connection.is_some_and(|connection| ask(connection, "PING").is_ok())
        });
        this
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(Option<&mut Connection>) -> bool) {
        let (scheme, more) = &self.way;
        let address = format!("{scheme}://127.0.0.1:{}{more}", self.port);
        let address = Address::parse(&address).unwrap();
        let password = Some(SecretString::from(PASSWORD));
        let access = Access { address, password, sentinel_password: None };
        let begun = Instant::now();
        while !is_so(access.connect().ok().as_mut()) {
            assert!(begun.elapsed() < PATIENCE, "never came: {what}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A sentinel that has not heard of anything since.
fn stale_sentinel(primary: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut buffer = [0; 1000];
            while let Ok(1..) = client.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer);
                let digits = primary.to_string();
                let reply = if text.contains("AUTH") {
                    "+OK\r\n".to_owned()
                } else {
                    format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{digits}\r\n", digits.len())
                };
                if client.write_all(reply.as_bytes()).is_err() {
                    break;
                }
                buffer.fill(0);
            }
        }
    });
    port
}

fn server(port: u16, more: &[&str]) -> Option<RedisServer> {
    let port = port.to_string();
    let words = ["--port", &port, "--bind", "127.0.0.1", "--repl-ping-replica-period", "1"];
    RedisServer::start("redis-7", &[&words[..], more].concat())
}

fn new_bytes(outcome: &Outcome) -> u64 {
    done(outcome);
    outcome.events().pop().unwrap()["statistics"]["new_bytes"].as_u64().unwrap()
}

fn syncs(server: &RedisServer) -> u64 {
    let info = server.ask("INFO");
    let line = info.lines().find_map(|line| line.strip_prefix("sync_full:")).unwrap();
    line.trim().parse().unwrap()
}

fn password_file(program: &Program) -> String {
    let path = program.write("sentinel-password", PASSWORD);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A replica of a server, and a sentinel that knows both.
fn watched(first: u16, second: u16) -> (RedisServer, Sentinel) {
    let follow = ["--replicaof", "127.0.0.1", &first.to_string()];
    let replica = server(second, &follow).unwrap();
    replica.wait_until("the replica is in step", |info| info.contains("master_link_status:up"));
    let sentinel = Sentinel::start(first);
    sentinel.wait_until("it knows the replica", |connection| {
        let reply = ask(connection.unwrap(), "SENTINEL REPLICAS db");
        reply.is_ok_and(|reply| {
            let said = shown(reply);
            said.contains(&second.to_string()) && said.contains("master-link-status ok")
        })
    });
    (replica, sentinel)
}

#[test]
fn redis_sentinel_names_the_primary_before_and_after_a_failover() {
    let (first, second) = (free_port(), free_port());
    let Some(mut primary) = server(first, &[]) else { return };
    primary.fill(5000);
    let (replica, sentinel) = watched(first, second);
    let program = repository();
    let password = password_file(&program);
    // One that is not there, one that is wrong, one that is right.
    let (gone, stale) = (free_port(), stale_sentinel(second));
    let places = format!("127.0.0.1:{gone},127.0.0.1:{stale},127.0.0.1:{}", sentinel.port);
    let uri = format!("redis+sentinel://{places}/db");
    let backup = |uri: &str, more: &[&str]| {
        let named = format!("cache={uri}");
        program.run(&[&["backup", "--json", "--redis", &named], more].concat())
    };
    let right = format!("127.0.0.1:{gone},127.0.0.1:{}", sentinel.port);
    let refused = backup(&format!("redis+sentinel://{right}/db"), &[]);
    assert_eq!(refused.code, 20, "{}", refused.stdout);
    assert!(refused.stdout.contains("HF-REDIS-024"), "{}", refused.stdout);
    assert!(refused.stdout.contains("NOAUTH"), "{}", refused.stdout);
    let unknown = backup(
        &format!("redis+sentinel://127.0.0.1:{}/other", sentinel.port),
        &["--redis-sentinel-password-file", &password],
    );
    assert!(unknown.stdout.contains("knows no other"), "{}", unknown.stdout);
    nothing_is_saved(&program);
    let first_bytes = new_bytes(&backup(&uri, &["--redis-sentinel-password-file", &password]));
    assert_eq!((syncs(&primary), syncs(&replica)), (2, 0));
    done(&backup(&format!("{uri}?prefer=replica"), &[]));
    assert_eq!((syncs(&primary), syncs(&replica)), (2, 1));
    let digest = primary.digest();
    primary.kill();
    // It is remembered where the password is; the failover is waited for.
    let after = new_bytes(&backup(&uri, &[]));
    assert!(after < first_bytes / 5, "{after} of {first_bytes}");
    assert_eq!(syncs(&replica), 2);
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let target = folder.path().to_str().unwrap();
    done(&program.run(&["restore", "source:cache", "--target", target]));
    fs::rename(folder.path().join("cache.rdb"), folder.path().join("dump.rdb")).unwrap();
    assert_eq!(RedisServer::start_in("redis-7", folder, &[]).unwrap().digest(), digest);
}

#[test]
fn redis_stream_follows_the_primary_that_sentinels_name() {
    let (first, second) = (free_port(), free_port());
    let Some(mut primary) = server(first, &[]) else { return };
    primary.fill(100);
    let (replica, sentinel) = watched(first, second);
    let program = repository();
    let password = password_file(&program);
    let named = format!("cache=redis+sentinel://127.0.0.1:{}/db", sentinel.port);
    let more = ["--redis-sentinel-password-file", &password];
    let mut stream = Stream::start_with(&program, &named, &more);
    stream.wait_for("keys saved", 1);
    primary.ask("SET before 1");
    let sent = |info: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let offset = sent(&primary.ask("INFO"));
    replica.wait_until("the replica has it", |info| sent(info) >= offset);
    primary.kill();
    stream.wait_for("goes on at", 1);
    replica.ask("SET after 1");
    durable(&replica);
    let digest = replica.digest();
    let said = stream.said();
    stream.stop();
    let (code, shown) = status(&program);
    assert_eq!((code, shown["gaps"].as_array().unwrap().len()), (0, 0), "{shown}");
    assert_eq!(restored(&program, "redis-7", &["--to", "latest"]).digest(), digest, "{said}");
}

#[test]
fn redis_sentinel_passwords_come_from_the_configuration_too() {
    let port = free_port();
    let Some(server) = server(port, &[]) else { return };
    server.fill(100);
    let sentinel = Sentinel::start(port);
    let mut program = repository();
    let password = password_file(&program);
    let uri = format!("redis+sentinel://127.0.0.1:{}/db", sentinel.port);
    let config = format!(
        "version = 1\n[secrets]\np = {{ file = \"{password}\" }}\n[sources.cache]\n\
         kind = \"redis\"\nconnection = \"{uri}\"\nsentinel-password = \"secret:p\"\n"
    );
    let config = program.write("config.toml", &config);
    done(&program.run(&["-c", &config, "backup", "cache"]));
    let command = format!("cat {password}");
    program.set("HOLDFAST_REDIS_SENTINEL_PASSWORD_COMMAND", &command);
    done(&program.run(&["backup", "--redis", &format!("other={uri}")]));
    program.set("HOLDFAST_REDIS_SENTINEL_PASSWORD_COMMAND", "");
    let option = ["--redis-sentinel-password-command", &command];
    let named = format!("third={uri}");
    done(&program.run(&[&["backup", "--redis", &named], &option[..]].concat()));
}

/// Options of a server that speaks TLS only, with a certificate for `localhost`.
fn tls(folder: &std::path::Path, port: u16) -> Option<Vec<String>> {
    let program = server_program("redis-7")?;
    let help = Command::new(program).args(["--port", "0", "--tls-port", "x"]).output().unwrap();
    if String::from_utf8_lossy(&help.stdout).contains("Bad directive") {
        eprintln!("skipped: the server was built without TLS");
        return None;
    }
    crate::postgres_tls::make_authority(folder, "ca");
    crate::postgres_tls::make_signed(folder, "ca", "server");
    let words = ["--tls-port", &port.to_string(), "--bind", "127.0.0.1", "--tls-replication"];
    let more = ["yes", "--tls-auth-clients", "no", "--tls-cert-file", "server.crt"];
    let files = ["--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem"];
    let words = [&words[..], &more, &files].concat();
    Some(words.into_iter().map(str::to_owned).collect())
}

#[test]
fn redis_cluster_is_reached_by_tls_throughout() {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let port = free_port();
    let Some(words) = tls(folder.path(), port) else { return };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let words = [&words[..], &cluster].concat();
    let server = RedisServer::start_in("redis-7", folder, &words).unwrap();
    server.ask("CLUSTER ADDSLOTSRANGE 0 16383");
    let begun = Instant::now();
    while !server.ask("CLUSTER INFO").contains("cluster_state:ok") {
        assert!(begun.elapsed() < PATIENCE);
    }
    server.ask("SET key value");
    let program = repository();
    let ca = server.path("ca.pem").display().to_string();
    let backup = |scheme: &str, more: &str| {
        let named = format!("cache={scheme}://localhost:{port}{more}");
        program.run(&["backup", "--redis", &named])
    };
    // A node that has met nobody does not know its own address.
    done(&backup("rediss+cluster", &format!("?cacert={ca}")));
    assert_ne!(backup("rediss+cluster", "").code, 0);
    assert_ne!(backup("redis+cluster", "").code, 0);
    let restored = program.run(&["ls", "source:cache"]);
    assert!(restored.stdout.contains("cache.00000.rdb"), "{}", restored.stdout);
}

#[test]
fn redis_sentinel_is_reached_by_tls_as_its_server_is() {
    let folder = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
    let port = free_port();
    let Some(words) = tls(folder.path(), port) else { return };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = RedisServer::start_in("redis-7", folder, &words).unwrap();
    server.ask("SET key value");
    let file = |name: &str| server.path(name).display().to_string();
    let own = free_port();
    let lines = format!(
        "port 0\ntls-port {own}\nbind 127.0.0.1\ntls-auth-clients no\ntls-replication yes\n\
         tls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n",
        file("server.crt"),
        file("server.key"),
        file("ca.pem")
    );
    // The certificate is for a name, and sentinels name servers by their numbers.
    let query = format!("?verify=ca&cacert={}", file("ca.pem"));
    let sentinel = Sentinel::start_with(port, own, &lines, ("rediss", query.clone()));
    let program = repository();
    let password = password_file(&program);
    let backup = |query: &str| {
        let named = format!("cache=rediss+sentinel://127.0.0.1:{}/db{query}", sentinel.port);
        program.run(&["backup", "--redis", &named, "--redis-sentinel-password-file", &password])
    };
    assert_ne!(backup("").code, 0);
    nothing_is_saved(&program);
    done(&backup(&query));
}
