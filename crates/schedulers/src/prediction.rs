//! What the model's output says about the clean sample and the noise.

use burn::tensor::{Tensor, backend::Backend};

use crate::PredictionType;

/// The clean sample and the noise, where `signal` is the signal's share of the sample's variance.
pub(crate) fn original_and_noise<B: Backend>(
    kind: PredictionType,
    output: Tensor<B, 4>,
    sample: &Tensor<B, 4>,
    signal: f32,
) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let (a, b) = (signal.sqrt(), (1.0 - signal).sqrt());
    match kind {
        PredictionType::Epsilon => {
            let original = (sample.clone() - output.clone() * b) / a;
            (original, output)
        }
        PredictionType::Sample => {
            let noise = noise_around(&output, sample, signal);
            (output, noise)
        }
        PredictionType::VPrediction => {
            let original = sample.clone() * a - output.clone() * b;
            let noise = output * a + sample.clone() * b;
            (original, noise)
        }
    }
}

/// The noise that makes `sample` of `original`.
pub(crate) fn noise_around<B: Backend>(
    original: &Tensor<B, 4>,
    sample: &Tensor<B, 4>,
    signal: f32,
) -> Tensor<B, 4> {
    (sample.clone() - original.clone() * signal.sqrt()) / (1.0 - signal).sqrt()
}

/// The clean sample, where the sample is `alpha`·clean + `sigma`·noise.
pub(crate) fn original<B: Backend>(
    kind: PredictionType,
    output: Tensor<B, 4>,
    sample: &Tensor<B, 4>,
    alpha: f64,
    sigma: f64,
) -> Tensor<B, 4> {
    let x = sample.clone();
    match kind {
        PredictionType::Epsilon => (x - output * sigma) / alpha,
        PredictionType::Sample => output,
        PredictionType::VPrediction => x * alpha - output * sigma,
    }
}

/// The clean sample in sigma space, where the sample is clean + `sigma`·noise, and the model saw it scaled to unit variance.
pub(crate) fn original_in_sigma_space<B: Backend>(
    kind: PredictionType,
    output: Tensor<B, 4>,
    sample: &Tensor<B, 4>,
    sigma: f64,
) -> Tensor<B, 4> {
    let x = sample.clone();
    let variance = sigma * sigma + 1.0;
    match kind {
        PredictionType::Epsilon => x - output * sigma,
        PredictionType::Sample => output,
        PredictionType::VPrediction => x / variance - output * (sigma / variance.sqrt()),
    }
}
