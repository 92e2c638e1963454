//! Linear multistep (Adams-Bashforth) in sigma space, as diffusers' `scheduling_lms_discrete.py`.

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    history::{History, Order, check_index},
    noising::{cast, widened},
    prediction::original_in_sigma_space,
    sigma_space::SigmaSpace,
};

scheduler_config! {
    /// `scheduler_config.json` of a `LMSDiscreteScheduler`, with diffusers' defaults.
    LMSDiscreteSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Linspace;
        predictions: Epsilon, Sample, VPrediction;
        only: "use_exponential_sigmas" = false, "use_beta_sigmas" = false;
        /// Space the sigmas as Karras et al. do.
        use_karras_sigmas: bool = false,
    }
}

/// Derivatives to look back at; the most that the quadrature is exact for.
const ORDER: usize = 4;

/// Linear multistep: integrates the polynomial through the last four derivatives.
#[derive(Clone, Debug)]
pub struct LMSDiscreteScheduler<B: Backend> {
    config: LMSDiscreteSchedulerConfig,
    space: SigmaSpace,
    order: Order,
    derivatives: History<B>,
}

impl<B: Backend> LMSDiscreteScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: LMSDiscreteSchedulerConfig) -> Result<Self, SchedulerError> {
        let alphas_cumprod = config.alphas_cumprod()?;
        let choice = config.choice(&alphas_cumprod);
        Ok(Self {
            space: SigmaSpace::new(&alphas_cumprod, choice),
            config,
            order: Order::default(),
            derivatives: History::new(ORDER),
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &LMSDiscreteSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> &[f64] {
        self.space.sigmas()
    }

    /// For each of the last `count` derivatives, latest first, the integral over this step of the polynomial that is 1 there
    /// and 0 at the others.
    fn weights(&self, index: usize, count: usize) -> Vec<f64> {
        let (from, to) = (self.sigmas()[index], self.sigmas()[index + 1]);
        let points: Vec<f64> = (0..count).map(|k| self.sigmas()[index - k]).collect();
        let basis = |j: usize, tau: f64| -> f64 {
            let others = (0..count).filter(|k| *k != j);
            others
                .map(|k| (tau - points[k]) / (points[j] - points[k]))
                .product()
        };
        // Two Gauss points are exact up to degree 3.
        let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
        let offset = half / 3f64.sqrt();
        let integral = |j| half * (basis(j, middle - offset) + basis(j, middle + offset));
        (0..count).map(integral).collect()
    }
}

impl<B: Backend> Scheduler<B> for LMSDiscreteScheduler<B> {
    fn class_name(&self) -> &'static str {
        "LMSDiscreteScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("LMSDiscreteScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        self.space
            .prepare(num_inference_steps, self.config.use_karras_sigmas)?;
        self.set_begin_index(0)
    }

    fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        check_index(index, self.timesteps().len())?;
        self.order = Order::begin(index);
        self.derivatives = History::new(ORDER);
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
        self.order.check(index, self.timesteps().len())?;
        let (output, x, dtype) = widened(model_output, sample)?;
        let sigma = self.sigmas()[index];
        let original = original_in_sigma_space(self.config.prediction_type, output, &x, sigma);
        self.derivatives.push((x.clone() - original) / sigma);
        let weights = self.weights(index, self.derivatives.len());
        self.order.advance();
        Ok(cast(self.derivatives.add_weighted(x, &weights), dtype))
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
