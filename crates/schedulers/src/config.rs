//! What the configs of the schedulers share: the choices, and parsing that names the key it fails at.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

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

/// The keys of a config in JSON. Keys that nobody asks for are ignored, as in diffusers.
pub(crate) struct Keys<'a>(&'a Value);

impl<'a> Keys<'a> {
    pub(crate) fn new(json: &'a Value) -> Result<Self, SchedulerError> {
        match json {
            Value::Object(_) => Ok(Self(json)),
            _ => Err(bad("(root)", "the config must be a JSON object")),
        }
    }

    /// The value of a key, or the default if it is absent.
    pub(crate) fn or<T: DeserializeOwned>(
        &self,
        key: &'static str,
        default: T,
    ) -> Result<T, SchedulerError> {
        match self.0.get(key) {
            Some(value) => T::deserialize(value).map_err(|e| bad(key, e)),
            None => Ok(default),
        }
    }
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
