use burn_cubecl::{CubeRuntime, cubecl, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    kernel::Kernel,
    tensors::{addresses, empty, units, width},
};

/// One launch.
pub(super) fn patches<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    // Part of each frame is read in place.
    let x = match x.meta.strides()[3] {
        1 => x,
        _ => into_contiguous(x),
    };
    let shape = x.meta.shape().clone();
    let (f, s, c) = (shape[1], shape[2], shape[3]);
    let strides = x.meta.strides().clone();
    let lanes = width(&[&x], &[c, strides[0], strides[1], strides[2]]);
    let count = shape.num_elements() / lanes;
    let y = empty(&x, Kernel::FramePatches.output(&[&shape]), x.dtype);
    let client = x.client.clone();
    let (cube_count, cube_dim) = units(&client, count);
    // SAFETY: every unit reads values of `x` at valid positions, and writes three of `y`; units beyond the last value end at
    // once.
    unsafe {
        gather::launch_unchecked(
            &client,
            cube_count,
            cube_dim,
            addresses(&[&x, &y]),
            lanes,
            x.clone().into_tensor_arg(),
            y.clone().into_tensor_arg(),
            count,
            f,
            s,
            strides[0] / lanes,
            strides[1] / lanes,
            strides[2] / lanes,
            c / lanes,
            x.dtype.into(),
        );
    }
    y
}

/// Each unit reads a vector of channels in three frames and writes them with the frames innermost.
#[cube(launch_unchecked, address_type = "dynamic")]
fn gather<T: Float, N: Size>(
    x: &Tensor<Vector<T, N>>,
    y: &mut Tensor<Vector<T, N>>,
    count: usize,
    f: usize,
    s: usize,
    batch_stride: usize,
    frame_stride: usize,
    place_stride: usize,
    #[comptime] channels: usize,
    #[define(T)] _dtype: StorageType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let channel = ABSOLUTE_POS % channels;
    let row = ABSOLUTE_POS / channels;
    let place = row % s;
    let frame = row / s % f;
    let batch = row / s / f;
    let at = batch * batch_stride + frame * frame_stride + place * place_stride + channel;

    let now = x[at];
    let mut before = Vector::<T, N>::new(T::new(0.0));
    let mut after = Vector::<T, N>::new(T::new(0.0));
    if frame > 0 {
        before = x[at - frame_stride];
    }
    if frame + 1 < f {
        after = x[at + frame_stride];
    }
    let lanes = now.size();
    let parts = comptime!(3usize);
    #[unroll]
    for part in 0..parts {
        let mut out = Vector::<T, N>::empty();
        #[unroll]
        for lane in 0..lanes {
            let index = comptime!(part * lanes + lane);
            let from = comptime!(index / 3);
            if comptime!(index % 3 == 0) {
                out[lane] = before[from];
            } else if comptime!(index % 3 == 1) {
                out[lane] = now[from];
            } else {
                out[lane] = after[from];
            }
        }
        y[ABSOLUTE_POS * 3 + part] = out;
    }
}
