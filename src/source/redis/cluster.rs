//! The primaries of a cluster: found through any of its nodes, and each asked about itself.
//!
//! A node knows best what is its own: only it says which of its slots are being moved, and others
//! hear of a slot that has moved later. So a view is put together of what each primary says.

use std::time::Duration;

use crate::format::redis::cluster_view::{ClusterNode, ClusterView, primaries_of};
use crate::source::redis::address::{Address, Host};
use crate::source::redis::connection::{Access, Connection};
use crate::source::redis::error::RedisError;
use crate::source::redis::reply::Reply;
use crate::source::redis::server::ServerState;
use crate::source::tls::TlsMode;

/// Nodes that agree are waited for so often.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// A primary with slots.
#[derive(Clone)]
pub struct ClusterPrimary {
    /// What it says about itself.
    pub node: ClusterNode,
    /// The way to it.
    pub access: Access,
    /// How it is.
    pub state: ServerState,
}

/// All primaries that have slots, and how they see the cluster at `moment`.
///
/// # Errors
/// No node answers, it is no cluster, or the nodes do not come to agree on who is a primary.
pub fn find(
    access: &Access,
    seeds: &[(String, u16)],
    moment: &str,
) -> Result<(Vec<ClusterPrimary>, ClusterView), RedisError> {
    for number in 0..TRIES_MAX {
        if number > 0 {
            std::thread::sleep(PAUSE);
        }
        if let Some(primaries) = try_find(access, seeds)? {
            let view = view(&primaries, moment);
            return Ok((primaries, view));
        }
    }
    let what = "its nodes do not agree on who is a primary".to_owned();
    Err(RedisError::Cluster { address: access.address.host.to_string(), what })
}

fn view(primaries: &[ClusterPrimary], moment: &str) -> ClusterView {
    let primaries = primaries.iter().map(|primary| primary.node.clone()).collect();
    ClusterView { moment: moment.to_owned(), primaries }
}

/// How the primaries that were there before see the cluster now; with the reason where one of them
/// does not say it.
#[must_use]
pub fn look_again(primaries: &[ClusterPrimary], moment: &str) -> (ClusterView, Vec<String>) {
    let (mut nodes, mut reasons) = (Vec::new(), Vec::new());
    for primary in primaries {
        let node = &primary.node;
        match ask_itself(&primary.access) {
            Ok((Some(own), _)) => nodes.push(own),
            Ok((None, _)) => reasons.push(format!("{} is no primary any more", node.address)),
            Err(error) => reasons.push(format!("{} cannot be asked again: {error}", node.address)),
        }
    }
    (ClusterView { moment: moment.to_owned(), primaries: nodes }, reasons)
}

/// The primaries; nothing where one of them does not say that it is one.
fn try_find(
    access: &Access,
    seeds: &[(String, u16)],
) -> Result<Option<Vec<ClusterPrimary>>, RedisError> {
    let (nodes, seed) = ask_seeds(access, seeds)?;
    let mut primaries = Vec::new();
    for node in nodes.iter().filter(|node| !node.slots.is_empty() && !node.is("fail")) {
        let access = way_to(access, node, &seed)?;
        let (Some(own), state) = ask_itself(&access)? else { return Ok(None) };
        primaries.push(ClusterPrimary { node: own, access, state });
    }
    primaries.retain(|primary| !primary.node.slots.is_empty());
    primaries.sort_by_key(|primary| primary.node.first_slot());
    if primaries.is_empty() {
        let what = "none of its nodes has slots".to_owned();
        return Err(RedisError::Cluster { address: seed, what });
    }
    let slots = |node: &ClusterNode| node.slots.clone();
    let mut said: Vec<(u16, u16)> =
        primaries.iter().flat_map(|primary| slots(&primary.node)).collect();
    said.sort_unstable();
    // A slot that two of them have moved just now.
    let is_twice = said.windows(2).any(|pair| pair[0].1 >= pair[1].0);
    Ok((!is_twice).then_some(primaries))
}

/// What the first node that answers knows, and its host.
fn ask_seeds(
    access: &Access,
    seeds: &[(String, u16)],
) -> Result<(Vec<ClusterNode>, String), RedisError> {
    let mut last = None;
    for (name, port) in seeds {
        let seed = at(access, name, *port);
        match seed.connect().and_then(|mut connection| nodes(&mut connection)) {
            Ok(nodes) => return Ok((nodes, name.clone())),
            Err(error @ (RedisError::Connect { .. } | RedisError::Broken { .. })) => {
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    let none = || RedisError::Address { what: "it names no node".to_owned() };
    Err(last.unwrap_or_else(none))
}

fn at(access: &Access, name: &str, port: u16) -> Access {
    let host = Host::Tcp(name.to_owned(), port);
    Access { address: Address { host, ..access.address.clone() }, ..access.clone() }
}

/// The way to a node: the certificate of a server is one for its name, where it has told one.
fn way_to(access: &Access, node: &ClusterNode, seed: &str) -> Result<Access, RedisError> {
    let (ip, port) = node.address.rsplit_once(':').unwrap_or((&node.address, ""));
    let wrong = || RedisError::Cluster {
        address: seed.to_owned(),
        what: format!("the address {:?} of a node is none", node.address),
    };
    let port = port.parse().map_err(|_| wrong())?;
    let wants_name = access.address.tls == TlsMode::VerifyFull;
    // A node that nobody has met does not know its own address.
    let name = match (wants_name && !node.hostname.is_empty(), ip) {
        (true, _) => &node.hostname,
        (false, "") => seed,
        (false, ip) => ip,
    };
    Ok(at(access, name, port))
}

/// What a node says about itself, where it is a primary, and how it is.
fn ask_itself(access: &Access) -> Result<(Option<ClusterNode>, ServerState), RedisError> {
    let mut connection = access.connect()?;
    let state = ServerState::read(&mut connection)?;
    let own = nodes(&mut connection)?.into_iter().find(|node| node.is("myself"));
    let own = own.map(|node| ClusterNode { offset: state.offset(), ..node });
    Ok((own, state))
}

fn nodes(connection: &mut Connection) -> Result<Vec<ClusterNode>, RedisError> {
    let address = connection.shown().to_owned();
    let reply = connection.command(&[b"CLUSTER", b"NODES"], "asking for the nodes");
    let text = match reply {
        Ok(Reply::Bulk(Some(text))) => String::from_utf8_lossy(&text).into_owned(),
        Err(RedisError::Server { message, .. }) if message.contains("cluster support disabled") => {
            let what = "it is no cluster: cluster support is off".to_owned();
            return Err(RedisError::Cluster { address, what });
        }
        Ok(_) => {
            let what = "CLUSTER NODES gives no text".to_owned();
            return Err(RedisError::Protocol { address, what });
        }
        Err(error) => return Err(error),
    };
    primaries_of(&text).map_err(|error| RedisError::Cluster { address, what: error.to_string() })
}
