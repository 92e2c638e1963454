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
    /// Too few steps, or more than there can be.
    #[error("num_inference_steps is {steps}; give a number from {min} to {max} ({limit})")]
    StepCount {
        /// What was asked for.
        steps: usize,
        /// The fewest there can be.
        min: usize,
        /// The most there can be.
        max: usize,
        /// Where the bounds come from.
        limit: &'static str,
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
    /// A scheduler with a history, stepped out of order.
    #[error(
        "step {index} is out of order: this scheduler builds on the steps before, and the next one is {next}; call set_timesteps to start over"
    )]
    StepOrder {
        /// The index.
        index: usize,
        /// The index that comes next.
        next: usize,
    },
    /// A start in the middle of a step of several evaluations.
    #[error("a run cannot begin at index {index}, which is in the middle of a step; {allowed}")]
    BeginIndex {
        /// The index.
        index: usize,
        /// Where it can begin.
        allowed: &'static str,
    },
    /// Two visited timesteps with equal noise, or one with none.
    #[error(
        "the noise does not fall from timestep {timestep} to the next, and this scheduler divides by the difference; use betas above 0"
    )]
    EqualNoise {
        /// The timestep.
        timestep: f64,
    },
    /// An option for a class that does not have it.
    #[error("'{option}' is not an option of {class}; the schedulers that have it are: {classes}")]
    UnknownOption {
        /// The option.
        option: &'static str,
        /// The class.
        class: String,
        /// The short names of the classes that have it.
        classes: String,
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
