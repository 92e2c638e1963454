//! Denoising diffusion implicit models (Song et al., 2020), with the options of diffusers' `scheduling_ddim.py`.

use std::marker::PhantomData;

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    BetaSchedule, PredictionType, Scheduler, SchedulerError, StepArgs, TimestepSpacing,
    betas::Betas,
    config::{Keys, check},
    noising::{Mix, cast, same_shape, wide},
    prediction::{noise_around, original_and_noise},
    threshold::dynamic_threshold,
    timesteps::integer_timesteps,
};

/// `scheduler_config.json` of a `DDIMScheduler`, with diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct DDIMSchedulerConfig {
    /// Length of the noise schedule.
    pub num_train_timesteps: usize,
    /// First beta; unused by `squaredcos_cap_v2`.
    pub beta_start: f64,
    /// Last beta; unused by `squaredcos_cap_v2`.
    pub beta_end: f64,
    /// How the betas run.
    pub beta_schedule: BetaSchedule,
    /// The betas themselves, instead of a rule.
    pub trained_betas: Option<Vec<f64>>,
    /// Clip the predicted clean sample to ±`clip_sample_range`.
    pub clip_sample: bool,
    /// See `clip_sample`.
    pub clip_sample_range: f64,
    /// Whether the last step ends at a signal of 1, or at that of timestep 0.
    pub set_alpha_to_one: bool,
    /// Added to the timesteps of leading spacing.
    pub steps_offset: usize,
    /// What the model's output means.
    pub prediction_type: PredictionType,
    /// Dynamic thresholding of the predicted clean sample; goes before `clip_sample`.
    pub thresholding: bool,
    /// The quantile to cut at.
    pub dynamic_thresholding_ratio: f64,
    /// The most to divide by.
    pub sample_max_value: f64,
    /// Which timesteps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// Rescale the betas so that nothing of the signal is left at the last timestep.
    pub rescale_betas_zero_snr: bool,
}

impl Default for DDIMSchedulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            clip_sample: true,
            clip_sample_range: 1.0,
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            timestep_spacing: TimestepSpacing::Leading,
            rescale_betas_zero_snr: false,
        }
    }
}

impl TryFrom<Value> for DDIMSchedulerConfig {
    type Error = SchedulerError;

    fn try_from(json: Value) -> Result<Self, SchedulerError> {
        Self::from_json(&json)
    }
}

impl DDIMSchedulerConfig {
    /// Parses a config of any class: absent keys get DDIM's defaults, unknown keys are ignored.
    ///
    /// # Errors
    /// If a key has a value that it cannot have.
    pub fn from_json(json: &Value) -> Result<Self, SchedulerError> {
        let keys = Keys::new(json)?;
        let d = Self::default();
        Ok(Self {
            num_train_timesteps: keys.or("num_train_timesteps", d.num_train_timesteps)?,
            beta_start: keys.or("beta_start", d.beta_start)?,
            beta_end: keys.or("beta_end", d.beta_end)?,
            beta_schedule: keys.or("beta_schedule", d.beta_schedule)?,
            trained_betas: keys.or("trained_betas", d.trained_betas)?,
            clip_sample: keys.or("clip_sample", d.clip_sample)?,
            clip_sample_range: keys.or("clip_sample_range", d.clip_sample_range)?,
            set_alpha_to_one: keys.or("set_alpha_to_one", d.set_alpha_to_one)?,
            steps_offset: keys.or("steps_offset", d.steps_offset)?,
            prediction_type: keys.or("prediction_type", d.prediction_type)?,
            thresholding: keys.or("thresholding", d.thresholding)?,
            dynamic_thresholding_ratio: keys
                .or("dynamic_thresholding_ratio", d.dynamic_thresholding_ratio)?,
            sample_max_value: keys.or("sample_max_value", d.sample_max_value)?,
            timestep_spacing: keys.or("timestep_spacing", d.timestep_spacing)?,
            rescale_betas_zero_snr: keys.or("rescale_betas_zero_snr", d.rescale_betas_zero_snr)?,
        })
    }

    fn check(&self) -> Result<(), SchedulerError> {
        let ratio = self.dynamic_thresholding_ratio;
        let is_ratio = (0.0..=1.0).contains(&ratio);
        check(
            is_ratio,
            "dynamic_thresholding_ratio",
            ratio,
            "between 0 and 1",
        )?;
        let positive = [
            ("clip_sample_range", self.clip_sample_range),
            ("sample_max_value", self.sample_max_value),
        ];
        for (key, value) in positive {
            check(value > 0.0, key, value, "above 0")?;
        }
        Ok(())
    }
}

/// DDIM: the scheduler that I2VGen-XL was released with.
#[derive(Clone, Debug)]
pub struct DDIMScheduler<B: Backend> {
    config: DDIMSchedulerConfig,
    alphas_cumprod: Vec<f32>,
    timesteps: Vec<f64>,
    /// Training timesteps per step of the current run; 0 before the first.
    stride: usize,
    backend: PhantomData<B>,
}

/// What a step of DDIM gives.
#[derive(Clone, Debug)]
pub struct DDIMSchedulerOutput<B: Backend> {
    /// The next sample.
    pub prev_sample: Tensor<B, 4>,
    /// The clean sample as predicted by this step, for previews.
    pub pred_original_sample: Tensor<B, 4>,
}

/// The numbers of one step, in f32 as in torch.
struct Coefficients {
    /// The signal's share of the variance now,
    signal: f32,
    /// and after the step.
    signal_prev: f32,
    /// Standard deviation of the noise to add.
    sigma: f32,
}

impl<B: Backend> DDIMScheduler<B> {
    /// A scheduler; call [`Scheduler::set_timesteps`] next.
    ///
    /// # Errors
    /// If the config has a value that it cannot have.
    pub fn new(config: DDIMSchedulerConfig) -> Result<Self, SchedulerError> {
        config.check()?;
        let betas = Betas {
            num_train_timesteps: config.num_train_timesteps,
            beta_start: config.beta_start,
            beta_end: config.beta_end,
            beta_schedule: config.beta_schedule,
            trained_betas: config.trained_betas.as_deref(),
            rescale_betas_zero_snr: config.rescale_betas_zero_snr,
        };
        Ok(Self {
            alphas_cumprod: betas.alphas_cumprod()?,
            config,
            timesteps: Vec::new(),
            stride: 0,
            backend: PhantomData,
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &DDIMSchedulerConfig {
        &self.config
    }

    /// The signal's share of the variance at each training timestep.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// As [`Scheduler::step`], but also returns the predicted clean sample.
    ///
    /// # Errors
    /// As [`Scheduler::step`].
    pub fn step_output(
        &self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<DDIMSchedulerOutput<B>, SchedulerError> {
        let Coefficients {
            signal,
            signal_prev,
            sigma,
        } = self.coefficients(index, args.eta)?;
        same_shape("the model's output", &model_output, &sample)?;
        let noise = match (args.eta > 0.0, args.noise) {
            (false, _) => None,
            (true, None) => return Err(SchedulerError::NoNoiseSource),
            (true, Some(source)) => Some(source.normal(&model_output)),
        };

        let dtype = sample.dtype();
        let sample = cast(sample, wide(dtype));
        let output = cast(model_output, wide(dtype));
        let (original, mut direction) =
            original_and_noise(self.config.prediction_type, output, &sample, signal);
        let original = self.limit(original);
        if args.use_clipped_model_output {
            direction = noise_around(&original, &sample, signal);
        }
        // Rounding can take this below 0 where the noise is all there is; torch then returns NaN.
        let rest = (1.0 - signal_prev - sigma * sigma).max(0.0);
        let mut prev = original.clone() * signal_prev.sqrt() + direction * rest.sqrt();
        if let Some(noise) = noise {
            same_shape("the noise", &noise, &prev)?;
            prev = prev + cast(noise, wide(dtype)) * sigma;
        }
        Ok(DDIMSchedulerOutput {
            prev_sample: cast(prev, dtype),
            pred_original_sample: cast(original, dtype),
        })
    }

    /// The velocity between a sample and noise: what a `v_prediction` model learns.
    ///
    /// # Errors
    /// As [`Scheduler::add_noise`].
    pub fn get_velocity(
        &self,
        sample: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        timesteps: &[f64],
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        same_shape("the noise", &noise, &sample)?;
        Ok(Mix::new(&self.alphas_cumprod, timesteps, &sample)?.velocity(sample, noise))
    }

    fn coefficients(&self, index: usize, eta: f64) -> Result<Coefficients, SchedulerError> {
        if !eta.is_finite() || eta < 0.0 {
            return Err(SchedulerError::Eta(eta));
        }
        let count = self.timesteps.len();
        let timestep = match self.timesteps.get(index) {
            Some(timestep) => *timestep as usize,
            None => return Err(SchedulerError::StepIndex { index, count }),
        };
        let signal = self.alphas_cumprod[timestep];
        // Always one stride back, wherever the next timestep really is.
        let signal_prev = match timestep.checked_sub(self.stride) {
            Some(prev) => self.alphas_cumprod[prev],
            None if self.config.set_alpha_to_one => 1.0,
            None => self.alphas_cumprod[0],
        };
        let variance = (1.0 - signal_prev) / (1.0 - signal) * (1.0 - signal / signal_prev);
        Ok(Coefficients {
            signal,
            signal_prev,
            sigma: eta as f32 * variance.max(0.0).sqrt(),
        })
    }

    fn limit(&self, original: Tensor<B, 4>) -> Tensor<B, 4> {
        let c = &self.config;
        if c.thresholding {
            dynamic_threshold(original, c.dynamic_thresholding_ratio, c.sample_max_value)
        } else if c.clip_sample {
            original.clamp(-c.clip_sample_range, c.clip_sample_range)
        } else {
            original
        }
    }
}

impl<B: Backend> Scheduler<B> for DDIMScheduler<B> {
    fn class_name(&self) -> &'static str {
        "DDIMScheduler"
    }

    fn to_config(&self) -> Value {
        // A struct of numbers, strings and one list has a JSON form.
        let mut json = serde_json::to_value(&self.config).unwrap_or_default();
        json["_class_name"] = Value::from(Scheduler::<B>::class_name(self));
        json
    }

    fn set_timesteps(&mut self, num_inference_steps: usize) -> Result<(), SchedulerError> {
        let c = &self.config;
        let timesteps = integer_timesteps(
            c.timestep_spacing,
            c.num_train_timesteps,
            num_inference_steps,
            c.steps_offset,
            self.alphas_cumprod.len() - 1,
        )?;
        // Without signal the clean sample is infinite; only clipping makes a number of it.
        if c.prediction_type == PredictionType::Epsilon
            && !c.clip_sample
            && !c.thresholding
            && let Some(&timestep) = timesteps.iter().find(|t| self.alphas_cumprod[**t] == 0.0)
        {
            return Err(SchedulerError::NoSignal { timestep });
        }
        self.stride = c.num_train_timesteps / num_inference_steps;
        self.timesteps = timesteps.into_iter().map(|t| t as f64).collect();
        Ok(())
    }

    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    fn uses_eta(&self) -> bool {
        true
    }

    fn step(
        &mut self,
        model_output: Tensor<B, 4>,
        index: usize,
        sample: Tensor<B, 4>,
        args: StepArgs<'_, B>,
    ) -> Result<Tensor<B, 4>, SchedulerError> {
        Ok(self
            .step_output(model_output, index, sample, args)?
            .prev_sample)
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
