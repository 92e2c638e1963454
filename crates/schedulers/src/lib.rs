#![doc = include_str!("../README.md")]

mod betas;
mod config;
mod ddim;
mod error;
mod noising;
mod prediction;
mod registry;
mod scheduler;
mod threshold;
mod timesteps;

pub use config::{BetaSchedule, PredictionType, TimestepSpacing};
pub use ddim::{DDIMScheduler, DDIMSchedulerConfig, DDIMSchedulerOutput};
pub use error::SchedulerError;
pub use registry::{
    CONFIG_NAME, class_name, from_config, from_folder, from_pretrained, save_pretrained,
    supported_classes,
};
pub use scheduler::{NoiseSource, Scheduler, StepArgs};
