//! What the configs of the schedulers share: the choices, and parsing that names the key it fails at.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::SchedulerError;

/// How the betas run from the first training timestep to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BetaSchedule {
    /// Evenly from `beta_start` to `beta_end`.
    Linear,
    /// Evenly in their square roots (latent diffusion).
    ScaledLinear,
    /// A squared cosine of the signal, betas capped at 0.999 (Nichol and Dhariwal, 2021).
    SquaredcosCapV2,
}

/// What the model's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PredictionType {
    /// The noise in the sample.
    Epsilon,
    /// The sample without noise.
    Sample,
    /// The velocity between the two (Salimans and Ho, 2022).
    VPrediction,
}

/// Which of the training timesteps are visited (Lin et al., 2023, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimestepSpacing {
    /// From the first on, shifted by `steps_offset`; the last is not reached.
    Leading,
    /// Evenly, the first and the last included.
    Linspace,
    /// From the last on.
    Trailing,
}

/// Where a sampler that goes down to a smallest sigma ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinalSigmasType {
    /// Without any noise.
    Zero,
    /// With the noise of the first training timestep.
    SigmaMin,
}

/// The keys of a config in JSON. Keys that nobody asks for are ignored, as in diffusers.
pub(crate) struct Keys<'a> {
    json: &'a Map<String, Value>,
    /// What diffusers notes about keys that it filled in itself; a class that reads them has its own defaults.
    filled_in: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(json: &'a Value) -> Result<Self, SchedulerError> {
        let Value::Object(json) = json else {
            return Err(bad("(root)", "the config must be a JSON object"));
        };
        let filled_in = json.get("_use_default_values").and_then(Value::as_array);
        let filled_in = filled_in.into_iter().flatten().filter_map(Value::as_str);
        Ok(Self {
            json,
            filled_in: filled_in.collect(),
        })
    }

    /// The value of a key; null is as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        match self.filled_in.contains(&key) {
            true => None,
            false => self.json.get(key).filter(|value| !value.is_null()),
        }
    }

    /// The value of a key, or the default if it is absent.
    pub(crate) fn or<T: DeserializeOwned>(
        &self,
        key: &'static str,
        default: T,
    ) -> Result<T, SchedulerError> {
        match self.get(key) {
            Some(value) => T::deserialize(value).map_err(|e| bad(key, e)),
            None => Ok(default),
        }
    }

    /// Refuses an option of diffusers' class that does not exist here: its key may be absent or have the `only` value.
    pub(crate) fn only(&self, key: &'static str, only: Value) -> Result<(), SchedulerError> {
        match self.get(key) {
            Some(value) if *value != only => Err(bad(
                key,
                format!("is {value}; the only value supported is {only}"),
            )),
            _ => Ok(()),
        }
    }
}

/// The config of a class: the keys that all classes have, with its own defaults, then its own keys. All of them are named as
/// in diffusers, and defaults are those of diffusers' constructor. `only` lists options of diffusers that do not exist here.
macro_rules! scheduler_config {
    (
        $(#[$doc:meta])*
        $name:ident {
            betas: $beta_start:literal, $beta_end:literal, $beta_schedule:ident;
            spacing: $spacing:ident;
            predictions: $($prediction:ident),+;
            only: $($key:literal = $only:expr),*;
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "serde_json::Value")]
        pub struct $name {
            /// Length of the noise schedule.
            pub num_train_timesteps: usize,
            /// First beta; unused by `squaredcos_cap_v2`.
            pub beta_start: f64,
            /// Last beta; unused by `squaredcos_cap_v2`.
            pub beta_end: f64,
            /// How the betas run.
            pub beta_schedule: $crate::BetaSchedule,
            /// The betas themselves, instead of a rule.
            pub trained_betas: Option<Vec<f64>>,
            /// What the model's output means.
            pub prediction_type: $crate::PredictionType,
            /// Which timesteps are visited.
            pub timestep_spacing: $crate::TimestepSpacing,
            /// Added to the timesteps of leading spacing.
            pub steps_offset: usize,
            /// Rescale the betas so that nothing of the signal is left at the last timestep.
            pub rescale_betas_zero_snr: bool,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    num_train_timesteps: 1000,
                    beta_start: $beta_start,
                    beta_end: $beta_end,
                    beta_schedule: $crate::BetaSchedule::$beta_schedule,
                    trained_betas: None,
                    prediction_type: $crate::PredictionType::Epsilon,
                    timestep_spacing: $crate::TimestepSpacing::$spacing,
                    steps_offset: 0,
                    rescale_betas_zero_snr: false,
                    $($field: $default,)*
                }
            }
        }

        impl TryFrom<serde_json::Value> for $name {
            type Error = $crate::SchedulerError;

            fn try_from(json: serde_json::Value) -> Result<Self, Self::Error> {
                Self::from_json(&json)
            }
        }

        impl $name {
            /// Parses a config of any class: absent keys get this class's defaults, unknown keys are ignored.
            ///
            /// # Errors
            /// If a key has a value that it cannot have.
            pub fn from_json(json: &serde_json::Value) -> Result<Self, $crate::SchedulerError> {
                let keys = $crate::config::Keys::new(json)?;
                $(keys.only($key, serde_json::json!($only))?;)*
                let d = Self::default();
                Ok(Self {
                    num_train_timesteps: keys.or("num_train_timesteps", d.num_train_timesteps)?,
                    beta_start: keys.or("beta_start", d.beta_start)?,
                    beta_end: keys.or("beta_end", d.beta_end)?,
                    beta_schedule: keys.or("beta_schedule", d.beta_schedule)?,
                    trained_betas: keys.or("trained_betas", d.trained_betas)?,
                    prediction_type: keys.or("prediction_type", d.prediction_type)?,
                    timestep_spacing: keys.or("timestep_spacing", d.timestep_spacing)?,
                    steps_offset: keys.or("steps_offset", d.steps_offset)?,
                    rescale_betas_zero_snr: keys
                        .or("rescale_betas_zero_snr", d.rescale_betas_zero_snr)?,
                    $($field: keys.or(stringify!($field), d.$field)?,)*
                })
            }

            /// Everything that its class reads, as diffusers writes it.
            pub(crate) fn to_json(&self, class: &'static str) -> serde_json::Value {
                // A struct of numbers, strings and lists has a JSON form.
                let mut json = serde_json::to_value(self).unwrap_or_default();
                json["_class_name"] = serde_json::Value::from(class);
                json
            }

            /// The signal's share of the variance at each training timestep, if the model's output can be understood.
            pub(crate) fn alphas_cumprod(&self) -> Result<Vec<f32>, $crate::SchedulerError> {
                let known = [$($crate::PredictionType::$prediction),+];
                $crate::config::check_prediction(self.prediction_type, &known)?;
                $crate::betas::Betas {
                    num_train_timesteps: self.num_train_timesteps,
                    beta_start: self.beta_start,
                    beta_end: self.beta_end,
                    beta_schedule: self.beta_schedule,
                    trained_betas: self.trained_betas.as_deref(),
                    rescale_betas_zero_snr: self.rescale_betas_zero_snr,
                }
                .alphas_cumprod()
            }

            /// Which timesteps its runs visit, of as many as have a noise level.
            #[allow(dead_code, reason = "LCM has timesteps of its own")]
            pub(crate) fn choice(&self, alphas_cumprod: &[f32]) -> $crate::timesteps::Choice {
                $crate::timesteps::Choice {
                    spacing: self.timestep_spacing,
                    train: self.num_train_timesteps,
                    offset: self.steps_offset,
                    last: alphas_cumprod.len() - 1,
                }
            }
        }
    };
}
pub(crate) use scheduler_config;

/// Refuses a kind of prediction that the class cannot work with.
pub(crate) fn check_prediction(
    kind: PredictionType,
    known: &[PredictionType],
) -> Result<(), SchedulerError> {
    let name = |kind: &PredictionType| serde_json::json!(kind).to_string();
    let names: Vec<String> = known.iter().map(name).collect();
    let allowed = format!("{} with this scheduler", names.join(" or "));
    check(
        known.contains(&kind),
        "prediction_type",
        name(&kind),
        &allowed,
    )
}

/// An error about a key.
pub(crate) fn bad(key: &'static str, reason: impl ToString) -> SchedulerError {
    SchedulerError::BadConfig {
        key,
        reason: reason.to_string(),
    }
}

/// Passes if `ok`, otherwise says what the key may be.
pub(crate) fn check(
    ok: bool,
    key: &'static str,
    value: impl std::fmt::Display,
    allowed: &str,
) -> Result<(), SchedulerError> {
    if ok {
        return Ok(());
    }
    Err(bad(key, format!("is {value}; it must be {allowed}")))
}

/// The orders that the multistep solvers know.
pub(crate) fn check_solver_order(order: usize) -> Result<(), SchedulerError> {
    check((1..=3).contains(&order), "solver_order", order, "1, 2 or 3")
}
