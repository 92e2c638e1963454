use burn::tensor::{Tensor, backend::Backend};
use rayon::prelude::*;

use super::{
    eligible, from_vec,
    gemm::{Matrix, gathered, gathers, product, threads},
    unwrap, values, zeros,
};

pub(crate) fn try_linear<B: Backend>(
    x: Tensor<B, 2>,
    weight: &Tensor<B, 2>,
    bias: Option<&Tensor<B, 1>>,
) -> Result<Tensor<B, 2>, Tensor<B, 2>> {
    if !eligible(&x) || !eligible(weight) {
        return Err(x);
    }
    let [rows, input] = x.dims();
    let [out, _] = weight.dims();
    let (x, weight) = (unwrap(x), unwrap(weight.clone()));
    let mut y = zeros(rows * out);
    if let Some(bias) = bias {
        fill_rows(&mut y, values(&unwrap(bias.clone())));
    }
    if gathers(rows, input, out) {
        let x = values(&x);
        let row = |i: usize, start: usize, part: &mut [f32]| {
            part.copy_from_slice(&x[i * input + start..][..part.len()]);
        };
        gathered([rows, input, out], &mut y, row, values(&weight));
        return Ok(from_vec(y, [rows, out]));
    }
    product(
        [rows, input, out],
        &mut y,
        out,
        bias.is_some(),
        1.0,
        Matrix {
            data: values(&x),
            row: input,
            column: 1,
        },
        Matrix {
            data: values(&weight),
            row: 1,
            column: input,
        },
        threads(rows, input, out),
    );
    Ok(from_vec(y, [rows, out]))
}

/// Writes `row` into every row of `y`.
pub(super) fn fill_rows(y: &mut [f32], row: &[f32]) {
    let many = row.len() * 64;
    y.par_chunks_mut(many).for_each(|y| {
        y.chunks_exact_mut(row.len())
            .for_each(|y| y.copy_from_slice(row));
    });
}
