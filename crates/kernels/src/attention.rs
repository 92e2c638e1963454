//! Scaled dot-product attention that never builds the whole score matrix.

use burn::tensor::{DType, Tensor, activation, backend::Backend};

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at its own and at earlier positions.
    Causal,
}

/// Largest score block, in elements, that the composed form builds at once (64 MiB in f32).
const SCORE_BUDGET: usize = 16 << 20;

/// Multi-head attention with scale `1/√d`, heads packed in the last axis.
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
    #[cfg(feature = "flex")]
    let q = match crate::flex::try_attention(q, &k, &v, heads, mask) {
        Ok(done) => return done,
        Err(q) => q,
    };
    let d = c / heads;
    let dtype = q.dtype();
    // d^-1/4 on each side: in f16 the product of unscaled q and k overflows.
    let scale = (d as f64).powf(-0.25);
    let split = |x: Tensor<B, 3>, len: usize| x.reshape([b, len, heads, d]).swap_dims(1, 2);
    let q = split(q, n) * scale;
    let k = (split(k, m) * scale).swap_dims(2, 3);
    let v = split(v, m);
    let chunk = (SCORE_BUDGET / (b * heads * m)).clamp(1, n);
    let mut parts = Vec::with_capacity(n.div_ceil(chunk));
    for start in (0..n).step_by(chunk) {
        let len = chunk.min(n - start);
        let scores = q.clone().narrow(2, start, len).matmul(k.clone());
        let scores = match mask {
            Mask::None => scores,
            Mask::Causal => {
                let hidden =
                    Tensor::<B, 2>::ones([len, m], &scores.device()).triu(start as i64 + 1);
                scores.mask_fill(hidden.greater_elem(0.5).unsqueeze(), f32::NEG_INFINITY)
            }
        };
        let weights = activation::softmax(scores.cast(DType::F32), 3).cast(dtype);
        parts.push(weights.matmul(v.clone()));
    }
    Tensor::cat(parts, 2).swap_dims(1, 2).reshape([b, n, c])
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
    let q = match crate::flex::try_frame_attention(q, &k, &v, heads) {
        Ok(done) => return done,
        Err(q) => q,
    };
    let [b, f, s, c] = q.dims();
    let fold = |x: Tensor<B, 4>| x.swap_dims(1, 2).reshape([b * s, f, c]);
    let y = attention(fold(q), fold(k), fold(v), heads, Mask::None);
    y.reshape([b, s, f, c]).swap_dims(1, 2)
}
