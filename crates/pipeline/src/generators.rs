//! Random numbers of a run, all from torch's CPU generator on the host (reference `rng.md` §5).

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use torch_rng::Generator;

/// Where a run's noise comes from: one stream for all videos, every draw for all at once, or one for each, which then is the
/// video that its seed alone would give.
pub(crate) struct Generators(Vec<Generator>);

impl Generators {
    pub(crate) fn new(seeds: &[u64]) -> Self {
        Self(seeds.iter().map(|seed| Generator::new(*seed)).collect())
    }

    /// Whether one stream serves all videos.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.len() == 1
    }

    /// Standard normal numbers in f32 whose first axis counts `rows` of something per video.
    pub(crate) fn normal<B: Backend, const D: usize>(
        &mut self,
        shape: [usize; D],
        device: &B::Device,
    ) -> Tensor<B, D> {
        let count: usize = shape.iter().product();
        let part = count / self.0.len();
        let parts = self.0.iter_mut().map(|g| g.randn_f32(part));
        let values = parts.collect::<Vec<_>>().concat();
        let data = TensorData::new(values, shape);
        Tensor::<B, D>::from_data(data, (device, DType::F32))
    }
}
