//! What is constant over the denoising steps.

use burn::{
    module::Module,
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use i2vgen_kernels::{Conv2d, matmul, silu};

use crate::attention::KeyValue;

/// What a UNet derives from text.
#[derive(Clone, Debug)]
pub struct TextConditioning<B: Backend> {
    /// Keys and values of every cross-attention, in forward order.
    pub(crate) contexts: Vec<KeyValue<B>>,
    pub(crate) rows: usize,
}

impl<B: Backend> TextConditioning<B> {
    /// How many rows it was prepared for.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// That of `count` rows from `start` on, for running a part of what was prepared.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        let rows = self.rows;
        assert!(start + count <= rows, "{start}+{count} of {rows} rows");
        let narrow = |x: &Tensor<B, 3>| x.clone().narrow(0, start, count);
        let context = |kv: &KeyValue<B>| KeyValue {
            key: narrow(&kv.key),
            value: narrow(&kv.value),
        };
        Self {
            contexts: self.contexts.iter().map(context).collect(),
            rows: count,
        }
    }
}

/// Everything that the UNet derives from text, image and frame rate, made once by
/// [`I2VGenXLUNet::prepare`](crate::I2VGenXLUNet::prepare).
#[derive(Clone, Debug)]
pub struct Conditioning<B: Backend> {
    /// Embedding of the frame rate, `[1, time_dim]`.
    pub(crate) fps: Tensor<B, 2>,
    /// Image features to be concatenated to the noise, `[pictures · frames, h, w, 4]`, where all rows `i`,
    /// `i + pictures`, … share picture `i`.
    pub(crate) features: Tensor<B, 4>,
    pub(crate) text: TextConditioning<B>,
    /// `[pictures, frames, h, w]`
    pub(crate) dims: [usize; 4],
}

impl<B: Backend> Conditioning<B> {
    /// How many rows it was prepared for.
    pub fn rows(&self) -> usize {
        self.text.rows
    }

    /// That of `count` rows from `start` on, for running a part of what was prepared.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        let text = self.text.narrow(start, count);
        let [pictures, frames, h, w] = self.dims;
        let own = |row: usize| row % pictures * frames;
        let (features, pictures) = if [start, count].iter().all(|n| n.is_multiple_of(pictures)) {
            (self.features.clone(), pictures)
        } else {
            let rows =
                (start..start + count).map(|row| self.features.clone().narrow(0, own(row), frames));
            (Tensor::cat(rows.collect(), 0), count)
        };
        Self {
            fps: self.fps.clone(),
            features,
            text,
            dims: [pictures, frames, h, w],
        }
    }
}

/// `image_latents_proj_in`: three convolutions.
#[derive(Module, Debug)]
pub(crate) struct ImageLatentsProjIn<B: Backend> {
    _0: Conv2d<B>,
    _2: Conv2d<B>,
    _4: Conv2d<B>,
}

impl<B: Backend> ImageLatentsProjIn<B> {
    pub(crate) fn new(channels: usize, device: &B::Device) -> Self {
        let conv = |from, to| Conv2d::new(from, to, 3, 1, 1, true, device);
        Self {
            _0: conv(channels, 4 * channels),
            _2: conv(4 * channels, 4 * channels),
            _4: conv(4 * channels, channels),
        }
    }

    /// # Shapes
    /// `[n, h, w, c]` → the same
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = silu(self._0.forward(x));
        self._4.forward(silu(self._2.forward(x)))
    }
}

/// Side to which the image features are pooled before they become tokens.
const POOLED: usize = 32;

/// `image_latents_context_embedding`: the first frame's latents become 64 tokens.
#[derive(Module, Debug)]
pub(crate) struct ImageLatentsContextEmbedding<B: Backend> {
    _0: Conv2d<B>,
    _3: Conv2d<B>,
    _5: Conv2d<B>,
}

impl<B: Backend> ImageLatentsContextEmbedding<B> {
    pub(crate) fn new(channels: usize, context_dim: usize, device: &B::Device) -> Self {
        let conv = |from, to, stride| Conv2d::new(from, to, 3, stride, 1, true, device);
        Self {
            _0: conv(channels, 8 * channels, 1),
            _3: conv(8 * channels, 16 * channels, 2),
            _5: conv(16 * channels, context_dim, 2),
        }
    }

    /// # Shapes
    /// `[rows, h, w, c]` → `[rows, 64, context_dim]`
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        let x = adaptive_average_pool(silu(self._0.forward(x)), POOLED);
        let x = self._5.forward(silu(self._3.forward(x)));
        x.flatten(1, 2)
    }
}

/// PyTorch's `AdaptiveAvgPool2d` to a square. Its bins are rectangles, so rows and columns are averaged in turn.
///
/// # Shapes
/// `[n, h, w, c]` → `[n, side, side, c]`
fn adaptive_average_pool<B: Backend>(x: Tensor<B, 4>, side: usize) -> Tensor<B, 4> {
    let [n, h, w, c] = x.dims();
    let (device, dtype) = (x.device(), x.dtype());
    let matrix = |n: usize, len: usize| {
        let matrix = pooling_matrix::<B>(len, side, &device);
        matrix.unsqueeze::<3>().repeat_dim(0, n)
    };
    let x = x.cast(DType::F32);
    let x = matmul(matrix(n, h), x.reshape([n, h, w * c]), DType::F32);
    let x = matmul(matrix(n * side, w), x.reshape([n * side, w, c]), DType::F32);
    x.reshape([n, side, side, c]).cast(dtype)
}

/// Row `i` averages entries `⌊i·n/side⌋ .. ⌈(i+1)·n/side⌉`, which overlap when `side` does not divide `n`.
fn pooling_matrix<B: Backend>(n: usize, side: usize, device: &B::Device) -> Tensor<B, 2> {
    let mut matrix = vec![0f32; side * n];
    for (i, row) in matrix.chunks_exact_mut(n).enumerate() {
        let bin = i * n / side..((i + 1) * n).div_ceil(side);
        let weight = 1.0 / bin.len() as f32;
        row[bin].fill(weight);
    }
    let data = TensorData::new(matrix, [side, n]);
    Tensor::from_data(data, (device, DType::F32))
}
