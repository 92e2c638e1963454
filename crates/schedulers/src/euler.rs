//! Euler's method in sigma space (Karras et al., 2022, algorithm 2 without churn), as diffusers'
//! `scheduling_euler_discrete.py`.

use std::marker::PhantomData;

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    FinalSigmasType, Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    history::check_index,
    noising::{cast, widened},
    prediction::original_in_sigma_space,
    sigma_space::SigmaSpace,
};

scheduler_config! {
    /// `scheduler_config.json` of an `EulerDiscreteScheduler`, with diffusers' defaults.
    EulerDiscreteSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Linspace;
        predictions: Epsilon, Sample, VPrediction;
        only: "use_exponential_sigmas" = false, "use_beta_sigmas" = false, "interpolation_type" = "linear",
            "timestep_type" = "discrete", "sigma_min" = Value::Null, "sigma_max" = Value::Null;
        /// Space the sigmas as Karras et al. do.
        use_karras_sigmas: bool = false,
        /// Where the last step ends.
        final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
    }
}

/// Euler's method, one straight step along the noise at a time.
#[derive(Clone, Debug)]
pub struct EulerDiscreteScheduler<B: Backend> {
    config: EulerDiscreteSchedulerConfig,
    space: SigmaSpace,
    backend: PhantomData<B>,
}

impl<B: Backend> EulerDiscreteScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: EulerDiscreteSchedulerConfig) -> Result<Self, SchedulerError> {
        let alphas_cumprod = config.alphas_cumprod()?;
        let choice = config.choice(&alphas_cumprod);
        Ok(Self {
            space: SigmaSpace::new(&alphas_cumprod, choice),
            config,
            backend: PhantomData,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &EulerDiscreteSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> &[f64] {
        self.space.sigmas()
    }
}

impl<B: Backend> Scheduler<B> for EulerDiscreteScheduler<B> {
    fn class_name(&self) -> &'static str {
        "EulerDiscreteScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("EulerDiscreteScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        self.space
            .prepare(num_inference_steps, self.config.use_karras_sigmas)?;
        if self.config.final_sigmas_type == FinalSigmasType::SigmaMin {
            self.space.end_at_min();
        }
        Ok(())
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
        _args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        check_index(index, self.timesteps().len())?;
        let (output, x, dtype) = widened(model_output, sample)?;
        let (sigma, next) = (self.sigmas()[index], self.sigmas()[index + 1]);
        let original = original_in_sigma_space(self.config.prediction_type, output, &x, sigma);
        let slope = (x.clone() - original) / sigma;
        Ok(cast(x + slope * (next - sigma), dtype))
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
