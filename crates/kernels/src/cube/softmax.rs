use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};
use cubecl::prelude::*;

use super::tensors::{UNITS, addresses, cubes, empty, in_rows};

/// Units for one row.
const ROW_UNITS: usize = 32;

/// Of the last axis of f32 scores. One launch, several rows in each cube.
pub(super) fn softmax<R: CubeRuntime>(scores: CubeTensor<R>, dtype: DType) -> CubeTensor<R> {
    let (x, pitch) = in_rows(scores);
    let shape = x.meta.shape().clone();
    let m = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / m;
    let y = empty(&x, shape, dtype);
    let client = x.client.clone();
    // SAFETY: indices stay below the shapes; rows beyond the last are not touched.
    unsafe {
        softmax_rows::launch_unchecked(
            &client,
            cubes(&client, rows.div_ceil(UNITS / ROW_UNITS)),
            CubeDim::new_1d(UNITS as u32),
            addresses(&[&x, &y]),
            x.clone().into_tensor_arg(),
            y.clone().into_tensor_arg(),
            rows,
            m,
            pitch,
            dtype.into(),
        );
    }
    y
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn softmax_rows<T: Float>(
    x: &Tensor<f32>,
    y: &mut Tensor<T>,
    rows: usize,
    m: usize,
    pitch: usize,
    #[define(T)] _dtype: StorageType,
) {
    let unit = UNIT_POS as usize;
    let position = unit % ROW_UNITS;
    let row = CUBE_POS * comptime!(UNITS / ROW_UNITS) + unit / ROW_UNITS;
    let here = row < rows;

    let mut top = f32::new(-1e30);
    let mut sum = f32::new(0.0);
    if here {
        let mut at = position;
        while at < m {
            let score = x[row * pitch + at];
            let higher = max(top, score);
            sum = sum * (top - higher).exp() + (score - higher).exp();
            top = higher;
            at += ROW_UNITS;
        }
    }
    let mut shared = SharedMemory::<f32>::new(comptime!(2 * UNITS));
    shared[unit] = top;
    shared[UNITS + unit] = sum;
    sync_cube();
    let mut left = ROW_UNITS.runtime();
    while left > 1 {
        left /= 2;
        if position < left {
            let other = shared[unit + left];
            let higher = max(shared[unit], other);
            shared[UNITS + unit] = shared[UNITS + unit] * (shared[unit] - higher).exp()
                + shared[UNITS + unit + left] * (other - higher).exp();
            shared[unit] = higher;
        }
        sync_cube();
    }
    if here {
        let top = shared[unit - position];
        let share = f32::new(1.0) / shared[UNITS + unit - position];
        let mut at = position;
        while at < m {
            y[row * m + at] = T::cast_from((x[row * pitch + at] - top).exp() * share);
            at += ROW_UNITS;
        }
    }
}
