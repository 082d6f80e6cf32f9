//! Real S3 servers for tests, each of one test: on loopback, on free ports, in a folder of their
//! own, and ended with the test by their process.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use holdfast::store::address::S3Address;
use holdfast::store::s3::{Patience, S3Credentials, S3Options, S3Store};
use tempfile::TempDir;

/// Longest time that a server takes to start on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A server with one bucket, and what is known of it.
pub struct S3Server {
    pub endpoint: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
    prefixes: AtomicU32,
    _process: Option<Process>,
    #[allow(dead_code, reason = "it serves as long as it lives")]
    runtime: Option<tokio::runtime::Runtime>,
    folder: TempDir,
}

/// A program that ends with the value.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts a program whose output goes to a file; it ends also when this process is killed.
    pub fn start(program: &Path, arguments: &[String], folder: &Path) -> Self {
        let log = File::create(folder.join("server.log")).unwrap();
        let mut command = if find_program("setpriv").is_some() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let child = command
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

/// A program of the path, or of the folder of the tests' own programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    for cache in cache.into_iter().chain(home) {
        folders.push(cache.join("holdfast-tests/venv/bin"));
        folders.push(cache.join("holdfast-tests/garage/bin"));
    }
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// `count` free ports in a row, those 10,000 above them free too.
fn free_ports(count: u16) -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..1000 {
        let first = 12_000 + (getrandom::u32().unwrap() % 20_000) as u16;
        if (first..first + count).all(|port| free(port) && free(port + 10_000)) {
            return first;
        }
    }
    panic!("no free ports");
}

fn wait_for(what: &str, folder: &Path, mut is_there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_there() {
        let log = || fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        assert!(begun.elapsed() < START, "{what} does not start:\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_open(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

fn call_garage(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(find_program("garage")?);
    let output = command.args(["-c", "garage.toml"]).args(arguments).current_dir(folder).output();
    let output = output.unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

impl S3Server {
    /// `SeaweedFS`: keeps conditions, versions and locks.
    pub fn seaweed() -> Self {
        let weed = find_program("weed").expect("weed is there: tests/run installs it");
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"identities":[{"name":"t","credentials":[{"accessKey":"AK","secretKey":"SK"}],"actions":["Admin","Read","Write","List","Tagging"]}]}"#;
        fs::write(folder.path().join("s3.json"), config).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let port = free_ports(4);
        let mut arguments: Vec<String> = vec!["-logtostderr".into(), "server".into()];
        arguments.extend(
            [
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-dir=data",
                "-master.telemetry=false",
                "-filer",
                "-s3",
                "-s3.config=s3.json",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.volumeSizeLimitMB=256",
                "-volume.max=100",
            ]
            .map(str::to_owned),
        );
        arguments.extend([
            format!("-s3.port={port}"),
            format!("-master.port={}", port + 1),
            format!("-volume.port={}", port + 2),
            format!("-filer.port={}", port + 3),
        ]);
        let process = Process::start(&weed, &arguments, folder.path());
        wait_for("weed", folder.path(), || is_open(port));
        let endpoint = format!("http://127.0.0.1:{port}");
        let this = Self::of(endpoint, Some(process), folder, ("AK", "SK"));
        wait_for("the bucket", this.folder.path(), || {
            this.make_bucket(&this.bucket, false).is_ok()
        });
        this
    }

    /// Garage: ignores conditions, knows no versions and no locks. Nothing where it is not
    /// installed and the tests may do without it.
    pub fn garage() -> Option<Self> {
        let is_needed = std::env::var_os("CI").is_some_and(|value| value == "true");
        let program = find_program("garage");
        assert!(program.is_some() || !is_needed, "garage is not there: tests/run builds it");
        let program = program?;
        let folder = tempfile::tempdir().unwrap();
        let port = free_ports(3);
        let config = format!(
            "metadata_dir = \"meta\"\ndata_dir = \"data\"\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{}\"\n\
             rpc_public_addr = \"127.0.0.1:{}\"\nrpc_secret = \"{}\"\n\
             [s3_api]\ns3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{port}\"\n\
             [admin]\napi_bind_addr = \"127.0.0.1:{}\"\n",
            port + 1,
            port + 1,
            "1".repeat(64),
            port + 2,
        );
        fs::write(folder.path().join("garage.toml"), config).unwrap();
        let arguments = ["-c", "garage.toml", "server"].map(str::to_owned);
        let process = Process::start(&program, &arguments, folder.path());
        let call = |arguments: &[&str]| call_garage(folder.path(), arguments);
        wait_for("garage", folder.path(), || is_open(port) && call(&["status"]).is_some());
        let node = call(&["node", "id", "-q"]).unwrap();
        let node = node.trim().split('@').next().unwrap();
        call(&["layout", "assign", "-z", "z", "-c", "20G", node]).unwrap();
        call(&["layout", "apply", "--version", "1"]).unwrap();
        let keys = (format!("GK{}", "a1".repeat(12)), "b2".repeat(32));
        call(&["key", "import", "--yes", "-n", "tests", &keys.0, &keys.1]).unwrap();
        let bucket = "holdfast";
        call(&["bucket", "create", bucket]).unwrap();
        call(&["bucket", "allow", "--read", "--write", "--owner", bucket, "--key", "tests"])
            .unwrap();
        let endpoint = format!("http://127.0.0.1:{port}");
        Some(Self::of(endpoint, Some(process), folder, (&keys.0, &keys.1)))
    }

    /// What the program of Garage says to these words.
    pub fn garage_says(&self, arguments: &[&str]) -> Option<String> {
        call_garage(self.folder.path(), arguments)
    }

    /// `s3s-fs` in this process: keeps conditions one after another, but not at once.
    pub fn in_process() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("holdfast")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let files = s3s_fs::FileSystem::new(folder.path()).unwrap();
        let mut service = s3s::service::S3ServiceBuilder::new(files);
        service.set_auth(s3s::auth::SimpleAuth::from_single("AK", "SK"));
        let service = service.build();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let io = hyper_util::rt::TokioIo::new(stream);
                let service = service.clone();
                tokio::spawn(async move {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(io, service).await;
                });
            }
        });
        let mut this = Self::of(endpoint, None, folder, ("AK", "SK"));
        this.runtime = Some(runtime);
        this
    }

    fn of(endpoint: String, process: Option<Process>, folder: TempDir, keys: (&str, &str)) -> Self {
        Self {
            endpoint,
            bucket: "holdfast".to_owned(),
            access_key: keys.0.to_owned(),
            secret_key: keys.1.to_owned(),
            prefixes: AtomicU32::new(0),
            _process: process,
            runtime: None,
            folder,
        }
    }

    /// A prefix that nothing has used yet.
    pub fn address(&self) -> S3Address {
        let number = self.prefixes.fetch_add(1, Ordering::Relaxed);
        S3Address {
            bucket: self.bucket.clone(),
            prefix: format!("prefix/{number}"),
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            ..S3Address::default()
        }
    }

    /// The credentials, and times that suit a test.
    pub fn options(&self) -> S3Options {
        let credentials = S3Credentials {
            access_key_id: self.access_key.clone(),
            secret_access_key: self.secret_key.clone().into(),
            session_token: None,
        };
        let patience = Patience {
            delay: Duration::from_millis(5),
            delay_max: Duration::from_millis(50),
            ..Patience::default()
        };
        S3Options { credentials: Some(credentials), patience, ..S3Options::default() }
    }

    /// A store in a prefix of its own.
    pub fn store(&self) -> S3Store {
        S3Store::open(&self.address(), self.options()).unwrap()
    }

    /// A client beside the store, for what no store does.
    pub fn client(&self) -> Client {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let config = Builder::new()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .region(Region::from_static("us-east-1"))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .credentials_provider(Credentials::new(
                &self.access_key,
                &self.secret_key,
                None,
                None,
                "tests",
            ))
            .build();
        Client::from_conf(config)
    }

    /// Waits for what the client does.
    #[allow(clippy::unused_self, reason = "it reads as the server's answer")]
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// Makes a bucket, with Object Lock if it is wanted.
    pub fn make_bucket(&self, name: &str, with_lock: bool) -> Result<(), String> {
        let client = self.client();
        let mut request = client.create_bucket().bucket(name);
        if with_lock {
            request = request.object_lock_enabled_for_bucket(true);
        }
        self.block_on(request.send()).map(drop).map_err(|error| format!("{error:?}"))
    }
}
