//! Random numbers of a run, all from torch's CPU generator on the host (reference `rng.md` §5).

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use torch_rng::Generator;

/// Where a run's noise comes from.
pub(crate) enum Generators {
    /// One stream; every draw is for all videos at once.
    Shared(Generator),
    /// A stream for each video, which then is the video that its seed alone would give.
    PerVideo(Vec<Generator>),
}

impl Generators {
    pub(crate) fn new(seeds: &[u64]) -> Self {
        match seeds {
            [seed] => Self::Shared(Generator::new(*seed)),
            _ => Self::PerVideo(seeds.iter().map(|seed| Generator::new(*seed)).collect()),
        }
    }

    /// Standard normal numbers whose first axis counts `rows` of something per video.
    pub(crate) fn normal<B: Backend, const D: usize>(
        &mut self,
        shape: [usize; D],
        dtype: DType,
        device: &B::Device,
    ) -> Tensor<B, D> {
        let count: usize = shape.iter().product();
        let values = match self {
            Self::Shared(generator) => generator.randn_f32(count),
            Self::PerVideo(generators) => {
                let part = count / generators.len();
                let parts = generators.iter_mut().map(|g| g.randn_f32(part));
                parts.collect::<Vec<_>>().concat()
            }
        };
        let data = TensorData::new(values, shape);
        Tensor::<B, D>::from_data(data, (device, DType::F32)).cast(dtype)
    }
}
