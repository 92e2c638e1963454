//! Noise levels as sigma = √((1-ᾱ)/ᾱ), the noise beside a clean sample of weight 1 (Karras et al., 2022).

use crate::SchedulerError;

/// The smallest signal with a sigma that can be computed with; diffusers puts it in the place of zero.
const LEAST_SIGNAL: f32 = 1.0 / (1 << 24) as f32;

/// The sigma of each training timestep, in f32 as in diffusers.
#[derive(Clone, Debug)]
pub(crate) struct SigmaTable {
    sigmas: Vec<f32>,
    logs: Vec<f32>,
}

impl SigmaTable {
    /// Where nothing of the signal is left (zero terminal SNR), 2^-24 of it stays.
    pub(crate) fn new(alphas_cumprod: &[f32]) -> Self {
        let sigma = |alpha: &f32| {
            let alpha = match *alpha {
                0.0 => LEAST_SIGNAL,
                alpha => alpha,
            };
            ((1.0 - alpha) / alpha).sqrt()
        };
        let sigmas: Vec<f32> = alphas_cumprod.iter().map(sigma).collect();
        Self {
            logs: sigmas.iter().map(|s| f64::from(*s).ln() as f32).collect(),
            sigmas,
        }
    }

    pub(crate) fn min(&self) -> f64 {
        f64::from(self.sigmas[0])
    }

    pub(crate) fn max(&self) -> f64 {
        f64::from(self.sigmas[self.last()])
    }

    fn last(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// The sigma at a timestep, between whole ones on the line through them.
    ///
    /// # Errors
    /// If the timestep is outside the noise schedule.
    pub(crate) fn at(&self, timestep: f64) -> Result<f64, SchedulerError> {
        let last = self.last();
        if !(0.0..=last as f64).contains(&timestep) {
            return Err(SchedulerError::Timestep { timestep, last });
        }
        let below = timestep as usize;
        let (low, high) = (self.sigmas[below], self.sigmas[(below + 1).min(last)]);
        let (low, high) = (f64::from(low), f64::from(high));
        Ok((high - low) * (timestep - below as f64) + low)
    }

    /// The timestep at a sigma, between whole ones on the line through their logarithms; the nearest end outside.
    pub(crate) fn timestep(&self, sigma: f64) -> f64 {
        let Some(last_but_one) = self.last().checked_sub(1) else {
            return 0.0;
        };
        let log = sigma.max(1e-10).ln();
        let not_above = self.logs.partition_point(|l| f64::from(*l) <= log);
        let below = not_above.saturating_sub(1).min(last_but_one);
        let (low, high) = (self.logs[below], self.logs[below + 1]);
        let weight = (f64::from(low) - log) / f64::from(low - high);
        below as f64 + weight.clamp(0.0, 1.0)
    }
}

/// `count` sigmas from `max` to `min`, evenly in their seventh roots (Karras et al., 2022, equation 5).
pub(crate) fn karras(max: f64, min: f64, count: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (from, to) = (max.powf(1.0 / RHO), min.powf(1.0 / RHO));
    let last = (count.max(2) - 1) as f64;
    (0..count)
        .map(|i| (from + i as f64 / last * (to - from)).powf(RHO))
        .collect()
}

/// Rounds to the f32 that diffusers keeps.
pub(crate) fn rounded(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v as f32)).collect()
}

/// Each sigma must be below the one before and above 0: solvers divide by it, and by the difference.
pub(crate) fn check_falling(sigmas: &[f64], timesteps: &[f64]) -> Result<(), SchedulerError> {
    let next = sigmas.iter().skip(1).chain(&[0.0]);
    for ((sigma, next), &timestep) in sigmas.iter().zip(next).zip(timesteps) {
        if !(sigma.is_finite() && sigma > next) {
            return Err(SchedulerError::EqualNoise { timestep });
        }
    }
    Ok(())
}
