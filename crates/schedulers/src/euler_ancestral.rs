//! Euler's method with fresh noise in every step, as diffusers' `scheduling_euler_ancestral_discrete.py`.

use std::marker::PhantomData;

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    history::check_index,
    noising::{cast, same_shape, widened},
    prediction::original_in_sigma_space,
    sigma_space::SigmaSpace,
};

scheduler_config! {
    /// `scheduler_config.json` of an `EulerAncestralDiscreteScheduler`, with diffusers' defaults.
    EulerAncestralDiscreteSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Linspace;
        predictions: Epsilon, VPrediction;
        only: ;
    }
}

/// Ancestral sampling with Euler's method: each step goes further down than it needs to, and noise makes up for it.
#[derive(Clone, Debug)]
pub struct EulerAncestralDiscreteScheduler<B: Backend> {
    config: EulerAncestralDiscreteSchedulerConfig,
    space: SigmaSpace,
    backend: PhantomData<B>,
}

impl<B: Backend> EulerAncestralDiscreteScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: EulerAncestralDiscreteSchedulerConfig) -> Result<Self, SchedulerError> {
        let alphas_cumprod = config.alphas_cumprod()?;
        let choice = config.choice(&alphas_cumprod);
        Ok(Self {
            space: SigmaSpace::new(&alphas_cumprod, choice),
            config,
            backend: PhantomData,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &EulerAncestralDiscreteSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> &[f64] {
        self.space.sigmas()
    }
}

impl<B: Backend> Scheduler<B> for EulerAncestralDiscreteScheduler<B> {
    fn class_name(&self) -> &'static str {
        "EulerAncestralDiscreteScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("EulerAncestralDiscreteScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        self.space.prepare(num_inference_steps, false)
    }

    fn timesteps(&self) -> &[f64] {
        self.space.timesteps()
    }

    fn init_noise_sigma(&self) -> f64 {
        self.space.init_noise_sigma()
    }

    fn scale_model_input(
        &mut self,
        sample: Tensor<B, 4>,
        index: usize,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        self.space.scale_model_input(sample, index)
    }

    fn step(
        &mut self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        check_index(index, self.timesteps().len())?;
        same_shape("the model's output", &model_output, &sample)?;
        let noise = args.draw(&model_output)?;
        let (output, x, dtype) = widened(model_output, sample)?;
        let (sigma, next) = (self.sigmas()[index], self.sigmas()[index + 1]);
        let original = original_in_sigma_space(self.config.prediction_type, output, &x, sigma);
        let (down, up) = down_and_up(sigma, next);
        let slope = (x.clone() - original) / sigma;
        let noise = cast(noise, x.dtype());
        Ok(cast(x + slope * (down - sigma) + noise * up, dtype))
    }

    fn add_noise(
        &self,
        original: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        self.space.add_noise(original, noise, timesteps)
    }

    fn boxed_clone(&self) -> Box<dyn Scheduler<B>> {
        Box::new(self.clone())
    }
}

/// The sigmas to go down to and to go up by noise, such that down² + up² = next². In f32 and in diffusers' order of
/// operations: from sigma 4096 (zero terminal SNR) half of the digits of `down` cancel there, so the exact one is not its.
fn down_and_up(sigma: f64, next: f64) -> (f64, f64) {
    let (sigma, next) = (sigma as f32, next as f32);
    let up = (next * next * (sigma * sigma - next * next) / (sigma * sigma)).sqrt();
    let down = (next * next - up * up).max(0.0).sqrt();
    (down.into(), up.into())
}
