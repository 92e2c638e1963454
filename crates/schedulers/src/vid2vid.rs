//! How MS-Vid2Vid-XL samples, the second stage of the first I2VGen-XL release (reference `refine.md` §3; diffusers has no such
//! scheduler): a cosine log-SNR noise schedule that begins in the middle, and k-diffusion's DPM-Solver++ 2M SDE or Heun.

use std::marker::PhantomData;

use burn::tensor::{Tensor, backend::Backend};
use serde_json::{Value, json};

use crate::{
    PredictionType, Scheduler, SchedulerError, StepArgs,
    history::{Order, check_begin, check_index},
    noising::{Mix, cast, same_shape, widen, widened},
    prediction::original,
};

/// Training timesteps.
const LEVELS: usize = 1000;
/// Where sampling begins.
const START: f64 = 599.0;
/// ± this is the log-SNR at the ends.
const LOG_SNR: f64 = 15.0;
/// How much the resolution shifts it at the noisy and at the clean end.
const SCALES: [f64; 2] = [2.0, 4.0];

/// The two ways to sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vid2VidSolver {
    /// DPM-Solver++ 2M SDE (the release's `fast`; 30 steps).
    #[default]
    Dpmpp2mSde,
    /// Heun's method (the release's `normal`; 50 steps, two evaluations each).
    Heun,
}

impl Vid2VidSolver {
    /// Steps of the release.
    pub fn default_steps(self) -> usize {
        match self {
            Self::Dpmpp2mSde => 30,
            Self::Heun => 50,
        }
    }
}

/// A noise level: the sample is alpha·clean + sigma·noise.
#[derive(Clone, Copy, Debug)]
struct Level {
    alpha: f64,
    sigma: f64,
}

impl Level {
    fn rho(self) -> f64 {
        self.sigma / self.alpha
    }
}

/// One model evaluation.
#[derive(Clone, Copy, Debug)]
struct Evaluation {
    /// Sigma beside a clean sample of weight 1,
    rho: f64,
    /// and the level of the whole timestep that the model is told.
    level: Level,
}

/// What a solver remembers of the evaluation before.
#[derive(Clone, Debug)]
enum Memory<B: Backend> {
    /// The clean sample, and how far the step went in ln ρ.
    Multistep(Tensor<B, 4>, f64),
    /// The sample and the slope at the beginning of Heun's step.
    Heun(Tensor<B, 4>, Tensor<B, 4>),
}

/// MS-Vid2Vid-XL's sampler. Its samples are clean + ρ·noise, and the model, which predicts velocities, sees them at unit
/// variance.
///
/// [`Scheduler::add_noise`] gives such a sample: its start is, as in the release, ρ times the noised one, not √(1 + ρ²)
/// times, which would be exact.
#[derive(Clone, Debug)]
pub struct Vid2VidScheduler<B: Backend> {
    solver: Vid2VidSolver,
    table: Vec<Level>,
    timesteps: Vec<f64>,
    evaluations: Vec<Evaluation>,
    /// Of each step, and after the last.
    rhos: Vec<f64>,
    order: Order,
    memory: Option<Memory<B>>,
    backend: PhantomData<B>,
}

impl<B: Backend> Vid2VidScheduler<B> {
    /// A sampler; call [`Scheduler::set_timesteps`] next.
    pub fn new(solver: Vid2VidSolver) -> Self {
        Self {
            solver,
            table: (0..LEVELS).map(level).collect(),
            timesteps: Vec::new(),
            evaluations: Vec::new(),
            rhos: Vec::new(),
            order: Order::default(),
            memory: None,
            backend: PhantomData,
        }
    }

    /// ρ of each step, and after the last.
    pub fn sigmas(&self) -> &[f64] {
        &self.rhos
    }

    /// ρ between two timesteps, on the line through their logarithms.
    fn rho(&self, timestep: f64) -> f64 {
        let below = timestep as usize;
        let [low, high] = [below, (below + 1).min(LEVELS - 1)].map(|i| self.table[i].rho().ln());
        (low + (high - low) * timestep.fract()).exp()
    }
}

/// The noise level of a training timestep, sigma in f32 as in the release.
fn level(timestep: usize) -> Level {
    let u = 1.0 - timestep as f64 / (LEVELS - 1) as f64;
    let [from, to] = [LOG_SNR, -LOG_SNR].map(|l| (l / 2.0).exp().atan());
    let [noisy, clean] = SCALES.map(f64::ln);
    let log_snr =
        -2.0 * (from + u * (to - from)).tan().ln() - 2.0 * (noisy * u + clean * (1.0 - u));
    let sigma = f64::from((1.0 / (1.0 + log_snr.exp())).sqrt() as f32);
    Level {
        alpha: (1.0 - sigma * sigma).sqrt(),
        sigma,
    }
}

impl<B: Backend> Scheduler<B> for Vid2VidScheduler<B> {
    fn class_name(&self) -> &'static str {
        "Vid2VidScheduler"
    }

    fn to_config(&self) -> Value {
        let solver = match self.solver {
            Vid2VidSolver::Dpmpp2mSde => "dpmpp_2m_sde",
            Vid2VidSolver::Heun => "heun",
        };
        json!({
            "_class_name": "Vid2VidScheduler",
            "num_train_timesteps": LEVELS,
            "prediction_type": "v_prediction",
            "solver": solver,
        })
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let steps = num_inference_steps;
        if !(1..=START as usize).contains(&steps) {
            return Err(SchedulerError::StepCount {
                steps,
                min: 1,
                max: START as usize,
                limit: "the timesteps that sampling has",
            });
        }
        // The multistep solver leaves out the last of one more.
        let spaces = match self.solver {
            Vid2VidSolver::Dpmpp2mSde => steps + 1,
            Vid2VidSolver::Heun => steps,
        };
        let indices = (0..steps).map(|i| START - i as f64 * (START + 1.0) / spaces as f64);
        let mut evaluations = Vec::new();
        let mut timesteps = Vec::new();
        self.rhos.clear();
        for (step, index) in indices.enumerate() {
            let rho = self.rho(index);
            self.rhos.push(rho);
            let whole = index.round_ties_even();
            let evaluation = Evaluation {
                rho,
                level: self.table[whole as usize],
            };
            // Heun's second evaluation is where the next step begins.
            let times = match self.solver {
                Vid2VidSolver::Heun if step > 0 => 2,
                _ => 1,
            };
            for _ in 0..times {
                evaluations.push(evaluation);
                timesteps.push(whole);
            }
        }
        self.rhos.push(0.0);
        self.evaluations = evaluations;
        self.timesteps = timesteps;
        self.set_begin_index(0)
    }

    fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        match self.solver {
            Vid2VidSolver::Heun => check_begin(index, self.timesteps.len())?,
            Vid2VidSolver::Dpmpp2mSde => check_index(index, self.timesteps.len())?,
        }
        self.order = Order::begin(index);
        self.memory = None;
        Ok(())
    }

    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn order(&self) -> usize {
        match self.solver {
            Vid2VidSolver::Dpmpp2mSde => 1,
            Vid2VidSolver::Heun => 2,
        }
    }

    fn init_noise_sigma(&self) -> f64 {
        self.rhos
            .first()
            .copied()
            .unwrap_or_else(|| self.rho(START))
    }

    fn scale_model_input(
        &mut self,
        sample: Tensor<B, 4>,
        index: usize,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        check_index(index, self.evaluations.len())?;
        let rho = self.evaluations[index].rho;
        let dtype = sample.dtype();
        Ok(cast(widen(sample) / (rho * rho + 1.0).sqrt(), dtype))
    }

    fn step(
        &mut self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        self.order.check(index, self.timesteps.len())?;
        let Evaluation { rho, level } = self.evaluations[index];
        let step = index / self.order();
        let next = self.rhos[step + 1];
        let noise = match self.solver {
            Vid2VidSolver::Dpmpp2mSde if next > 0.0 => Some(args.draw(&model_output)?),
            _ => None,
        };
        let (output, x, dtype) = widened(model_output, sample)?;
        let input = x.clone() / (rho * rho + 1.0).sqrt();
        let kind = PredictionType::VPrediction;
        let clean = original(kind, output, &input, level.alpha, level.sigma);
        let memory = self.memory.take();
        let after = match self.solver {
            _ if next == 0.0 => clean,
            Vid2VidSolver::Dpmpp2mSde => {
                let h = (rho / next).ln();
                let gone = -(-2.0 * h).exp_m1();
                let mut after = x * (next / rho * (-h).exp()) + clean.clone() * gone;
                if let Some(Memory::Multistep(before, h_before)) = memory {
                    after = after + (clean.clone() - before) * (0.5 * gone * h / h_before);
                }
                if let Some(noise) = noise {
                    after = after + cast(noise, clean.dtype()) * (next * gone.sqrt());
                }
                self.memory = Some(Memory::Multistep(clean, h));
                after
            }
            Vid2VidSolver::Heun => {
                let slope = (x.clone() - clean) / rho;
                let length = next - self.rhos[step];
                match memory {
                    Some(Memory::Heun(start, first)) => start + (first + slope) * (length / 2.0),
                    _ => {
                        self.memory = Some(Memory::Heun(x.clone(), slope.clone()));
                        x + slope * length
                    }
                }
            }
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
        same_shape("the noise", &noise, &original)?;
        let weights = |timestep: f64| {
            let last = LEVELS - 1;
            // With all of the signal gone ρ is infinite.
            if !(0.0..last as f64).contains(&timestep) || timestep.fract() != 0.0 {
                return Err(SchedulerError::Timestep { timestep, last });
            }
            let level = self.table[timestep as usize];
            let rho = level.rho();
            Ok([(level.alpha * rho) as f32, (level.sigma * rho) as f32])
        };
        Ok(Mix::from_weights(weights, timesteps, &original)?.noisy(original, noise))
    }

    fn boxed_clone(&self) -> Box<dyn Scheduler<B>> {
        Box::new(self.clone())
    }
}
