//! Weights for a benchmark.

use burn::{
    module::{ModuleMapper, Param},
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_kernels::takes_half_weights;

/// Random values in the precision that is asked for, tensor by tensor; in f32 such as come from a checkpoint in f16, and kept as
/// the loader keeps them. They lie in memory as those of a checkpoint do, a convolution's with the input channels last.
pub(crate) struct Cast {
    dtype: DType,
    in_layer: bool,
}

impl Cast {
    pub(crate) fn to(dtype: DType) -> Self {
        Self {
            dtype,
            in_layer: false,
        }
    }
}

impl<B: Backend> ModuleMapper<B> for Cast {
    fn enter_module(&mut self, _: &str, container: &str) {
        let layers = ["Struct:Linear", "Struct:Conv2d", "Struct:FrameConv"];
        self.in_layer = layers.contains(&container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let x = param.val();
        let half = match B::supports_dtype(&param.lazy_device(), DType::F16) {
            true => DType::F16,
            false => self.dtype,
        };
        let narrow = self.dtype == DType::F32 && takes_half_weights::<B>();
        let dtype = match narrow && self.in_layer && D > 1 {
            true => half,
            false => self.dtype,
        };
        let x = if D < 4 {
            x.cast(half).cast(dtype)
        } else {
            let mut last: [isize; D] = std::array::from_fn(|axis| axis as isize);
            last[1..].rotate_left(1);
            let mut second: [isize; D] = std::array::from_fn(|axis| axis as isize);
            second[1..].rotate_right(1);
            let data = x.permute(last).cast(half).into_data();
            let x = Tensor::<B, D>::from_data(data, (&param.lazy_device(), half));
            x.cast(dtype).permute(second)
        };
        Param::initialized(param.id, x)
    }
}
