//! How much memory an intermediate result may take before it is computed in turns.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Tensor, backend::Backend};

static BUDGET: AtomicUsize = AtomicUsize::new(64 << 20);

/// Bytes that one intermediate result may take: the scores of an attention, the hidden values of a feed-forward layer, what
/// a 3×3 convolution on the CPU transforms at a time.
///
/// It is one number for the whole process, 64 MiB unless [`set_memory_budget`] has changed it.
pub fn memory_budget() -> usize {
    BUDGET.load(Ordering::Relaxed)
}

/// Changes [`memory_budget`] for every call that starts from now on. It changes peak memory and speed, not the results.
///
/// There is no lower limit, but the smallest turn is what one query of one image needs over all heads, or one row of a
/// feed-forward layer. The softmax works in copies, so an attention takes up to three times the budget at its peak. On
/// the CPU every thread holds a block of scores of its own, of at most 1 MiB and at most the budget.
pub fn set_memory_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// Bytes of the largest tensor that a GPU backend can hold on a device: what one buffer may have. `None` for other backends.
/// It opens the device.
pub fn largest_tensor<B: Backend>(device: &B::Device) -> Option<u64> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    return crate::cube::largest_tensor::<B>(device);
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    {
        let _ = device;
        None
    }
}

/// Applies `f` to at most `turn` entries of axis `dim` at a time and joins the results along it. `f` also gets the index
/// of the first entry.
pub fn in_turns<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    turn: usize,
    dim: usize,
    mut f: impl FnMut(Tensor<B, D>, usize) -> Tensor<B, D>,
) -> Tensor<B, D> {
    let (len, turn) = (x.dims()[dim], turn.max(1));
    if len <= turn {
        return f(x, 0);
    }
    let part = |start| f(narrow(&x, dim, start, turn.min(len - start)), start);
    let parts = (0..len).step_by(turn).map(part).collect();
    Tensor::cat(parts, dim)
}

/// Part of an axis; the whole of it is not copied.
pub(crate) fn narrow<B: Backend, const D: usize>(
    x: &Tensor<B, D>,
    dim: usize,
    start: usize,
    len: usize,
) -> Tensor<B, D> {
    if x.dims()[dim] == len {
        return x.clone();
    }
    x.clone().narrow(dim, start, len)
}
