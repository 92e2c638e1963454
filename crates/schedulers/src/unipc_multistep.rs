//! Unified predictor-corrector (Zhao et al., 2023) for predictions of the clean sample, as diffusers'
//! `scheduling_unipc_multistep.py`.

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    FinalSigmasType, Scheduler, SchedulerError, StepArgs,
    config::{check_solver_order, scheduler_config},
    lambda_space::LambdaSpace,
    limit::Limit,
    noising::{cast, widened},
};

/// The weight B(h) of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UniPCSolverType {
    /// B(h) = h
    Bh1,
    /// B(h) = exp(h) - 1. Also stands for the types of DPM-Solver and DEIS, as in diffusers.
    #[serde(alias = "midpoint", alias = "heun", alias = "logrho")]
    Bh2,
}

scheduler_config! {
    /// `scheduler_config.json` of a `UniPCMultistepScheduler`, with diffusers' defaults.
    UniPCMultistepSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Linspace;
        predictions: Epsilon, Sample, VPrediction;
        only: "use_exponential_sigmas" = false, "use_beta_sigmas" = false, "use_flow_sigmas" = false,
            "predict_x0" = true, "solver_p" = Value::Null;
        /// Evaluations that a step makes use of: 1, 2 or 3.
        solver_order: usize = 2,
        /// The weight B(h) of the paper.
        solver_type: UniPCSolverType = UniPCSolverType::Bh2,
        /// Use lower orders in the last steps.
        lower_order_final: bool = true,
        /// Steps whose result is not corrected.
        disable_corrector: Vec<usize> = Vec::new(),
        /// Where the last step ends.
        final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
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

/// UniPC: a multistep predictor, and a corrector that needs no evaluation of its own.
#[derive(Clone, Debug)]
pub struct UniPCMultistepScheduler<B: Backend> {
    config: UniPCMultistepSchedulerConfig,
    limit: Limit,
    space: LambdaSpace<B>,
    /// What the last step started from, and its order.
    last: Option<(Tensor<B, 4>, usize)>,
}

impl<B: Backend> UniPCMultistepScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: UniPCMultistepSchedulerConfig) -> Result<Self, SchedulerError> {
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
            last: None,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &UniPCMultistepSchedulerConfig {
        &self.config
    }

    /// The sigma of each step, and after the last.
    pub fn sigmas(&self) -> Vec<f64> {
        self.space.sigmas()
    }

    /// The order that a step can have, with the predictions made so far.
    fn order_at(&self, index: usize) -> usize {
        let left = self.space.left(index);
        let most = match self.config.lower_order_final {
            true => self.config.solver_order.min(left + 1),
            // Higher orders have no limit where the noise ends at 0.
            false if left == 0 && self.space.level(index + 1).rho == 0.0 => 1,
            false => self.config.solver_order,
        };
        most.min(self.space.history.len())
    }

    /// The step from `index` to the next level, with the latest `order` predictions. With `here`, the prediction at the next
    /// level, the step is made again to take it in.
    fn transition(
        &self,
        index: usize,
        order: usize,
        x: Tensor<B, 4>,
        here: Option<Tensor<B, 4>>,
    ) -> Tensor<B, 4> {
        let (from, to) = (self.space.level(index), self.space.level(index + 1));
        let h = to.lambda - from.lambda;
        if h == 0.0 {
            return x;
        }
        // φ1(-h)·(-h)
        let phi = (-h).exp_m1();
        let b = match self.config.solver_type {
            UniPCSolverType::Bh1 => -h,
            UniPCSolverType::Bh2 => phi,
        };
        let lambda = |back: usize| self.space.level(index - back).lambda;
        let mut nodes: Vec<f64> = (1..order).map(|k| (lambda(k) - from.lambda) / h).collect();
        if here.is_some() {
            nodes.push(1.0);
        }
        let rhos = match (&here, order) {
            // Fixed where the system has one unknown, so that it does not depend on h.
            (Some(_), 1) | (None, 2) => vec![0.5],
            _ => solve(&nodes, &moments(-h, phi, b, nodes.len())),
        };
        // Weights of the differences to the latest prediction.
        let differences: Vec<f64> = rhos
            .iter()
            .zip(&nodes)
            .map(|(rho, node)| -to.alpha * b * rho / node)
            .collect();
        let latest = -to.alpha * phi - differences.iter().sum::<f64>();
        let weights: Vec<f64> = [latest]
            .into_iter()
            .chain(differences.iter().copied().take(order - 1))
            .collect();
        let sum = x * (to.sigma / from.sigma);
        let sum = self.space.history.add_weighted(sum, &weights);
        match (here, differences.last()) {
            (Some(here), Some(weight)) => sum + here * *weight,
            _ => sum,
        }
    }
}

/// The right side of the order conditions: k!·φ(k+1)/B for k = 1.., where φ1 = `phi`/`hh`.
fn moments(hh: f64, phi: f64, b: f64, count: usize) -> Vec<f64> {
    let mut next = phi / hh - 1.0;
    let mut factorial = 1.0;
    (1..=count)
        .map(|k| {
            let moment = next * factorial / b;
            factorial *= (k + 1) as f64;
            next = next / hh - 1.0 / factorial;
            moment
        })
        .collect()
}

/// Solves Σ_k nodes[k]^i·x[k] = right[i] (a Vandermonde system of at most three unknowns) by Gauss's elimination. The nodes
/// differ.
fn solve(nodes: &[f64], right: &[f64]) -> Vec<f64> {
    let n = nodes.len();
    let mut rows: Vec<Vec<f64>> = right
        .iter()
        .enumerate()
        .map(|(i, value)| {
            let powers = nodes.iter().map(|node| node.powi(i as i32));
            powers.chain([*value]).collect()
        })
        .collect();
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))
            .unwrap_or(column);
        rows.swap(column, pivot);
        let row = rows[column].clone();
        for (i, other) in rows.iter_mut().enumerate() {
            if i != column {
                let factor = other[column] / row[column];
                for (value, above) in other.iter_mut().zip(&row) {
                    *value -= factor * above;
                }
            }
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}

impl<B: Backend> Scheduler<B> for UniPCMultistepScheduler<B> {
    fn class_name(&self) -> &'static str {
        "UniPCMultistepScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("UniPCMultistepScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        let karras: Option<fn(f64) -> f64> = c.use_karras_sigmas.then_some(f64::round_ties_even);
        self.space
            .prepare(num_inference_steps, karras, c.final_sigmas_type)?;
        self.last = None;
        Ok(())
    }

    fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        self.space.set_begin_index(index)?;
        self.last = None;
        Ok(())
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
        let (output, mut x, dtype) = widened(model_output, sample)?;
        let kind = self.config.prediction_type;
        let original = self.space.original(kind, &self.limit, output, &x, index);
        if let Some((start, order)) = self.last.take()
            && !self.config.disable_corrector.contains(&(index - 1))
        {
            x = self.transition(index - 1, order, start, Some(original.clone()));
        }
        self.space.history.push(original);
        let order = self.order_at(index);
        self.last = Some((x.clone(), order));
        let next = self.transition(index, order, x, None);
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
