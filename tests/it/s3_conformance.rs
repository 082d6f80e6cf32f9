//! The store's contract on real services, each with what it is known not to keep.

use holdfast::store::Store;
use holdfast::store::conformance::{self, Excused};
use holdfast::store::s3::S3Options;

use crate::servers::S3Server;

#[test]
fn seaweed_conforms() {
    let server = S3Server::seaweed();
    conformance::run(|| Box::new(server.store()));
}

#[test]
fn garage_conforms_but_for_races() {
    let Some(server) = S3Server::garage() else { return };
    conformance::run_except(&[Excused::OneOfManyCreates], || Box::new(server.store()));
}

#[test]
fn a_server_in_this_process_conforms_but_for_races() {
    let server = S3Server::in_process();
    conformance::run_except(&[Excused::OneOfManyCreates], || Box::new(server.store()));
}

#[test]
fn small_pages_list_the_same() {
    let server = S3Server::seaweed();
    let options = || S3Options { list_page: Some(2), ..server.options() };
    let make = || -> Box<dyn Store> {
        Box::new(holdfast::store::s3::S3Store::open(&server.address(), options()).unwrap())
    };
    conformance::run(make);
    let store = make();
    for number in 0..7 {
        store.put(&format!("data/{number}"), b"x").unwrap();
    }
    let before = store.requests().unwrap();
    store.list("", &mut |_| {}).unwrap();
    assert_eq!((store.requests().unwrap() - before).lists, 4);
}
