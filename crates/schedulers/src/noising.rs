//! The way forward: from a clean sample to a noisy one, and the velocity between them.

use burn::tensor::{DType, Tensor, backend::Backend};

use crate::SchedulerError;

/// The weights of signal and noise at some timesteps, ready to multiply samples with.
pub(crate) struct Mix<B: Backend> {
    signal: Tensor<B, 4>,
    noise: Tensor<B, 4>,
}

impl<B: Backend> Mix<B> {
    /// √ᾱ and √(1-ᾱ), for one timestep for all samples, or one for each.
    pub(crate) fn new(
        alphas_cumprod: &[f32],
        timesteps: &[f64],
        sample: &Tensor<B, 4>,
    ) -> Result<Self, SchedulerError> {
        let weights = |timestep| {
            let alpha = alpha_at(alphas_cumprod, timestep)?;
            Ok([alpha.sqrt(), (1.0 - alpha).sqrt()])
        };
        Self::from_weights(weights, timesteps, sample)
    }

    /// What `weights` gives for each timestep: that of the signal, and that of the noise.
    pub(crate) fn from_weights(
        weights: impl Fn(f64) -> Result<[f32; 2], SchedulerError>,
        timesteps: &[f64],
        sample: &Tensor<B, 4>,
    ) -> Result<Self, SchedulerError> {
        let samples = sample.dims()[0];
        if timesteps.len() != 1 && timesteps.len() != samples {
            return Err(SchedulerError::TimestepCount {
                found: timesteps.len(),
                samples,
            });
        }
        let weights = timesteps
            .iter()
            .map(|t| weights(*t))
            .collect::<Result<Vec<_>, _>>()?;
        let column = |which: usize| {
            let values: Vec<f32> = weights.iter().map(|pair| pair[which]).collect();
            let options = (&sample.device(), wide(sample.dtype()));
            Tensor::<B, 1>::from_data(values.as_slice(), options).reshape([values.len(), 1, 1, 1])
        };
        Ok(Self {
            signal: column(0),
            noise: column(1),
        })
    }

    /// √ᾱ·sample + √(1-ᾱ)·noise
    pub(crate) fn noisy(self, sample: Tensor<B, 4>, noise: Tensor<B, 4>) -> Tensor<B, 4> {
        let dtype = sample.dtype();
        let mixed = widen(sample) * self.signal + widen(noise) * self.noise;
        cast(mixed, dtype)
    }

    /// √ᾱ·noise - √(1-ᾱ)·sample
    pub(crate) fn velocity(self, sample: Tensor<B, 4>, noise: Tensor<B, 4>) -> Tensor<B, 4> {
        let dtype = sample.dtype();
        let mixed = widen(noise) * self.signal - widen(sample) * self.noise;
        cast(mixed, dtype)
    }
}

/// The table's entry at a timestep, which must be whole and inside.
fn alpha_at(alphas_cumprod: &[f32], timestep: f64) -> Result<f32, SchedulerError> {
    let outside = SchedulerError::Timestep {
        timestep,
        last: alphas_cumprod.len().saturating_sub(1),
    };
    if timestep < 0.0 || timestep.fract() != 0.0 {
        return Err(outside);
    }
    alphas_cumprod
        .get(timestep as usize)
        .copied()
        .ok_or(outside)
}

/// The dtype to compute in: schedulers work in f32 also where the model is in half precision.
pub(crate) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// Out of half precision.
pub(crate) fn widen<B: Backend>(tensor: Tensor<B, 4>) -> Tensor<B, 4> {
    let dtype = wide(tensor.dtype());
    cast(tensor, dtype)
}

/// To a dtype, without a copy if it has it already.
pub(crate) fn cast<B: Backend>(tensor: Tensor<B, 4>, dtype: DType) -> Tensor<B, 4> {
    if tensor.dtype() == dtype {
        tensor
    } else {
        tensor.cast(dtype)
    }
}

/// The model's output and the sample in one dtype to compute in, and the dtype to return to.
pub(crate) fn widened<B: Backend>(
    model_output: Tensor<B, 4>,
    sample: Tensor<B, 4>,
) -> Result<(Tensor<B, 4>, Tensor<B, 4>, DType), SchedulerError> {
    same_shape("the model's output", &model_output, &sample)?;
    let dtype = sample.dtype();
    let to = wide(dtype);
    Ok((cast(model_output, to), cast(sample, to), dtype))
}

/// Both must be of one shape.
pub(crate) fn same_shape<B: Backend>(
    what: &'static str,
    tensor: &Tensor<B, 4>,
    sample: &Tensor<B, 4>,
) -> Result<(), SchedulerError> {
    let (found, expected) = (tensor.dims(), sample.dims());
    if found == expected {
        return Ok(());
    }
    Err(SchedulerError::Shape {
        what,
        found,
        expected,
    })
}
