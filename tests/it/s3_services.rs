//! What services really keep, as the probe and `holdfast doctor` say it; locks; and whole backups
//! over a line that fails.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use holdfast::store::capabilities::{CreateIfAbsent, Verdict};
use holdfast::store::s3::{S3Options, S3Store};
use holdfast::store::{Put, Store, StoreError};

use crate::fault_proxy::{Fault, FaultProxy, Kind};
use crate::household::{files_below, noise};
use crate::program::Program;
use crate::servers::S3Server;

fn names_below(store: &S3Store, server: &S3Server) -> Vec<String> {
    let prefix = format!("{}/", store.address().prefix);
    let client = server.client();
    let request = client.list_objects_v2().bucket(&store.address().bucket).prefix(prefix).send();
    let listed = server.block_on(request).unwrap();
    listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
}

#[test]
fn the_probe_finds_what_seaweed_keeps_and_leaves_nothing() {
    let server = S3Server::seaweed();
    let store = server.store();
    let found = store.probe().unwrap();
    assert_eq!(found.create_if_absent, CreateIfAbsent::Atomic);
    assert_eq!(found.winners_of_20, Some(1));
    assert_eq!((found.ranges, found.list_after_put), (Some(true), Some(true)));
    assert_eq!((found.can_overwrite, found.can_delete), (Some(true), Some(true)));
    assert!(found.clock_skew_seconds.unwrap().abs() <= 2, "{found:?}");
    assert!(found.lock.as_ref().is_some_and(|lock| !lock.is_enabled), "{found:?}");
    assert!(found.lines().iter().all(|line| line.verdict != Verdict::Broken));
    assert_eq!(names_below(&store, &server), [""; 0]);
    let mut listed = 0;
    store.put("data/a", b"x").unwrap();
    store.list("", &mut |_| listed += 1).unwrap();
    assert_eq!(listed, 1, "only objects are listed");
}

#[test]
fn the_probe_finds_that_garage_ignores_conditions() {
    let Some(server) = S3Server::garage() else { return };
    let found = server.store().probe().unwrap();
    assert_eq!(found.create_if_absent, CreateIfAbsent::Ignored);
    let said = found.lines();
    assert!(said.iter().any(|line| line.what == "this service ignores conditional writes"));
    // Nothing is overwritten in silence nevertheless: the store finds it out by itself.
    let store = server.store();
    assert_eq!(store.put("log/1", b"first").unwrap(), Put::Created);
    assert_eq!(store.put("log/1", b"second").unwrap(), Put::Exists);
    assert_eq!(store.get("log/1", 10).unwrap(), b"first");
}

#[test]
fn a_clock_that_is_an_hour_off_is_told_with_both_times() {
    let server = S3Server::seaweed();
    let proxy = FaultProxy::before(&server.endpoint, Duration::from_secs(1));
    let mut address = server.address();
    address.endpoint = Some(proxy.endpoint.clone());
    let store = S3Store::open(&address, server.options()).unwrap();
    proxy.random(1, 1.0, &[Fault::Status(403, "RequestTimeTooSkewed", None)]);
    let error = store.probe().unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("this host's clock says"), "{source}");
}

#[test]
fn locks_are_extended_and_never_shortened_and_refuse_deletion() {
    let server = S3Server::seaweed();
    server.make_bucket("locked", true).unwrap();
    let mut address = server.address();
    address.bucket = "locked".to_owned();
    let store = S3Store::open(&address, server.options()).unwrap();
    assert!(store.can_lock());
    assert!(!server.store().can_lock());
    store.put("data/a", b"kept").unwrap();
    assert_eq!(store.locked_until("data/a").unwrap(), None);
    let in_days = |days: u64| SystemTime::now() + Duration::from_hours(24 * days);
    let close = |a: SystemTime, b: SystemTime| {
        a.duration_since(b).or_else(|_| b.duration_since(a)).unwrap() < Duration::from_secs(2)
    };
    let ten = in_days(10);
    store.lock_until("data/a", ten).unwrap();
    assert!(close(store.locked_until("data/a").unwrap().unwrap(), ten));
    store.lock_until("data/a", in_days(5)).unwrap();
    assert!(close(store.locked_until("data/a").unwrap().unwrap(), ten), "shortened");
    let twenty = in_days(20);
    store.lock_until("data/a", twenty).unwrap();
    assert!(close(store.locked_until("data/a").unwrap().unwrap(), twenty));
    match store.delete("data/a") {
        Err(StoreError::Refused { source, .. }) => {
            assert!(source.to_string().contains("locked until"), "{source}");
        }
        other => panic!("a locked object was deleted: {other:?}"),
    }
    assert_eq!(store.get("data/a", 10).unwrap(), b"kept");
    // What is not locked goes with its version: nothing is left under the name.
    store.put("data/b", b"free").unwrap();
    store.delete("data/b").unwrap();
    assert!(matches!(store.stat("data/b"), Err(StoreError::NotFound { .. })));
    let client = server.client();
    let request = client.list_object_versions().bucket("locked").send();
    let versions = server.block_on(request).unwrap();
    let keys: Vec<_> = versions.versions().iter().map(|one| one.key().unwrap()).collect();
    assert!(!keys.iter().any(|key| key.ends_with("data/b")), "{keys:?}");
    assert!(versions.delete_markers().is_empty());
}

#[test]
fn bandwidth_limits_hold_both_ways() {
    let server = S3Server::in_process();
    let limit = Some(1 << 20);
    let options = S3Options { limit_upload: limit, limit_download: limit, ..server.options() };
    let store = S3Store::open(&server.address(), options).unwrap();
    store.put("data/warm", b"x").unwrap();
    let bytes = vec![7; 2 << 20];
    let begun = std::time::Instant::now();
    store.put("data/a", &bytes).unwrap();
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    assert!(store.get("data/a", 4 << 20).unwrap() == bytes);
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    let counts = store.requests().unwrap();
    assert!(counts.bytes_up >= 2 << 20 && counts.bytes_down >= 2 << 20, "{counts:?}");
}

/// A program with credentials for the server, and a passphrase's file.
fn program(server: &S3Server) -> (Program, String) {
    let mut program = Program::new();
    program.set("AWS_ACCESS_KEY_ID", &server.access_key);
    program.set("AWS_SECRET_ACCESS_KEY", &server.secret_key);
    let secret = program.write("secret", "correct horse battery\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    program.set("HOLDFAST_PASSWORD_FILE", &secret);
    (program, secret)
}

#[test]
fn doctor_says_what_a_place_keeps() {
    let server = S3Server::seaweed();
    let (program, secret) = program(&server);
    let place = format!("s3://{}/doc", server.bucket);
    let call = |command: &str| {
        program.run(&[command, "-r", &place, "--endpoint", &server.endpoint, "--region", "eu"])
    };
    call("doctor")
        .ends(0)
        .says("✓ a name is given once: of 20 at the same time one succeeded")
        .says("✓ the clocks agree")
        .says("– the bucket has no Object Lock")
        .says("– there is no repository yet");
    let endpoint = ["--endpoint", &server.endpoint, "--region", "eu"];
    let init = ["init", "-r", &place, "--password-file", &secret];
    program.run(&[&init[..], &endpoint].concat()).ends(0);
    call("doctor").ends(0).says("✓ a repository is there, and its roster is signed");
    let folder = program.arg("repo");
    program.run(&["init", "-r", &folder, "--password-file", &secret]).ends(0);
    program.run(&["doctor", "-r", &folder]).ends(0).says("✓ a name is given once").says("✓ …free");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    program.run(&["doctor", "-r", &folder]).ends(4).says("✗ others can write to the folder");
}

#[test]
fn a_snapshot_that_was_reported_always_restores() {
    let server = S3Server::seaweed();
    let proxy = FaultProxy::before(&server.endpoint, Duration::from_millis(300));
    let (program, secret) = program(&server);
    let place =
        |endpoint: &str| format!("s3://{}/e2e?endpoint={endpoint}&region=us-east-1", server.bucket);
    let (direct, faulty) = (place(&server.endpoint), place(&proxy.endpoint));
    program.run(&["init", "-r", &direct, "--password-file", &secret]).ends(0);
    let faults = [
        Fault::Status(500, "InternalError", None),
        Fault::Status(503, "SlowDown", Some(0)),
        Fault::Status(429, "", None),
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::CutBody,
        Fault::FlipAnswer,
        Fault::FlipRequest,
        Fault::StallBefore,
        Fault::StallAfter,
        Fault::Duplicate,
        Fault::OldAnswer,
        Fault::Garbage,
    ];
    let mut saved = 0;
    for round in 0_u64..6 {
        let mut bytes = vec![0; 400_000];
        blake3::Hasher::new().update(&round.to_le_bytes()).finalize_xof().fill(&mut bytes);
        fs::create_dir_all(program.path("source")).unwrap();
        fs::write(program.path(&format!("source/file-{round}")), &bytes).unwrap();
        proxy.random(round + 77, 0.2, &faults);
        let run = program.run(&["backup", "-r", &faulty, &program.arg("source"), "--json"]);
        proxy.heal();
        if run.code != 0 {
            assert!(run.stdout.contains("error_id"), "{}\n{}", run.stdout, run.stderr);
            continue;
        }
        saved += 1;
        let target = program.arg(&format!("out-{round}"));
        let from = format!("latest:{}", program.arg("source"));
        program.run(&["restore", "-r", &direct, &from, "--target", &target]).ends(0);
        for earlier in 0..=round {
            let name = format!("file-{earlier}");
            let back = fs::read(program.path(&format!("out-{round}/{name}"))).unwrap();
            let was = fs::read(program.path(&format!("source/{name}"))).unwrap();
            assert!(back == was, "round {round}: {name}");
        }
    }
    let (requests, injected) = proxy.counts();
    assert!(injected > 10, "{injected} faults in {requests} requests");
    assert!(saved > 0, "no backup of six came through");
    program.run(&["check", "-r", &direct, "--read-data"]).ends(0);
}

#[test]
fn expired_credentials_are_asked_for_again_once() {
    let server = S3Server::seaweed();
    let proxy = FaultProxy::before(&server.endpoint, Duration::from_millis(300));
    let mut program = Program::new();
    let (calls, script) = (program.arg("calls"), program.arg("credentials"));
    let keys = format!(
        r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
        server.access_key, server.secret_key
    );
    program.write("credentials", &format!("#!/bin/sh\necho x >> {calls}\necho '{keys}'\n"));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let config = format!("[profile two]\ncredential_process = {script}\nregion = us-east-1\n");
    program.set("AWS_CONFIG_FILE", &program.write("aws-config", &config));
    let place = format!("s3://{}/cred?endpoint={}&profile=two", server.bucket, proxy.endpoint);
    let asked = || fs::read_to_string(&calls).unwrap().lines().count();
    program.run(&["doctor", "-r", &place]).ends(0);
    assert_eq!(asked(), 1);
    proxy.plan(Kind::Put, Fault::Status(400, "ExpiredToken", None), 1);
    program.run(&["doctor", "-r", &place]).ends(0);
    assert_eq!(asked(), 3, "once at the start, once after they had expired");
    proxy.plan(Kind::Put, Fault::Status(400, "ExpiredToken", None), 99);
    program
        .run(&["doctor", "-r", &place])
        .ends(15)
        .warns("…the credentials have expired (400 ExpiredToken): renew them…");
    assert_eq!(asked(), 5);
}

#[test]
fn a_policy_names_what_a_writer_needs() {
    let server = S3Server::seaweed();
    let (program, secret) = program(&server);
    let place = format!("s3://{}/pol?endpoint={}&region=eu", server.bucket, server.endpoint);
    program.run(&["init", "-r", &place, "--password-file", &secret, "--writer", "one"]).ends(0);
    let policy = program.run(&["writer", "policy", "one", "-r", &place]).ends(0);
    let policy: serde_json::Value = serde_json::from_str(&policy.stdout).unwrap();
    let allowed = policy["Statement"][0]["Resource"].as_array().unwrap();
    // Every object that a backup makes is below a name that the policy allows.
    let docs = program.write("docs/x", "some content");
    let prefixes = |name: &str| {
        let arn = format!("arn:aws:s3:::{}/{name}", server.bucket);
        allowed.iter().any(|one| arn.starts_with(one.as_str().unwrap().trim_end_matches('*')))
    };
    let client = server.client();
    let keys = || -> Vec<String> {
        let listed = client.list_objects_v2().bucket(&server.bucket).prefix("pol/").send();
        let listed = server.block_on(listed).unwrap();
        listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    };
    let before = keys();
    program.run(&["backup", "-r", &place, &docs]).ends(0);
    let made: Vec<String> = keys().into_iter().filter(|key| !before.contains(key)).collect();
    assert!(made.len() >= 4, "{made:?}");
    assert!(made.iter().all(|key| prefixes(key)), "{made:?} by {allowed:?}");
    program.run(&["writer", "policy", "two", "-r", &place]).warns("error[HF-REPO-015]: …");
}

#[test]
fn what_a_snapshot_needs_is_locked_and_a_prune_waits_for_it() {
    let server = S3Server::seaweed();
    server.make_bucket("sealed", true).unwrap();
    let mut home = Program::new();
    let secret = home.write("secret", "correct horse battery staple\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    home.set("HOLDFAST_PASSWORD_FILE", &secret);
    home.set("AWS_ACCESS_KEY_ID", &server.access_key);
    home.set("AWS_SECRET_ACCESS_KEY", &server.secret_key);
    home.set("AWS_EC2_METADATA_DISABLED", "true");
    let repo = format!("s3://sealed/r?endpoint={}", server.endpoint);
    home.set("HOLDFAST_REPO", &repo);
    home.run(&["init", "--grace", "0s", "--pack-size", "1MiB"]).ends(0);
    home.write("data/old", &"0123456789abcdef".repeat(150_000));
    home.run(&["backup", "data"]).ends(0);
    let weakest = |home: &Program| {
        let checked = home.run(&["check", "--json"]).ends(0);
        checked.events().pop().unwrap()
    };
    assert!(weakest(&home)["unlocked"].as_u64().unwrap() > 0);
    home.write("data/new", "new");
    let locked = home.run(&["backup", "data", "--lock-for", "2d", "--json"]).ends(0);
    let summary = locked.events().pop().unwrap();
    assert!(summary["extended_locks"].as_u64().unwrap() > 5, "{summary}");
    let again = home.run(&["backup", "data", "--lock-for", "2d", "--json"]).ends(0);
    let again = again.events().pop().unwrap();
    let (all, extended) = (&again["locked_objects"], &again["extended_locks"]);
    assert!(extended.as_u64().unwrap() <= 4 && all.as_u64() > extended.as_u64(), "{again}");
    // Old packs too: all that is not locked are the first snapshot, its refs and its tree.
    let left = weakest(&home);
    assert_eq!(left["unlocked"], 3, "{left}");
    // What could go stays until its locks end, and the rest goes.
    home.run(&["forget", "latest", "latest~1"]).ends(0);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let mut waiting = 0;
    for _ in 0..3 {
        let pruned = home.run(&["prune", "--json"]).ends(0);
        waiting = pruned.events().pop().unwrap()["locked_objects"].as_u64().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert!(waiting >= 4, "snapshots and refs that are locked: {waiting}");
    home.run(&["check", "--read-data"]).ends(0);
    // Where there are no locks, the snapshot is saved, and that it is not locked is an error.
    let open = format!("s3://{}/open?endpoint={}", server.bucket, server.endpoint);
    home.set("HOLDFAST_REPO", &open);
    home.run(&["init"]).ends(0);
    home.run(&["backup", "data", "--lock-for", "2d"]).ends(1).warns("…HF-STORE-009…");
    home.run(&["restore", "latest", "--target", &home.arg("out")]).ends(0);
}

#[test]
fn a_full_bucket_is_said_and_costs_nothing() {
    let Some(server) = S3Server::garage() else { return };
    let (program, _) = program(&server);
    let place = format!("s3://{}/full", server.bucket);
    let call = |words: &[&str]| {
        let address = ["-r", &place, "--endpoint", &server.endpoint, "--region", "us-east-1"];
        program.run(&[words, &address].concat())
    };
    program.write("data/small", "that fits");
    call(&["init"]).ends(0);
    call(&["backup", "data"]).ends(0);
    let quota = |bytes: &str| {
        let words = ["bucket", "set-quotas", "--max-size", bytes, "--max-objects", "none"];
        server.garage_says(&[&words[..], &[&server.bucket]].concat()).unwrap();
    };
    quota("2MiB");
    let large = program.path("data/large");
    fs::write(&large, noise(5, 20_000_000)).unwrap();
    call(&["backup", "data"]).ends(7).warns("…quota is reached…");
    call(&["check", "--read-data"]).ends(0);
    let listed = call(&["snapshots", "--json"]).ends(0);
    assert_eq!(listed.events().iter().filter(|event| event["id"].is_string()).count(), 1);
    quota("none");
    call(&["backup", "data"]).ends(0);
    let latest = format!("latest:{}", program.arg("data"));
    call(&["restore", &latest, "--target", &program.arg("out")]).ends(0);
    assert!(files_below(&program.path("out")) == files_below(&program.path("data")));
}

#[test]
fn where_the_primary_is_gone_a_replica_serves() {
    let server = S3Server::seaweed();
    let (program, _) = program(&server);
    let place = format!("s3://{}/gone", server.bucket);
    let endpoint = server.endpoint.clone();
    program.write("data/file", &"row\n".repeat(50_000));
    let address = ["-r", &place, "--endpoint", &endpoint, "--region", "eu"];
    program.run(&[&["init"], &address[..]].concat()).ends(0);
    program.run(&["backup", "-r", &place, "data"]).ends(0);
    program.run(&["replica", "add", "west", &program.arg("west"), "-r", &place]).ends(0);
    program.run(&["copy", "-r", &place, "--to", "west"]).ends(0);
    drop(server);
    let latest = format!("latest:{}", program.arg("data"));
    let restore = ["restore", "-r", &place, &latest, "--from-any", "--target"];
    program
        .run(&[&restore[..], &[&program.arg("out")]].concat())
        .ends(0)
        .warns("…the repository (…) cannot be used…")
        .warns("…served by west…");
    assert!(files_below(&program.path("out")) == files_below(&program.path("data")));
    program.run(&["replica", "list", "-r", &place]).ends(0).says("…west…");
    program.run(&["promote", "west", "-r", &place]).ends(0);
    program.run(&["backup", "-r", &program.arg("west"), "data"]).ends(0);
}
