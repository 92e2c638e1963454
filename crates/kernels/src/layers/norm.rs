use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::parameter;

/// Group normalisation of a channels-last tensor.
#[derive(Module, Debug)]
pub struct GroupNorm<B: Backend> {
    /// `[channels]`
    pub weight: Param<Tensor<B, 1>>,
    /// `[channels]`
    pub bias: Param<Tensor<B, 1>>,
    groups: usize,
    eps: f64,
}

impl<B: Backend> GroupNorm<B> {
    /// A layer that only normalises, until weights are loaded.
    pub fn new(groups: usize, channels: usize, eps: f64, device: &B::Device) -> Self {
        Self {
            weight: parameter([channels], f64::INFINITY, device),
            bias: parameter([channels], 0.0, device),
            groups,
            eps,
        }
    }

    /// # Shapes
    /// `[n, .., channels]` → the same; statistics over everything between the first and the last axis.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        self.run(x, false)
    }

    /// The same, followed by SiLU in one pass.
    pub fn forward_silu<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        self.run(x, true)
    }

    fn run<const D: usize>(&self, x: Tensor<B, D>, silu: bool) -> Tensor<B, D> {
        let dims = x.dims();
        let positions = dims[1..D - 1].iter().product::<usize>();
        let x = x.reshape([dims[0], positions, dims[D - 1]]);
        let (weight, bias) = (self.weight.val(), self.bias.val());
        crate::group_norm(x, weight, bias, self.groups, self.eps, silu).reshape(dims)
    }
}

/// Layer normalisation of the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm<B: Backend> {
    /// `[dim]`
    pub weight: Param<Tensor<B, 1>>,
    /// `[dim]`
    pub bias: Param<Tensor<B, 1>>,
    eps: f64,
}

impl<B: Backend> LayerNorm<B> {
    /// A layer that only normalises, until weights are loaded.
    pub fn new(dim: usize, eps: f64, device: &B::Device) -> Self {
        Self {
            weight: parameter([dim], f64::INFINITY, device),
            bias: parameter([dim], 0.0, device),
            eps,
        }
    }

    /// # Shapes
    /// `[.., dim]` → the same
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let dims = x.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
        let x = x.reshape([rows, dims[D - 1]]);
        crate::layer_norm(x, self.weight.val(), self.bias.val(), self.eps).reshape(dims)
    }
}
