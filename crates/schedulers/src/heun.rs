//! Heun's method in sigma space (Karras et al., 2022, algorithm 1), as diffusers' `scheduling_heun_discrete.py`.

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    history::{Order, check_begin},
    limit::Limit,
    noising::{cast, widened},
    prediction::original_in_sigma_space,
    sigma_space::SigmaSpace,
};

scheduler_config! {
    /// `scheduler_config.json` of a `HeunDiscreteScheduler`, with diffusers' defaults.
    HeunDiscreteSchedulerConfig {
        betas: 0.00085, 0.012, Linear;
        spacing: Linspace;
        predictions: Epsilon, Sample, VPrediction;
        only: "use_exponential_sigmas" = false, "use_beta_sigmas" = false;
        /// Space the sigmas as Karras et al. do.
        use_karras_sigmas: bool = false,
        /// Clip the predicted clean sample to ±`clip_sample_range`.
        clip_sample: bool = false,
        /// See `clip_sample`.
        clip_sample_range: f64 = 1.0,
    }
}

/// Heun's method: two evaluations per step, of which the second corrects the first; one in the last step.
#[derive(Clone, Debug)]
pub struct HeunDiscreteScheduler<B: Backend> {
    config: HeunDiscreteSchedulerConfig,
    space: SigmaSpace,
    order: Order,
    limit: Limit,
    /// The sample at the start of the step, and the derivative there.
    start: Option<(Tensor<B, 4>, Tensor<B, 4>)>,
}

impl<B: Backend> HeunDiscreteScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: HeunDiscreteSchedulerConfig) -> Result<Self, SchedulerError> {
        let alphas_cumprod = config.alphas_cumprod()?;
        let choice = config.choice(&alphas_cumprod);
        Ok(Self {
            space: SigmaSpace::new(&alphas_cumprod, choice),
            limit: Limit::default().clip(config.clip_sample, config.clip_sample_range)?,
            config,
            order: Order::default(),
            start: None,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &HeunDiscreteSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> &[f64] {
        self.space.sigmas()
    }
}

impl<B: Backend> Scheduler<B> for HeunDiscreteScheduler<B> {
    fn class_name(&self) -> &'static str {
        "HeunDiscreteScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("HeunDiscreteScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        self.space
            .prepare(num_inference_steps, self.config.use_karras_sigmas)?;
        // At the end of the step.
        self.space
            .insert(|space, step| (space.timesteps()[step + 1], space.sigmas()[step + 1]));
        self.set_begin_index(0)
    }

    fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        check_begin(index, self.timesteps().len())?;
        self.order = Order::begin(index);
        self.start = None;
        Ok(())
    }

    fn timesteps(&self) -> &[f64] {
        self.space.timesteps()
    }

    fn order(&self) -> usize {
        2
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
        self.order.check(index, self.timesteps().len())?;
        let (output, x, dtype) = widened(model_output, sample)?;
        let here = self.space.evaluated(index)?;
        let original = original_in_sigma_space(self.config.prediction_type, output, &x, here);
        let slope = (x.clone() - self.limit.apply(original)) / here;
        let (sigma, next) = (self.sigmas()[index / 2], self.sigmas()[index / 2 + 1]);
        let after = match self.start.take() {
            None => {
                self.start = Some((x.clone(), slope.clone()));
                x + slope * (next - sigma)
            }
            Some((start, first)) => start + (first + slope) * ((next - sigma) / 2.0),
        };
        self.order.advance();
        Ok(cast(after, dtype))
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
