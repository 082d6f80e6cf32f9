//! An HTTP/1.1 proxy that does to requests and answers what networks and services do.
//!
//! Faults are planned for a kind of request, or drawn by a seeded generator. Each request goes to
//! the real server over a connection of its own; whole answers are held before they are passed on.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The kinds of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Put,
    Get,
    Range,
    List,
    Head,
    Delete,
    Other,
}

/// What is done to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server is not asked; the answer is this one, with `Retry-After` in seconds.
    Status(u16, &'static str, Option<u32>),
    /// The connection ends before the server is asked.
    DropBefore,
    /// The server acts, and its answer is lost.
    DropAfter,
    /// Half of the answer's body, then the connection ends.
    CutBody,
    /// `Content-Length` is larger than the body.
    LongerLength,
    /// `Content-Length` is smaller than the body, which is cut there.
    ShorterLength,
    /// A byte of the answer's body is another one.
    FlipAnswer,
    /// A byte of the request's body is another one.
    FlipRequest,
    /// Nothing comes for a time, and the server was not asked.
    StallBefore,
    /// The server acts, and nothing comes for a time.
    StallAfter,
    /// Half of the answer's body, and then nothing for a time.
    StallInBody,
    /// The server gets the request twice; the second answer is passed on.
    Duplicate,
    /// The answer that the same question had before.
    OldAnswer,
    /// Bytes that are no answer.
    Garbage,
}

/// The server's answer, whole.
#[derive(Debug, Clone)]
struct Answer {
    status_line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(Default)]
struct Plan {
    faults: HashMap<Kind, VecDeque<Fault>>,
    random: Option<(u64, f64, Vec<Fault>)>,
    seen: HashMap<String, Answer>,
}

struct Shared {
    target: String,
    stall: Duration,
    plan: Mutex<Plan>,
    is_over: AtomicBool,
    requests: AtomicU64,
    injected: AtomicU64,
}

/// The proxy; it ends with the value.
pub struct FaultProxy {
    pub endpoint: String,
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl FaultProxy {
    /// Stands before the server at `endpoint` (`http://HOST:PORT`); a stall lasts `stall`.
    pub fn before(endpoint: &str, stall: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: endpoint.trim_start_matches("http://").to_owned(),
            stall,
            plan: Mutex::default(),
            is_over: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            injected: AtomicU64::new(0),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if for_thread.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&for_thread);
                std::thread::spawn(move || {
                    // A broken connection is what this is for.
                    let _ = serve(stream, &shared);
                });
            }
        });
        Self { endpoint: format!("http://{address}"), address, shared }
    }

    /// The next `times` requests of the kind get the fault; what was planned before is forgotten.
    pub fn plan(&self, kind: Kind, fault: Fault, times: usize) {
        let mut plan = self.shared.plan.lock().unwrap();
        plan.faults.clear();
        plan.faults.insert(kind, std::iter::repeat_n(fault, times).collect());
    }

    /// From now on each request gets one of the faults with a probability.
    pub fn random(&self, seed: u64, probability: f64, faults: &[Fault]) {
        let mut plan = self.shared.plan.lock().unwrap();
        plan.random = Some((seed | 1, probability, faults.to_vec()));
    }

    /// From now on nothing is done to anything.
    pub fn heal(&self) {
        let mut plan = self.shared.plan.lock().unwrap();
        plan.faults.clear();
        plan.random = None;
    }

    /// Requests that came, and how many of them got a fault.
    pub fn counts(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (load(&self.shared.requests), load(&self.shared.injected))
    }
}

impl Shared {
    fn fault_for(&self, kind: Kind) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut plan = self.plan.lock().unwrap();
        let planned = plan.faults.get_mut(&kind).and_then(VecDeque::pop_front);
        let fault = planned.or_else(|| {
            let (state, probability, faults) = plan.random.as_mut()?;
            let mut next = || {
                // xorshift64
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                *state
            };
            let is_hit = ((next() >> 11) as f64 / (1_u64 << 53) as f64) < *probability;
            let index = next() as usize % faults.len();
            is_hit.then(|| faults[index])
        });
        if fault.is_some() {
            self.injected.fetch_add(1, Ordering::SeqCst);
        }
        fault
    }
}

impl Request {
    fn kind(&self) -> Kind {
        let (_, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let has_range = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("range"));
        let is_other = ["object-lock", "retention", "versioning", "legal-hold"]
            .iter()
            .any(|word| query.split('&').any(|part| part.starts_with(word)));
        match self.method.as_str() {
            _ if is_other => Kind::Other,
            "PUT" => Kind::Put,
            "HEAD" => Kind::Head,
            "DELETE" => Kind::Delete,
            "GET" if query.contains("list-type=2") => Kind::List,
            "GET" if has_range => Kind::Range,
            "GET" => Kind::Get,
            _ => Kind::Other,
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut client = stream;
    while let Some(mut request) = read_request(&mut reader)? {
        let kind = request.kind();
        let fault = shared.fault_for(kind);
        match fault {
            None => {
                let answer = ask(&request, shared)?;
                if kind == Kind::List {
                    let mut plan = shared.plan.lock().unwrap();
                    plan.seen.insert(request.target.clone(), answer.clone());
                }
                write_answer(&mut client, &request, &answer)?;
            }
            Some(fault) => {
                if !answer_with(fault, &mut client, &mut request, shared)? {
                    let _ = client.shutdown(Shutdown::Both);
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Does the fault; says whether the connection goes on.
fn answer_with(
    fault: Fault,
    client: &mut TcpStream,
    request: &mut Request,
    shared: &Shared,
) -> io::Result<bool> {
    match fault {
        Fault::Status(status, code, retry_after) => {
            let answer = made_up(status, code, retry_after);
            write_answer(client, request, &answer)?;
            return Ok(true);
        }
        Fault::DropBefore => {}
        Fault::DropAfter => drop(ask(request, shared)?),
        Fault::StallBefore => std::thread::sleep(shared.stall),
        Fault::StallAfter => {
            drop(ask(request, shared)?);
            std::thread::sleep(shared.stall);
        }
        Fault::CutBody | Fault::StallInBody => {
            let answer = ask(request, shared)?;
            let half = answer.body.len() / 2;
            write_head(client, &answer, declared(request, &answer))?;
            client.write_all(&answer.body[..half])?;
            client.flush()?;
            if fault == Fault::StallInBody {
                std::thread::sleep(shared.stall);
            }
        }
        Fault::LongerLength => {
            let answer = ask(request, shared)?;
            let declared = declared(request, &answer) + 7;
            write_head(client, &answer, declared)?;
            client.write_all(&answer.body)?;
        }
        Fault::ShorterLength => {
            let mut answer = ask(request, shared)?;
            answer.body.pop();
            let length = answer.body.len();
            write_head(client, &answer, length)?;
            client.write_all(&answer.body)?;
        }
        Fault::FlipAnswer => {
            let mut answer = ask(request, shared)?;
            flip(&mut answer.body);
            write_answer(client, request, &answer)?;
            return Ok(true);
        }
        Fault::FlipRequest => {
            flip(&mut request.body);
            let answer = ask(request, shared)?;
            write_answer(client, request, &answer)?;
            return Ok(true);
        }
        Fault::Duplicate => {
            drop(ask(request, shared)?);
            let answer = ask(request, shared)?;
            write_answer(client, request, &answer)?;
            return Ok(true);
        }
        Fault::OldAnswer => {
            let old = shared.plan.lock().unwrap().seen.get(&request.target).cloned();
            let answer = match old {
                Some(old) => old,
                None => ask(request, shared)?,
            };
            write_answer(client, request, &answer)?;
            return Ok(true);
        }
        Fault::Garbage => client.write_all(b"\x00\x01 this is no answer\r\n\r\n")?,
    }
    Ok(false)
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
}

fn made_up(status: u16, code: &str, retry_after: Option<u32>) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
         <Message>said by the proxy</Message><RequestId>1</RequestId></Error>"
    );
    let mut headers = vec![
        ("Content-Type".to_owned(), "application/xml".to_owned()),
        ("Date".to_owned(), "Wed, 21 Oct 2015 07:28:00 GMT".to_owned()),
    ];
    if let Some(seconds) = retry_after {
        headers.push(("Retry-After".to_owned(), seconds.to_string()));
    }
    let body = if code.is_empty() { Vec::new() } else { body.into_bytes() };
    Answer { status_line: format!("HTTP/1.1 {status} Fault"), headers, body }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let Some((first, headers)) = read_head(reader)? else { return Ok(None) };
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let length = header(&headers, "content-length").and_then(|text| text.parse().ok());
    if header(&headers, "expect").is_some() {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, target, headers, body }))
}

fn read_head(
    reader: &mut BufReader<TcpStream>,
) -> io::Result<Option<(String, Vec<(String, String)>)>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some((first.trim_end().to_owned(), headers)));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// Asks the real server.
fn ask(request: &Request, shared: &Shared) -> io::Result<Answer> {
    let mut server = TcpStream::connect(&shared.target)?;
    server.set_nodelay(true)?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    let unwanted = ["connection", "expect"];
    for (name, value) in &request.headers {
        if !unwanted.iter().any(|word| name.eq_ignore_ascii_case(word)) {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    server.write_all(head.as_bytes())?;
    server.write_all(&request.body)?;
    let mut reader = BufReader::new(server);
    let (status_line, headers) = read_head(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut body = Vec::new();
    if request.method != "HEAD" {
        let is_chunked = header(&headers, "transfer-encoding").is_some();
        match header(&headers, "content-length").and_then(|text| text.parse::<usize>().ok()) {
            Some(length) => {
                body.resize(length, 0);
                reader.read_exact(&mut body)?;
            }
            None if is_chunked => read_chunks(&mut reader, &mut body)?,
            None => drop(reader.read_to_end(&mut body)?),
        }
    }
    Ok(Answer { status_line, headers, body })
}

fn read_chunks(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let digits = line.trim().split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + length, 0);
        reader.read_exact(&mut body[start..])?;
        reader.read_exact(&mut [0; 2])?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// The length that an answer is told to have: that of a HEAD is the object's.
fn declared(request: &Request, answer: &Answer) -> usize {
    let told = header(&answer.headers, "content-length").and_then(|text| text.parse().ok());
    let length = answer.body.len();
    if request.method == "HEAD" { told.unwrap_or(length) } else { length }
}

fn write_head(client: &mut TcpStream, answer: &Answer, length: usize) -> io::Result<()> {
    let mut head = format!("{}\r\n", answer.status_line);
    let unwanted = ["connection", "content-length", "transfer-encoding", "keep-alive"];
    for (name, value) in &answer.headers {
        if !unwanted.iter().any(|word| name.eq_ignore_ascii_case(word)) {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
    }
    let has_no_body = answer.status_line.contains(" 204") || answer.status_line.contains(" 304");
    if !has_no_body {
        write!(head, "Content-Length: {length}\r\n").unwrap();
    }
    head.push_str("\r\n");
    client.write_all(head.as_bytes())
}

fn write_answer(client: &mut TcpStream, request: &Request, answer: &Answer) -> io::Result<()> {
    write_head(client, answer, declared(request, answer))?;
    if request.method != "HEAD" {
        client.write_all(&answer.body)?;
    }
    client.flush()
}
