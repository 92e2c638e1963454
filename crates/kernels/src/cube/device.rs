//! What is said to a GPU backend, and asked of it, before the work begins.

use std::{any::Any, path::Path};

use burn::tensor::backend::Backend;
use burn_cubecl::{
    CubeRuntime,
    cubecl::{
        Runtime,
        config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig},
    },
};

#[cfg(feature = "cuda")]
use burn_cubecl::cubecl::cuda::CudaRuntime;
#[cfg(feature = "wgpu")]
use burn_cubecl::cubecl::wgpu::WgpuRuntime;

/// Bytes of the largest tensor that a GPU backend can hold on a device: what one buffer may have. `None` for other backends.
/// It opens the device.
pub fn largest_tensor<B: Backend>(device: &B::Device) -> Option<u64> {
    let device: &dyn Any = device;
    #[cfg(feature = "wgpu")]
    if let Some(limit) = largest_page::<WgpuRuntime>(device) {
        return Some(limit);
    }
    #[cfg(feature = "cuda")]
    if let Some(limit) = largest_page::<CudaRuntime>(device) {
        return Some(limit);
    }
    None
}

/// If the device is one of runtime `R`.
fn largest_page<R: CubeRuntime>(device: &dyn Any) -> Option<u64> {
    let device = device.downcast_ref::<<R as Runtime>::Device>()?;
    Some(R::client(device).properties().memory.max_page_size)
}

/// Has GPU backends keep in `folder`, for later processes, which kernel is the fastest for a shape (with burn's feature
/// `autotune`), and compiled kernels (on CUDA, and on wgpu with SPIR-V; other drivers keep their own).
///
/// Without this, CubeCL looks for a Cargo project from the current folder upwards and writes into its `target`. A place that
/// is named in a `cubecl.toml`, in the current folder or above it, is used before `folder`.
///
/// Call it before the first tensor is on a GPU. Later it does nothing and returns false.
pub fn keep_kernels(folder: &Path) -> bool {
    if CubeClRuntimeConfig::storage().lock().is_some() {
        return false;
    }
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    let here = || CacheConfig::File(folder.to_owned());
    if let CacheConfig::Target = config.autotune.cache {
        config.autotune.cache = here();
    }
    config.compilation.cache.get_or_insert_with(here);
    CubeClRuntimeConfig::set(config);
    true
}
