//! What the model believes the finished latents to be while there is still noise in them.

use burn::tensor::{Tensor, backend::Backend};
use i2vgen_schedulers::{DDIMScheduler, DDIMSchedulerConfig, PredictionType, Scheduler};
use i2vgen_vae::AutoencoderKL;

use crate::PipelineError;

/// Reads predictions of any scheduler: whatever the sampler, the model is shown samples of unit variance, whose timestep says
/// how much of them is signal.
pub(crate) struct Preview<B: Backend> {
    prediction_type: PredictionType,
    alphas_cumprod: Vec<f32>,
    vae: Option<AutoencoderKL<B>>,
}

impl<B: Backend> Preview<B> {
    pub(crate) fn new(scheduler: &dyn Scheduler<B>) -> Result<Self, PipelineError> {
        // All schedulers describe their noise by the same keys, and this one shows its table.
        let config = DDIMSchedulerConfig::from_json(&scheduler.to_config())?;
        let table = DDIMScheduler::<B>::new(config)?;
        Ok(Self {
            prediction_type: table.config().prediction_type,
            alphas_cumprod: table.alphas_cumprod().to_vec(),
            vae: None,
        })
    }

    /// The clean latents that a prediction implies for the `input` that the model was shown.
    ///
    /// # Shapes
    /// All are the same.
    pub(crate) fn original(
        &self,
        output: Tensor<B, 5>,
        input: Tensor<B, 5>,
        timestep: f64,
    ) -> Tensor<B, 5> {
        // Schedulers with sigmas may stand between two timesteps.
        let last = self.alphas_cumprod.len() - 1;
        let below = (timestep.max(0.0) as usize).min(last);
        let above = (below + 1).min(last);
        let [low, high] = [below, above].map(|i| f64::from(self.alphas_cumprod[i]));
        let signal = low + (high - low) * timestep.fract();
        let (a, b) = (signal.sqrt(), (1.0 - signal).sqrt());
        match self.prediction_type {
            PredictionType::VPrediction => input * a - output * b,
            PredictionType::Sample => output,
            // Without any signal there is nothing to believe yet.
            _ => (input - output * b) / a.max(1e-4),
        }
    }

    /// The VAE, loaded once and for previews only.
    pub(crate) fn vae(
        &mut self,
        load: impl FnOnce() -> Result<AutoencoderKL<B>, PipelineError>,
    ) -> Result<&AutoencoderKL<B>, PipelineError> {
        let vae = match self.vae.take() {
            Some(vae) => vae,
            None => load()?,
        };
        Ok(self.vae.insert(vae))
    }
}
