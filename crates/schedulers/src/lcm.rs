//! Multistep sampling of latent consistency models (Luo et al., 2023), as diffusers' `scheduling_lcm.py`. For models that
//! were distilled for it.

use std::marker::PhantomData;

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    Scheduler, SchedulerError, StepArgs,
    config::{check, scheduler_config},
    history::check_index,
    limit::Limit,
    noising::{Mix, cast, same_shape, widened},
    prediction::original,
    timesteps::floats,
};

scheduler_config! {
    /// `scheduler_config.json` of an `LCMScheduler`, with diffusers' defaults. Its timesteps heed neither spacing nor
    /// offset.
    LCMSchedulerConfig {
        betas: 0.00085, 0.012, ScaledLinear;
        spacing: Leading;
        predictions: Epsilon, Sample, VPrediction;
        only: ;
        /// Steps that the model was distilled over; a run takes some of them.
        original_inference_steps: usize = 50,
        /// Times this, timesteps go into the boundary condition.
        timestep_scaling: f64 = 10.0,
        /// Clip the predicted clean sample to ±`clip_sample_range`.
        clip_sample: bool = false,
        /// See `clip_sample`.
        clip_sample_range: f64 = 1.0,
        /// Kept for other classes; no step of this one goes past the first timestep.
        set_alpha_to_one: bool = true,
        /// Dynamic thresholding of the predicted clean sample; goes before `clip_sample`.
        thresholding: bool = false,
        /// The quantile to cut at.
        dynamic_thresholding_ratio: f64 = 0.995,
        /// The most to divide by.
        sample_max_value: f64 = 1.0,
    }
}

/// LCM: each step predicts the clean sample, and all but the last noise it again.
#[derive(Clone, Debug)]
pub struct LCMScheduler<B: Backend> {
    config: LCMSchedulerConfig,
    limit: Limit,
    alphas_cumprod: Vec<f32>,
    timesteps: Vec<f64>,
    backend: PhantomData<B>,
}

impl<B: Backend> LCMScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: LCMSchedulerConfig) -> Result<Self, SchedulerError> {
        let c = &config;
        let alphas_cumprod = c.alphas_cumprod()?;
        let originals = c.original_inference_steps;
        check(
            (1..=c.num_train_timesteps).contains(&originals),
            "original_inference_steps",
            originals,
            "from 1 to num_train_timesteps",
        )?;
        check(
            c.timestep_scaling.is_finite() && c.timestep_scaling > 0.0,
            "timestep_scaling",
            c.timestep_scaling,
            "above 0",
        )?;
        Ok(Self {
            limit: Limit::default()
                .threshold(
                    c.thresholding,
                    c.dynamic_thresholding_ratio,
                    c.sample_max_value,
                )?
                .clip(c.clip_sample, c.clip_sample_range)?,
            alphas_cumprod,
            config,
            timesteps: Vec::new(),
            backend: PhantomData,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &LCMSchedulerConfig {
        &self.config
    }

    fn signal(&self, index: usize) -> f64 {
        f64::from(self.alphas_cumprod[self.timesteps[index] as usize])
    }
}

impl<B: Backend> Scheduler<B> for LCMScheduler<B> {
    fn class_name(&self) -> &'static str {
        "LCMScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("LCMScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        let originals = c.original_inference_steps;
        if !(1..=originals).contains(&num_inference_steps) {
            return Err(SchedulerError::StepCount {
                steps: num_inference_steps,
                min: 1,
                max: originals,
                limit: "original_inference_steps",
            });
        }
        let stride = c.num_train_timesteps / originals;
        let skip = originals as f64 / num_inference_steps as f64;
        let timesteps: Vec<usize> = (0..num_inference_steps)
            .map(|i| (i as f64 * skip) as usize)
            .map(|skipped| (originals - skipped) * stride - 1)
            .collect();
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
        let count = self.timesteps.len();
        check_index(index, count)?;
        same_shape("the model's output", &model_output, &sample)?;
        let noise = match index + 1 < count {
            true => Some((args.draw(&sample)?, self.signal(index + 1))),
            false => None,
        };
        let (output, x, dtype) = widened(model_output, sample)?;
        let signal = self.signal(index);
        let (alpha, sigma) = (signal.sqrt(), (1.0 - signal).sqrt());
        let kind = self.config.prediction_type;
        let original = self.limit.apply(original(kind, output, &x, alpha, sigma));
        // The boundary condition: near timestep 0 the sample is its own prediction.
        const SIGMA_DATA: f64 = 0.5;
        let t = self.timesteps[index] * self.config.timestep_scaling;
        let norm = t * t + SIGMA_DATA * SIGMA_DATA;
        let wide = x.dtype();
        let denoised = original * (t / norm.sqrt()) + x * (SIGMA_DATA * SIGMA_DATA / norm);
        Ok(match noise {
            None => cast(denoised, dtype),
            Some((noise, prev)) => cast(
                denoised * prev.sqrt() + cast(noise, wide) * (1.0 - prev).sqrt(),
                dtype,
            ),
        })
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
