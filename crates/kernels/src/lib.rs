#![doc = include_str!("../README.md")]

mod activation;
mod attention;
mod check;
mod conv;
mod guard;
mod layers;
mod linear;
mod memory;
mod norm;
mod precision;
mod resize;
mod trace;

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
#[cfg(feature = "flex")]
mod flex;

pub use activation::{add, geglu, gelu, silu};
pub use attention::{Mask, attention, frame_attention};
pub use check::check;
pub use conv::{Padding, conv2d, conv2d_add, frame_conv, frame_conv_add, upsample_conv2d};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub use cube::{
    fit_memory_budget, has_gpu_kernels, keep_kernels, launches, record_launches, uses_warpgroups,
};
pub use guard::{DeviceFailure, device_failed, guarded};
pub use layers::{Conv2d, Embedding, FrameConv, GroupNorm, LayerNorm, Linear, parameter};
pub use linear::{hidden_by_geglu, linear, linear_add, linear_geglu, matmul};
pub use memory::{in_turns, largest_tensor, memory_budget, set_memory_budget};
pub use norm::{group_norm, layer_norm};
pub use precision::{takes_half_weights, widened};
pub use resize::nearest_resize;
pub use trace::{End, Operation, trace};
