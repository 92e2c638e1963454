//! The tests across crates, in one program: each program would compile burn's generic code again. They run on the CPU, or on
//! the backend of feature `wgpu` or `cuda`.

mod converted_originals;
mod converted_pipeline;
mod deep_cache;
mod demo_model;
mod half_precision;
mod pipeline_batch;
mod pipeline_goldens;
mod second_stage_unet;
mod streamed_unet;
mod two_stages;
mod unet_configs;
mod video_to_video;

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
mod cpu;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu;
