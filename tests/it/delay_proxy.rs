//! A line between two regions: every byte is late by a fixed time, and all connections together
//! have so many bytes a second, each way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Pieces that are on their way in one direction of one connection: the line's own buffer.
const PIECES_ON_THE_WAY: usize = 256;
const PIECE_BYTES: usize = 16 * 1024;

/// One direction of the line, shared by all connections.
struct Line {
    bytes_per_second: f64,
    through: Mutex<Instant>,
}

impl Line {
    /// When so many bytes, which come now, have gone into the line.
    fn pass(&self, bytes: usize) -> Instant {
        let mut through = self.through.lock().unwrap();
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *through = (*through).max(Instant::now()) + takes;
        *through
    }
}

/// Listens at `listen` and passes everything to `target`, each way `round_trip / 2` late and at
/// most `megabits` a second. Returns the address that it listens at; it goes on until the process
/// ends.
pub fn start(
    listen: &str,
    target: &str,
    round_trip: Duration,
    megabits: f64,
) -> std::io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind(listen)?;
    let address = listener.local_addr()?;
    let line = || {
        let through = Mutex::new(Instant::now());
        Arc::new(Line { bytes_per_second: megabits * 125_000.0, through })
    };
    let (up, down) = (line(), line());
    let target = target.trim_start_matches("http://").to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (up, down, target) = (Arc::clone(&up), Arc::clone(&down), target.clone());
            std::thread::spawn(move || {
                // The handshake of the connection takes a round trip too.
                std::thread::sleep(round_trip);
                let Ok(server) = TcpStream::connect(&target) else { return };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else {
                    return;
                };
                std::thread::spawn(move || pump(client2, server2, &up, round_trip / 2));
                pump(server, client, &down, round_trip / 2);
            });
        }
    });
    Ok(address)
}

/// Moves one direction of a connection until it ends.
fn pump(mut from: TcpStream, to: TcpStream, line: &Line, late: Duration) {
    let (sender, receiver) = sync_channel(PIECES_ON_THE_WAY);
    std::thread::spawn(move || deliver(to, &receiver));
    let _ = take_in(&mut from, &sender, line, late);
}

fn take_in(
    from: &mut TcpStream,
    sender: &SyncSender<(Instant, Vec<u8>)>,
    line: &Line,
    late: Duration,
) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let bytes = from.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        let gone = line.pass(bytes);
        // What does not fit into the line waits before it.
        std::thread::sleep(gone.saturating_duration_since(Instant::now()));
        if sender.send((gone + late, buffer[..bytes].to_vec())).is_err() {
            return Ok(());
        }
    }
}

fn deliver(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((when, piece)) = receiver.recv() {
        std::thread::sleep(when.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
