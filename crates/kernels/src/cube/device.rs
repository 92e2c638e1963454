//! What is said to a GPU backend, and asked of it, before the work begins.

use std::{any::Any, path::Path};

use burn::tensor::{DType, backend::Backend};
use burn_cubecl::{
    CubeRuntime,
    cubecl::{
        Runtime,
        client::ComputeClient,
        config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig},
    },
};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{frame_attention, matrix_units};
use crate::{memory_budget, set_memory_budget};

#[cfg(feature = "cuda")]
use burn_cubecl::cubecl::cuda::CudaRuntime;
#[cfg(feature = "wgpu")]
use burn_cubecl::cubecl::wgpu::WgpuRuntime;

/// See [`crate::largest_tensor`].
pub(crate) fn largest_tensor<B: Backend>(device: &B::Device) -> Option<u64> {
    let device: &dyn Any = device;
    #[cfg(feature = "wgpu")]
    if let Some(client) = client::<WgpuRuntime>(device) {
        return Some(client.properties().memory.max_page_size);
    }
    #[cfg(feature = "cuda")]
    if let Some(client) = client::<CudaRuntime>(device) {
        return Some(client.properties().memory.max_page_size);
    }
    None
}

/// Sets the [`memory_budget`](crate::memory_budget) to what suits a GPU: the larger, the fewer launches, up to 2 GiB or a 64th
/// of what is there (a sixteenth of a buffer's limit), and never more than half of a buffer. It opens the device. Elsewhere
/// the budget stays as it is.
pub fn fit_memory_budget<B: Backend>(device: &B::Device) {
    if let Some(limit) = largest_tensor::<B>(device) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let suited = memory_budget().max((limit / 16).min(1 << 31));
        set_memory_budget(suited.min(limit / 2));
    }
}

/// If the device is one of runtime `R`.
fn client<R: CubeRuntime>(device: &dyn Any) -> Option<ComputeClient<R>> {
    device
        .downcast_ref::<<R as Runtime>::Device>()
        .map(R::client)
}

/// Whether the device of a GPU backend has the [`matrix_units`] that are needed.
pub(super) fn has_matrix_units<B: Backend>(device: &B::Device, dtype: DType) -> bool {
    let device: &dyn Any = device;
    #[cfg(feature = "wgpu")]
    if let Some(client) = client::<WgpuRuntime>(device) {
        return matrix_units::runs_on(&client, dtype.into());
    }
    #[cfg(feature = "cuda")]
    if let Some(client) = client::<CudaRuntime>(device) {
        return matrix_units::runs_on(&client, dtype.into());
    }
    false
}

/// Whether the device of a GPU backend multiplies by groups of warps.
pub(super) fn has_warpgroups<B: Backend>(device: &B::Device) -> bool {
    let device: &dyn Any = device;
    #[cfg(feature = "cuda")]
    if let Some(client) = client::<CudaRuntime>(device) {
        return cuda::has_warpgroups(&client);
    }
    let _ = device;
    false
}

/// How many values a unit of [`frame_attention`] takes on the device of a GPU backend, for heads of `channels`.
pub(super) fn frame_lanes<B: Backend>(
    device: &B::Device,
    dtype: DType,
    channels: usize,
) -> Option<usize> {
    let device: &dyn Any = device;
    #[cfg(feature = "wgpu")]
    if let Some(client) = client::<WgpuRuntime>(device) {
        return frame_attention::lanes(&client, dtype, channels);
    }
    #[cfg(feature = "cuda")]
    if let Some(client) = client::<CudaRuntime>(device) {
        return frame_attention::lanes(&client, dtype, channels);
    }
    None
}

/// A number of its own for each state of the kernels' sources (FNV-1a): CubeCL knows a compiled kernel by its name and its
/// arguments alone, and would go on with one from before a change.
const SOURCES: u64 = {
    let sources = [
        include_str!("activation.rs"),
        include_str!("convolve.rs"),
        include_str!("convolve/form.rs"),
        include_str!("convolve/kernel.rs"),
        include_str!("convolve/reader.rs"),
        include_str!("convolve/warpgroup.cu"),
        include_str!("convolve/warpgroup.rs"),
        include_str!("cuda.rs"),
        include_str!("flash.rs"),
        include_str!("flash/warpgroup.cu"),
        include_str!("flash/warpgroup.rs"),
        include_str!("frame_attention.rs"),
        include_str!("frames.rs"),
        include_str!("group_norm.rs"),
        include_str!("layer_norm.rs"),
        include_str!("matrix_units.rs"),
        include_str!("moments.rs"),
        include_str!("softmax.rs"),
        include_str!("tensors.rs"),
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut file = 0;
    while file < sources.len() {
        let bytes = sources[file].as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        file += 1;
    }
    hash
};

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
    let folder = folder.join(format!("kernels-{SOURCES:016x}"));
    let here = || CacheConfig::File(folder.clone());
    if let CacheConfig::Target = config.autotune.cache {
        config.autotune.cache = here();
    }
    config.compilation.cache.get_or_insert_with(here);
    CubeClRuntimeConfig::set(config);
    true
}
