//! Noise schedules: how much of the signal is left at each training timestep.
//!
//! In f32, with the f64 intermediates that torch has, so that the tables are those of diffusers to the bit.

use crate::{BetaSchedule, SchedulerError, config::check};

/// The part of a scheduler's config that defines its noise schedule.
pub(crate) struct Betas<'a> {
    pub(crate) num_train_timesteps: usize,
    pub(crate) beta_start: f64,
    pub(crate) beta_end: f64,
    pub(crate) beta_schedule: BetaSchedule,
    pub(crate) trained_betas: Option<&'a [f64]>,
    pub(crate) rescale_betas_zero_snr: bool,
}

impl Betas<'_> {
    /// The product of all 1 - beta up to each timestep: the signal's share of the variance.
    pub(crate) fn alphas_cumprod(&self) -> Result<Vec<f32>, SchedulerError> {
        let betas = self.values()?;
        let betas = if self.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&betas)
        } else {
            betas
        };
        Ok(cumprod(&betas))
    }

    fn values(&self) -> Result<Vec<f32>, SchedulerError> {
        let count = self.num_train_timesteps;
        check(count > 0, "num_train_timesteps", count, "at least 1")?;
        if let Some(betas) = self.trained_betas {
            let allowed = "a list of at least num_train_timesteps numbers";
            let length = format_args!("a list of {}", betas.len());
            check(betas.len() >= count, "trained_betas", length, allowed)?;
            for beta in betas {
                check(is_beta(*beta), "trained_betas", beta, "between 0 and 1")?;
            }
            return Ok(betas.iter().map(|b| *b as f32).collect());
        }
        if self.beta_schedule == BetaSchedule::SquaredcosCapV2 {
            return Ok(squared_cosine(count));
        }
        let ends = [("beta_start", self.beta_start), ("beta_end", self.beta_end)];
        for (key, beta) in ends {
            check(is_beta(beta), key, beta, "between 0 and 1")?;
        }
        Ok(match self.beta_schedule {
            BetaSchedule::ScaledLinear => {
                linspace(self.beta_start.sqrt(), self.beta_end.sqrt(), count)
                    .into_iter()
                    .map(|root| root * root)
                    .collect()
            }
            _ => linspace(self.beta_start, self.beta_end, count),
        })
    }
}

fn is_beta(beta: f64) -> bool {
    (0.0..=1.0).contains(&beta)
}

/// `torch.linspace` in f32: from both ends to the middle, the product fused with the sum.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| {
            if i < count / 2 {
                step.mul_add(i as f32, start)
            } else {
                (-step).mul_add((count - 1 - i) as f32, end)
            }
        })
        .collect()
}

fn squared_cosine(count: usize) -> Vec<f32> {
    let signal = |t: f64| {
        let cos = ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos();
        cos * cos
    };
    (0..count)
        .map(|i| {
            let (from, to) = (i as f64 / count as f64, (i + 1) as f64 / count as f64);
            (1.0 - signal(to) / signal(from)).min(0.999) as f32
        })
        .collect()
}

/// `torch.cumprod(1 - betas)`, which accumulates in f64.
fn cumprod(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// Shifts and scales the square roots of the signal such that the last is 0 and the first stays (Lin et al., 2023).
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = cumprod(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    for root in &mut roots {
        *root = (*root - last) * scale;
    }
    let mut before = 1.0;
    roots
        .into_iter()
        .map(|root| {
            let signal = root * root;
            let alpha = signal / before;
            before = signal;
            1.0 - alpha
        })
        .collect()
}
