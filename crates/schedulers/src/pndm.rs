//! Pseudo numerical methods for diffusion models (Liu et al., 2022), as diffusers' `scheduling_pndm.py`.

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;

use crate::{
    PredictionType, Scheduler, SchedulerError, StepArgs,
    config::scheduler_config,
    history::{History, Order, check_index},
    limit::Limit,
    noising::{Mix, cast, same_shape, widened},
    timesteps::floats,
};

scheduler_config! {
    /// `scheduler_config.json` of a `PNDMScheduler`, with diffusers' defaults.
    PNDMSchedulerConfig {
        betas: 0.0001, 0.02, Linear;
        spacing: Leading;
        predictions: Epsilon, VPrediction;
        only: ;
        /// Start with two plain evaluations instead of three Runge-Kutta steps of four.
        skip_prk_steps: bool = false,
        /// Whether the last step ends at a signal of 1, or at that of timestep 0.
        set_alpha_to_one: bool = false,
    }
}

/// Model outputs that the multistep formula looks back at.
const ORDER: usize = 4;
/// Evaluations of the Runge-Kutta steps at the start: three steps of four.
const PRK: usize = 12;

/// PNDM: a linear multistep method (PLMS) along the manifold of noisy samples, after a Runge-Kutta start (PRK).
#[derive(Clone, Debug)]
pub struct PNDMScheduler<B: Backend> {
    config: PNDMSchedulerConfig,
    alphas_cumprod: Vec<f32>,
    timesteps: Vec<f64>,
    /// For each evaluation, the timesteps that its step goes from and to. Below 0 is after the last.
    moves: Vec<[i64; 2]>,
    order: Order,
    outputs: History<B>,
    /// The sample that several evaluations start from.
    start: Option<Tensor<B, 4>>,
    /// The weighted outputs of a Runge-Kutta step so far.
    sum: Option<Tensor<B, 4>>,
}

impl<B: Backend> PNDMScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: PNDMSchedulerConfig) -> Result<Self, SchedulerError> {
        Ok(Self {
            alphas_cumprod: config.alphas_cumprod()?,
            config,
            timesteps: Vec::new(),
            moves: Vec::new(),
            order: Order::default(),
            outputs: History::new(ORDER),
            start: None,
            sum: None,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &PNDMSchedulerConfig {
        &self.config
    }

    /// Timesteps and moves with two plain evaluations at the start: the second restarts the first step with a better slope.
    fn plms(timesteps: Vec<i64>, stride: i64) -> (Vec<i64>, Vec<[i64; 2]>) {
        let mut visited = timesteps;
        if let Some(&second) = visited.get(1) {
            visited.insert(1, second);
        }
        let step = |(i, t): (usize, &i64)| match i {
            1 => [*t + stride, *t],
            _ => [*t, *t - stride],
        };
        let moves = visited.iter().enumerate().map(step).collect();
        (visited, moves)
    }

    /// Timesteps and moves with three Runge-Kutta steps at the start. There must be four timesteps.
    fn prk(timesteps: &[i64], stride: i64) -> (Vec<i64>, Vec<[i64; 2]>) {
        let half = stride / 2;
        let (mut visited, mut moves) = (Vec::new(), Vec::new());
        for pair in timesteps[..4].windows(2) {
            let [from, to] = [pair[0], pair[1]];
            visited.extend([from, to + half, to + half, to]);
            moves.extend([from - half, to + half, to, to].map(|end| [from, end]));
        }
        visited.extend(&timesteps[3..]);
        moves.extend(timesteps[3..].iter().map(|t| [*t, *t - stride]));
        (visited, moves)
    }

    /// The signal's share of the variance, also after the last timestep.
    fn signal(&self, timestep: i64) -> f64 {
        match usize::try_from(timestep) {
            Ok(timestep) => f64::from(self.alphas_cumprod[timestep]),
            Err(_) if self.config.set_alpha_to_one => 1.0,
            Err(_) => f64::from(self.alphas_cumprod[0]),
        }
    }

    /// The weights of sample and output in the next sample (equation 11, in terms of this model's output).
    fn weights(&self, index: usize) -> (f64, f64) {
        let [a, q] = self.moves[index].map(|timestep| self.signal(timestep));
        let (b, p) = (1.0 - a, 1.0 - q);
        match self.config.prediction_type {
            PredictionType::VPrediction => {
                let of_sample = (q * a).sqrt() + (p * b).sqrt();
                (of_sample, (p * a).sqrt() - (q * b).sqrt())
            }
            _ => ((q / a).sqrt(), p.sqrt() - (q * b / a).sqrt()),
        }
    }

    fn step_prk(&mut self, output: Tensor<B, 4>, index: usize, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (of_sample, of_output) = self.weights(index);
        let stage = index % 4;
        if stage == 0 {
            self.outputs.push(output.clone());
            self.start = Some(x.clone());
        }
        let start = self.start.clone().unwrap_or(x);
        let part = output.clone() * [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0][stage];
        let sum = match self.sum.take() {
            Some(sum) => sum + part,
            None => part,
        };
        let slope = match stage {
            3 => sum,
            _ => {
                self.sum = Some(sum);
                output
            }
        };
        start * of_sample + slope * of_output
    }

    fn step_plms(&mut self, output: Tensor<B, 4>, index: usize, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (of_sample, of_output) = self.weights(index);
        if index == 1 {
            let start = self.start.take().unwrap_or(x);
            let half = of_output / 2.0;
            let sum = start * of_sample + output * half;
            return self.outputs.add_weighted(sum, &[half]);
        }
        if index == 0 {
            self.start = Some(x.clone());
        }
        self.outputs.push(output);
        // Adams-Bashforth.
        let slope: &[f64] = match self.outputs.len() {
            1 => &[1.0],
            2 => &[3.0 / 2.0, -1.0 / 2.0],
            3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        };
        let weights: Vec<f64> = slope.iter().map(|w| w * of_output).collect();
        self.outputs.add_weighted(x * of_sample, &weights)
    }
}

impl<B: Backend> Scheduler<B> for PNDMScheduler<B> {
    fn class_name(&self) -> &'static str {
        "PNDMScheduler"
    }

    fn to_config(&self) -> Value {
        self.config.to_json("PNDMScheduler")
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        let choice = c.choice(&self.alphas_cumprod);
        if !c.skip_prk_steps && num_inference_steps < 4 {
            return Err(SchedulerError::StepCount {
                steps: num_inference_steps,
                min: 4,
                max: c.num_train_timesteps,
                limit: "Runge-Kutta needs 4, unless skip_prk_steps is true; num_train_timesteps",
            });
        }
        let timesteps = choice.integers(num_inference_steps)?;
        let timesteps: Vec<i64> = timesteps.into_iter().map(|t| t as i64).collect();
        let stride = (c.num_train_timesteps / num_inference_steps) as i64;
        let (visited, moves) = match c.skip_prk_steps {
            true => Self::plms(timesteps, stride),
            false => Self::prk(&timesteps, stride),
        };
        // Spacings that do not match the stride could step out of the noise schedule.
        let last = self.alphas_cumprod.len() - 1;
        let starts = moves
            .iter()
            .map(|[from, to]| (*from.max(to)).max(0) as usize);
        let starts: Vec<usize> = starts.collect();
        if let Some(&outside) = starts.iter().find(|t| **t > last) {
            let timestep = outside as f64;
            return Err(SchedulerError::Timestep { timestep, last });
        }
        Limit::default().check_signal(c.prediction_type, &self.alphas_cumprod, &starts)?;
        self.timesteps = floats(visited.into_iter().map(|t| t as usize).collect());
        self.moves = moves;
        self.set_begin_index(0)
    }

    fn set_begin_index(&mut self, index: usize) -> Result<(), SchedulerError> {
        check_index(index, self.timesteps.len())?;
        if index != 0 {
            let allowed = "give 0: the multistep formula needs the evaluations at the start";
            return Err(SchedulerError::BeginIndex { index, allowed });
        }
        self.order = Order::begin(0);
        self.outputs = History::new(ORDER);
        self.start = None;
        self.sum = None;
        Ok(())
    }

    fn timesteps(&self) -> &[f64] {
        &self.timesteps
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
        self.order.check(index, self.timesteps.len())?;
        let (output, x, dtype) = widened(model_output, sample)?;
        let next = match self.config.skip_prk_steps || index >= PRK {
            true => self.step_plms(output, index, x),
            false => self.step_prk(output, index, x),
        };
        self.order.advance();
        Ok(cast(next, dtype))
    }

    fn add_noise(
        &self,
        original: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        same_shape("the noise", &noise, &original)?;
        Ok(Mix::new(&self.alphas_cumprod, timesteps, &original)?.noisy(original, noise))
    }

    fn set_alpha_to_one(&mut self, yes: bool) {
        self.config.set_alpha_to_one = yes;
    }

    fn boxed_clone(&self) -> Box<dyn Scheduler<B>> {
        Box::new(self.clone())
    }
}
