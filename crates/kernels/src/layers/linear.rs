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

    /// The result added to `residual`, in one kernel where there is such.
    ///
    /// # Shapes
    /// `[.., in]`, `residual [.., out]` → `[.., out]`
    pub fn forward_add<const D: usize>(
        &self,
        x: Tensor<B, D>,
        residual: Tensor<B, D>,
    ) -> Tensor<B, D> {
        let bias = self.bias.as_ref().map(|b| b.val());
        crate::linear_add(x, self.weight.val(), bias, residual)
    }

    /// The first half of the result times the GELU of the second, in one kernel where there is such.
    ///
    /// # Shapes
    /// `[a, b, in]` → `[a, b, out / 2]`
    pub fn forward_geglu(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let bias = self.bias.as_ref().map(|b| b.val());
        crate::linear_geglu(x, self.weight.val(), bias)
    }
}
