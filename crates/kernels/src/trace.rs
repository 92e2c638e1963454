//! Which operations a computation consists of.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{Mask, Padding};

/// One call of an operation that has many implementations on a GPU, chosen by its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`conv2d`](crate::conv2d)
    Conv2d {
        /// `[n, h, w, in]`
        x: [usize; 4],
        /// `[out, in, kh, kw]`
        weight: [usize; 4],
        /// Rows of the bias.
        bias: Option<usize>,
        /// In both directions.
        stride: usize,
        /// With zeros.
        padding: Padding,
        /// Whether something is added to the result.
        residual: bool,
    },
    /// [`frame_conv`](crate::frame_conv)
    FrameConv {
        /// `[b, f, s, in]`
        x: [usize; 4],
        /// Channels of the result.
        out: usize,
        /// Whether something is added to the result.
        residual: bool,
    },
    /// [`linear`](crate::linear)
    Linear {
        /// `[rows, in]`
        x: [usize; 2],
        /// Channels of the result.
        out: usize,
        /// Whether there is one.
        bias: bool,
        /// What is done with the result.
        end: End,
    },
    /// [`attention`](crate::attention), also that of [`frame_attention`](crate::frame_attention) where it is composed
    Attention {
        /// `[b, n, heads·d]`
        q: [usize; 3],
        /// Keys.
        m: usize,
        /// Heads in the last axis.
        heads: usize,
        /// Which keys a query sees.
        mask: Mask,
    },
}

/// What follows on a linear layer in the same kernel, where a backend has such kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Nothing.
    None,
    /// An addition: [`linear_add`](crate::linear_add).
    Residual,
    /// The gate: [`linear_geglu`](crate::linear_geglu).
    Geglu,
}

static ACTIVE: AtomicBool = AtomicBool::new(false);
static SEEN: Mutex<BTreeSet<Operation>> = Mutex::new(BTreeSet::new());

/// Notes an operation, if someone listens.
pub(crate) fn note(operation: impl FnOnce() -> Operation) {
    if ACTIVE.load(Ordering::Relaxed) {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(operation());
    }
}

/// Runs `f`, and lists the distinct operations that the process computes meanwhile. One at a time.
pub fn trace<T>(f: impl FnOnce() -> T) -> (T, Vec<Operation>) {
    let take = || std::mem::take(&mut *SEEN.lock().unwrap_or_else(PoisonError::into_inner));
    take();
    ACTIVE.store(true, Ordering::Relaxed);
    let result = f();
    ACTIVE.store(false, Ordering::Relaxed);
    (result, take().into_iter().collect())
}
