//! What Euler, Heun, LMS and KDPM2 share: the sample is clean + sigma·noise, and the model sees it scaled to unit variance.

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    SchedulerError, TimestepSpacing,
    history::check_index,
    noising::{Mix, cast, same_shape, widen},
    sigmas::{SigmaTable, check_falling, karras, rounded},
    timesteps::Choice,
};

/// Noise levels, and those of the current run.
#[derive(Clone, Debug)]
pub(crate) struct SigmaSpace {
    table: SigmaTable,
    choice: Choice,
    /// Of each evaluation,
    timesteps: Vec<f64>,
    /// with the sigma at which it is made.
    evaluated: Vec<f64>,
    /// Of each step, and after the last.
    sigmas: Vec<f64>,
}

impl SigmaSpace {
    pub(crate) fn new(alphas_cumprod: &[f32], choice: Choice) -> Self {
        Self {
            table: SigmaTable::new(alphas_cumprod),
            choice,
            timesteps: Vec::new(),
            evaluated: Vec::new(),
            sigmas: Vec::new(),
        }
    }

    /// Prepares a run with one evaluation per step, which ends without noise.
    pub(crate) fn prepare(&mut self, steps: usize, use_karras: bool) -> Result<(), SchedulerError> {
        let mut timesteps = self.choice.fractions(steps)?;
        let sigmas = timesteps.iter().map(|t| self.table.at(*t));
        let mut sigmas = sigmas.collect::<Result<Vec<f64>, _>>()?;
        if use_karras {
            sigmas = karras(sigmas[0], sigmas[steps - 1], steps);
            timesteps = sigmas.iter().map(|s| self.table.timestep(*s)).collect();
        }
        let mut sigmas = rounded(&sigmas);
        check_falling(&sigmas, &timesteps)?;
        self.timesteps = rounded(&timesteps);
        self.evaluated = sigmas.clone();
        sigmas.push(0.0);
        self.sigmas = sigmas;
        Ok(())
    }

    /// Ends at the sigma of the first training timestep instead of 0.
    pub(crate) fn end_at_min(&mut self) {
        if let Some(last) = self.sigmas.last_mut() {
            *last = self.table.min();
        }
    }

    /// Rounds the timesteps to whole ones.
    pub(crate) fn round_timesteps(&mut self) {
        for timestep in &mut self.timesteps {
            *timestep = timestep.round_ties_even();
        }
    }

    /// Adds a second evaluation to every step but the last, at the timestep and sigma that this gives.
    pub(crate) fn insert(&mut self, second: impl Fn(&Self, usize) -> (f64, f64)) {
        let (mut timesteps, mut evaluated) = (Vec::new(), Vec::new());
        for step in 0..self.timesteps.len() {
            timesteps.push(self.timesteps[step]);
            evaluated.push(self.evaluated[step]);
            if step + 1 < self.timesteps.len() {
                let (timestep, sigma) = second(self, step);
                timesteps.push(timestep);
                evaluated.push(sigma);
            }
        }
        self.timesteps = timesteps;
        self.evaluated = evaluated;
    }

    /// The timestep with this much noise.
    pub(crate) fn timestep_at(&self, sigma: f64) -> f64 {
        f64::from(self.table.timestep(sigma) as f32)
    }

    /// What the model is to be told at each evaluation.
    pub(crate) fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// At each step, and after the last.
    pub(crate) fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// The sigma at an evaluation.
    pub(crate) fn evaluated(&self, index: usize) -> Result<f64, SchedulerError> {
        check_index(index, self.evaluated.len())?;
        Ok(self.evaluated[index])
    }

    /// The largest sigma; with leading spacing the clean sample's variance comes on top.
    pub(crate) fn init_noise_sigma(&self) -> f64 {
        let max = self.sigmas.first().copied();
        let max = max.unwrap_or_else(|| self.table.max()) as f32;
        f64::from(match self.choice.spacing {
            TimestepSpacing::Leading => (max * max + 1.0).sqrt(),
            _ => max,
        })
    }

    /// To unit variance.
    pub(crate) fn scale_model_input<B: Backend>(
        &self,
        sample: Tensor<B, 4>,
        index: usize,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        let sigma = self.evaluated(index)?;
        let dtype = sample.dtype();
        Ok(cast(widen(sample) / (sigma * sigma + 1.0).sqrt(), dtype))
    }

    /// Original + sigma·noise.
    pub(crate) fn add_noise<B: Backend>(
        &self,
        original: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        same_shape("the noise", &noise, &original)?;
        let weights = |timestep| {
            // A run's own sigma may have been rounded otherwise.
            let of_run = self.timesteps.iter().position(|t| *t == timestep);
            let sigma = match of_run {
                Some(index) => self.evaluated[index],
                None => self.table.at(timestep)?,
            };
            Ok([1.0, sigma as f32])
        };
        Ok(Mix::from_weights(weights, timesteps, &original)?.noisy(original, noise))
    }
}
