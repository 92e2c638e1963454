//! The goldens of every crate, which run them themselves on the CPU, and what only a GPU has.
#![allow(clippy::duplicate_mod)] // Two of these files have the same helpers.

#[path = "../../../../crates/kernels/tests/check.rs"]
mod check;
#[path = "../../../../crates/unet3d/tests/freeu.rs"]
mod freeu;
#[path = "../../../../crates/kernels/tests/oracle.rs"]
mod oracle;
#[path = "../../../../crates/kernels/tests/products.rs"]
mod products;
mod reads;
#[path = "../../../../crates/schedulers/tests/samplers.rs"]
mod samplers;
#[path = "../../../../crates/vae/tests/tiling.rs"]
mod tiling;
#[path = "../../../../crates/clip-encoders/tests/towers.rs"]
mod towers;
#[path = "../../../../crates/unet3d/tests/deep_cache.rs"]
mod unet_deep_cache;
#[path = "../../../../crates/clip-encoders/tests/weighting.rs"]
mod weighting;
