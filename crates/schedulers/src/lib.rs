#![doc = include_str!("../README.md")]

mod betas;
mod config;
mod ddim;
mod ddpm;
mod deis_multistep;
mod dpm_solver_multistep;
mod error;
mod euler;
mod euler_ancestral;
mod heun;
mod history;
mod k_dpm_2;
mod lambda_space;
mod lcm;
mod limit;
mod lms;
mod noising;
mod pndm;
mod prediction;
mod registry;
mod scheduler;
mod sigma_space;
mod sigmas;
mod timesteps;
mod unipc_multistep;
mod vid2vid;

pub use config::{BetaSchedule, FinalSigmasType, PredictionType, TimestepSpacing};
pub use ddim::{DDIMScheduler, DDIMSchedulerConfig, DDIMSchedulerOutput};
pub use ddpm::{DDPMScheduler, DDPMSchedulerConfig, VarianceType};
pub use deis_multistep::{DEISMultistepScheduler, DEISMultistepSchedulerConfig};
pub use dpm_solver_multistep::{
    DPMAlgorithmType, DPMSolverMultistepScheduler, DPMSolverMultistepSchedulerConfig, DPMSolverType,
};
pub use error::SchedulerError;
pub use euler::{EulerDiscreteScheduler, EulerDiscreteSchedulerConfig};
pub use euler_ancestral::{EulerAncestralDiscreteScheduler, EulerAncestralDiscreteSchedulerConfig};
pub use heun::{HeunDiscreteScheduler, HeunDiscreteSchedulerConfig};
pub use k_dpm_2::{KDPM2DiscreteScheduler, KDPM2DiscreteSchedulerConfig};
pub use lcm::{LCMScheduler, LCMSchedulerConfig};
pub use lms::{LMSDiscreteScheduler, LMSDiscreteSchedulerConfig};
pub use pndm::{PNDMScheduler, PNDMSchedulerConfig};
pub use registry::{
    CONFIG_NAME, SchedulerOptions, class_name, from_config, from_config_with, from_folder,
    from_pretrained, save_pretrained, supported_classes,
};
pub use scheduler::{NoiseSource, Scheduler, StepArgs};
pub use unipc_multistep::{
    UniPCMultistepScheduler, UniPCMultistepSchedulerConfig, UniPCSolverType,
};
pub use vid2vid::{Vid2VidScheduler, Vid2VidSolver};
