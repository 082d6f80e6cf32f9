//! `holdfast writer policy`: what the credentials of a host that only adds may do, as AWS wants it
//! written.

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::{CommandError, Exit};
use crate::cli::explain::store;
use crate::cli::open_repository::{open, unlock_unasked};
use crate::cli::place::Place;
use crate::id::{ActorId, DomainId};
use crate::repo::error::RepoError;
use crate::repo::roles;
use crate::store::address::S3Address;

/// Sets a lock, or makes it longer.
const RETENTION: &str = "s3:PutObjectRetention";

/// What takes back, weakens or replaces; denied whatever else is allowed.
const DENIED: [&str; 11] = [
    "s3:DeleteObject*",
    "s3:DeleteBucket*",
    RETENTION,
    "s3:PutObjectLegalHold",
    "s3:PutObjectAcl",
    "s3:BypassGovernanceRetention",
    "s3:PutLifecycleConfiguration",
    "s3:PutBucket*",
    "s3:PutEncryptionConfiguration",
    "s3:PutReplicationConfiguration",
    "s3:ReplicateDelete",
];

/// Prints the policy.
pub fn run(writer: &str, with_locks: bool, context: &Context) -> Result<Exit, CommandError> {
    let location = context.location()?;
    let Place::S3(address) = &location.place else {
        let what = "a policy is one of a bucket, and this repository is in a folder";
        return Err(CommandError::new(&store::LOCATION, what));
    };
    let repository = open(context)?;
    let writers = &repository.roster.writers;
    let by_id = writer.parse().ok().filter(|id: &ActorId| writers.iter().any(|w| w.id == *id));
    let id = match (by_id, unlock_unasked(context, &location, &repository)?) {
        (Some(id), _) => id,
        (None, Some(unlocked)) => roles::find_writer(&repository, &unlocked, writer)?,
        (None, None) => own_writer(&repository, writer)?,
    };
    let unknown = || RepoError::NotFound { kind: "writer", name: writer.to_owned() };
    let entry = repository.roster.writer(id).ok_or_else(unknown)?;
    let policy = policy(address, id, entry.domain, with_locks);
    let text = serde_json::to_string_pretty(&policy).expect("writing JSON to memory cannot fail");
    context.output.line(&text);
    context.output.summary(Exit::Done, &json!({ "writer": id.to_string(), "policy": policy }));
    Ok(Exit::Done)
}

/// Without a key a host knows its own name only.
fn own_writer(
    repository: &crate::repo::open::Repository,
    name: &str,
) -> Result<ActorId, CommandError> {
    let own = repository.state.writer()?.filter(|keys| keys.name.as_str() == name);
    let unknown = RepoError::NotFound { kind: "writer", name: name.to_owned() };
    Ok(own.map(|keys| keys.id).ok_or(unknown)?)
}

fn policy(address: &S3Address, writer: ActorId, domain: DomainId, with_locks: bool) -> Value {
    let bucket = format!("arn:aws:s3:::{}", address.bucket);
    let prefix =
        if address.prefix.is_empty() { String::new() } else { format!("{}/", address.prefix) };
    let below = |names: &[String]| -> Vec<String> {
        names.iter().map(|name| format!("{bucket}/{prefix}{name}")).collect()
    };
    let creates = [
        "data/*".to_owned(),
        format!("index/{domain}/*"),
        format!("snap/{writer}/*"),
        format!("refs/{writer}/*"),
        format!("log/{writer}/*"),
        "tmp/probe-*".to_owned(),
    ];
    let mut reads = ["FORMAT", "roster/*", "keys/*", "log/*", "tomb/*"].map(str::to_owned).to_vec();
    reads.push(format!("index/{domain}/*"));
    let denied: Vec<&str> =
        DENIED.into_iter().filter(|action| !with_locks || *action != RETENTION).collect();
    let mut policy = json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "CreateAndNeverOverwrite",
                "Effect": "Allow",
                "Action": "s3:PutObject",
                "Resource": below(&creates),
                "Condition": { "Null": { "s3:if-none-match": "false" } },
            },
            {
                "Sid": "ReadWhatSavingNeeds",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": below(&reads),
            },
            {
                "Sid": "SeeWhatIsThere",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": bucket,
                "Condition": { "StringLike": { "s3:prefix": format!("{prefix}*") } },
            },
            {
                "Sid": "SeeWhetherItIsLocked",
                "Effect": "Allow",
                "Action": "s3:GetBucketObjectLockConfiguration",
                "Resource": bucket,
            },
            {
                "Sid": "NeverTakeBack",
                "Effect": "Deny",
                "Action": denied,
                "Resource": "*",
            },
        ],
    });
    if with_locks && let Some(statements) = policy["Statement"].as_array_mut() {
        // A lock of a shorter time is refused by the service itself without the bypass, denied above.
        statements.push(json!({
            "Sid": "ExtendLocks",
            "Effect": "Allow",
            "Action": ["s3:GetObjectRetention", RETENTION],
            "Resource": below(&["*".to_owned()]),
        }));
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_can_put_below_its_own_names_only() {
        let address: S3Address = "s3://bucket/a/b".parse().unwrap();
        let policy = policy(&address, ActorId([0xaa; 8]), DomainId([0xdd; 8]), false);
        let statements = policy["Statement"].as_array().unwrap();
        let put = &statements[0];
        assert_eq!(put["Condition"]["Null"]["s3:if-none-match"], "false");
        let names: Vec<&str> =
            put["Resource"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert!(names.iter().all(|name| name.starts_with("arn:aws:s3:::bucket/a/b/")));
        assert!(names.contains(&"arn:aws:s3:::bucket/a/b/log/aaaaaaaaaaaaaaaa/*"), "{names:?}");
        assert!(!names.iter().any(|name| name.ends_with("log/*") || name.contains("roster")));
        let reads = statements[1]["Resource"].to_string();
        assert!(!reads.contains("/data/") && !reads.contains("/snap/"), "{reads}");
        assert_eq!(statements[4]["Effect"], "Deny");
    }

    #[test]
    fn locks_can_be_extended_only_where_that_is_asked_for() {
        let address: S3Address = "s3://bucket".parse().unwrap();
        let of = |locks| policy(&address, ActorId([1; 8]), DomainId([2; 8]), locks).to_string();
        assert_eq!(of(false).matches("PutObjectRetention").count(), 1, "denied");
        let with = of(true);
        assert!(with.contains("ExtendLocks") && with.contains("BypassGovernanceRetention"));
        assert_eq!(with.matches("PutObjectRetention").count(), 1, "allowed");
    }
}
