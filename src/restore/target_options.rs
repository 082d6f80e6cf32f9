//! What a restore may do in its target.
//!
//! Everything that could harm the host is off unless asked for.

/// Switches of a restore; the default refuses to overwrite and grants no privilege.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // each is one independent switch of the command line
pub struct Options {
    /// Makes the target's directory (and its parents) where it is missing.
    pub create: bool,
    /// Existing files are updated in place, and what else stands in an entry's way is removed, but
    /// never a directory with something in it.
    pub overwrite: bool,
    /// Makes block and character devices.
    pub devices: bool,
    /// Makes sockets, which nothing listens on.
    pub sockets: bool,
    /// Keeps setuid, setgid (of files) and `security.capability`.
    pub special_bits: bool,
    /// Takes owners by number, even where this host knows the name.
    pub numeric_ids: bool,
    /// Bytes of directories' attributes held in memory; 0 for the default of 16 MiB.
    pub later_bytes_max: usize,
}
