//! What a pipeline needs of a scheduler, whichever it is.

use std::fmt;

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{SchedulerError, noising::same_shape};

/// A sampler that turns noise into a sample, one model evaluation after the other.
///
/// ```text
/// scheduler.set_timesteps(50)?;
/// x = noise * scheduler.init_noise_sigma();
/// for (index, t) in scheduler.timesteps().to_vec().into_iter().enumerate() {
///     input = scheduler.scale_model_input(x, index)?;
///     x = scheduler.step(model(input, t), index, x, StepArgs::default())?;
/// }
/// ```
///
/// Axis 0 of every tensor counts samples; what the other three are does not matter.
pub trait Scheduler<B: Backend>: fmt::Debug + Send + Sync {
    /// The class in diffusers, as `_class_name` in `scheduler_config.json`.
    fn class_name(&self) -> &'static str;

    /// The complete config, `_class_name` included, as diffusers writes it.
    fn to_config(&self) -> Value;

    /// Prepares a run and forgets the one before.
    ///
    /// # Errors
    /// If there cannot be a run of that many steps.
    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError>;

    /// Starts the run that was prepared at this evaluation instead of the first, for a sample that is noisy already.
    /// Schedulers that keep no history start anywhere and need not be told.
    ///
    /// # Errors
    /// If a run cannot start there.
    fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        match index < self.timesteps().len() {
            true => Ok(()),
            false => Err(SchedulerError::StepIndex {
                index,
                count: self.timesteps().len(),
            }),
        }
    }

    /// What the model is to be told at each evaluation. There can be more of them than steps.
    fn timesteps(&self) -> &[f64];

    /// What to multiply normal noise with for the first sample.
    fn init_noise_sigma(&self) -> f64;

    /// Model evaluations per step.
    fn order(&self) -> usize {
        1
    }

    /// Whether `step` heeds [`StepArgs::eta`].
    fn uses_eta(&self) -> bool {
        false
    }

    /// The model's input for a sample.
    ///
    /// # Errors
    /// If there is no such step.
    fn scale_model_input(
        &mut self,
        sample: Tensor<B, 4>,
        index: usize,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        let _ = index;
        Ok(sample)
    }

    /// The next sample, from the model's output for timestep `timesteps()[index]`. Computed in f32 if the sample is in half
    /// precision, and returned in the sample's dtype; nothing is read back from the device.
    ///
    /// # Errors
    /// If there is no such step, a scheduler with a history is asked for another than the next one, or what was given does
    /// not fit the sample.
    fn step(
        &mut self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError>;

    /// The sample with as much noise as it has at a timestep: one for all samples, or one for each.
    ///
    /// # Errors
    /// If a timestep is outside the noise schedule, or shapes or counts do not fit.
    fn add_noise(
        &self,
        original: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError>;

    /// Whether the last step ends at a signal of exactly 1 or at that of timestep 0 (as VGen's own sampler does). Does
    /// nothing on schedulers that have no such choice.
    fn set_alpha_to_one(&mut self, yes: bool) {
        let _ = yes;
    }

    /// A copy, for a run of its own.
    fn boxed_clone(&self) -> Box<dyn Scheduler<B>>;
}

impl<B: Backend> Clone for Box<dyn Scheduler<B>> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// Where stochastic steps get their noise. Any `FnMut(&Tensor<B, 4>) -> Tensor<B, 4>` is one.
pub trait NoiseSource<B: Backend> {
    /// Normal noise in the shape, in the order of axes and on the device of `like`.
    fn normal(&mut self, like: &Tensor<B, 4>) -> Tensor<B, 4>;
}

impl<B: Backend, F: FnMut(&Tensor<B, 4>) -> Tensor<B, 4>> NoiseSource<B> for F {
    fn normal(&mut self, like: &Tensor<B, 4>) -> Tensor<B, 4> {
        self(like)
    }
}

/// The optional arguments of [`Scheduler::step`]. Schedulers ignore those that they do not know.
pub struct StepArgs<'a, B: Backend> {
    /// Weight of the noise in DDIM: 0 draws none, 1 is as DDPM.
    pub eta: f64,
    /// Derive the noise anew from the clipped prediction (DDIM).
    pub use_clipped_model_output: bool,
    /// Asked once per step that adds noise, never otherwise.
    pub noise: Option<&'a mut dyn NoiseSource<B>>,
}

impl<B: Backend> Default for StepArgs<'_, B> {
    /// Without noise.
    fn default() -> Self {
        Self {
            eta: 0.0,
            use_clipped_model_output: false,
            noise: None,
        }
    }
}

impl<'a, B: Backend> StepArgs<'a, B> {
    /// With a weight and a source of noise.
    pub fn with_noise(eta: f64, noise: &'a mut dyn NoiseSource<B>) -> Self {
        Self {
            eta,
            noise: Some(noise),
            ..Self::default()
        }
    }
}

impl<B: Backend> StepArgs<'_, B> {
    /// Noise for a step that adds some, in the dtype of `like`.
    pub(crate) fn draw(self, like: &Tensor<B, 4>) -> Result<Tensor<B, 4>, SchedulerError> {
        let source = self.noise.ok_or(SchedulerError::NoNoiseSource)?;
        let noise = source.normal(like);
        same_shape("the noise", &noise, like)?;
        Ok(noise)
    }
}

impl<B: Backend> fmt::Debug for StepArgs<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepArgs")
            .field("eta", &self.eta)
            .field("use_clipped_model_output", &self.use_clipped_model_output)
            .field("noise", &self.noise.is_some())
            .finish()
    }
}
