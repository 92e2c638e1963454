//! Sizes of the kernel.

use burn_cubecl::{CubeRuntime, cubecl::client::ComputeClient};

use super::super::matrix_units::{LANES, WIDTH};

/// Output positions of a plane; of a cube are half as many times that as it has planes.
pub(super) const PLANE_ROWS: usize = 64;
/// Positions of a plane's products.
pub(super) const TILES: usize = PLANE_ROWS / 16;
/// Input channels that are in shared memory at a time.
pub(super) const DEPTH: usize = 32;
/// Vectors of them.
pub(super) const DEEP: usize = DEPTH / WIDTH;
/// Vectors of a row in shared memory, and one more: eight rows lie in different banks.
pub(super) const PITCH: usize = DEEP + 1;
/// Parts of the operands in shared memory, of which one is multiplied while the others arrive.
pub(super) const STAGES: usize = 4;
/// Rows of `x` of which each unit fetches a vector.
pub(super) const X_LOADS: usize = PLANE_ROWS / 2 * DEEP / LANES;

/// Turns of a sum that makes up for what begins and ends it.
const LONG: usize = 64;
/// The same where high cubes get rows of `x` from the first cache.
const LONG_IF_CACHED: usize = 32;

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub(super) kernel: [usize; 2],
    pub(super) stride: usize,
    pub(super) padding: [usize; 2],
    /// Whether half of the channels are a gate.
    pub(super) gated: bool,
    pub(super) planes: usize,
    /// Products of a plane side by side, each of 8 columns.
    pub(super) blocks: usize,
}

impl Form {
    pub(super) fn new(
        channels: usize,
        kernel: [usize; 2],
        stride: usize,
        padding: [usize; 2],
        gated: bool,
    ) -> Self {
        // The widest that fits without rest: all of the UNet are multiples of 160.
        let blocks = match channels {
            _ if channels.is_multiple_of(160) => 10,
            _ if (channels - 1) % 128 < 64 => 4,
            _ => 8,
        };
        Self {
            kernel,
            stride,
            padding,
            gated,
            planes: 4,
            blocks,
        }
    }

    /// With cubes twice as high, which read the weight half as often. There is only one of them on a multiprocessor, so that
    /// nothing hides how it begins and ends: they are for long sums, and for enough positions for all multiprocessors. With
    /// `warpgroups` they read taps beside each other from the first cache.
    pub(super) fn for_device<R: CubeRuntime>(
        self,
        client: &ComputeClient<R>,
        rows: usize,
        input: usize,
        out: usize,
        warpgroups: bool,
    ) -> Self {
        let high = Self { planes: 8, ..self };
        let hardware = &client.properties().hardware;
        let cubes = rows.div_ceil(high.rows()) * out.div_ceil(high.results());
        let enough = hardware
            .num_streaming_multiprocessors
            .is_some_and(|processors| cubes >= processors as usize);
        let fits = high.shared_memory() <= hardware.max_shared_memory_size;
        let long = match warpgroups && self.kernel[1] > 1 {
            true => LONG_IF_CACHED,
            false => LONG,
        };
        match enough && fits && high.turns(input) >= long {
            true => high,
            false => self,
        }
    }

    /// Positions of a cube.
    pub(super) fn rows(&self) -> usize {
        self.planes / 2 * PLANE_ROWS
    }

    /// Rows of the weight of a cube.
    pub(super) fn columns(&self) -> usize {
        self.blocks * 16
    }

    /// Output channels of a cube.
    pub(super) fn results(&self) -> usize {
        if self.gated {
            self.columns() / 2
        } else {
            self.columns()
        }
    }

    /// Bytes.
    pub(super) fn shared_memory(&self) -> usize {
        let barriers = STAGES * 8;
        STAGES * self.stage_size() * WIDTH * 2 + barriers
    }

    /// Vectors of a part of the operands: rows of `x`, then of the weight, as many as all units fetch at once.
    pub(super) fn stage_size(&self) -> usize {
        let rows = self.columns().next_multiple_of(self.rows_at_once());
        (self.rows() + rows) * PITCH
    }

    /// Rows of which the units fetch a part at once.
    pub(super) fn rows_at_once(&self) -> usize {
        self.planes * LANES / DEEP
    }

    /// Rows of the weight of which each unit fetches a vector.
    pub(super) fn weight_loads(&self) -> usize {
        self.columns().div_ceil(self.rows_at_once())
    }

    /// Parts of a sum over so many channels.
    pub(super) fn turns(&self, channels: usize) -> usize {
        channels.div_ceil(DEPTH) * self.kernel[0] * self.kernel[1]
    }

    /// Whether the patches are the rows of `x`.
    pub(super) fn plain(&self) -> bool {
        self.kernel == [1; 2] && self.stride == 1 && self.padding == [0; 2]
    }
}
