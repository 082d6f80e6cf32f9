//! Secrets, ids, sealing and signatures; reads no files and knows no object format.
//!
//! Every use of a secret's bytes is marked by a call of `expose_secret`.

pub mod ids;
pub mod recipient;
pub mod seal;
pub mod sealed_size;
pub mod secret;
pub mod signature;
pub mod small;
pub mod unseal;
