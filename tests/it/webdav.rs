//! The snapshots by `WebDAV`, asked by a plain client.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::household::noise;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(this.path("secret"), "correct horse battery staple\n").unwrap();
        fs::set_permissions(this.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(this.path("source")).unwrap();
        assert!(this.command(&["init"]).output().unwrap().status.success());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", "/usr/bin:/bin")
            .env("HOLDFAST_REPO", self.path("repository"))
            .env("HOLDFAST_PASSWORD_FILE", self.path("secret"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(place: &Place) -> Self {
        let mut child = place
            .command(&["serve", "webdav", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("serving at http://").unwrap();
        let address = address.split('/').next().unwrap().to_owned();
        Self { child, address }
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str]) -> (u16, String, Vec<u8>) {
        self.ask_as(method, path, &self.address, headers)
    }

    fn ask_as(
        &self,
        method: &str,
        path: &str,
        host: &str,
        headers: &[&str],
    ) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let more: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = answer[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        (status, head, body)
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").unwrap();
        let length =
            usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return out;
        }
        out.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 2 + length + 2..];
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn a_plain_client_reads_and_lists() {
    let place = Place::new();
    let source = place.path("source");
    let big = noise(3, 5_000_000);
    fs::write(source.join("big"), &big).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    fs::write(source.join("a b&c<d>"), b"odd").unwrap();
    fs::write(source.join(std::ffi::OsStr::from_bytes(b"x\xff")), b"bytes").unwrap();
    fs::create_dir(source.join("dir")).unwrap();
    std::os::unix::fs::symlink("../else/where", source.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let folder = source.display().to_string();
    let saved = place.command(&["backup", "--source", "web/shop", &folder]).output().unwrap();
    assert!(saved.status.success(), "{saved:?}");
    let mut server = Server::start(&place);
    let at = format!("/web%252Fshop/latest{folder}");
    let (status, head, body) = server.ask("GET", &format!("{at}/big"), &[]);
    assert_eq!(status, 200, "{head}");
    assert!(body == big && head.contains("content-length: 5000000"), "{head}");
    assert!(head.contains("content-security-policy: sandbox"), "{head}");
    let (status, head, body) =
        server.ask("GET", &format!("{at}/big"), &["Range: bytes=4999990-5000100"]);
    assert_eq!((status, &body[..]), (206, &big[4_999_990..]), "{head}");
    assert!(head.contains("content-range: bytes 4999990-4999999/5000000"), "{head}");
    let (status, _, body) =
        server.ask("GET", &format!("{at}/big"), &["Range: bytes=1000000-1999999"]);
    assert_eq!(status, 206);
    assert!(body == big[1_000_000..2_000_000]);
    for (name, content) in [
        ("empty", &b""[..]),
        ("a%20b&c%3Cd%3E", b"odd"),
        ("x%FF", b"bytes"),
        ("link", b"../else/where"),
    ] {
        let (status, _, body) = server.ask("GET", &format!("{at}/{name}"), &[]);
        assert_eq!((status, &body[..]), (200, content), "{name}");
    }
    let (status, _, body) = server.ask("PROPFIND", &at, &["Depth: 1"]);
    let text = String::from_utf8(body).unwrap();
    assert_eq!(status, 207, "{text}");
    assert_eq!(text.matches("<D:response>").count(), 7, "{text}");
    assert!(text.contains("x%FF") && text.contains("5000000"), "{text}");
    assert!(!text.contains("fifo"), "{text}");
    let (status, _, body) = server.ask("PROPFIND", &at, &["Depth: 0"]);
    let text = String::from_utf8(body).unwrap();
    assert_eq!((status, text.matches("<D:response>").count()), (207, 1), "{text}");
    let (status, _, body) = server.ask("PROPFIND", "/", &["Depth: 1"]);
    let text = String::from_utf8(body).unwrap();
    assert!(status == 207 && text.contains("/web%252Fshop/"), "{text}");
    for (method, path) in [("GET", format!("{at}/fifo")), ("GET", format!("{at}/none"))] {
        assert_eq!(server.ask(method, &path, &[]).0, 404, "{path}");
    }
    for method in ["PUT", "DELETE", "MKCOL", "LOCK", "PROPPATCH"] {
        assert_eq!(server.ask(method, &format!("{at}/new"), &[]).0, 405, "{method}");
    }
    assert_eq!(server.ask_as("GET", &at, "evil.example", &[]).0, 403);
    assert!(server.ask("PROPFIND", "/", &["Depth: infinity"]).0 >= 400);
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn other_hosts_are_not_answered_unasked() {
    let place = Place::new();
    let refused = place.command(&["serve", "webdav", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HF-MOUNT-005"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = place.command(&["serve", "webdav", "--listen", &address]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HF-MOUNT-004"));
}
