//! Which training timesteps a run visits, latest first.
//!
//! Three rules, called types A, K and M in the reference notes: the integers of DDIM, DDPM and PNDM; the same without
//! rounding for the schedulers in sigma space; and one point more, of which the last is left out, for the multistep solvers.

use crate::{SchedulerError, TimestepSpacing};

/// Which timesteps a run is chosen from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) spacing: TimestepSpacing,
    /// `num_train_timesteps`
    pub(crate) train: usize,
    /// `steps_offset`
    pub(crate) offset: usize,
    /// The last timestep that has a noise level.
    pub(crate) last: usize,
}

impl Choice {
    /// Type A: whole timesteps, as many as `steps`.
    ///
    /// # Errors
    /// If there are no steps, more than training timesteps, or `offset` pushes one past the last.
    pub(crate) fn integers(&self, steps: usize) -> Result<Vec<usize>, SchedulerError> {
        self.check_count(steps, self.train)?;
        let timesteps = match self.spacing {
            TimestepSpacing::Leading => {
                let ratio = self.train / steps;
                let descending = (0..steps).rev();
                descending.map(|i| i * ratio + self.offset).collect()
            }
            TimestepSpacing::Linspace => {
                let descending = self.linspace(steps).into_iter().rev();
                descending.map(|t| t.round_ties_even() as usize).collect()
            }
            TimestepSpacing::Trailing => {
                // As `numpy.arange(train, 0, -train / steps)` computes them. That may end with a rest of the rounding just
                // above 0, which diffusers turns into timestep -1 (61 steps of 1000); here it is left out.
                let start = self.train as f64;
                let delta = (start - start / steps as f64) - start;
                (0..steps)
                    .map(|i| start + i as f64 * delta)
                    .map(|t| (t.round_ties_even() as usize).saturating_sub(1))
                    .collect()
            }
        };
        self.inside(timesteps)
    }

    /// Type K: as [`Self::integers`], but linspace is not rounded (other than to f32, as in diffusers).
    ///
    /// # Errors
    /// As [`Self::integers`].
    pub(crate) fn fractions(&self, steps: usize) -> Result<Vec<f64>, SchedulerError> {
        if self.spacing == TimestepSpacing::Linspace {
            self.check_count(steps, self.train)?;
            let descending = self.linspace(steps).into_iter().rev();
            return Ok(descending.map(|t| f64::from(t as f32)).collect());
        }
        Ok(floats(self.integers(steps)?))
    }

    /// Type M: whole timesteps that leave out the end without noise. With leading and linspace spacing there are at most one
    /// fewer than training timesteps.
    ///
    /// # Errors
    /// As [`Self::integers`].
    pub(crate) fn solver(&self, steps: usize) -> Result<Vec<f64>, SchedulerError> {
        let timesteps = match self.spacing {
            TimestepSpacing::Trailing => self.integers(steps)?,
            TimestepSpacing::Leading => {
                self.check_count(steps, self.train - 1)?;
                let ratio = self.train / (steps + 1);
                let descending = (1..=steps).rev();
                self.inside(descending.map(|i| i * ratio + self.offset).collect())?
            }
            TimestepSpacing::Linspace => {
                self.check_count(steps, self.train - 1)?;
                let descending = self.linspace(steps + 1).into_iter().skip(1).rev();
                self.inside(descending.map(|t| t.round_ties_even() as usize).collect())?
            }
        };
        Ok(floats(timesteps))
    }

    fn check_count(&self, steps: usize, max: usize) -> Result<(), SchedulerError> {
        if (1..=max).contains(&steps) {
            return Ok(());
        }
        Err(SchedulerError::StepCount {
            steps,
            min: 1,
            max,
            limit: match max == self.train {
                true => "num_train_timesteps",
                false => "less than num_train_timesteps",
            },
        })
    }

    /// `numpy.linspace(0, train - 1, count)`
    fn linspace(&self, count: usize) -> Vec<f64> {
        let end = (self.train - 1) as f64;
        let delta = end / (count.max(2) - 1) as f64;
        let mut points: Vec<f64> = (0..count).map(|i| i as f64 * delta).collect();
        if count > 1 {
            points[count - 1] = end;
        }
        points
    }

    fn inside(&self, timesteps: Vec<usize>) -> Result<Vec<usize>, SchedulerError> {
        match timesteps.first() {
            Some(first) if *first > self.last => Err(SchedulerError::Timestep {
                timestep: *first as f64,
                last: self.last,
            }),
            _ => Ok(timesteps),
        }
    }
}

/// As timesteps are kept.
pub(crate) fn floats(timesteps: Vec<usize>) -> Vec<f64> {
    timesteps.into_iter().map(|t| t as f64).collect()
}
