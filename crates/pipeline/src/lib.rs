#![doc = include_str!("../README.md")]

mod components;
mod conditioning;
mod decode;
mod deep_cache;
mod error;
mod estimate;
mod generate;
mod generators;
mod guidance;
mod host_tensor;
mod image_input;
mod inputs;
mod lora;
mod options;
mod pipeline;
mod preview;
mod resize;
mod video;
mod video_latents;
mod video_to_video;

pub use components::Components;
pub use conditioning::EncodedPrompt;
pub use error::PipelineError;
pub use estimate::{
    Estimate, EstimateInput, GpuMemory, LargestTensor, StageEstimate, available_memory, estimate,
};
pub use generate::{Event, Generation};
pub use host_tensor::{Embeds, HostTensor, Latents};
pub use i2vgen_kernels::{memory_budget, set_memory_budget};
pub use i2vgen_schedulers::{SchedulerOptions, Vid2VidSolver};
pub use i2vgen_vae::Tiling;
pub use image_input::{decode_image, open_image};
pub use inputs::{Images, Prompt};
pub use lora::{Lora, Loras};
pub use options::{
    Compat, FreeU, GenerateOptions, ImageLatents, OutputType, StartFrames, StartVideo, VaeTiling,
};
pub use pipeline::I2VGenXLPipeline;
pub use video::{
    Container, FrameProblem, GifDither, GifPalette, SaveOptions, Video, check_frames,
    first_frame_similarity, motion_energy, read_metadata,
};
pub use video_to_video::{
    Refinement, VideoInput, VideoToVideoComponents, VideoToVideoOptions, VideoToVideoPipeline,
    Windows,
};
