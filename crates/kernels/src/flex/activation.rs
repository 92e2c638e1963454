use burn::tensor::{DType, Tensor, backend::Backend, bf16};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    GRAIN, eligible, from_vec, half::add_bf16, is_flex, math, unwrap, values, wrap, zeros,
};

/// Applies `kernel` to the values, in place when nobody else holds them.
pub(crate) fn try_unary<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    kernel: fn(&mut [f32]),
) -> Result<Tensor<B, D>, Tensor<B, D>> {
    if !eligible(&x) {
        return Err(x);
    }
    let mut x = unwrap(x);
    x.storage_mut::<f32>()
        .par_chunks_mut(GRAIN)
        .for_each(kernel);
    Ok(wrap(x))
}

/// In place of an operand that nobody else holds.
pub(crate) fn try_add<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    y: Tensor<B, D>,
) -> Result<Tensor<B, D>, [Tensor<B, D>; 2]> {
    let dtypes = [x.dtype(), y.dtype()];
    let same = [[DType::F32; 2], [DType::BF16; 2]].contains(&dtypes);
    if !is_flex::<B>() || !same || x.dims() != y.dims() {
        return Err([x, y]);
    }
    let dims = x.dims();
    let (x, y) = (unwrap(x), unwrap(y));
    let (mut x, y) = if x.is_unique() { (x, y) } else { (y, x) };
    if dtypes[0] == DType::BF16 {
        // Of a shared tensor this makes a copy.
        x.storage_mut::<bf16>()
            .par_chunks_mut(GRAIN)
            .zip(y.storage::<bf16>().par_chunks(GRAIN))
            .for_each(|(x, y)| add_bf16(x, y));
        return Ok(wrap(x));
    }
    if x.is_unique() {
        x.storage_mut::<f32>()
            .par_chunks_mut(GRAIN)
            .zip(values(&y).par_chunks(GRAIN))
            .for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
        return Ok(wrap(x));
    }
    let mut sum = zeros(dims.iter().product());
    sum.par_chunks_mut(GRAIN)
        .zip(values(&x).par_chunks(GRAIN))
        .zip(values(&y).par_chunks(GRAIN))
        .for_each(|((sum, x), y)| {
            sum.iter_mut()
                .zip(x)
                .zip(y)
                .for_each(|((sum, x), y)| *sum = x + y);
        });
    Ok(from_vec(sum, dims))
}

pub(crate) fn try_geglu<B: Backend>(x: Tensor<B, 3>) -> Result<Tensor<B, 3>, Tensor<B, 3>> {
    if !eligible(&x) {
        return Err(x);
    }
    let [b, n, c2] = x.dims();
    let c = c2 / 2;
    let x = unwrap(x);
    let mut y = zeros(b * n * c);
    let rows = GRAIN.div_ceil(c2);
    y.par_chunks_mut(rows * c)
        .zip(values(&x).par_chunks(rows * c2))
        .for_each(|(y, x)| geglu(y, x, c));
    Ok(from_vec(y, [b, n, c]))
}

#[multiversion(targets = "simd")]
pub(crate) fn silu(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = math::silu(*x));
}

#[multiversion(targets = "simd")]
pub(crate) fn gelu(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = math::gelu(*x));
}

#[multiversion(targets = "simd")]
fn geglu(y: &mut [f32], x: &[f32], c: usize) {
    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(2 * c)) {
        let (value, gate) = x.split_at(c);
        for ((y, value), gate) in y.iter_mut().zip(value).zip(gate) {
            *y = value * math::gelu(*gate);
        }
    }
}
