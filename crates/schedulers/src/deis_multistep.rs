//! Diffusion exponential integrator sampler (Zhang and Chen, 2022), the multistep one in log ρ, as diffusers'
//! `scheduling_deis_multistep.py`.

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    FinalSigmasType, Scheduler, SchedulerError, StepArgs,
    config::{check_solver_order, scheduler_config},
    lambda_space::LambdaSpace,
    limit::Limit,
    noising::{cast, widened},
};

scheduler_config! {
    /// `scheduler_config.json` of a `DEISMultistepScheduler`, with diffusers' defaults.
    DEISMultistepSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Linspace;
        predictions: Epsilon, Sample, VPrediction;
        only: "use_exponential_sigmas" = false, "use_beta_sigmas" = false, "use_flow_sigmas" = false;
        /// Evaluations that a step makes use of: 1, 2 or 3.
        solver_order: usize = 2,
        /// Use lower orders in the last steps of a run of less than 15.
        lower_order_final: bool = true,
        /// Space the sigmas as Karras et al. do.
        use_karras_sigmas: bool = false,
        /// Dynamic thresholding of the predicted clean sample.
        thresholding: bool = false,
        /// The quantile to cut at.
        dynamic_thresholding_ratio: f64 = 0.995,
        /// The most to divide by.
        sample_max_value: f64 = 1.0,
    }
}

/// DEIS: integrates a polynomial in ln ρ, ρ = sigma/alpha, through the latest predictions of the noise. Ends with the noise
/// of the first training timestep.
#[derive(Clone, Debug)]
pub struct DEISMultistepScheduler<B: Backend> {
    config: DEISMultistepSchedulerConfig,
    limit: Limit,
    space: LambdaSpace<B>,
}

impl<B: Backend> DEISMultistepScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: DEISMultistepSchedulerConfig) -> Result<Self, SchedulerError> {
        let c = &config;
        check_solver_order(c.solver_order)?;
        let alphas_cumprod = c.alphas_cumprod()?;
        let choice = c.choice(&alphas_cumprod);
        Ok(Self {
            limit: Limit::default().threshold(
                c.thresholding,
                c.dynamic_thresholding_ratio,
                c.sample_max_value,
            )?,
            space: LambdaSpace::new(&alphas_cumprod, choice, c.solver_order),
            config,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &DEISMultistepSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> Vec<f64> {
        self.space.sigmas()
    }

    /// The order that a step can have, with the predictions made so far.
    fn order_at(&self, index: usize) -> usize {
        let lower = self.config.lower_order_final && self.space.is_short();
        let most = match self.space.left(index) {
            0 if lower => 1,
            1 if lower => 2,
            _ => self.config.solver_order,
        };
        most.min(self.space.history.len())
    }

    /// The weights of the latest `order` predictions beside a clean sample of weight 1: the integral over this step of the
    /// polynomial in ln ρ that is 1 at one of them and 0 at the others.
    fn weights(&self, index: usize, order: usize) -> Vec<f64> {
        let (from, to) = (self.space.level(index), self.space.level(index + 1));
        let logs: Vec<f64> = (0..order)
            .map(|back| self.space.level(index - back).rho.ln())
            .collect();
        let weight = |j: usize| {
            let at = logs[j];
            let others: Vec<f64> = (0..order).filter(|k| *k != j).map(|k| logs[k]).collect();
            let integral = |rho: f64| {
                let log = rho.ln();
                match others[..] {
                    [] => rho,
                    [b] => rho * (log - 1.0 - b) / (at - b),
                    // At most two others: the order is 3 at most.
                    [b, c, ..] => {
                        let product = (log - b) * (log - c);
                        rho * (product - 2.0 * log + b + c + 2.0) / ((at - b) * (at - c))
                    }
                }
            };
            integral(to.rho) - integral(from.rho)
        };
        (0..order).map(weight).collect()
    }
}

impl<B: Backend> Scheduler<B> for DEISMultistepScheduler<B> {
    fn class_name(&self) -> &'static str {
        "DEISMultistepScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("DEISMultistepScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        let karras: Option<fn(f64) -> f64> = c.use_karras_sigmas.then_some(f64::round_ties_even);
        self.space
            .prepare(num_inference_steps, karras, FinalSigmasType::SigmaMin)
    }

    fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        self.space.set_begin_index(index)
    }

    fn timesteps(&self) -> &[f64] {
        self.space.timesteps()
    }

    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    fn step(
        &mut self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        _args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        self.space.check(index)?;
        let (output, x, dtype) = widened(model_output, sample)?;
        let kind = self.config.prediction_type;
        let original = self.space.original(kind, &self.limit, output, &x, index);
        let (level, next) = (self.space.level(index), self.space.level(index + 1));
        let noise = (x.clone() - original * level.alpha) / level.sigma;
        self.space.history.push(noise);
        let weights = self.weights(index, self.order_at(index));
        let history = &self.space.history;
        // In diffusers' order of operations: near sigma 4096 (zero terminal SNR) the terms are a thousand times their sum,
        // so that another rounding would show.
        let next = match weights[..] {
            [weight] => {
                let x = x * (next.alpha / level.alpha);
                history.add_weighted(x, &[next.alpha * weight])
            }
            _ => history.add_weighted(x / level.alpha, &weights) * next.alpha,
        };
        self.space.advance();
        Ok(cast(next, dtype))
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
