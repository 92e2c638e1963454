use burn::tensor::{Tensor, backend::Backend};
use i2vgen_kernels::widened;

/// The encoder's output: an independent normal distribution for every latent.
#[derive(Clone, Debug)]
pub struct DiagonalGaussianDistribution<B: Backend> {
    /// `[n, latent, h, w]`
    pub mean: Tensor<B, 4>,
    /// `[n, latent, h, w]`, clamped to −30..20
    pub logvar: Tensor<B, 4>,
}

impl<B: Backend> DiagonalGaussianDistribution<B> {
    /// From the encoder's moments `[n, 2·latent, h, w]`; in f32 also of an encoder in half precision.
    pub(crate) fn new(moments: Tensor<B, 4>) -> Self {
        let mut halves = widened(moments).chunk(2, 1).into_iter();
        let (mean, logvar) = (halves.next(), halves.next());
        let mean = mean.expect("moments have an even number of channels");
        let logvar = logvar.unwrap_or_else(|| mean.zeros_like());
        Self {
            mean,
            logvar: logvar.clamp(-30.0, 20.0),
        }
    }

    /// The most likely latents: the mean.
    pub fn mode(&self) -> Tensor<B, 4> {
        self.mean.clone()
    }

    /// `mean + noise · std` for standard normal `noise` of the same shape, drawn by the caller.
    pub fn sample(&self, noise: Tensor<B, 4>) -> Tensor<B, 4> {
        self.mean.clone() + noise * (self.logvar.clone() * 0.5).exp()
    }
}
