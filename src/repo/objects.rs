//! Getting sealed objects: the name is checked before anything is opened.

use crate::crypto::ids::object_id;
use crate::crypto::recipient::Identity;
use crate::crypto::unseal::OpenError;
use crate::format::commit::ObjectName;
use crate::format::limits;
use crate::format::signed_text::TextError;
use crate::repo::error::RepoError;
use crate::store::Store;

/// Reads an object and compares its bytes with its name.
pub fn get_named(
    store: &dyn Store,
    name: &ObjectName,
    bytes_max: u64,
) -> Result<Vec<u8>, RepoError> {
    let object = name.to_string();
    loop {
        let copy = store.trusted_copy(&object);
        let bytes = store.get(&object, bytes_max)?;
        if object_id(&bytes) == name.id() {
            return Ok(bytes);
        }
        if !store.distrust(&object, copy) {
            return Err(RepoError::WrongName { object });
        }
    }
}

/// Reads, checks and opens a small sealed object.
pub fn open_named(
    store: &dyn Store,
    name: &ObjectName,
    identities: &[&Identity],
    content_bytes_max: u64,
) -> Result<Vec<u8>, RepoError> {
    // Sealing adds a header and a tag for each 64 KiB; padding adds at most an eighth.
    let object_bytes_max = content_bytes_max + content_bytes_max / 4 + limits::SEALED_BYTES_MIN;
    let bytes = get_named(store, name, object_bytes_max)?;
    crate::crypto::small::open_small(identities, &bytes, content_bytes_max)
        .map_err(|source| opening(name, source))
}

/// The error of an object that cannot be opened.
#[must_use]
pub fn opening(name: &ObjectName, source: OpenError) -> RepoError {
    RepoError::Open { object: name.to_string(), source }
}

/// The error of a signed text that is refused.
pub fn refused(object: &str) -> impl FnOnce(TextError) -> RepoError {
    let object = object.to_owned();
    move |source| RepoError::Text { object, source }
}

/// Stores an object under the name of its content.
pub fn put_named(
    store: &dyn Store,
    name: impl FnOnce(crate::id::ObjectId) -> ObjectName,
    bytes: &[u8],
) -> Result<ObjectName, RepoError> {
    let name = name(object_id(bytes));
    store.put(&name.to_string(), bytes)?;
    Ok(name)
}
