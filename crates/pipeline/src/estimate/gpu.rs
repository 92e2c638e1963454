//! What a GPU needs beyond the tensors: CubeCL keeps them in the pages of a pool.

use burn::tensor::{DType, backend::Backend};

/// What a driver takes for itself and the compiled kernels (measured: CUDA on an H100).
const DRIVER_BYTES: f64 = 0.5e9;
/// How many pages of each size lie there empty, or as good as that, when most memory is taken (fitted: 0.8 to 1.3).
const EMPTY_PAGES: f64 = 1.25;
/// A page of less is not divided further.
const SMALLEST_DIVIDED: f64 = (32 << 20) as f64;

/// What the memory of a GPU is like.
#[derive(Clone, Copy, Debug)]
pub struct GpuMemory {
    /// Bytes of the largest page of the pool, and so of the largest tensor (`i2vgen_kernels::largest_tensor`).
    pub largest_page: u64,
    /// Bytes that hidden values of a feed-forward layer take at once (`i2vgen_kernels::memory_budget`).
    pub budget: usize,
    /// Values that a gated feed-forward layer holds for each that the gate gives (`i2vgen_kernels::hidden_by_geglu`).
    pub hidden_by_geglu: usize,
}

impl GpuMemory {
    /// That of the device of a GPU backend, as it is set now, for a model in `dtype`. It opens the device.
    pub fn of<B: Backend>(device: &B::Device, dtype: DType) -> Option<Self> {
        i2vgen_kernels::largest_tensor::<B>(device).map(|largest_page| Self {
            largest_page,
            budget: i2vgen_kernels::memory_budget(),
            hidden_by_geglu: i2vgen_kernels::hidden_by_geglu::<B>(device, dtype),
        })
    }

    /// Bytes of a stage with so many of tensors, the largest of which takes `largest`.
    ///
    /// A page of the pool is as large as the largest, a quarter of it, and so on. A tensor lies in one of the smallest that it
    /// fills to no more than a 2nd, a 4th, and so on, with others of its kind. Where the largest tensor is, all smaller ones
    /// are, too.
    pub(super) fn peak(self, tensors: f64, largest: f64) -> f64 {
        let mut page = self.largest_page as f64;
        let mut part = 1.0;
        let mut empty = 0.0;
        while page >= SMALLEST_DIVIDED {
            page /= 4.0;
            part *= 2.0;
            if largest <= page / part {
                // It does not need the larger ones.
                empty = 0.0;
            }
            empty += page;
        }
        if largest > self.largest_page as f64 / 8.0 {
            empty += self.largest_page as f64;
        }
        DRIVER_BYTES + tensors + EMPTY_PAGES * empty
    }
}
