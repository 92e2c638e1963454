use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::parameter;
use crate::Padding;

/// 2-D convolution of channels-last images with a square kernel.
#[derive(Module, Debug)]
pub struct Conv2d<B: Backend> {
    /// `[out, in, kernel, kernel]`
    pub weight: Param<Tensor<B, 4>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    stride: usize,
    padding: usize,
}

impl<B: Backend> Conv2d<B> {
    /// A layer with PyTorch's default initialisation.
    pub fn new(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        bias: bool,
        device: &B::Device,
    ) -> Self {
        let bound = 1.0 / ((input * kernel * kernel) as f64).sqrt();
        Self {
            weight: parameter([output, input, kernel, kernel], bound, device),
            bias: bias.then(|| parameter([output], bound, device)),
            stride,
            padding,
        }
    }

    /// # Shapes
    /// `[n, h, w, in]` → `[n, h', w', out]`
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.forward_padded(x, Padding::same(self.padding))
    }

    /// With another padding than the layer's own (the VAE pads only below and on the right).
    pub fn forward_padded(&self, x: Tensor<B, 4>, padding: Padding) -> Tensor<B, 4> {
        let bias = self.bias.as_ref().map(|b| b.val().unsqueeze());
        crate::conv2d(x, self.weight.val(), bias, self.stride, padding)
    }

    /// The result added to `residual`, in one kernel where there is such.
    ///
    /// # Shapes
    /// `x [n, h, w, in]`, `residual [n, h', w', out]` → `[n, h', w', out]`
    pub fn forward_add(&self, x: Tensor<B, 4>, residual: Tensor<B, 4>) -> Tensor<B, 4> {
        let bias = self.bias.as_ref().map(|b| b.val().unsqueeze());
        let padding = Padding::same(self.padding);
        crate::conv2d_add(x, self.weight.val(), bias, self.stride, padding, residual)
    }

    /// Of the image with every pixel doubled in both directions. Only for stride 1 and a padding that keeps the size.
    ///
    /// # Shapes
    /// `[n, h, w, in]` → `[n, 2h, 2w, out]`
    pub fn forward_upsampled(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let bias = self.bias.as_ref().map(|b| b.val());
        crate::upsample_conv2d(x, self.weight.val(), bias)
    }

    /// With `extra` added to the bias, one row for each run of `n / rows` images.
    ///
    /// # Shapes
    /// `x [n, h, w, in]`, `extra [rows, out]` → `[n, h', w', out]`
    pub fn forward_with(&self, x: Tensor<B, 4>, extra: Tensor<B, 2>) -> Tensor<B, 4> {
        let bias = match &self.bias {
            Some(bias) => extra + bias.val().unsqueeze(),
            None => extra,
        };
        let padding = Padding::same(self.padding);
        crate::conv2d(x, self.weight.val(), Some(bias), self.stride, padding)
    }
}

/// Convolution with kernel 3 along the frame axis (`Conv3d` with kernel `(3, 1, 1)` in the reference).
#[derive(Module, Debug)]
pub struct FrameConv<B: Backend> {
    /// `[out, in, 3, 1, 1]`
    pub weight: Param<Tensor<B, 5>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> FrameConv<B> {
    /// A layer with PyTorch's default initialisation.
    pub fn new(input: usize, output: usize, device: &B::Device) -> Self {
        let bound = 1.0 / ((input * 3) as f64).sqrt();
        Self {
            weight: parameter([output, input, 3, 1, 1], bound, device),
            bias: parameter([output], bound, device),
        }
    }

    /// # Shapes
    /// `[b, f, s, in]` → `[b, f, s, out]`
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        crate::frame_conv(x, self.weight.val(), self.bias.val())
    }

    /// The result added to `residual`, in one kernel where there is such.
    ///
    /// # Shapes
    /// `x [b, f, s, in]`, `residual [b, f, s, out]` → `[b, f, s, out]`
    pub fn forward_add(&self, x: Tensor<B, 4>, residual: Tensor<B, 4>) -> Tensor<B, 4> {
        crate::frame_conv_add(x, self.weight.val(), self.bias.val(), residual)
    }
}
