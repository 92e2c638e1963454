//! Processors without a matrix unit that we know.

pub(super) fn available() -> bool {
    false
}

pub(super) fn product(
    _: [usize; 3],
    _: &mut [f32],
    _: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
    _: &[f32],
) {
    unreachable!("only called when available")
}
