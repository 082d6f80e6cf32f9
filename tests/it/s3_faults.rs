//! Faults between the store and a real server: every one ends in success with intact data or in a
//! clear error, and never in a lost or another object.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast::store::s3::{Patience, S3Options, S3Store};
use holdfast::store::{Put, Store, StoreError};

use crate::fault_proxy::{Fault, FaultProxy, Kind};
use crate::servers::S3Server;

/// How long the proxy stands still: longer than the store waits.
const STALL: Duration = Duration::from_millis(2500);
/// Attempts of the store: three faults in a row are survived.
const ATTEMPTS: u32 = 4;

/// Faults that pass: with the next attempt the request goes through.
const PASSING: [Fault; 24] = [
    Fault::Status(500, "InternalError", None),
    Fault::Status(500, "", None),
    Fault::Status(502, "", None),
    Fault::Status(503, "SlowDown", None),
    Fault::Status(503, "SlowDown", Some(0)),
    Fault::Status(503, "ServiceUnavailable", None),
    Fault::Status(504, "", None),
    Fault::Status(429, "TooManyRequests", None),
    Fault::Status(429, "", Some(0)),
    Fault::Status(408, "", None),
    Fault::Status(400, "RequestTimeout", None),
    Fault::Status(400, "BadDigest", None),
    Fault::Status(409, "OperationAborted", None),
    Fault::Status(409, "ConditionalRequestConflict", None),
    Fault::DropBefore,
    Fault::DropAfter,
    Fault::CutBody,
    Fault::LongerLength,
    Fault::ShorterLength,
    Fault::FlipRequest,
    Fault::StallBefore,
    Fault::StallAfter,
    Fault::StallInBody,
    Fault::Garbage,
];
/// Faults that stay what they are however often one asks.
const LASTING: [Fault; 8] = [
    Fault::Status(507, "InsufficientStorage", None),
    Fault::Status(403, "QuotaExceeded", None),
    Fault::Status(403, "AccessDenied", None),
    Fault::Status(403, "SignatureDoesNotMatch", None),
    Fault::Status(403, "RequestTimeTooSkewed", None),
    Fault::Status(404, "NoSuchBucket", None),
    Fault::Status(501, "NotImplemented", None),
    Fault::Status(400, "InvalidArgument", None),
];
/// Credentials that have expired: renewed once, then they are good again.
const EXPIRED: [Fault; 3] = [
    Fault::Status(400, "ExpiredToken", None),
    Fault::Status(403, "ExpiredToken", None),
    Fault::Status(403, "", None),
];

struct Place {
    server: S3Server,
    proxy: FaultProxy,
    /// Through the proxy.
    store: S3Store,
    /// Straight to the server.
    direct: S3Store,
}

fn place() -> Place {
    let server = S3Server::seaweed();
    let proxy = FaultProxy::before(&server.endpoint, STALL);
    let mut address = server.address();
    let direct = S3Store::open(&address, server.options()).unwrap();
    address.endpoint = Some(proxy.endpoint.clone());
    let patience = Patience {
        answer: Duration::from_millis(1500),
        stall: Duration::from_secs(1),
        attempts_max: ATTEMPTS,
        first_contact_attempts_max: ATTEMPTS,
        delay: Duration::from_millis(2),
        delay_max: Duration::from_millis(10),
        retry_budget: 100_000,
        ..Patience::default()
    };
    let options = S3Options { patience, conditional_put: Some(true), ..server.options() };
    let store = S3Store::open(&address, options).unwrap();
    Place { server, proxy, store, direct }
}

/// Every fault that this kind of request can meet, how often in a row, and whether the operation
/// must succeed nevertheless.
fn cases(kind: Kind) -> Vec<(Fault, usize, bool)> {
    // Nothing in the answer to HEAD but its head can be checked; bodies of PUT and DELETE say
    // nothing that matters.
    let cannot_be_seen = |fault: Fault| kind == Kind::Head && fault == Fault::ShorterLength;
    let mut cases = Vec::new();
    for fault in PASSING.into_iter().filter(|fault| !cannot_be_seen(*fault)) {
        let is_slow = matches!(fault, Fault::StallBefore | Fault::StallAfter | Fault::StallInBody);
        cases.push((fault, 1, true));
        if !is_slow {
            // What 400 means, HEAD has no body to say: it is asked twice.
            let is_unsaid = kind == Kind::Head && matches!(fault, Fault::Status(400, ..));
            cases.push((fault, ATTEMPTS as usize - 1, !is_unsaid));
        }
        // To the end of all patience.
        cases.push((fault, ATTEMPTS as usize + 1, false));
    }
    cases.extend(LASTING.map(|fault| (fault, 2, false)));
    cases.extend(EXPIRED.map(|fault| (fault, 1, kind == Kind::Head || !is_unclear(fault))));
    cases.extend(EXPIRED.map(|fault| (fault, 9, false)));
    assert!(cases.len() >= 40, "{} faults of {kind:?}", cases.len());
    cases
}

fn is_unclear(fault: Fault) -> bool {
    fault == Fault::Status(403, "", None)
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// An error that says what happened and hides nothing: it is no word about the object.
#[track_caller]
fn assert_clear(error: &StoreError, case: (Fault, usize, bool)) {
    let source = std::error::Error::source(error);
    assert!(
        matches!(
            error,
            StoreError::Io { .. } | StoreError::Refused { .. } | StoreError::NoSpace { .. }
        ),
        "{case:?}: {error:?}"
    );
    assert!(source.is_some_and(|source| !source.to_string().is_empty()), "{case:?}: {error:?}");
}

#[test]
fn faults_of_put_lose_and_replace_nothing() {
    let Place { server: _server, proxy, store, direct } = place();
    for (number, case) in cases(Kind::Put).into_iter().enumerate() {
        let (fault, times, must_succeed) = case;
        let name = format!("data/new-{number}");
        let bytes = pattern(number, 70_001);
        proxy.plan(Kind::Put, fault, times);
        let put = store.put(&name, &bytes);
        proxy.heal();
        match put {
            Ok(Put::Created) => assert!(direct.get(&name, 1 << 20).unwrap() == bytes, "{case:?}"),
            Ok(Put::Exists) => panic!("{case:?}: nobody else has put {name}"),
            Err(error) => {
                assert!(!must_succeed, "{case:?}: {error:?}");
                assert_clear(&error, case);
                match direct.get(&name, 1 << 20) {
                    Ok(stored) => assert!(stored == bytes, "{case:?}: other bytes"),
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => panic!("{case:?}: {error:?}"),
                }
            }
        }
    }
    // The name is taken: whatever happens on the way, nobody is told that it was created.
    for (number, case) in cases(Kind::Put).into_iter().enumerate() {
        let (fault, times, must_succeed) = case;
        let name = format!("data/taken-{number}");
        direct.put(&name, b"of another").unwrap();
        proxy.plan(Kind::Put, fault, times);
        let put = store.put(&name, &pattern(number, 5000));
        proxy.heal();
        match put {
            Ok(put) => assert_eq!(put, Put::Exists, "{case:?}"),
            // FlipRequest: the server may look at the checksum first.
            Err(error) => {
                assert!(!must_succeed, "{case:?}: {error:?}");
                assert_clear(&error, case);
            }
        }
        assert_eq!(direct.get(&name, 100).unwrap(), b"of another", "{case:?}");
    }
}

#[test]
fn a_request_that_comes_twice_keeps_the_object() {
    let Place { server: _server, proxy, store, direct } = place();
    for kind in [Kind::Put, Kind::Get, Kind::Range, Kind::List, Kind::Head, Kind::Delete] {
        let name = format!("data/{kind:?}");
        let bytes = pattern(1, 3000);
        proxy.plan(kind, Fault::Duplicate, 9);
        // The second answer to one PUT says that the name is taken, which is true.
        assert!(store.put(&name, &bytes).is_ok());
        assert!(direct.get(&name, 9000).unwrap() == bytes, "{kind:?}");
        assert!(store.get(&name, 9000).unwrap() == bytes, "{kind:?}");
        let mut part = [0; 10];
        store.read_at(&name, 5, &mut part).unwrap();
        assert_eq!(part, bytes[5..15]);
        assert_eq!(store.stat(&name).unwrap().size, 3000);
        let mut names = Vec::new();
        store.list("data/", &mut |entry| names.push(entry.name)).unwrap();
        assert!(names.contains(&name), "{kind:?}: {names:?}");
        store.delete(&name).unwrap();
        assert!(matches!(direct.stat(&name), Err(StoreError::NotFound { .. })));
    }
}

#[test]
fn faults_of_get_give_the_bytes_or_an_error() {
    let Place { server: _server, proxy, store, direct } = place();
    let bytes = pattern(7, 300_000);
    direct.put("data/a", &bytes).unwrap();
    let mut cases = cases(Kind::Get);
    cases.extend([(Fault::FlipAnswer, 1, true), (Fault::FlipAnswer, 9, false)]);
    for case in cases {
        let (fault, times, must_succeed) = case;
        proxy.plan(Kind::Get, fault, times);
        match store.get("data/a", 1 << 20) {
            Ok(got) => assert!(got == bytes, "{case:?}: other bytes"),
            Err(error) => {
                assert!(!must_succeed, "{case:?}: {error:?}");
                assert_clear(&error, case);
            }
        }
        proxy.heal();
        proxy.plan(Kind::Get, fault, times);
        let missing = store.get("data/absent", 1 << 20);
        assert!(missing.is_err(), "{case:?}: {missing:?}");
        proxy.heal();
    }
}

#[test]
fn faults_of_ranges_give_the_bytes_or_an_error() {
    let Place { server: _server, proxy, store, direct } = place();
    let bytes = pattern(8, 300_000);
    direct.put("data/a", &bytes).unwrap();
    // A byte that is another one is not seen in a range: the sealed bytes above authenticate it.
    for case in cases(Kind::Range) {
        let (fault, times, must_succeed) = case;
        proxy.plan(Kind::Range, fault, times);
        let mut part = vec![0; 200_000];
        match store.read_at("data/a", 50_000, &mut part) {
            Ok(()) => assert!(part == bytes[50_000..250_000], "{case:?}: other bytes"),
            Err(error) => {
                assert!(!must_succeed, "{case:?}: {error:?}");
                assert_clear(&error, case);
            }
        }
        proxy.heal();
    }
}

#[test]
fn faults_of_lists_give_all_names_or_an_error() {
    let Place { server: _server, proxy, store, direct } = place();
    let names: BTreeSet<String> = (0..30).map(|number| format!("data/{number}")).collect();
    for name in &names {
        direct.put(name, name.as_bytes()).unwrap();
    }
    for case in cases(Kind::List) {
        let (fault, times, must_succeed) = case;
        proxy.plan(Kind::List, fault, times);
        let mut found = BTreeSet::new();
        match store.list("data/", &mut |entry| assert!(found.insert(entry.name))) {
            Ok(()) => assert_eq!(found, names, "{case:?}"),
            Err(error) => {
                assert!(!must_succeed, "{case:?}: {error:?}");
                assert_clear(&error, case);
            }
        }
        proxy.heal();
    }
    // An old answer is one that was true: it may lack what is new, and has nothing that never was.
    direct.put("data/new", b"new").unwrap();
    proxy.plan(Kind::List, Fault::OldAnswer, 1);
    let mut found = BTreeSet::new();
    store.list("data/", &mut |entry| found.extend([entry.name])).unwrap();
    assert_eq!(found, names);
}

#[test]
fn faults_of_stat_tell_no_lie() {
    let Place { server: _server, proxy, store, direct } = place();
    direct.put("data/a", &pattern(1, 12_345)).unwrap();
    let cases = cases(Kind::Head);
    for case in cases.into_iter().filter(|case| case.0 != Fault::LongerLength) {
        let (fault, times, must_succeed) = case;
        // The answer to HEAD has no body that could end early or carry a code.
        let has_no_body = matches!(fault, Fault::CutBody | Fault::StallInBody);
        proxy.plan(Kind::Head, fault, times);
        match store.stat("data/a") {
            Ok(entry) => assert_eq!(entry.size, 12_345, "{case:?}"),
            Err(StoreError::NotFound { .. }) if is_bucket(fault) => {}
            Err(error) => {
                assert!(!must_succeed || has_no_body, "{case:?}: {error:?}");
                assert_clear(&error, case);
            }
        }
        proxy.heal();
    }
}

/// Without a body, "no such bucket" is "no such object".
fn is_bucket(fault: Fault) -> bool {
    fault == Fault::Status(404, "NoSuchBucket", None)
}

#[test]
fn faults_of_delete_remove_what_they_say() {
    let Place { server: _server, proxy, store, direct } = place();
    for (number, case) in cases(Kind::Delete).into_iter().enumerate() {
        let (fault, times, must_succeed) = case;
        let (name, other) = (format!("data/{number}"), format!("data/{number}-other"));
        direct.put(&name, b"x").unwrap();
        direct.put(&other, b"y").unwrap();
        proxy.plan(Kind::Delete, fault, times);
        match store.delete(&name) {
            Ok(()) => {
                let gone = direct.stat(&name);
                assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{case:?}: {gone:?}");
            }
            Err(error) => {
                assert!(!must_succeed, "{case:?}: {error:?}");
                assert_clear(&error, case);
            }
        }
        proxy.heal();
        assert_eq!(direct.stat(&other).unwrap().size, 1, "{case:?}");
    }
}

#[test]
fn errors_say_what_to_do() {
    let Place { server: _server, proxy, store, direct } = place();
    direct.put("data/a", b"x").unwrap();
    let said = |fault: Fault| {
        proxy.plan(Kind::Get, fault, 99);
        let error = store.get("data/a", 10).unwrap_err();
        proxy.heal();
        format!("{error}: {}", std::error::Error::source(&error).unwrap())
    };
    let skew = said(Fault::Status(403, "RequestTimeTooSkewed", None));
    assert!(skew.contains("Wed, 21 Oct 2015 07:28:00 GMT") && skew.contains("UTC"), "{skew}");
    let expired = said(Fault::Status(400, "ExpiredToken", None));
    assert!(expired.contains("expired") && expired.contains("renew"), "{expired}");
    let slow = said(Fault::Status(503, "SlowDown", None));
    assert!(slow.contains("503 SlowDown") && slow.contains("4 attempts"), "{slow}");
    let bucket = said(Fault::Status(404, "NoSuchBucket", None));
    assert!(bucket.contains("no such bucket"), "{bucket}");
    proxy.plan(Kind::Put, Fault::Status(507, "", None), 1);
    assert!(matches!(store.put("data/b", b"x"), Err(StoreError::NoSpace { .. })));
    assert!(store.requests().unwrap().retries >= 3);
}

#[test]
fn retries_are_waited_for_as_the_service_asks() {
    let Place { server: _server, proxy, store, direct } = place();
    direct.put("data/a", b"x").unwrap();
    proxy.plan(Kind::Get, Fault::Status(503, "SlowDown", Some(1)), 1);
    let begun = std::time::Instant::now();
    store.get("data/a", 10).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After was not obeyed");
}
