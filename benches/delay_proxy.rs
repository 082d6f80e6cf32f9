//! `cargo bench --bench delay-proxy -- LISTEN TARGET MS MBIT`: a line between two regions, for
//! measurements by hand. `127.0.0.1:9000 127.0.0.1:8333 50 100` is 50 ms and 100 Mbit/s.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people who measure")]

#[path = "../tests/it/delay_proxy.rs"]
mod delay_proxy;

use std::time::Duration;

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [listen, target, round_trip, megabits] = &given[..] else {
        println!("arguments: LISTEN TARGET MS MBIT; nothing is measured here");
        return;
    };
    let round_trip = Duration::from_millis(round_trip.parse().unwrap());
    let address = delay_proxy::start(listen, target, round_trip, megabits.parse().unwrap());
    println!("listening at {}", address.unwrap());
    loop {
        std::thread::park();
    }
}
