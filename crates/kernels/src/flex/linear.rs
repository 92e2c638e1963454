use burn::tensor::{DType, Element, Tensor, backend::Backend, bf16};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    from_vec,
    gemm::{Matrix, Value, gathered, gathers, product, threads},
    half::round,
    is_flex, unwrap, values, widen, zeros,
};

pub(crate) fn try_linear<B: Backend>(
    x: Tensor<B, 2>,
    weight: &Tensor<B, 2>,
    bias: Option<&Tensor<B, 1>>,
) -> Result<Tensor<B, 2>, Tensor<B, 2>> {
    let [rows, input] = x.dims();
    let [out, _] = weight.dims();
    let dtype = x.dtype();
    let Some(weight) = usable(&x, weight, gathers(rows, input, out)) else {
        return Err(x);
    };
    let (x, weight) = (unwrap(x), unwrap(weight));
    let mut y = zeros(rows * out);
    if let Some(bias) = bias {
        fill_rows(&mut y, values(&unwrap(widen(bias.clone()))));
    }
    if gathers(rows, input, out) {
        let size = [rows, input, out];
        match dtype {
            DType::BF16 => gathered(size, &mut y, lines::<bf16>(&x, input), &weight),
            _ => gathered(size, &mut y, lines::<f32>(&x, input), &weight),
        }
        return Ok(round(from_vec(y, [rows, out]), dtype));
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

/// The weight to multiply `x` with, if the kernels can: in f32, but for [`gathered`], which splits any, as it is kept. Values
/// of bf16 stay what they are only there.
pub(super) fn usable<B: Backend, const D: usize, const E: usize>(
    x: &Tensor<B, D>,
    weight: &Tensor<B, E>,
    gathered: bool,
) -> Option<Tensor<B, E>> {
    let weight = weight.clone();
    match (x.dtype(), weight.dtype()) {
        _ if !is_flex::<B>() => None,
        (DType::F32, DType::F32) => Some(weight),
        (DType::F32, DType::F16 | DType::BF16) if gathered => Some(weight),
        (DType::F32, DType::F16 | DType::BF16) => Some(widen(weight)),
        (DType::BF16, DType::BF16) if gathered => Some(weight),
        _ => None,
    }
}

/// The lines of a contiguous matrix.
fn lines<T: Value + Element>(
    x: &FlexTensor,
    width: usize,
) -> impl Fn(usize, usize, &mut [T]) + Sync {
    let x = x.storage::<T>();
    move |i, start, part| part.copy_from_slice(&x[i * width + start..][..part.len()])
}

/// Writes `row` into every row of `y`.
pub(super) fn fill_rows(y: &mut [f32], row: &[f32]) {
    let many = row.len() * 64;
    y.par_chunks_mut(many).for_each(|y| {
        y.chunks_exact_mut(row.len())
            .for_each(|y| y.copy_from_slice(row));
    });
}
