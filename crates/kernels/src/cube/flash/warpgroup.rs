//! The kernel for groups of warps, see [`cuda`](super::super::cuda).

use burn::tensor::DType;

use super::super::cuda::{InCuda, Left, define, product, types};

/// Channels of a head that the kernel is made for.
pub(super) const CHANNELS: usize = 64;
/// Queries of a cube.
pub(super) const QUERIES: usize = 128;
/// Rows of the operands in shared memory: so many bytes, the width of the swizzle.
const ROW: usize = 128;

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Warpgroups {
    /// That are in shared memory at a time: at most 96, so that registers suffice for two cubes on a multiprocessor.
    keys: usize,
    dtype: DType,
}

impl Warpgroups {
    /// Made for so many keys: with the runs of which the multiplication takes the shortest, where a run's beginning and end
    /// count for 16 keys.
    pub(super) fn new(key_count: usize, dtype: DType) -> Self {
        let cost = |keys: &usize| key_count.div_ceil(*keys) * (keys + 16);
        let keys = [96, 80, 64].into_iter().min_by_key(cost);
        Self {
            keys: keys.expect("there are three"),
            dtype,
        }
    }
}

impl InCuda for Warpgroups {
    const NAME: &str = "attend_warpgroups";

    /// Queries, and two runs of keys and values. The first bytes are skipped up to a multiple of 1024.
    fn shared_memory(&self) -> usize {
        (QUERIES + 4 * self.keys) * ROW + 1024
    }

    fn source(&self) -> String {
        let (keys, dtype) = (self.keys, self.dtype);
        [
            types(dtype, None),
            define("NAME", Self::NAME),
            define("KEYS", keys),
            product("multiply_keys", keys, dtype, Left::Shared, false),
            product("multiply_values", CHANNELS, dtype, Left::Registers, true),
            include_str!("warpgroup.cu").to_owned(),
        ]
        .concat()
    }
}
