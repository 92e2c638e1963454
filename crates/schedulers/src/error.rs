use i2vgen_checkpoint::CheckpointError;

/// What can go wrong in a scheduler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchedulerError {
    /// The folder or its `scheduler_config.json`.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A class that does not exist here.
    #[error("unknown scheduler '{class}'; supported are: {supported}")]
    UnknownClass {
        /// What was asked for.
        class: String,
        /// The classes there are.
        supported: String,
    },
    /// A key of the config with a value that it cannot have.
    #[error("scheduler config, key '{key}': {reason}")]
    BadConfig {
        /// The key.
        key: &'static str,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// No steps at all, or more than the model was trained with.
    #[error("num_inference_steps is {steps}; give a number from 1 to {max} (num_train_timesteps)")]
    StepCount {
        /// What was asked for.
        steps: usize,
        /// The most there can be.
        max: usize,
    },
    /// A timestep outside the noise schedule.
    #[error(
        "timestep {timestep} is outside the noise schedule, which ends at {last}; use fewer num_inference_steps or a smaller steps_offset"
    )]
    Timestep {
        /// The timestep.
        timestep: f64,
        /// The last one there is.
        last: usize,
    },
    /// Epsilon prediction where the sample is nothing but noise.
    #[error(
        "timestep {timestep} has no signal left (rescale_betas_zero_snr), and 'epsilon' prediction divides by the signal; use timestep_spacing 'leading' or fewer num_inference_steps"
    )]
    NoSignal {
        /// The timestep.
        timestep: usize,
    },
    /// `step` before `set_timesteps`, or past the last timestep.
    #[error(
        "step {index} does not exist: there are {count} timesteps; call set_timesteps first, then step from 0 to the last"
    )]
    StepIndex {
        /// The index.
        index: usize,
        /// How many timesteps are set.
        count: usize,
    },
    /// An eta that is no weight.
    #[error("eta is {0}; give 0 (deterministic) to 1 (as much noise as DDPM)")]
    Eta(f64),
    /// A stochastic step without a source of noise.
    #[error("this step draws noise but has no source of it; give one in StepArgs")]
    NoNoiseSource,
    /// Tensors that do not belong together.
    #[error("{what} has shape {found:?}, the sample has {expected:?}; they must be equal")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// Its shape.
        found: [usize; 4],
        /// The sample's.
        expected: [usize; 4],
    },
    /// A list of timesteps that is neither one nor one per sample.
    #[error("{found} timesteps for {samples} samples; give one for all or one for each")]
    TimestepCount {
        /// How many were given.
        found: usize,
        /// How many samples there are.
        samples: usize,
    },
}
