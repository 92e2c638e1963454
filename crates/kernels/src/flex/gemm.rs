//! Matrix products: a safe front of the `gemm` crate, and the choice of the matrix unit.

use burn::tensor::{DType, bf16, f16};
use burn_flex::FlexTensor;
use gemm::Parallelism;

use super::amx;
pub(super) use super::amx::Value;

/// A matrix inside a slice: element `(i, j)` is at `i · row + j · column`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// Index of the last element of an `m × n` matrix with these strides.
fn last(m: usize, n: usize, row: usize, column: usize) -> usize {
    (m - 1) * row + (n - 1) * column
}

/// `dst = (dst if accumulate) + factor · lhs · rhs` for `m × k` times `k × n`; rows of `dst` are `dst_row` apart.
///
/// # Panics
/// If a matrix does not lie within its slice.
#[allow(clippy::too_many_arguments)]
pub(super) fn product(
    [m, k, n]: [usize; 3],
    dst: &mut [f32],
    dst_row: usize,
    accumulate: bool,
    factor: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Parallelism,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(last(m, n, dst_row, 1) < dst.len());
    assert!(last(m, k, lhs.row, lhs.column) < lhs.data.len());
    assert!(last(k, n, rhs.row, rhs.column) < rhs.data.len());
    // SAFETY: all three matrices lie within their slices (checked above), and `dst` is borrowed mutably, so it overlaps
    // neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_row as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.column as isize,
            lhs.row as isize,
            rhs.data.as_ptr(),
            rhs.column as isize,
            rhs.row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            threads,
        );
    }
}

/// As many threads as rayon has, if the product is worth it.
pub(super) fn threads(m: usize, k: usize, n: usize) -> Parallelism {
    if m * k * n > 1 << 18 {
        Parallelism::Rayon(0)
    } else {
        Parallelism::None
    }
}

/// Whether [`gathered`] is the way to compute a product of this size: there is a matrix unit, and it pays to pack for it.
pub(super) fn gathers(m: usize, k: usize, n: usize) -> bool {
    m >= 8 && n >= 8 && m * k * n > 1 << 18 && amx::available()
}

/// `y += rows · weightᵀ` for `m` rows of length `k` and a contiguous weight of `n · k` values in f32, f16 or bf16; `rows(i,
/// start, part)` fills `part` with row `i` from column `start` on. Only for sizes that [`gathers`] accepts, and rows of bf16
/// only with a weight of bf16.
pub(super) fn gathered<X: Value>(
    size: [usize; 3],
    y: &mut [f32],
    rows: impl Fn(usize, usize, &mut [X]) + Sync,
    weight: &FlexTensor,
) {
    match weight.dtype() {
        DType::F16 => amx::product(size, y, &rows, weight.storage::<f16>()),
        DType::BF16 => amx::product(size, y, &rows, weight.storage::<bf16>()),
        _ => amx::product(size, y, &rows, weight.storage::<f32>()),
    }
}
