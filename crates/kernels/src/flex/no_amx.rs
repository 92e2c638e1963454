//! Processors without a matrix unit that we know.

use burn::tensor::{bf16, f16};
use bytemuck::Pod;

pub(super) trait Value: Pod + Sync {}

impl Value for f32 {}
impl Value for f16 {}
impl Value for bf16 {}

pub(super) fn available() -> bool {
    false
}

pub(super) fn product<X, W>(
    _: [usize; 3],
    _: &mut [f32],
    _: &(dyn Fn(usize, usize, &mut [X]) + Sync),
    _: &[W],
) {
    unreachable!("only called when available")
}
