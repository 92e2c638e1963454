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

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
