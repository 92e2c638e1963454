#![doc = include_str!("../README.md")]

mod components;
mod error;
mod estimate;
mod generate;
mod image_input;
mod inputs;
mod options;
mod pipeline;
mod video;

pub use components::Components;
pub use error::PipelineError;
pub use estimate::{Estimate, EstimateInput, StageEstimate, available_memory, estimate};
pub use generate::{Event, Generation};
pub use image_input::{decode_image, open_image};
pub use options::{Compat, GenerateOptions, ImageLatents, Latents, OutputType};
pub use pipeline::I2VGenXLPipeline;
pub use video::{Container, Video};
