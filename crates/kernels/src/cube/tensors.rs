//! Tensors and sizes of launches as the kernels need them.

use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, cubecl, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::AddressType, prelude::*};

/// Units of a cube; every GPU runs that many.
pub(super) const UNITS: usize = 256;

/// A tensor whose rows (its last axis) are contiguous and lie one after the other, and the distance of two rows. CUDA's
/// tensors have unused values after each row, so that a contiguous copy of each would be made for nothing.
pub(super) fn in_rows<R: CubeRuntime>(x: CubeTensor<R>) -> (CubeTensor<R>, usize) {
    let pitch = |x: &CubeTensor<R>| {
        let (shape, strides) = (x.meta.shape(), x.meta.strides());
        let last = shape.num_dims() - 1;
        let mut outer = (0..last).rev().filter(|axis| shape[*axis] > 1);
        let first = outer.next();
        let pitch = first.map_or(shape[last], |axis| strides[axis]);
        let mut expected = first.map_or(0, |axis| pitch * shape[axis]);
        for axis in outer {
            if strides[axis] != expected {
                return None;
            }
            expected *= shape[axis];
        }
        (strides[last] == 1 && pitch >= shape[last]).then_some(pitch)
    };
    match pitch(&x) {
        Some(pitch) => (x, pitch),
        None => {
            let x = into_contiguous(x);
            let shape = x.meta.shape();
            let pitch = shape[shape.num_dims() - 1];
            (x, pitch)
        }
    }
}

/// A tensor whose last axis is contiguous and whose other strides are whole vectors of `lanes` values, and those strides,
/// counted in vectors.
pub(super) fn in_lines<R: CubeRuntime>(
    x: CubeTensor<R>,
    lanes: usize,
) -> (CubeTensor<R>, Vec<usize>) {
    let last = x.meta.shape().num_dims() - 1;
    let fits = |x: &CubeTensor<R>| {
        let strides = x.meta.strides();
        strides[last] == 1 && strides[..last].iter().all(|s| s.is_multiple_of(lanes))
    };
    let x = match fits(&x) {
        true => x,
        false => into_contiguous(x),
    };
    // A single channel has to be a whole vector, too.
    let strides = x.meta.strides()[..last].iter().map(|s| s / lanes).collect();
    (x, strides)
}

/// A new contiguous tensor beside `like`.
pub(super) fn empty<R: CubeRuntime>(
    like: &CubeTensor<R>,
    shape: Shape,
    dtype: DType,
) -> CubeTensor<R> {
    burn_cubecl::ops::numeric::empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape,
        dtype,
    )
}

/// The most values that one unit may read at once: what the device does well, and every one of `multiples` is a multiple of.
pub(super) fn width<R: CubeRuntime>(tensors: &[&CubeTensor<R>], multiples: &[usize]) -> usize {
    let widest = |x: &&CubeTensor<R>| {
        let mut sizes = x.client.io_optimized_vector_sizes(x.dtype.size());
        sizes.find(|size| multiples.iter().all(|n| n.is_multiple_of(*size)))
    };
    tensors.iter().filter_map(widest).min().unwrap_or(1)
}

/// Integers wide enough for the index of any value.
pub(super) fn addresses<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> AddressType {
    let types = tensors.iter().map(|x| x.required_address_type());
    types.max().unwrap_or_default()
}

/// A launch of at least `units` units.
pub(super) fn units<R: CubeRuntime>(
    client: &ComputeClient<R>,
    units: usize,
) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, units);
    (
        cubecl::calculate_cube_count_elemwise(client, units, dim),
        dim,
    )
}

/// A launch of at least `cubes` cubes.
pub(super) fn cubes<R: CubeRuntime>(client: &ComputeClient<R>, cubes: usize) -> CubeCount {
    cubecl::calculate_cube_count_elemwise(client, cubes, CubeDim::new_single())
}
