//! The README's chapter on `PostgreSQL`, line by line, on a real server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::mount::can_mount;
use crate::postgres_server::{PostgresServer, bin};
use crate::postgres_wal::{Archive, archived, as_server_user};

/// The commands of a block of the chapter, comments cut off.
fn chapter(number: usize) -> Vec<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let chapter = readme.split("\n## PostgreSQL in five minutes\n").nth(1).unwrap();
    let block = chapter.split("```\n").nth(2 * number + 1).unwrap();
    let command = |line: &str| line.split("    #").next().unwrap().trim().to_owned();
    let with_comment = |line: &str| line.split(" # ").next().unwrap().trim().to_owned();
    block.lines().map(|line| with_comment(&command(line))).collect()
}

#[test]
fn the_chapter_of_the_readme_works_as_printed() {
    let version = 17;
    let archive = Archive::new();
    let server = PostgresServer::with(version, &["archive_mode=on"], &[]);
    server.run("createdb", &["shop"]);
    server.sql("shop", "CREATE TABLE orders AS SELECT generate_series(1, 1000) AS n");
    let folder = bin(version, "psql").parent().unwrap().to_str().unwrap().to_owned();
    let tools = archive.path("tools");
    fs::create_dir(&tools).unwrap();
    std::os::unix::fs::symlink(archive.path("run"), tools.join("holdfast")).unwrap();
    fs::set_permissions(&tools, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let of = |user: &str, database: &str| {
        let (host, port) = (server.socket_dir().display(), server.port());
        format!("postgres://{user}@/{database}?host={host}&port={port}")
    };
    let text = |name: &str| archive.path(name).to_str().unwrap().to_owned();
    let pg_ctl = format!("pg_ctl -o '-p {} -k {}'", server.port() + 1, text(""));
    let places = [
        ("'holdfast pg".to_owned(), format!("'{} pg", text("run"))),
        ("/srv/repo".to_owned(), text("shop-repository")),
        ("/srv/".to_owned(), text("")),
        ("postgres://backup@db/shop".to_owned(), of("backup", "shop")),
        ("postgres://backup@db/postgres".to_owned(), of("backup", "postgres")),
        ("postgres://postgres@db/shop_restored".to_owned(), of("postgres", "shop_restored")),
        ("pg_ctl".to_owned(), format!("{pg_ctl} -l {}", text("restored.log"))),
    ];
    let mut before = String::new();
    let (mut commands, of_mount) = (chapter(0), chapter(1));
    assert!(commands.len() >= 11 && of_mount.len() >= 4, "{commands:?}");
    let first_of_mount = commands.len();
    if can_mount() {
        commands.extend(of_mount);
    }
    for (number, command) in commands.into_iter().enumerate() {
        let mounts = number >= first_of_mount && command.starts_with("holdfast");
        if number == first_of_mount {
            server.run("pg_ctl", &["-D", &text("pgdata"), "-m", "immediate", "stop"]);
            let restored = archive.path("pgdata");
            fs::rename(restored, archive.path("restored")).unwrap();
        }
        let line = places.iter().fold(command, |line, (from, to)| line.replace(from, to));
        if line.contains("DELETE") {
            archived(&server);
            before = server.sql(
                "postgres",
                "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', \
                 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            );
        }
        let mut shell = if mounts {
            std::process::Command::new("bash")
        } else {
            as_server_user(Path::new("bash"))
        };
        shell.args(["-euo", "pipefail", "-c", &line]).current_dir(archive.path("")).env_clear();
        // Whoever mounts has the keys too.
        let home = if mounts { copied_home(&archive) } else { archive.path("") };
        if mounts {
            shell.env("HOLDFAST_PASSWORD_FILE", home.join("password"));
            shell.env("HOLDFAST_STATE_DIR", home.join("state"));
        }
        let first = if mounts { home.display().to_string() } else { text("tools") };
        shell.env("HOME", home).env("PATH", format!("{first}:{path}")).env("TZ", "UTC");
        shell.env("ADMIN", of("postgres", "postgres")).env("BEFORE", &before);
        shell.env("SHOP", of("postgres", "shop"));
        let log = archive.path("said");
        let out = fs::File::create(&log).unwrap();
        // A server that is started keeps what it inherits: a file, not a pipe that is waited for.
        let status = shell.stdout(out.try_clone().unwrap()).stderr(out).status().unwrap();
        assert!(status.success(), "{line}\n{}", fs::read_to_string(&log).unwrap());
        if line.contains("DELETE") {
            archived(&server);
        }
    }
    let count = |port: u16, folder: &Path| {
        let mut psql = server.command("psql");
        psql.args(["-XAtq", "-h", folder.to_str().unwrap(), "-p", &port.to_string(), "shop"]);
        let output = psql.args(["-c", "SELECT count(*) FROM orders"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(count(server.port(), server.socket_dir()), "0");
    assert_eq!(server.sql("shop_restored", "SELECT count(*) FROM orders"), "1000");
    let restored = count(server.port() + 1, &archive.path(""));
    let running = if can_mount() { "fast" } else { "pgdata" };
    server.run("pg_ctl", &["-D", &text(running), "-m", "immediate", "stop"]);
    assert_eq!(restored, "1000");
}

/// What the servers' user has, as ours: password, local state, the program.
fn copied_home(archive: &Archive) -> std::path::PathBuf {
    let home = archive.path("home-of-root");
    if !home.exists() {
        fs::create_dir(&home).unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.arg("-r").args([archive.path("password"), archive.path("state")]).arg(&home);
        assert!(copy.status().unwrap().success());
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_holdfast"), home.join("holdfast")).unwrap();
    }
    home
}
