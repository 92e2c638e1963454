//! Scaled dot-product attention that never builds the whole score matrix.

use burn::tensor::{DType, Tensor, activation, backend::Backend};

use crate::{
    linear::matmul,
    memory::{in_turns, memory_budget, narrow},
    trace::{Operation, note},
};

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at its own and at earlier positions.
    Causal,
}

/// Multi-head attention with scale `1/√d`, heads packed in the last axis.
///
/// Scores beyond the [`memory_budget`](crate::memory_budget) are computed in turns.
///
/// # Shapes
/// `q [b, n, heads·d]`, `k` and `v` `[b', m, heads·d]` → `[b, n, heads·d]`, where `b' = b`, or `b'` divides `b` and
/// every key batch serves `b / b'` consecutive query batches (one text for all frames of a video).
pub fn attention<B: Backend>(
    q: Tensor<B, 3>,
    k: Tensor<B, 3>,
    v: Tensor<B, 3>,
    heads: usize,
    mask: Mask,
) -> Tensor<B, 3> {
    let [b, n, c] = q.dims();
    let [kb, m, _] = k.dims();
    // Consecutive query batches with the same keys are one longer query: nothing is repeated.
    if kb != b {
        let y = attention(q.reshape([kb, b / kb * n, c]), k, v, heads, Mask::None);
        return y.reshape([b, n, c]);
    }
    note(|| Operation::Attention {
        q: [b, n, c],
        m,
        heads,
        mask,
    });
    #[cfg(feature = "flex")]
    let q = match crate::flex::in_f32(q, |q| {
        attention(
            q,
            crate::flex::widen(k.clone()),
            crate::flex::widen(v.clone()),
            heads,
            mask,
        )
    }) {
        Ok(done) => return done,
        Err(q) => q,
    };
    #[cfg(feature = "flex")]
    let q = match crate::flex::try_attention(q, &k, &v, heads, mask) {
        Ok(done) => return done,
        Err(q) => q,
    };
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let q = match mask {
        Mask::None => match crate::cube::try_attention(q, &k, &v, heads) {
            Ok(done) => return done,
            Err(q) => q,
        },
        Mask::Causal => q,
    };
    let d = c / heads;
    let dtype = q.dtype();
    // d^-1/4 on each side: the product of unscaled q and k overflows f16 where it cannot be had in f32.
    let scale = (d as f64).powf(-0.25);
    let split = |x: Tensor<B, 3>, len: usize| x.reshape([b, len, heads, d]).swap_dims(1, 2);
    let q = split(q, n) * scale;
    let k = (split(k, m) * scale).swap_dims(2, 3);
    let v = split(v, m);
    let (batches, queries) = score_block(b, n, heads * m, memory_budget());
    let y = in_turns(q, batches, 0, |q, batch| {
        let count = q.dims()[0];
        let k = narrow(&k, 0, batch, count);
        let v = narrow(&v, 0, batch, count);
        in_turns(q, queries, 2, |q, start| {
            let len = q.dims()[2];
            let scores = matmul(q, k.clone(), DType::F32);
            let scores = match mask {
                Mask::None => scores,
                Mask::Causal => {
                    let hidden =
                        Tensor::<B, 2>::ones([len, m], &scores.device()).triu(start as i64 + 1);
                    scores.mask_fill(hidden.greater_elem(0.5).unsqueeze(), f32::NEG_INFINITY)
                }
            };
            matmul(softmax(scores, dtype), v.clone(), dtype)
        })
    });
    y.swap_dims(1, 2).reshape([b, n, c])
}

/// The weights of scores in f32, in `dtype`.
fn softmax<B: Backend>(scores: Tensor<B, 4>, dtype: DType) -> Tensor<B, 4> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let scores = match crate::cube::try_softmax(scores, dtype) {
        Ok(done) => return done,
        Err(scores) => scores,
    };
    activation::softmax(scores, 3).cast(dtype)
}

/// Batches and queries whose f32 scores, `row` of them per query, fit in `budget` bytes: whole batches, or if not even
/// one does, some queries of one.
fn score_block(batches: usize, queries: usize, row: usize, budget: usize) -> (usize, usize) {
    let rows = budget / (size_of::<f32>() * row).max(1);
    match rows / queries.max(1) {
        0 => (1, rows.max(1)),
        fit => (fit.min(batches), queries),
    }
}

/// Multi-head self-attention along the frame axis, separately for every position.
///
/// # Shapes
/// `q`, `k`, `v` `[b, f, s, heads·d]` → `[b, f, s, heads·d]`
pub fn frame_attention<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    heads: usize,
) -> Tensor<B, 4> {
    #[cfg(feature = "flex")]
    let q = match crate::flex::in_f32(q, |q| {
        frame_attention(
            q,
            crate::flex::widen(k.clone()),
            crate::flex::widen(v.clone()),
            heads,
        )
    }) {
        Ok(done) => return done,
        Err(q) => q,
    };
    #[cfg(feature = "flex")]
    let q = match crate::flex::try_frame_attention(q, &k, &v, heads) {
        Ok(done) => return done,
        Err(q) => q,
    };
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let q = match crate::cube::try_frame_attention(q, &k, &v, heads) {
        Ok(done) => return done,
        Err(q) => q,
    };
    let [b, f, s, c] = q.dims();
    let fold = |x: Tensor<B, 4>| x.swap_dims(1, 2).reshape([b * s, f, c]);
    let y = attention(fold(q), fold(k), fold(v), heads, Mask::None);
    y.reshape([b, s, f, c]).swap_dims(1, 2)
}

#[cfg(test)]
mod tests {
    use super::score_block;

    #[test]
    fn scores_stay_within_the_budget() {
        for budget in [0, 1, 400, 4 << 10, 100_000, 64 << 20, usize::MAX] {
            for (b, n, row) in [
                (1, 1, 1),
                (3, 7, 25),
                (32, 14_080, 70_400),
                (28_160, 16, 80),
            ] {
                let (batches, queries) = score_block(b, n, row, budget);
                assert!((1..=b).contains(&batches) && (1..=n).contains(&queries));
                let bytes = 4 * batches * queries * row;
                assert!(bytes <= budget || (batches, queries) == (1, 1));
                // Nothing is cut smaller than necessary.
                assert!(queries == n || batches == 1 && bytes + 4 * row > budget);
                assert!(batches == b || bytes + 4 * queries * row > budget);
            }
        }
    }
}
