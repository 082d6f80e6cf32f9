//! Which packs are worth writing anew: those with the largest unused share, until what stays unused
//! is within the bound.
//!
//! Refs count chunks, not bytes: bytes are estimated as if all chunks of a pack were equally long.

/// How many unused bytes may stay in packs that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxUnused {
    /// So many in a hundred of the packs' bytes after the repack; 100 and more is no bound.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
    /// Any number.
    Unlimited,
}

impl MaxUnused {
    /// The bound in bytes where `used_bytes` are used.
    #[must_use]
    pub fn bytes(self, used_bytes: u64) -> u64 {
        match self {
            Self::Unlimited | Self::Percent(100..) => u64::MAX,
            Self::Bytes(bytes) => bytes,
            // unused <= p/100 of (used + unused), solved for unused.
            Self::Percent(percent) => {
                let percent = u128::from(percent);
                let bytes = u128::from(used_bytes) * percent / (100 - percent);
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
        }
    }
}

/// Whether packs that are used in part may be written anew (needs the read identity).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repack {
    /// Leave them as they are.
    Off,
    /// Choose packs until the unused bytes are below the bound.
    Allowed {
        /// Unused bytes that may stay.
        max_unused: MaxUnused,
        /// Most bytes of packs to read in one run.
        pack_bytes_max: u64,
    },
}

/// A pack that is used in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepackCandidate {
    /// Full name.
    pub pack: String,
    /// Its stored bytes: what has to be read.
    pub size_bytes: u64,
    /// Estimate of the bytes that go when its used chunks have moved and it is deleted.
    pub freed_bytes: u64,
}

impl RepackCandidate {
    /// A pack with `used` of `chunks` chunks in use. A pack that is said to have no chunks, or to
    /// have more in use than it has, frees nothing.
    #[must_use]
    pub fn new(pack: &str, size_bytes: u64, chunks: u32, used: u32) -> Self {
        let unused = u128::from(chunks.saturating_sub(used));
        let freed = u128::from(size_bytes) * unused / u128::from(chunks.max(1));
        let freed_bytes = u64::try_from(freed).unwrap_or(size_bytes);
        Self { pack: pack.to_owned(), size_bytes, freed_bytes }
    }

    /// Unused share as a number to sort by: parts in 2^32.
    fn unused_share(&self) -> u128 {
        (u128::from(self.freed_bytes) << 32) / u128::from(self.size_bytes.max(1))
    }
}

/// What [`plan_repack`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepackPlan {
    /// Packs to write anew, the largest unused share first.
    pub chosen: Vec<RepackCandidate>,
    /// Unused bytes in all the packs, before.
    pub unused_bytes: u64,
}

/// Chooses among the packs in use.
///
/// A pack too large for what is left of the run's bytes is passed over for a smaller one.
#[must_use]
pub fn plan_repack(mut packs: Vec<RepackCandidate>, repack: Repack) -> RepackPlan {
    let unused_bytes: u64 = packs.iter().map(|pack| pack.freed_bytes).sum();
    let Repack::Allowed { max_unused, pack_bytes_max } = repack else {
        return RepackPlan { chosen: Vec::new(), unused_bytes };
    };
    let used_bytes = packs.iter().map(|pack| pack.size_bytes - pack.freed_bytes).sum();
    let bound = max_unused.bytes(used_bytes);
    packs.retain(|pack| pack.freed_bytes > 0);
    packs.sort_by(|a, b| {
        (b.unused_share(), b.freed_bytes, &a.pack).cmp(&(a.unused_share(), a.freed_bytes, &b.pack))
    });
    let (mut remaining, mut read) = (unused_bytes, 0_u64);
    packs.retain(|pack| {
        let total = read.saturating_add(pack.size_bytes);
        let is_chosen = remaining > bound && total <= pack_bytes_max;
        if is_chosen {
            remaining -= pack.freed_bytes;
            read = total;
        }
        is_chosen
    });
    RepackPlan { chosen: packs, unused_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(packs: &[(u64, u32, u32)], max_unused: MaxUnused, pack_bytes_max: u64) -> Vec<usize> {
        let candidates = packs.iter().enumerate().map(|(number, &(size, chunks, used))| {
            RepackCandidate::new(&number.to_string(), size, chunks, used)
        });
        let repack = Repack::Allowed { max_unused, pack_bytes_max };
        let plan = plan_repack(candidates.collect(), repack);
        plan.chosen.iter().map(|pack| pack.pack.parse().unwrap()).collect()
    }

    #[test]
    fn the_emptiest_packs_are_chosen_until_the_bound_is_kept() {
        // Unused: 100, 900, 500, 0, 500 of 1000 each: 2000 of 5000, used 3000.
        let packs = [(1000, 10, 9), (1000, 10, 1), (1000, 10, 5), (1000, 10, 10), (1000, 10, 5)];
        for (max_unused, pack_bytes_max, expected) in [
            (MaxUnused::Unlimited, u64::MAX, vec![]),
            (MaxUnused::Bytes(2000), u64::MAX, vec![]),
            (MaxUnused::Bytes(1999), u64::MAX, vec![1]),
            (MaxUnused::Bytes(1100), u64::MAX, vec![1]),
            (MaxUnused::Bytes(1099), u64::MAX, vec![1, 2]),
            (MaxUnused::Bytes(0), u64::MAX, vec![1, 2, 4, 0]),
            (MaxUnused::Bytes(0), 2999, vec![1, 2]),
            (MaxUnused::Bytes(0), 999, vec![]),
            (MaxUnused::Percent(40), u64::MAX, vec![]),
            (MaxUnused::Percent(39), u64::MAX, vec![1]),
            (MaxUnused::Percent(5), u64::MAX, vec![1, 2, 4]),
            (MaxUnused::Percent(0), u64::MAX, vec![1, 2, 4, 0]),
            (MaxUnused::Percent(100), u64::MAX, vec![]),
        ] {
            let found = chosen(&packs, max_unused, pack_bytes_max);
            assert_eq!(found, expected, "{max_unused:?} {pack_bytes_max}");
        }
    }

    #[test]
    fn a_small_pack_takes_the_place_of_one_that_is_too_large() {
        let packs = [(4000, 10, 1), (1000, 10, 5)];
        assert_eq!(chosen(&packs, MaxUnused::Bytes(0), 2000), [1]);
    }

    #[test]
    fn nonsense_frees_nothing() {
        for (chunks, used) in [(0, 0), (0, 5), (3, 4)] {
            assert_eq!(RepackCandidate::new("p", 1000, chunks, used).freed_bytes, 0);
        }
    }

    #[test]
    fn nothing_is_chosen_when_it_is_off() {
        let plan = plan_repack(vec![RepackCandidate::new("p", 1000, 2, 1)], Repack::Off);
        assert_eq!(plan, RepackPlan { chosen: vec![], unused_bytes: 500 });
    }
}
