//! DPM-Solver++ (Lu et al., 2022), its multistep variant and the stochastic one, as diffusers'
//! `scheduling_dpmsolver_multistep.py`.

use burn::tensor::{DType, Tensor, backend::Backend};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    BetaSchedule, FinalSigmasType, Scheduler, SchedulerError, StepArgs,
    config::{check_solver_order, scheduler_config},
    lambda_space::LambdaSpace,
    limit::Limit,
    noising::{cast, widened},
};

/// Which equation DPM-Solver++ solves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DPMAlgorithmType {
    /// The probability flow, without noise.
    #[serde(rename = "dpmsolver++", alias = "deis")]
    DPMSolverPlusPlus,
    /// The stochastic equation: every step draws noise.
    #[serde(rename = "sde-dpmsolver++")]
    SDEDPMSolverPlusPlus,
}

/// How DPM-Solver++ of second order looks ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DPMSolverType {
    /// As the midpoint method. Also stands for the types of UniPC and DEIS, as in diffusers.
    #[serde(alias = "logrho", alias = "bh1", alias = "bh2")]
    Midpoint,
    /// As Heun's method.
    Heun,
}

scheduler_config! {
    /// `scheduler_config.json` of a `DPMSolverMultistepScheduler`, with diffusers' defaults.
    DPMSolverMultistepSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Linspace;
        predictions: Epsilon, Sample, VPrediction;
        only: "use_exponential_sigmas" = false, "use_beta_sigmas" = false, "use_lu_lambdas" = false,
            "use_flow_sigmas" = false, "lambda_min_clipped" = Value::Null;
        /// Evaluations that a step makes use of: 1, 2 or 3.
        solver_order: usize = 2,
        /// Without noise, or with.
        algorithm_type: DPMAlgorithmType = DPMAlgorithmType::DPMSolverPlusPlus,
        /// How the second order looks ahead.
        solver_type: DPMSolverType = DPMSolverType::Midpoint,
        /// Use lower orders in the last steps of a run of less than 15.
        lower_order_final: bool = true,
        /// Use first order in the last step of any run.
        euler_at_final: bool = false,
        /// Space the sigmas as Karras et al. do.
        use_karras_sigmas: bool = false,
        /// Where the last step ends.
        final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
        /// Dynamic thresholding of the predicted clean sample.
        thresholding: bool = false,
        /// The quantile to cut at.
        dynamic_thresholding_ratio: f64 = 0.995,
        /// The most to divide by.
        sample_max_value: f64 = 1.0,
    }
}

/// DPM-Solver++: integrates a polynomial in λ through the latest predictions of the clean sample.
#[derive(Clone, Debug)]
pub struct DPMSolverMultistepScheduler<B: Backend> {
    config: DPMSolverMultistepSchedulerConfig,
    limit: Limit,
    space: LambdaSpace<B>,
}

/// The weights of one step.
struct Weights {
    sample: f64,
    /// Of the predictions, latest first.
    originals: Vec<f64>,
    noise: f64,
}

impl<B: Backend> DPMSolverMultistepScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: DPMSolverMultistepSchedulerConfig) -> Result<Self, SchedulerError> {
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
    pub fn config(&self) -> &DPMSolverMultistepSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> Vec<f64> {
        self.space.sigmas()
    }

    fn is_stochastic(&self) -> bool {
        self.config.algorithm_type == DPMAlgorithmType::SDEDPMSolverPlusPlus
    }

    /// The order that a step can have, with the predictions made so far.
    fn order_at(&self, index: usize) -> usize {
        let c = &self.config;
        let lower = c.lower_order_final && self.space.is_short();
        let first = c.euler_at_final || c.final_sigmas_type == FinalSigmasType::Zero || lower;
        let most = match self.space.left(index) {
            0 if first => 1,
            1 if lower => 2,
            _ => c.solver_order,
        };
        most.min(self.space.history.len())
    }

    /// Exact for a polynomial through the latest `order` predictions; a step of h in λ, after ones of h0 and h1. The sums
    /// are ordered such that they are finite for h = 0, and for infinite h in first order.
    fn weights(&self, index: usize, order: usize) -> Weights {
        let (from, to) = (self.space.level(index), self.space.level(index + 1));
        let h = to.lambda - from.lambda;
        let sde = self.is_stochastic();
        let gain = match sde {
            true => -(-2.0 * h).exp_m1(),
            false => -(-h).exp_m1(),
        };
        // Of the slope and of the curvature, times h and h².
        let slope = match sde {
            true => h - gain / 2.0,
            false => h - gain,
        };
        let curve = match sde {
            true => (gain - 2.0 * h) / 4.0 - h * h / 2.0,
            false => h * h / 2.0 - slope,
        };
        let lambda = |back: usize| self.space.level(index - back).lambda;
        let midpoint = self.config.solver_type == DPMSolverType::Midpoint;
        let originals = match order {
            1 => vec![gain],
            2 => {
                let h0 = lambda(0) - lambda(1);
                let ahead = if midpoint { gain * h / 2.0 } else { slope };
                vec![gain + ahead / h0, -ahead / h0]
            }
            _ => {
                let (h0, h1) = (lambda(0) - lambda(1), lambda(1) - lambda(2));
                // Of the change of the slope, and with it of the latest and the earlier difference.
                let change = (curve + slope * h0) / (h0 + h1);
                let (late, early) = ((slope + change) / h0, -change / h1);
                vec![gain + late, early - late, -early]
            }
        };
        Weights {
            sample: to.sigma / from.sigma * if sde { (-h).exp() } else { 1.0 },
            originals: originals.into_iter().map(|w| w * to.alpha).collect(),
            noise: to.sigma * gain.max(0.0).sqrt(),
        }
    }
}

impl<B: Backend> Scheduler<B> for DPMSolverMultistepScheduler<B> {
    fn class_name(&self) -> &'static str {
        "DPMSolverMultistepScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("DPMSolverMultistepScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        // diffusers rounds to whole timesteps, but truncates with this noise schedule.
        let whole: fn(f64) -> f64 = match c.beta_schedule == BetaSchedule::SquaredcosCapV2 {
            true => f64::trunc,
            false => f64::round_ties_even,
        };
        let karras = c.use_karras_sigmas.then_some(whole);
        self.space
            .prepare(num_inference_steps, karras, c.final_sigmas_type)
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
        args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        self.space.check(index)?;
        let (output, x, dtype) = widened(model_output, sample)?;
        // Drawn in f32, whatever the model computes in.
        let noise = match self.is_stochastic() {
            true => Some(args.draw(&cast(x.clone(), DType::F32))?),
            false => None,
        };
        let kind = self.config.prediction_type;
        let original = self.space.original(kind, &self.limit, output, &x, index);
        self.space.history.push(original);
        let weights = self.weights(index, self.order_at(index));
        let wide = x.dtype();
        let x = x * weights.sample;
        let next = self.space.history.add_weighted(x, &weights.originals);
        self.space.advance();
        let next = match noise {
            Some(noise) => next + cast(noise, wide) * weights.noise,
            None => next,
        };
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
