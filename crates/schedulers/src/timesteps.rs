//! Which training timesteps a run visits: the integer rule of DDIM, DDPM and PNDM ("type A" in the reference notes).

use crate::{SchedulerError, TimestepSpacing};

/// The timesteps of a run of `steps` steps, latest first.
///
/// # Errors
/// If there are no steps, more than training timesteps, or `offset` pushes one past `last`.
pub(crate) fn integer_timesteps(
    spacing: TimestepSpacing,
    train: usize,
    steps: usize,
    offset: usize,
    last: usize,
) -> Result<Vec<usize>, SchedulerError> {
    if steps == 0 || steps > train {
        return Err(SchedulerError::StepCount { steps, max: train });
    }
    let timesteps: Vec<usize> = match spacing {
        TimestepSpacing::Leading => {
            let ratio = train / steps;
            (0..steps).rev().map(|i| i * ratio + offset).collect()
        }
        TimestepSpacing::Linspace => {
            let delta = (train - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps)
                .rev()
                .map(|i| (i as f64 * delta).round_ties_even() as usize)
                .collect()
        }
        TimestepSpacing::Trailing => {
            // As `numpy.arange(train, 0, -train / steps)` computes them. That may end with a rest of the rounding just
            // above 0, which diffusers turns into timestep -1 (61 steps of 1000); here it is left out.
            let start = train as f64;
            let delta = (start - start / steps as f64) - start;
            (0..steps)
                .map(|i| start + i as f64 * delta)
                .map(|t| (t.round_ties_even() as usize).saturating_sub(1))
                .collect()
        }
    };
    match timesteps.first() {
        Some(first) if *first > last => Err(SchedulerError::Timestep {
            timestep: *first as f64,
            last,
        }),
        _ => Ok(timesteps),
    }
}
