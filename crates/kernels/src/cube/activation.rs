use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    kernel::Kernel,
    tensors::{addresses, empty, in_rows, units, width},
};

/// One launch.
pub(super) fn geglu<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    let (x, pitch) = in_rows(x);
    let shape = Kernel::Geglu.output(&[x.meta.shape()]);
    let c = shape[shape.num_dims() - 1];
    let lanes = width(&[&x], &[c, pitch]);
    let count = shape.num_elements() / lanes;
    let y = empty(&x, shape, x.dtype);
    let client = x.client.clone();
    let (cube_count, cube_dim) = units(&client, count);
    // SAFETY: a row of `x` has twice the channels of `y`; units beyond the last value end at once.
    unsafe {
        gate::launch_unchecked(
            &client,
            cube_count,
            cube_dim,
            addresses(&[&x]),
            lanes,
            x.clone().into_tensor_arg(),
            y.clone().into_tensor_arg(),
            count,
            pitch / lanes,
            c / lanes,
            x.dtype.into(),
        );
    }
    y
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gate<T: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    y: &mut Tensor<Vector<T, N>>,
    count: usize,
    pitch: usize,
    #[comptime] channels: usize,
    #[define(T)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let at = ABSOLUTE_POS / channels * pitch + ABSOLUTE_POS % channels;
    let value = Vector::<f32, N>::cast_from(x[at]);
    let gate = Vector::<f32, N>::cast_from(x[at + channels]);
    y[ABSOLUTE_POS] = Vector::<T, N>::cast_from(value * gelu(gate));
}

/// `x · Φ(x)`, `Φ(x) = erfc(−x/√2) / 2`. The tail is computed as such, not as a difference from 1, and alike on all devices:
/// WGSL has no error function of its own.
#[cube]
pub(super) fn gelu<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0);
    let tail = half_erfc(x.abs() * Vector::<f32, N>::new(0.707_106_77));
    let positive = x.greater_than(Vector::<f32, N>::new(0.0));
    x * select_many(positive, one - tail, tail)
}

/// `erfc(z) / 2` for `z ≥ 0`, with a relative error below 2e-7 (Chebyshev fit in Numerical Recipes, 6.2).
#[cube]
fn half_erfc<N: Size>(z: Vector<f32, N>) -> Vector<f32, N> {
    // Beyond it the result is 0 in f32.
    let z = min(z, Vector::<f32, N>::new(9.0));
    let one = Vector::<f32, N>::new(1.0);
    let t = one / (one + z * Vector::<f32, N>::new(0.5));
    let p = Vector::<f32, N>::new(0.170_872_77);
    let p = p * t + Vector::<f32, N>::new(-0.822_152_23);
    let p = p * t + Vector::<f32, N>::new(1.488_515_9);
    let p = p * t + Vector::<f32, N>::new(-1.135_204);
    let p = p * t + Vector::<f32, N>::new(0.278_868_07);
    let p = p * t + Vector::<f32, N>::new(-0.186_288_06);
    let p = p * t + Vector::<f32, N>::new(0.096_784_18);
    let p = p * t + Vector::<f32, N>::new(0.374_091_96);
    let p = p * t + Vector::<f32, N>::new(1.000_023_7);
    let p = p * t + Vector::<f32, N>::new(-1.265_512_2);
    t * (p - z * z).exp() * Vector::<f32, N>::new(0.5)
}
