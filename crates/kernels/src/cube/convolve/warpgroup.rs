//! The kernel for groups of warps, see [`cuda`](super::super::cuda).

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, cubecl::client::ComputeClient};

use super::{
    super::{
        cuda::{InCuda, Left, define, product, types},
        matrix_units::WIDTH,
    },
    form::Form,
};

/// Rows of the operands in shared memory: so many bytes, the width of the swizzle.
const ROW: usize = 128;

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Warpgroups {
    form: Form,
    /// Parts of the operands in shared memory, each of 64 channels.
    stages: usize,
    /// Whether taps beside each other find the rows of `x` in the first cache.
    cached: bool,
    /// Of the operands and the results.
    dtype: DType,
    bias: DType,
}

impl Warpgroups {
    /// For so many cubes.
    pub(super) fn new<R: CubeRuntime>(
        form: Form,
        [dtype, bias]: [DType; 2],
        cubes: usize,
        client: &ComputeClient<R>,
    ) -> Self {
        let processors = client.properties().hardware.num_streaming_multiprocessors;
        let alone = processors.is_some_and(|processors| cubes <= processors as usize);
        let cached = form.planes == 8 && form.kernel[1] > 1;
        let stages = match (form.planes, alone) {
            // Room for the rows of `x` in the first cache, which is what shared memory leaves.
            (8, _) if cached => 3,
            (8, _) => 4,
            // One that has nobody beside it has to hide by itself how long its operands take.
            (_, true) => 6,
            (_, false) => 3,
        };
        Self {
            form,
            stages,
            cached,
            dtype,
            bias,
        }
    }
}

/// Whether the kernel takes these sizes: whole vectors of results, and places of 32 bits, counted in vectors.
pub(super) fn takes([n, h, w]: [usize; 3], x_pitch: usize, weight: usize, out: usize) -> bool {
    const MOST: usize = 1 << 31;
    out.is_multiple_of(WIDTH) && (n * h * w + 2 * w + 256) * x_pitch < MOST && weight < MOST
}

impl InCuda for Warpgroups {
    const NAME: &str = "convolve_warpgroups";

    /// The first bytes are skipped up to a multiple of 1024.
    fn shared_memory(&self) -> usize {
        self.stages * (self.form.rows() + self.form.columns()) * ROW + 1024
    }

    fn source(&self) -> String {
        let form = self.form;
        [
            types(self.dtype, Some(self.bias)),
            define("NAME", Self::NAME),
            define("TILES", form.planes / 4),
            define("COLUMNS", form.columns()),
            define("STAGES", self.stages),
            define("CACHED", self.cached),
            define("GATED", form.gated),
            define("KERNEL_H", form.kernel[0]),
            define("KERNEL_W", form.kernel[1]),
            define("STRIDE", form.stride),
            define("PADDING_Y", form.padding[0]),
            define("PADDING_X", form.padding[1]),
            product("multiply", form.columns(), self.dtype, Left::Shared, false),
            include_str!("warpgroup.cu").to_owned(),
        ]
        .concat()
    }
}
