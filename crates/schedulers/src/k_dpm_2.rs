//! The midpoint method in sigma space, with the middle in its logarithm (DPM-Solver-2), as diffusers'
//! `scheduling_k_dpm_2_discrete.py`.

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    history::{Order, check_begin},
    noising::{cast, widened},
    prediction::original_in_sigma_space,
    sigma_space::SigmaSpace,
};

scheduler_config! {
    /// `scheduler_config.json` of a `KDPM2DiscreteScheduler`, with diffusers' defaults.
    KDPM2DiscreteSchedulerConfig {
        betas: 0.00085, 0.012, Linear;
        spacing: Linspace;
        predictions: Epsilon, VPrediction;
        only: "use_exponential_sigmas" = false, "use_beta_sigmas" = false;
        /// Space the sigmas as Karras et al. do.
        use_karras_sigmas: bool = false,
    }
}

/// The midpoint method: half a step to learn the slope in the middle, then the whole one along it; the last step is Euler's.
#[derive(Clone, Debug)]
pub struct KDPM2DiscreteScheduler<B: Backend> {
    config: KDPM2DiscreteSchedulerConfig,
    space: SigmaSpace,
    order: Order,
    /// The sample at the start of the step.
    start: Option<Tensor<B, 4>>,
}

impl<B: Backend> KDPM2DiscreteScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: KDPM2DiscreteSchedulerConfig) -> Result<Self, SchedulerError> {
        let alphas_cumprod = config.alphas_cumprod()?;
        let choice = config.choice(&alphas_cumprod);
        Ok(Self {
            space: SigmaSpace::new(&alphas_cumprod, choice),
            config,
            order: Order::default(),
            start: None,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &KDPM2DiscreteSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> &[f64] {
        self.space.sigmas()
    }
}

impl<B: Backend> Scheduler<B> for KDPM2DiscreteScheduler<B> {
    fn class_name(&self) -> &'static str {
        "KDPM2DiscreteScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("KDPM2DiscreteScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        self.space
            .prepare(num_inference_steps, self.config.use_karras_sigmas)?;
        if self.config.use_karras_sigmas {
            self.space.round_timesteps();
        }
        self.space.insert(|space, step| {
            let middle = middle(space.sigmas()[step], space.sigmas()[step + 1]);
            (space.timestep_at(middle), middle)
        });
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
        let slope = (x.clone() - original) / here;
        let (sigma, next) = (self.sigmas()[index / 2], self.sigmas()[index / 2 + 1]);
        let after = match self.start.take() {
            None if next > 0.0 => {
                self.start = Some(x.clone());
                x + slope * (middle(sigma, next) - sigma)
            }
            None => x - slope * sigma,
            Some(start) => start + slope * (next - sigma),
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

/// The geometric mean, rounded as diffusers does.
fn middle(sigma: f64, next: f64) -> f64 {
    let (from, to) = (sigma.ln() as f32, next.ln() as f32);
    f64::from(f64::from(from - (from - to) * 0.5).exp() as f32)
}
