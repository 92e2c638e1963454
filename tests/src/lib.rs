//! Cross-crate tests, and the backend that the tests of all crates run on.

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

/// A path in the repository.
pub fn repository(path: &str) -> std::path::PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", path].iter().collect()
}

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
