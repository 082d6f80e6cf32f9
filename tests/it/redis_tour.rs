//! The README's chapter on Redis, line by line, on real servers.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::Program;
use crate::redis_server::{PATIENCE, RedisServer, free_port, public_program};

/// The commands of the chapter's block, comments cut off.
fn chapter() -> Vec<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let chapter = readme.split("\n## Redis and Valkey in five minutes\n").nth(1).unwrap();
    let block = chapter.split("```\n").nth(1).unwrap();
    block.lines().map(|line| line.split("  #").next().unwrap().trim().to_owned()).collect()
}

/// A process that is killed with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_chapter_of_the_readme_on_redis_works_as_printed() {
    let port = free_port().to_string();
    let Some(server) = RedisServer::start("redis-7", &["--port", &port]) else { return };
    let new_port = free_port().to_string();
    let empty = RedisServer::start("redis-7", &["--port", &new_port]).unwrap();
    let restored_port = free_port().to_string();
    let mut program = Program::new();
    let password = program.write("password", "of the tests\n");
    fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    program.set("HOLDFAST_PASSWORD_FILE", &password);
    fs::create_dir_all(program.path("srv")).unwrap();
    // A drill of root's starts the server as another user, who must be able to.
    let folder = public_program("redis-7").unwrap();
    let tools = folder.path();
    symlink(env!("CARGO_BIN_EXE_holdfast"), tools.join("holdfast")).unwrap();
    let places = [
        ("/srv/".to_owned(), format!("{}/", program.arg("srv"))),
        ("redis://cache:6379".to_owned(), format!("redis://127.0.0.1:{port}")),
        ("redis://new:6379".to_owned(), format!("redis://127.0.0.1:{new_port}")),
        ("redis-server ".to_owned(), format!("redis-server --port {restored_port} --save '' ")),
    ];
    server.ask("SET orders 1000");
    let (mut background, mut before) = (Vec::new(), String::new());
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let commands = chapter();
    assert!(commands.len() >= 10, "{commands:?}");
    for (number, command) in commands.iter().enumerate() {
        let line = places.iter().fold(command.clone(), |line, (from, to)| line.replace(from, to));
        let log = program.path(&format!("said-{number}"));
        let out = File::create(&log).unwrap();
        let said = || fs::read_to_string(&log).unwrap();
        if line.contains("FLUSHALL") {
            before = jiff::Timestamp::now().to_string();
            std::thread::sleep(Duration::from_millis(300));
        }
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &line]).current_dir(program.home()).env_clear();
        shell.env("HOME", program.home()).env("PATH", &path).env("TZ", "UTC");
        shell.env("TMPDIR", "/tmp").env("HOLDFAST_PASSWORD_FILE", &password);
        shell.env("BEFORE", &before).stdin(Stdio::null());
        shell.stdout(out.try_clone().unwrap()).stderr(out);
        if line.contains("redis stream") || line.starts_with("redis-server") {
            background.push(Background(shell.spawn().unwrap()));
            if line.contains("redis stream") {
                wait_until("the stream has begun", || said().contains("keys saved"));
                // Signs of life come from now on: what follows is known to the moment.
                server.ask("SET live 1");
                std::thread::sleep(Duration::from_secs(2));
            } else {
                wait_until("the restored server answers", || said().contains("Ready to accept"));
            }
            continue;
        }
        let status = shell.status().unwrap();
        assert!(status.success(), "{line}\n{}", said());
        if line.contains("FLUSHALL") {
            std::thread::sleep(Duration::from_secs(3));
        }
    }
    assert_eq!(server.ask("DBSIZE"), "0");
    assert_eq!(empty.ask("GET orders"), "1000");
    let mut client = Command::new("redis-cli");
    let output = client.args(["-p", &restored_port, "GET", "orders"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1000");
}
