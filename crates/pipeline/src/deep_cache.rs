//! DeepCache over the steps of a run: which model evaluations are full, and what the others use again.

use burn::tensor::{Tensor, backend::Backend};
use i2vgen_unet3d::{Conditioning, DeepCache, I2VGenXLUNet, UNetError};

/// The UNet in the evaluations of one run.
pub(crate) struct Evaluations<'a, B: Backend> {
    unet: &'a I2VGenXLUNet<B>,
    /// Every so many evaluations are full.
    interval: usize,
    /// Since the last full one.
    age: usize,
    /// Whether the last one had guidance; none before the first.
    guided: Option<bool>,
    /// One for each pass of an evaluation: guidance has two when it is split.
    caches: [DeepCache<B>; 2],
}

impl<'a, B: Backend> Evaluations<'a, B> {
    /// The first is full; with an interval of 1 all are.
    pub(crate) fn new(unet: &'a I2VGenXLUNet<B>, interval: usize) -> Self {
        Self {
            unet,
            interval,
            age: 0,
            guided: None,
            caches: [DeepCache::new(), DeepCache::new()],
        }
    }

    /// Another evaluation begins. Where guidance begins or ends the rows become others, so that it is full.
    pub(crate) fn next(&mut self, guided: bool) {
        self.age += 1;
        if self.age >= self.interval || self.guided != Some(guided) {
            self.caches.iter_mut().for_each(DeepCache::clear);
            self.age = 0;
        }
        self.guided = Some(guided);
    }

    /// A pass of it, the first (0) or the second (1); see [`I2VGenXLUNet::forward`].
    pub(crate) fn forward(
        &mut self,
        pass: usize,
        latents: Tensor<B, 5>,
        timestep: f64,
        conditioning: &Conditioning<B>,
    ) -> Result<Tensor<B, 5>, UNetError> {
        match self.interval {
            1 => self.unet.forward(latents, timestep, conditioning),
            _ => {
                let cache = &mut self.caches[pass];
                self.unet
                    .forward_cached(latents, timestep, conditioning, cache)
            }
        }
    }
}
