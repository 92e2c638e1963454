//! What the multistep solvers DPM-Solver++, UniPC and DEIS share: steps in λ, half the logarithm of the signal-to-noise
//! ratio.

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    FinalSigmasType, PredictionType, SchedulerError,
    history::{History, Order},
    limit::Limit,
    noising::{Mix, same_shape},
    prediction::original,
    sigmas::{SigmaTable, check_falling, karras, rounded},
    timesteps::Choice,
};

/// A noise level: the sample is alpha·clean + sigma·noise, and λ = ln(alpha/sigma).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
    pub(crate) lambda: f64,
    /// sigma/alpha
    pub(crate) rho: f64,
}

impl Level {
    fn new(rho: f64) -> Self {
        let alpha = 1.0 / (rho * rho + 1.0).sqrt();
        Self {
            alpha,
            sigma: rho * alpha,
            lambda: -rho.ln(),
            rho,
        }
    }
}

/// Noise levels, those of the current run, and what it has evaluated so far.
#[derive(Clone, Debug)]
pub(crate) struct LambdaSpace<B: Backend> {
    table: SigmaTable,
    choice: Choice,
    timesteps: Vec<f64>,
    /// Of each step, and after the last.
    levels: Vec<Level>,
    order: Order,
    solver_order: usize,
    /// The latest predictions, as many as the solver looks back at.
    pub(crate) history: History<B>,
}

impl<B: Backend> LambdaSpace<B> {
    pub(crate) fn new(alphas_cumprod: &[f32], choice: Choice, solver_order: usize) -> Self {
        Self {
            table: SigmaTable::new(alphas_cumprod),
            choice,
            timesteps: Vec::new(),
            levels: Vec::new(),
            order: Order::default(),
            solver_order,
            history: History::new(solver_order),
        }
    }

    /// Prepares a run. With Karras sigmas, which span the whole noise schedule, timesteps become whole by
    /// `karras_timesteps`.
    pub(crate) fn prepare(
        &mut self,
        steps: usize,
        karras_timesteps: Option<fn(f64) -> f64>,
        end: FinalSigmasType,
    ) -> Result<(), SchedulerError> {
        let mut timesteps = self.choice.solver(steps)?;
        let sigmas = timesteps.iter().map(|t| self.table.at(*t));
        let mut sigmas = sigmas.collect::<Result<Vec<f64>, _>>()?;
        let mut min = self.table.min();
        if let Some(whole) = karras_timesteps {
            sigmas = karras(self.table.max(), min, steps);
            timesteps = sigmas
                .iter()
                .map(|s| whole(self.table.timestep(*s)))
                .collect();
            min = sigmas[steps - 1];
        }
        let sigmas = rounded(&sigmas);
        check_falling(&sigmas, &timesteps)?;
        let end = match end {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => f64::from(min as f32),
        };
        let sigmas = sigmas.into_iter().chain([end]);
        self.levels = sigmas.map(Level::new).collect();
        self.timesteps = timesteps;
        self.begin(0);
        Ok(())
    }

    fn begin(&mut self, index: usize) {
        self.order = Order::begin(index);
        self.history = History::new(self.solver_order);
    }

    /// Begins at this step, without history.
    pub(crate) fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        crate::history::check_index(index, self.timesteps.len())?;
        self.begin(index);
        Ok(())
    }

    pub(crate) fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    pub(crate) fn check(&self, index: usize) -> Result<(), SchedulerError> {
        self.order.check(index, self.timesteps.len())
    }

    pub(crate) fn advance(&mut self) {
        self.order.advance();
    }

    /// The level at a step; one more than there are steps.
    pub(crate) fn level(&self, index: usize) -> Level {
        self.levels[index]
    }

    /// The sigma of each step, and after the last, beside a clean sample of weight 1.
    pub(crate) fn sigmas(&self) -> Vec<f64> {
        self.levels.iter().map(|level| level.rho).collect()
    }

    /// How many steps come after this one.
    pub(crate) fn left(&self, index: usize) -> usize {
        self.timesteps.len() - 1 - index
    }

    /// Whether so few steps are made that the last ones must be of lower order.
    pub(crate) fn is_short(&self) -> bool {
        self.timesteps.len() < 15
    }

    /// The clean sample, as predicted at a step.
    pub(crate) fn original(
        &self,
        kind: PredictionType,
        limit: &Limit,
        output: Tensor<B, 4>,
        sample: &Tensor<B, 4>,
        index: usize,
    ) -> Tensor<B, 4> {
        let level = self.levels[index];
        limit.apply(original(kind, output, sample, level.alpha, level.sigma))
    }

    /// Alpha·original + sigma·noise.
    pub(crate) fn add_noise(
        &self,
        original: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        same_shape("the noise", &noise, &original)?;
        let weights = |timestep| {
            let of_run = self.timesteps.iter().position(|t| *t == timestep);
            let level = match of_run {
                Some(index) => self.levels[index],
                None => Level::new(self.table.at(timestep)?),
            };
            Ok([level.alpha as f32, level.sigma as f32])
        };
        Ok(Mix::from_weights(weights, timesteps, &original)?.noisy(original, noise))
    }
}
