//! The file system by `WebDAV`, read only, for hosts without FUSE.
//!
//! `latest` is a directory; a symbolic link of a snapshot is a file that holds its target; pipes,
//! sockets and devices are left out. Whoever reaches the port reads everything: there is no
//! password, so only this host is answered unless more was allowed.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dav_server::body::Body;
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavFileSystem, DavMetaData, FsError, FsFuture, FsResult, FsStream,
    OpenOptions, ReadDirMeta,
};
use dav_server::{DavHandler, DavMethodSet};
use hyper::body::{Buf, Bytes, Incoming};
use hyper::header::{CONTENT_SECURITY_POLICY, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::format::node::{NodeKind, UnixTime};
use crate::mount::attributes::Attributes;
use crate::mount::directory::Directory;
use crate::mount::error::VfsError;
use crate::mount::file_system::{FileSystem, LATEST};
use crate::mount::inode::{Ino, TOP};
use crate::mount::open_file::OpenFile;

/// Connections that are answered at a time.
const CONNECTIONS_MAX: usize = 64;
/// Threads that may wait for the repository.
const BLOCKING_THREADS: usize = 16;
/// Bytes that are read and sent at a time.
const READ_BYTES: usize = 256 * 1024;
/// Entries of a directory that are read at a time.
const ENTRIES: usize = 1024;
/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long answers that are being sent may take when the server ends.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The last second of the year 9999: later ones have no form in HTTP.
const SECONDS_MAX: i64 = 253_402_300_799;

/// A server that answers on threads of its own until it is ended.
pub struct Server {
    runtime: Runtime,
    address: SocketAddr,
}

impl Server {
    /// Begins to answer at an address.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(file_system: Arc<FileSystem>, address: SocketAddr) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        runtime.spawn(accept(listener, Dav(file_system), address.ip().is_loopback()));
        Ok(Self { runtime, address })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn end(self) {
        self.runtime.shutdown_timeout(END_TIMEOUT);
    }
}

async fn accept(listener: TcpListener, dav: Dav, is_local: bool) {
    let handler = DavHandler::builder()
        .filesystem(Box::new(dav))
        .methods(DavMethodSet::WEBDAV_RO)
        .read_buf_size(READ_BYTES)
        .autoindex(true)
        .build_handler();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, or a connection that went away: the next one may be better.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let handler = handler.clone();
                async move {
                    Ok::<_, std::convert::Infallible>(answer(&handler, request, is_local).await)
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is no trouble of ours.
            let _ = served.await;
            drop(place);
        });
    }
}

async fn answer(
    handler: &DavHandler,
    request: Request<Incoming>,
    is_local: bool,
) -> Response<Body> {
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    if is_local && !host.is_none_or(is_name_of_this_host) {
        let mut refused = Response::new(Body::from("this server answers this host only\n"));
        *refused.status_mut() = StatusCode::FORBIDDEN;
        return refused;
    }
    let mut response = handler.handle(request).await;
    let headers = response.headers_mut();
    // A page that was backed up must not read the other files here from within a browser.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a `Host` header names this host. A web page elsewhere can make its own name lead here,
/// but cannot make a browser send another name.
fn is_name_of_this_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').filter(|(name, _)| !name.contains(':')).map_or(host, |h| h.0);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The file system as the protocol sees it.
#[derive(Clone)]
struct Dav(Arc<FileSystem>);

impl Dav {
    /// Does something that may wait for the repository.
    async fn wait_for<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<FileSystem>) -> Result<T, VfsError> + Send + 'static,
    ) -> FsResult<T> {
        let file_system = self.0.clone();
        let done = spawn_blocking(move || work(&file_system)).await;
        done.map_err(|_| FsError::GeneralFailure)?.map_err(fs_error)
    }
}

fn fs_error(error: VfsError) -> FsError {
    match error {
        VfsError::NotFound | VfsError::NotDirectory => FsError::NotFound,
        VfsError::IsDirectory | VfsError::WrongKind => FsError::Forbidden,
        VfsError::Damaged | VfsError::TooMany => FsError::GeneralFailure,
    }
}

/// The entry at a path; `latest` is where it leads to.
fn resolve(file_system: &FileSystem, path: &[u8]) -> Result<Ino, VfsError> {
    let mut ino = TOP;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        ino = behind_latest(file_system, ino, file_system.lookup(ino, name)?, name)?;
    }
    Ok(ino)
}

fn behind_latest(
    file_system: &FileSystem,
    parent: Ino,
    ino: Ino,
    name: &[u8],
) -> Result<Ino, VfsError> {
    let is_latest = name == LATEST.as_bytes() && !file_system.is_fixed(ino);
    if is_latest && parent != TOP {
        return file_system.lookup(parent, &file_system.link_target(ino)?);
    }
    Ok(ino)
}

/// Whether there is a form for an entry in the protocol.
fn is_shown(kind: NodeKind) -> bool {
    matches!(kind, NodeKind::File | NodeKind::Stream | NodeKind::Dir | NodeKind::Symlink)
}

#[derive(Debug, Clone, Copy)]
struct Meta(Attributes);

impl DavMetaData for Meta {
    fn len(&self) -> u64 {
        self.0.size
    }

    fn modified(&self) -> FsResult<SystemTime> {
        let UnixTime(seconds, nanoseconds) = self.0.mtime;
        let seconds = seconds.clamp(0, SECONDS_MAX).unsigned_abs();
        Ok(UNIX_EPOCH + Duration::new(seconds, nanoseconds))
    }

    fn is_dir(&self) -> bool {
        self.0.kind == NodeKind::Dir
    }

    fn executable(&self) -> FsResult<bool> {
        Ok(self.0.mode & 0o100 != 0)
    }
}

struct Entry {
    name: Vec<u8>,
    meta: Meta,
}

impl DavDirEntry for Entry {
    fn name(&self) -> Vec<u8> {
        self.name.clone()
    }

    fn metadata(&'_ self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta: Box<dyn DavMetaData> = Box::new(self.meta);
        Box::pin(std::future::ready(Ok(meta)))
    }
}

impl DavFileSystem for Dav {
    fn open<'a>(
        &'a self,
        path: &'a DavPath,
        options: OpenOptions,
    ) -> FsFuture<'a, Box<dyn DavFile>> {
        Box::pin(async move {
            if options.write || options.append || options.create || options.truncate {
                return Err(FsError::Forbidden);
            }
            let path = path.as_bytes().to_vec();
            self.wait_for(move |file_system| {
                let ino = resolve(file_system, &path)?;
                let meta = Meta(file_system.attributes(ino)?);
                let content = if meta.0.kind == NodeKind::Symlink {
                    Content::Text(file_system.link_target(ino)?.into())
                } else {
                    Content::File(Arc::new(Opened {
                        file_system: file_system.clone(),
                        ino,
                        file: file_system.open(ino)?,
                    }))
                };
                Ok(Box::new(Reader { content, meta, position: 0 }) as Box<dyn DavFile>)
            })
            .await
        })
    }

    fn read_dir<'a>(
        &'a self,
        path: &'a DavPath,
        _: ReadDirMeta,
    ) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        Box::pin(async move {
            let path = path.as_bytes().to_vec();
            let (ino, directory) = self
                .wait_for(move |file_system| {
                    let ino = resolve(file_system, &path)?;
                    Ok((ino, file_system.open_directory(ino)?))
                })
                .await?;
            let listing = Listing {
                dav: self.clone(),
                ino,
                directory: Arc::new(directory),
                place: Some(0),
                ready: VecDeque::new(),
            };
            let entries = futures_util::stream::unfold(listing, async |mut listing| {
                let entry = listing.next().await?;
                Some((Ok(Box::new(entry) as Box<dyn DavDirEntry>), listing))
            });
            Ok(Box::pin(entries) as FsStream<Box<dyn DavDirEntry>>)
        })
    }

    fn metadata<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, Box<dyn DavMetaData>> {
        Box::pin(async move {
            let path = path.as_bytes().to_vec();
            self.wait_for(move |file_system| {
                let found = file_system.attributes(resolve(file_system, &path)?)?;
                if !is_shown(found.kind) {
                    return Err(VfsError::NotFound);
                }
                Ok(Box::new(Meta(found)) as Box<dyn DavMetaData>)
            })
            .await
        })
    }
}

/// A directory being listed, some entries at a time.
struct Listing {
    dav: Dav,
    ino: Ino,
    directory: Arc<Directory>,
    place: Option<u64>,
    ready: VecDeque<Entry>,
}

impl Listing {
    async fn next(&mut self) -> Option<Entry> {
        while self.ready.is_empty()
            && let Some(place) = self.place
        {
            let (directory, ino) = (self.directory.clone(), self.ino);
            let read = move |file_system: &Arc<FileSystem>| {
                Ok(read_entries(file_system, &directory, ino, place))
            };
            (self.ready, self.place) = self.dav.wait_for(read).await.ok()?;
        }
        self.ready.pop_front()
    }
}

/// Some entries from a place on, and the place behind them unless it is the end. What is lost is
/// left out; it was reported.
fn read_entries(
    file_system: &FileSystem,
    directory: &Directory,
    ino: Ino,
    place: u64,
) -> (VecDeque<Entry>, Option<u64>) {
    let mut entries = VecDeque::new();
    let (mut behind, mut is_end) = (place, true);
    let listed = file_system.list(directory, place, &mut |next, name, found| {
        if entries.len() >= ENTRIES {
            is_end = false;
            return ControlFlow::Break(());
        }
        behind = next;
        let target = behind_latest(file_system, ino, found.ino, name);
        let found = match target {
            Ok(target) if target != found.ino => file_system.attributes(target),
            _ => Ok(*found),
        };
        if let Ok(found) = found
            && is_shown(found.kind)
        {
            entries.push_back(Entry { name: name.to_vec(), meta: Meta(found) });
        }
        ControlFlow::Continue(())
    });
    (entries, (listed.is_ok() && !is_end).then_some(behind))
}

/// An open file that is closed when it is dropped.
struct Opened {
    file_system: Arc<FileSystem>,
    ino: Ino,
    file: OpenFile,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.file_system.close(&self.file);
    }
}

#[derive(Clone)]
enum Content {
    File(Arc<Opened>),
    Text(Bytes),
}

struct Reader {
    content: Content,
    meta: Meta,
    position: u64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Content {
    fn read(&self, offset: u64, count: usize) -> Result<Bytes, VfsError> {
        match self {
            Self::Text(text) => {
                let from = usize::try_from(offset).map_or(text.len(), |at| at.min(text.len()));
                Ok(text.slice(from..from.saturating_add(count).min(text.len())))
            }
            Self::File(opened) => {
                let count = count.min(READ_BYTES);
                let mut bytes = Vec::with_capacity(count);
                let Opened { file_system, ino, file } = &**opened;
                file_system.read(*ino, file, offset, count as u64, &mut bytes)?;
                Ok(bytes.into())
            }
        }
    }
}

impl DavFile for Reader {
    fn metadata(&'_ mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta: Box<dyn DavMetaData> = Box::new(self.meta);
        Box::pin(std::future::ready(Ok(meta)))
    }

    fn write_buf(&'_ mut self, _: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        Box::pin(std::future::ready(Err(FsError::Forbidden)))
    }

    fn write_bytes(&'_ mut self, _: Bytes) -> FsFuture<'_, ()> {
        Box::pin(std::future::ready(Err(FsError::Forbidden)))
    }

    fn read_bytes(&'_ mut self, count: usize) -> FsFuture<'_, Bytes> {
        Box::pin(async move {
            let (content, offset) = (self.content.clone(), self.position);
            let read = spawn_blocking(move || content.read(offset, count)).await;
            let bytes = read.map_err(|_| FsError::GeneralFailure)?.map_err(fs_error)?;
            self.position += bytes.len() as u64;
            Ok(bytes)
        })
    }

    fn seek(&'_ mut self, to: SeekFrom) -> FsFuture<'_, u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.meta.0.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let result = position.ok_or(FsError::Forbidden);
        self.position = position.unwrap_or(self.position);
        Box::pin(std::future::ready(result))
    }

    fn flush(&'_ mut self) -> FsFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_answered() {
        for host in
            ["localhost", "LOCALHOST:8480", "127.0.0.1", "127.0.0.1:8480", "[::1]:8480", "[::1]"]
        {
            assert!(is_name_of_this_host(host.as_bytes()), "{host}");
        }
        for host in ["evil.example", "evil.example:8480", "10.0.0.1", "localhost.evil.example", ""]
        {
            assert!(!is_name_of_this_host(host.as_bytes()), "{host}");
        }
    }
}
