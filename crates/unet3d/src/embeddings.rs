//! Embeddings of the timestep and of the frame rate (diffusers `models/embeddings.py`).

use burn::{
    module::Module,
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use i2vgen_kernels::{Linear, silu};

/// Sinusoids of one number, cosines first, computed in f32 as in the reference.
///
/// # Shapes
/// → `[1, dim]`
pub(crate) fn sinusoid<B: Backend>(
    value: f64,
    dim: usize,
    dtype: DType,
    device: &B::Device,
) -> Tensor<B, 2> {
    let half = dim / 2;
    let angle = |i: usize| {
        let exponent = -(10000f64.ln() as f32) * i as f32 / half as f32;
        // Rounded once from f64: a last-place error of the frequency is multiplied by t.
        let frequency = f64::from(exponent).exp() as f32;
        f64::from(value as f32 * frequency)
    };
    let cosines = (0..half).map(|i| angle(i).cos() as f32);
    let sines = (0..half).map(|i| angle(i).sin() as f32);
    let values: Vec<f32> = cosines.chain(sines).collect();
    let data = TensorData::new(values, [1, dim]);
    Tensor::<B, 2>::from_data(data, (device, DType::F32)).cast(dtype)
}

/// Two linear layers with SiLU between them.
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding<B: Backend> {
    linear_1: Linear<B>,
    linear_2: Linear<B>,
}

impl<B: Backend> TimestepEmbedding<B> {
    pub(crate) fn new(input: usize, output: usize, device: &B::Device) -> Self {
        Self {
            linear_1: Linear::new(input, output, true, device),
            linear_2: Linear::new(output, output, true, device),
        }
    }

    /// # Shapes
    /// `[n, in]` → `[n, out]`
    pub(crate) fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.linear_2.forward(silu(self.linear_1.forward(x)))
    }
}

/// The same as an `nn.Sequential`, whose keys are positions (`_0` is checkpoint key `0`).
#[derive(Module, Debug)]
pub(crate) struct Mlp<B: Backend> {
    _0: Linear<B>,
    _2: Linear<B>,
}

impl<B: Backend> Mlp<B> {
    pub(crate) fn new(input: usize, hidden: usize, output: usize, device: &B::Device) -> Self {
        Self {
            _0: Linear::new(input, hidden, true, device),
            _2: Linear::new(hidden, output, true, device),
        }
    }

    /// # Shapes
    /// `[.., in]` → `[.., out]`
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        self._2.forward(silu(self._0.forward(x)))
    }
}
