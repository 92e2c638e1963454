//! Cross-crate tests, and what the tests of several crates share: the backend that they run on, a server.

pub mod hub_server;

/// The CPU's backend, or by feature `wgpu` or `cuda` that one. Feature `fusion` makes it the fused one.
#[cfg(feature = "cuda")]
pub type TestBackend = burn::backend::Cuda;

#[cfg(all(feature = "wgpu", feature = "fusion", not(feature = "cuda")))]
#[allow(missing_docs)]
pub type TestBackend = burn::backend::Wgpu;

#[cfg(all(feature = "wgpu", not(any(feature = "fusion", feature = "cuda"))))]
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

/// A path in the repository.
pub fn repository(path: &str) -> std::path::PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", path].iter().collect()
}

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
