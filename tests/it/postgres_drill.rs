//! Drills on real backups: what comes back passes, what does not is found, and the records stay.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::process::Command;

use serde_json::Value;

use crate::mount::can_mount;
use crate::postgres_base::named;
use crate::postgres_server::{PostgresServer, bin, hand_over, servers_folder};
use crate::postgres_wal::{Archive, archived};

/// Runs a drill as the user of the tests: exit code, and its record or what it said.
fn drill(archive: &Archive, version: u32, arguments: &[&str]) -> (i32, Value) {
    let password = archive.path("password-of-root");
    drop(fs::remove_file(&password));
    fs::write(&password, "of the tests\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let workspace = servers_folder();
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .env("HOLDFAST_PASSWORD_FILE", &password)
        .env("HOLDFAST_REPO", archive.path("repository"))
        .env("HOLDFAST_STATE_DIR", archive.path("state"))
        .env("HOME", archive.path(""))
        .args(["drill", "--json"])
        .args(arguments)
        .args(["--workspace", workspace.path().to_str().unwrap(), "--pg-bin"])
        .arg(bin(version, "postgres").parent().unwrap())
        .output()
        .unwrap();
    for name in ["repository", "state"] {
        hand_over(&archive.path(name));
    }
    // Whatever happened, nothing is left.
    assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0);
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last).unwrap_or_default();
    (output.status.code().unwrap_or(-1), said)
}

fn outcomes(said: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = said["drill"]["checks"].as_array().expect("a drill has checks");
    checks.iter().map(|check| (text(&check["name"]), text(&check["outcome"]))).collect()
}

fn failed(said: &Value) -> Vec<String> {
    let all = outcomes(said).into_iter();
    all.filter(|(_, outcome)| outcome == "failed").map(|(name, _)| name).collect()
}

#[test]
fn a_base_backup_with_its_log_passes_and_an_assertion_can_fail() {
    if !can_mount() {
        return;
    }
    for version in [15, 18] {
        let archive = Archive::new();
        let server = archive.server(version);
        server.sql(
            "postgres",
            "CREATE TABLE rows (n int PRIMARY KEY, at timestamptz); \
             INSERT INTO rows SELECT n, '2026-01-02 03:04:05Z' FROM generate_series(1, 3000) n",
        );
        archive.base(&server);
        server.sql("postgres", "DELETE FROM rows WHERE n > 2000");
        archived(&server);
        let asked = "SELECT count(*) = 2000 FROM rows";
        let newest = ["--newest", "SELECT max(at) FROM rows"];
        let arguments = [&["source:shop", "--assert", asked][..], &newest].concat();
        let (code, said) = drill(&archive, version, &arguments);
        assert_eq!(code, 0, "{said}");
        let wanted = ["pages of the backup", "pg_amcheck", "every row is read", asked];
        let passed: Vec<_> = wanted.iter().map(|name| ((*name).into(), "passed".into())).collect();
        assert_eq!(outcomes(&said), passed, "{said}");
        let record = &said["drill"];
        assert_eq!(record["newest"], "2026-01-02T03:04:05Z");
        assert!(record["data_age_seconds"].as_f64().unwrap() > 1e6);
        let ready = record["ready_seconds"].as_f64().unwrap();
        let phases = record["phases"].as_array().unwrap();
        let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["prepare", "start", "recover", "check", "clean up"]);
        let until: f64 = phases[..3].iter().map(|phase| phase["seconds"].as_f64().unwrap()).sum();
        assert!((until - ready).abs() < 1.0, "{until} {ready}");
        // Before the rows were deleted.
        let (code, said) =
            drill(&archive, version, &["source:shop", "--to", "immediate", "--assert", asked]);
        assert_eq!((code, failed(&said)), (4, vec![asked.to_owned()]), "{said}");
        // Nothing of a drill came into the log that it was made from.
        assert!(!server.log().contains("archive command failed"));
        let listed = archive.run(&["drill", "report", "shop", "--json"]);
        let records: Vec<Value> =
            listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let verdicts = records.iter().filter_map(|r| r["drill"]["passed"].as_bool());
        assert_eq!(verdicts.collect::<Vec<_>>(), [true, false], "{}", listed.stdout);
        let table = archive.run(&["drill", "report"]).ends(0).stdout;
        assert!(table.contains("FAILED") && table.contains("passed"), "{table}");
        // The newest snapshot is that of the data.
        archive.run(&["ls", "latest"]).ends(0).says_not("drill.json");
    }
}

#[test]
fn a_drill_keeps_to_its_own_folder_whatever_the_configuration_says() {
    if !can_mount() {
        return;
    }
    let archive = Archive::new();
    let mut server = archive.server(15);
    server.sql("postgres", "CREATE TABLE rows AS SELECT generate_series(1, 10) AS n");
    archive.base(&server);
    server.sql("postgres", "INSERT INTO rows VALUES (11)");
    let data = server.data_dir().to_path_buf();
    let mut text = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    text.push_str(&["data_directory = '", data.to_str().unwrap(), "'\n"].concat());
    text.push_str("synchronous_standby_names = 'nobody'\nzero_damaged_pages = on\n");
    fs::write(data.join("postgresql.conf"), text).unwrap();
    archive.base(&server);
    server.stop();
    let before = fs::read(data.join("global/pg_control")).unwrap();
    let options = fs::metadata(data.join("postmaster.opts")).unwrap().modified().unwrap();
    let own = format!("SELECT current_setting('data_directory') <> '{}'", data.display());
    let off = "SELECT NOT current_setting('zero_damaged_pages')::bool";
    let of_newest = "SELECT count(*) = 11 FROM rows";
    let asked = ["--assert", &own, "--assert", off, "--assert", of_newest];
    let (code, said) = drill(&archive, 15, &[&["source:shop"][..], &asked].concat());
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read(data.join("global/pg_control")).unwrap(), before);
    let after = fs::metadata(data.join("postmaster.opts")).unwrap().modified().unwrap();
    assert_eq!(after, options);
    // The one before the newest is another one.
    let earlier = ["source:shop~1", "--quick", "--to", "immediate", "--assert", of_newest];
    let (code, said) = drill(&archive, 15, &earlier);
    assert_eq!((code, failed(&said)), (4, vec![of_newest.to_owned()]), "{said}");
}

#[test]
fn a_damaged_index_is_found_and_a_point_without_its_log_fails() {
    if !can_mount() {
        return;
    }
    let archive = Archive::new();
    let mut server = archive.server(17);
    server.sql(
        "postgres",
        "CREATE TABLE rows (n int PRIMARY KEY); INSERT INTO rows SELECT generate_series(1, 9000); \
         CHECKPOINT",
    );
    let file = server.sql("postgres", "SELECT pg_relation_filepath('rows_pkey')");
    server.stop();
    // The order of two keys in a leaf page, where no checksum tells; the head of the page stays.
    let path = server.data_dir().join(file);
    let index = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut page = vec![0; 8192];
    index.read_exact_at(&mut page, 8192).unwrap();
    let half = page[24..28].to_vec();
    page.copy_within(28..32, 24);
    page[28..32].copy_from_slice(&half);
    index.write_all_at(&page, 8192).unwrap();
    fs::write(server.data_dir().join("note"), "x").unwrap();
    server.start_again();
    let saved =
        archive.run(&["backup", "--postgres", &named(&server, "postgres"), "--method", "base"]);
    saved.ends(0);
    let (code, said) = drill(&archive, 17, &["source:shop"]);
    let found = ["pages of the backup", "pg_amcheck"];
    assert_eq!((code, &failed(&said)[..]), (4, &found.map(str::to_owned)[..]), "{said}");
    let (code, said) = drill(&archive, 17, &["source:shop", "--quick"]);
    assert_eq!((code, outcomes(&said).len()), (4, 1), "{said}");
    let (code, said) = drill(&archive, 17, &["source:shop", "--to-name", "never made"]);
    assert_eq!(code, 4, "{said}");
    let failure = said["drill"]["failure"].as_str().unwrap();
    assert!(failure.contains("nowhere in the saved log"), "{said}");
    let (code, said) = drill(&archive, 17, &["source:shop", "--to-lsn", "F/0", "--no-record"]);
    assert_eq!((code, said["kept"].is_null()), (4, true), "{said}");
}

#[test]
fn the_rows_of_a_dump_are_compared_whatever_the_settings_of_the_original() {
    if !can_mount() {
        return;
    }
    for version in [15, 17] {
        let archive = Archive::new();
        let space = servers_folder();
        let server = PostgresServer::start(version);
        server.run("createdb", &["shop"]);
        server.sql(
            "postgres",
            &format!(
                "CREATE ROLE owner; CREATE TABLESPACE apart LOCATION '{}'; \
                 ALTER DATABASE shop SET TimeZone = 'Asia/Kolkata'; \
                 ALTER DATABASE shop SET bytea_output = 'escape'; \
                 ALTER DATABASE shop SET DateStyle = 'German'",
                space.path().display()
            ),
        );
        server.sql(
            "shop",
            "CREATE TABLE rows (n int PRIMARY KEY, at timestamptz, b bytea, f float8, t text) \
             TABLESPACE apart; ALTER TABLE rows OWNER TO owner; \
             INSERT INTO rows SELECT n, '2026-01-02 03:04:05Z'::timestamptz + n * interval '1 day', \
             decode(md5(n::text), 'hex'), 1 / n::float8, E'a\\tb\\n' || n \
             FROM generate_series(1, 3000) n; CREATE VIEW half AS SELECT n / 2 FROM rows",
        );
        let tools = bin(version, "pg_dump");
        let tools = tools.parent().unwrap().to_str().unwrap();
        let name = named(&server, "shop");
        archive.run(&["backup", "--postgres", &name, "--pg-bin", tools]).ends(0);
        let before: Vec<_> = fs::read_dir(space.path()).unwrap().collect();
        let asked = "SELECT count(*) = 1500 FROM half";
        let (code, said) = drill(&archive, version, &["source:shop", "--assert", asked]);
        assert_eq!(failed(&said), [asked], "{said}");
        let of_rows = ("rows are those that were saved".into(), "passed".into());
        assert_eq!((code, &outcomes(&said)[0]), (4, &of_rows), "{said}");
        // The folder of the original's tablespace was not gone into.
        assert_eq!(fs::read_dir(space.path()).unwrap().count(), before.len());
        let wrong = drill(&archive, version, &["source:shop", "--to", "latest"]);
        assert_eq!(wrong.0, 2);
    }
}
