use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::parameter;

/// Affine map of the last axis.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[out, in]`
    pub weight: Param<Tensor<B, 2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Linear<B> {
    /// A layer with PyTorch's default initialisation.
    pub fn new(input: usize, output: usize, bias: bool, device: &B::Device) -> Self {
        let bound = 1.0 / (input as f64).sqrt();
        Self {
            weight: parameter([output, input], bound, device),
            bias: bias.then(|| parameter([output], bound, device)),
        }
    }

    /// # Shapes
    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        crate::linear(x, self.weight.val(), self.bias.as_ref().map(|b| b.val()))
    }
}
