//! The goldens of all crates on the backend of feature `wgpu` or `cuda`, in one program: a GPU backend takes minutes to
//! compile, each time it is linked into one. Without such a feature the crates run them themselves.
#![cfg(any(feature = "wgpu", feature = "cuda"))]
#![allow(clippy::duplicate_mod)] // Two of these files have the same helpers.

#[path = "../../crates/kernels/tests/check.rs"]
mod check;
mod converted_originals;
mod deep_cache;
mod demo_model;
#[path = "../../crates/unet3d/tests/freeu.rs"]
mod freeu;
mod half_precision;
#[path = "../../crates/kernels/tests/oracle.rs"]
mod oracle;
mod pipeline_goldens;
#[path = "../../crates/kernels/tests/products.rs"]
mod products;
mod reads;
#[path = "../../crates/schedulers/tests/samplers.rs"]
mod samplers;
mod second_stage_unet;
mod streamed_unet;
#[path = "../../crates/vae/tests/tiling.rs"]
mod tiling;
#[path = "../../crates/clip-encoders/tests/towers.rs"]
mod towers;
mod two_stages;
mod unet_configs;
#[path = "../../crates/unet3d/tests/deep_cache.rs"]
mod unet_deep_cache;
mod video_to_video;
#[path = "../../crates/clip-encoders/tests/weighting.rs"]
mod weighting;
