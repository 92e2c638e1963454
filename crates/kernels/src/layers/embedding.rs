use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, backend::Backend},
};

use super::parameter;

/// A table of vectors, looked up by index.
#[derive(Module, Debug)]
pub struct Embedding<B: Backend> {
    /// `[count, dim]`
    pub weight: Param<Tensor<B, 2>>,
}

impl<B: Backend> Embedding<B> {
    /// A table with random entries.
    pub fn new(count: usize, dim: usize, device: &B::Device) -> Self {
        Self {
            weight: parameter([count, dim], 0.02, device),
        }
    }

    /// # Shapes
    /// `[b, n]` → `[b, n, dim]`
    pub fn forward(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let [b, n] = ids.dims();
        let weight = self.weight.val();
        let [_, dim] = weight.dims();
        weight.select(0, ids.reshape([b * n])).reshape([b, n, dim])
    }
}
