use burn::tensor::{Tensor, backend::Backend};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{GRAIN, eligible, from_vec, math, unwrap, values, wrap};

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

pub(crate) fn try_geglu<B: Backend>(x: Tensor<B, 3>) -> Result<Tensor<B, 3>, Tensor<B, 3>> {
    if !eligible(&x) {
        return Err(x);
    }
    let [b, n, c2] = x.dims();
    let c = c2 / 2;
    let x = unwrap(x);
    let mut y = vec![0.0; b * n * c];
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
