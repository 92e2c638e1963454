//! Layers whose parameters are named and shaped as in PyTorch checkpoints.
//!
//! burn's own layers name and lay out their parameters differently (`gamma`, transposed linear weights); these keep the
//! checkpoint's names, so a module path is a checkpoint key and nothing is renamed or transposed while loading.

mod conv;
mod embedding;
mod linear;
mod norm;

pub use conv::{Conv2d, FrameConv};
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};

use burn::{
    module::{Param, ParamId},
    tensor::{Distribution, Shape, Tensor, backend::Backend},
};

/// A lazily initialised parameter: uniform in `±bound`, or the constant `1` / `0` for a bound of infinity / zero.
///
/// Nothing is allocated until the value is read, so building a module of a billion parameters and then loading it costs
/// no memory for the values that loading replaces.
pub fn parameter<B: Backend, const D: usize>(
    shape: [usize; D],
    bound: f64,
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device: &B::Device, _| match bound {
            0.0 => Tensor::zeros(shape, device),
            b if b.is_infinite() => Tensor::ones(shape, device),
            b => Tensor::random(shape, Distribution::Uniform(-b, b), device),
        },
        device.clone(),
        false,
        Shape::from(shape),
    )
}
