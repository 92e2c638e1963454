//! Denoising diffusion implicit models (Song et al., 2020), with the options of diffusers' `scheduling_ddim.py`.

use std::marker::PhantomData;

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    limit::Limit,
    noising::{Mix, cast, same_shape, wide},
    prediction::{noise_around, original_and_noise},
    timesteps::floats,
};

scheduler_config! {
    /// `scheduler_config.json` of a `DDIMScheduler`, with diffusers' defaults.
    DDIMSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Leading;
        predictions: Epsilon, Sample, VPrediction;
        only: ;
        /// Clip the predicted clean sample to ±`clip_sample_range`.
        clip_sample: bool = true,
        /// See `clip_sample`.
        clip_sample_range: f64 = 1.0,
        /// Whether the last step ends at a signal of 1, or at that of timestep 0.
        set_alpha_to_one: bool = true,
        /// Dynamic thresholding of the predicted clean sample; goes before `clip_sample`.
        thresholding: bool = false,
        /// The quantile to cut at.
        dynamic_thresholding_ratio: f64 = 0.995,
        /// The most to divide by.
        sample_max_value: f64 = 1.0,
    }
}

/// DDIM: the scheduler that I2VGen-XL was released with.
#[derive(Clone, Debug)]
pub struct DDIMScheduler<B: Backend> {
    config: DDIMSchedulerConfig,
    limit: Limit,
    alphas_cumprod: Vec<f32>,
    timesteps: Vec<f64>,
    /// Training timesteps per step of the current run; 0 before the first.
    stride: usize,
    backend: PhantomData<B>,
}

/// What a step of DDIM gives.
#[derive(Clone, Debug)]
pub struct DDIMSchedulerOutput<B: Backend> {
    /// The next sample.
    pub prev_sample: Tensor<B, 4>,
    /// The clean sample as predicted by this step, for previews.
    pub pred_original_sample: Tensor<B, 4>,
}

/// The numbers of one step, in f32 as in torch.
struct Coefficients {
    /// The signal's share of the variance now,
    signal: f32,
    /// and after the step.
    signal_prev: f32,
    /// Standard deviation of the noise to add.
    sigma: f32,
}

impl<B: Backend> DDIMScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: DDIMSchedulerConfig) -> Result<Self, SchedulerError> {
        Ok(Self {
            limit: Limit::default()
                .threshold(
                    config.thresholding,
                    config.dynamic_thresholding_ratio,
                    config.sample_max_value,
                )?
                .clip(config.clip_sample, config.clip_sample_range)?,
            alphas_cumprod: config.alphas_cumprod()?,
            config,
            timesteps: Vec::new(),
            stride: 0,
            backend: PhantomData,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &DDIMSchedulerConfig {
        &self.config
    }

    /// The signal's share of the variance at each training timestep.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// As [`Scheduler::step`], but also returns the predicted clean sample.
    ///
    /// # Errors
    /// As [`Scheduler::step`].
    pub fn step_output(
        &self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<DDIMSchedulerOutput<B>, SchedulerError> {
        let Coefficients {
            signal,
            signal_prev,
            sigma,
        } = self.coefficients(index, args.eta)?;
        same_shape("the model's output", &model_output, &sample)?;
        let noise = match (args.eta > 0.0, args.noise) {
            (false, _) => None,
            (true, None) => return Err(SchedulerError::NoNoiseSource),
            (true, Some(source)) => Some(source.normal(&model_output)),
        };

        let dtype = sample.dtype();
        let sample = cast(sample, wide(dtype));
        let output = cast(model_output, wide(dtype));
        let (original, mut direction) =
            original_and_noise(self.config.prediction_type, output, &sample, signal);
        let original = self.limit.apply(original);
        if args.use_clipped_model_output {
            direction = noise_around(&original, &sample, signal);
        }
        // Rounding can take this below 0 where the noise is all there is; torch then returns NaN.
        let rest = (1.0 - signal_prev - sigma * sigma).max(0.0);
        let mut prev = original.clone() * signal_prev.sqrt() + direction * rest.sqrt();
        if let Some(noise) = noise {
            same_shape("the noise", &noise, &prev)?;
            prev = prev + cast(noise, wide(dtype)) * sigma;
        }
        Ok(DDIMSchedulerOutput {
            prev_sample: cast(prev, dtype),
            pred_original_sample: cast(original, dtype),
        })
    }

    /// The velocity between a sample and noise: what a `v_prediction` model learns.
    ///
    /// # Errors
    /// As [`Scheduler::add_noise`].
    pub fn get_velocity(
        &self,
        sample: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        same_shape("the noise", &noise, &sample)?;
        Ok(Mix::new(&self.alphas_cumprod, timesteps, &sample)?.velocity(sample, noise))
    }

    fn coefficients(&self, index: usize, eta: f64) -> Result<Coefficients, SchedulerError> {
        if !eta.is_finite() || eta < 0.0 {
            return Err(SchedulerError::Eta(eta));
        }
        let count = self.timesteps.len();
        let timestep = match self.timesteps.get(index) {
            Some(timestep) => *timestep as usize,
            None => return Err(SchedulerError::StepIndex { index, count }),
        };
        let signal = self.alphas_cumprod[timestep];
        // Always one stride back, wherever the next timestep really is.
        let signal_prev = match timestep.checked_sub(self.stride) {
            Some(prev) => self.alphas_cumprod[prev],
            None if self.config.set_alpha_to_one => 1.0,
            None => self.alphas_cumprod[0],
        };
        let variance = (1.0 - signal_prev) / (1.0 - signal) * (1.0 - signal / signal_prev);
        Ok(Coefficients {
            signal,
            signal_prev,
            sigma: eta as f32 * variance.max(0.0).sqrt(),
        })
    }
}

impl<B: Backend> Scheduler<B> for DDIMScheduler<B> {
    fn class_name(&self) -> &'static str {
        "DDIMScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("DDIMScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        let timesteps = c
            .choice(&self.alphas_cumprod)
            .integers(num_inference_steps)?;
        self.limit
            .check_signal(c.prediction_type, &self.alphas_cumprod, &timesteps)?;
        self.stride = c.num_train_timesteps / num_inference_steps;
        self.timesteps = floats(timesteps);
        Ok(())
    }

    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    fn uses_eta(&self) -> bool {
        true
    }

    fn step(
        &mut self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        Ok(self
            .step_output(model_output, index, sample, args)?
            .prev_sample)
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

    fn set_alpha_to_one(&mut self, yes: bool) {
        self.config.set_alpha_to_one = yes;
    }

    fn boxed_clone(&self) -> Box<dyn Scheduler<B>> {
        Box::new(self.clone())
    }
}
