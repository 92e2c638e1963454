//! Denoising diffusion probabilistic models (Ho et al., 2020), as diffusers' `scheduling_ddpm.py`.

use std::marker::PhantomData;

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    history::check_index,
    limit::Limit,
    noising::{Mix, cast, same_shape, widened},
    prediction::original,
    timesteps::floats,
};

/// How much noise a step of DDPM adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VarianceType {
    /// The variance of the posterior, given the clean sample.
    FixedSmall,
    /// The same, by way of its logarithm.
    FixedSmallLog,
    /// The variance that the step forward adds.
    FixedLarge,
}

scheduler_config! {
    /// `scheduler_config.json` of a `DDPMScheduler`, with diffusers' defaults.
    DDPMSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Leading;
        predictions: Epsilon, Sample, VPrediction;
        only: ;
        /// How much noise a step adds.
        variance_type: VarianceType = VarianceType::FixedSmall,
        /// Clip the predicted clean sample to ±`clip_sample_range`.
        clip_sample: bool = true,
        /// See `clip_sample`.
        clip_sample_range: f64 = 1.0,
        /// Dynamic thresholding of the predicted clean sample; goes before `clip_sample`.
        thresholding: bool = false,
        /// The quantile to cut at.
        dynamic_thresholding_ratio: f64 = 0.995,
        /// The most to divide by.
        sample_max_value: f64 = 1.0,
    }
}

/// DDPM: samples each step from the posterior. Draws noise in every step but one to timestep 0.
#[derive(Clone, Debug)]
pub struct DDPMScheduler<B: Backend> {
    config: DDPMSchedulerConfig,
    limit: Limit,
    alphas_cumprod: Vec<f32>,
    timesteps: Vec<f64>,
    backend: PhantomData<B>,
}

impl<B: Backend> DDPMScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: DDPMSchedulerConfig) -> Result<Self, SchedulerError> {
        let c = &config;
        Ok(Self {
            limit: Limit::default()
                .threshold(
                    c.thresholding,
                    c.dynamic_thresholding_ratio,
                    c.sample_max_value,
                )?
                .clip(c.clip_sample, c.clip_sample_range)?,
            alphas_cumprod: c.alphas_cumprod()?,
            config,
            timesteps: Vec::new(),
            backend: PhantomData,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &DDPMSchedulerConfig {
        &self.config
    }

    /// The signal's share of the variance at a step; 1 after the last.
    fn signal(&self, index: usize) -> f64 {
        match self.timesteps.get(index) {
            Some(timestep) => f64::from(self.alphas_cumprod[*timestep as usize]),
            None => 1.0,
        }
    }
}

impl<B: Backend> Scheduler<B> for DDPMScheduler<B> {
    fn class_name(&self) -> &'static str {
        "DDPMScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("DDPMScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        let choice = c.choice(&self.alphas_cumprod);
        let timesteps = choice.integers(num_inference_steps)?;
        self.limit
            .check_signal(c.prediction_type, &self.alphas_cumprod, &timesteps)?;
        self.timesteps = floats(timesteps);
        Ok(())
    }

    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    fn step(
        &mut self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        check_index(index, self.timesteps.len())?;
        same_shape("the model's output", &model_output, &sample)?;
        let noise = match self.timesteps[index] > 0.0 {
            true => Some(args.draw(&model_output)?),
            false => None,
        };
        let (output, x, dtype) = widened(model_output, sample)?;
        let (signal, prev) = (self.signal(index), self.signal(index + 1));
        let (rest, rest_prev) = (1.0 - signal, 1.0 - prev);
        let alpha = signal / prev;
        let beta = 1.0 - alpha;

        let kind = self.config.prediction_type;
        let original = self
            .limit
            .apply(original(kind, output, &x, signal.sqrt(), rest.sqrt()));
        let wide = x.dtype();
        let mean = original * (prev.sqrt() * beta / rest) + x * (alpha.sqrt() * rest_prev / rest);
        let Some(noise) = noise else {
            return Ok(cast(mean, dtype));
        };
        let variance = match self.config.variance_type {
            VarianceType::FixedLarge => beta,
            _ => (rest_prev / rest * beta).max(1e-20),
        };
        Ok(cast(mean + cast(noise, wide) * variance.sqrt(), dtype))
    }

    fn add_noise(
        &self,
        original: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        same_shape("the noise", &noise, &original)?;
        Ok(Mix::new(&self.alphas_cumprod, timesteps, &original)?.noisy(original, noise))
    }

    fn boxed_clone(&self) -> Box<dyn Scheduler<B>> {
        Box::new(self.clone())
    }
}
