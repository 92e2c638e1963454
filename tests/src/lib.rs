//! Cross-crate tests, and what the tests of several crates share: the backend that they run on, a server.

pub mod hub_server;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};

/// The CPU's backend, or by feature `wgpu` or `cuda` that one. Feature `fusion` makes it the fused one.
#[cfg(all(feature = "cuda", not(feature = "prefer-wgpu")))]
pub type TestBackend = burn::backend::Cuda;

#[cfg(all(
    feature = "wgpu",
    feature = "fusion",
    any(not(feature = "cuda"), feature = "prefer-wgpu")
))]
#[allow(missing_docs)]
pub type TestBackend = burn::backend::Wgpu;

#[cfg(all(
    feature = "wgpu",
    not(feature = "fusion"),
    any(not(feature = "cuda"), feature = "prefer-wgpu")
))]
#[allow(missing_docs)]
pub type TestBackend =
    burn::backend::wgpu::CubeBackend<burn::backend::wgpu::WgpuRuntime, f32, i32, u32>;

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
#[allow(missing_docs)]
pub type TestBackend = burn::backend::Flex;

/// How many times as far off as on the CPU a result may be: kernels of a GPU add up long sums in other orders (some in one
/// running sum), and may round a product and a sum together.
pub const SLACK: f32 = if cfg!(any(feature = "wgpu", feature = "cuda")) {
    2.0
} else {
    1.0
};

/// Whether the backend joins operations into kernels of its own.
pub const FUSED: bool = cfg!(feature = "fusion");

/// The largest difference of two values at the same place.
///
/// # Panics
/// If there are not as many of both.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // NaN counts as far away.
    off.fold(0.0, |m, v| if v <= m { m } else { v })
}

/// Numbers like a uniform distribution of mean 0 and variance 1: the same ones on every backend, whatever else is running.
pub fn noise<B: Backend, const D: usize>(dims: [usize; D], seed: u64) -> Tensor<B, D> {
    let count = dims.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..count)
        .map(|i| {
            // What SplitMix64 makes of a counter.
            let mut z = (i + (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let unit = (z >> 40) as f32 / (1 << 24) as f32;
            (2.0 * unit - 1.0) * 3f32.sqrt()
        })
        .collect();
    Tensor::from_data(TensorData::new(values, dims), &Default::default())
}

/// Whether the tests' backend computes in `dtype`. Where it does not, this says that a test passes over it; the CPU's has to.
pub fn computes_in(dtype: DType) -> bool {
    let here = TestBackend::supports_dtype(&Default::default(), dtype);
    if !here {
        println!("NOT TESTED: {dtype:?}, in which this device does not compute");
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    assert!(here, "{dtype:?}");
    here
}

/// A path in the repository.
pub fn repository(path: &str) -> std::path::PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", path].iter().collect()
}

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
