//! Who a real server must prove to be, and who we must: TLS and passwords.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::postgres_base::repository;
use crate::postgres_server::{ON_LOOPBACK, PostgresServer, hand_over, server_user, servers_folder};
use crate::program::{Outcome, Program};

/// A call of `openssl`, in a folder.
fn openssl(folder: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl is there: tests/run installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// An authority of its own, `NAME.pem`.
pub fn make_authority(folder: &Path, name: &str) -> PathBuf {
    let files = format!("-keyout {name}.key -out {name}.pem");
    openssl(folder, &format!("req -x509 {NEW_KEY} -days 3650 -subj /CN={name} {files}"));
    folder.join(format!("{name}.pem"))
}

/// A certificate for `localhost` by the authority, `NAME.crt`, and its key.
pub fn make_signed(folder: &Path, authority: &str, name: &str) {
    let subject = "-subj /CN=localhost -addext subjectAltName=DNS:localhost";
    openssl(folder, &format!("req {NEW_KEY} {subject} -keyout {name}.key -out {name}.csr"));
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial \
             -days 3650 -copy_extensions copy -out {name}.crt"
        ),
    );
}

/// A certificate for `localhost` by the authority, and its key, in the server's folder.
fn make_certificate(folder: &Path, authority: &str, data: &Path) {
    make_signed(folder, authority, "server");
    for name in ["server.key", "server.crt"] {
        let place = data.join(name);
        fs::copy(folder.join(name), &place).unwrap();
        let owner = server_user().unzip();
        chown(&place, owner.0, owner.1).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Gets in, once for queries and once for replication.
fn connect(program: &Program, server: &PostgresServer, host: &str, more: &str) -> Outcome {
    let port = server.port();
    let place = format!("shop=host={host} port={port} user=postgres dbname=postgres {more}");
    program.run(&["pg", "stream", &place, "--until", "0/1", "--flush-every", "1s"])
}

#[track_caller]
fn gets_in(outcome: &Outcome) {
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[track_caller]
fn is_refused(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.code, 20, "{}", outcome.stderr);
    assert!(outcome.stderr.contains(why), "{why} is not in\n{}", outcome.stderr);
}

#[test]
fn a_server_proves_who_it_is_as_far_as_it_is_asked_to() {
    for version in [15, 18] {
        let server = PostgresServer::with(version, &[ON_LOOPBACK], &[]);
        let folder = servers_folder();
        let ours = make_authority(folder.path(), "ours");
        let other = make_authority(folder.path(), "other");
        let [ours, other] = [&ours, &other].map(|path| format!("sslrootcert={}", path.display()));
        let program = repository();
        let to = |host: &str, more: &str| connect(&program, &server, host, more);
        // Without TLS there is none to be had.
        is_refused(&to("localhost", &format!("sslmode=verify-full {ours}")), "does not speak it");
        is_refused(&to("localhost", "sslmode=require"), "does not speak it");
        gets_in(&to("localhost", "sslmode=prefer"));
        make_certificate(folder.path(), "ours", server.data_dir());
        server.sql("postgres", "ALTER SYSTEM SET ssl = on");
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n\
                     hostssl replication all 127.0.0.1/32 trust\n";
        fs::write(server.data_dir().join("pg_hba.conf"), rules).unwrap();
        server.sql("postgres", "SELECT pg_reload_conf()");
        server.wait_until("postgres", "SELECT setting = 'on' FROM pg_settings WHERE name = 'ssl'");
        is_refused(&to("localhost", "sslmode=disable"), "HF-PG-002");
        for more in ["", "sslmode=prefer", "sslmode=require"] {
            gets_in(&to("127.0.0.1", more));
        }
        gets_in(&to("127.0.0.1", &format!("sslmode=verify-ca {ours}")));
        gets_in(&to("localhost", &format!("sslmode=verify-full {ours}")));
        let name = to("127.0.0.1", &format!("sslmode=verify-full {ours}"));
        is_refused(&name, "not valid for name");
        for mode in ["require", "verify-ca", "verify-full"] {
            is_refused(&to("localhost", &format!("sslmode={mode} {other}")), "HF-PG-001");
        }
        let unknown = to("localhost", "sslmode=verify-full");
        is_refused(&unknown, "UnknownIssuer");
        let missing = to("localhost", "sslmode=verify-full sslrootcert=/nowhere/ca.pem");
        is_refused(&missing, "/nowhere/ca.pem");
    }
}

#[test]
fn passwords_prove_who_we_are_by_either_method() {
    for (version, method, prefix) in [(17, "md5", "md5"), (18, "scram-sha-256", "SCRAM-SHA-256")] {
        let folder = servers_folder();
        let file = folder.path().join("password");
        fs::write(&file, "geh:eim\n").unwrap();
        hand_over(&file);
        let own = format!("--auth-host={method}");
        let arguments = ["--auth-local=trust", &own, "--pwfile", file.to_str().unwrap()];
        let server = PostgresServer::with(version, &[ON_LOOPBACK], &arguments);
        let stored = "SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname = 'postgres'";
        assert!(server.sql("postgres", stored).starts_with(prefix), "{method}");
        let mut program = repository();
        is_refused(&connect(&program, &server, "127.0.0.1", ""), "wants a password");
        for wrong in ["geh", "geh:eim ", "geh:eim\u{308}"] {
            program.set("PGPASSWORD", wrong);
            is_refused(&connect(&program, &server, "127.0.0.1", ""), "HF-PG-002");
        }
        program.set("PGPASSWORD", "geh:eim");
        gets_in(&connect(&program, &server, "127.0.0.1", ""));
        program.set("PGPASSWORD", "");
        let lines = format!("127.0.0.1:{}:*:postgres:geh\\:eim\n", server.port());
        let pass = program.write("pass", &lines);
        let of_file = format!("passfile={pass}");
        for (mode, gets_through) in [(0o644, false), (0o600, true)] {
            fs::set_permissions(&pass, fs::Permissions::from_mode(mode)).unwrap();
            let outcome = connect(&program, &server, "127.0.0.1", &of_file);
            if gets_through {
                gets_in(&outcome);
            } else {
                is_refused(&outcome, "others may read it");
            }
        }
        // A line for another host is none for this one.
        is_refused(&connect(&program, &server, "localhost", &of_file), "wants a password");
    }
}
