//! What kernels on the matrix units have in common: products of 16×16 with 16×8 values of half precision, added up in f32, their
//! operands loaded from shared memory (PTX, `mma.m16n8k16` and `ldmatrix`).
//!
//! What lane `l` holds of a product's 16×8 result: columns `2·(l % 4)` and the next, in row `l / 4` and in the row 8 below. Two such
//! results side by side are laid out as the left operand of the next product.

use burn_cubecl::{CubeRuntime, cubecl};
use cubecl::{
    cmma::MmaDefinition,
    features::MmaConfig,
    ir::{ElemType, FloatKind, MatrixIdent, StorageType},
    prelude::*,
};

/// Units of a plane; the kernels are for devices where every plane has that many.
pub(super) const LANES: usize = 32;
/// Planes of a cube.
pub(super) const PLANES: usize = 4;
/// Units of a cube.
pub(super) const UNITS: usize = LANES * PLANES;
/// Rows of one product.
pub(super) const ROWS: usize = 16;
/// Values of half precision that are read at once.
pub(super) const WIDTH: usize = 8;

/// Whether the kernels can run on a device: one with matrix units that planes of 32 use, and with the instruction that loads
/// their operands from shared memory.
pub(super) fn runs_on<R: CubeRuntime>(client: &ComputeClient<R>, value: StorageType) -> bool {
    let (properties, sum) = (client.properties(), ElemType::Float(FloatKind::F32));
    let hardware = &properties.hardware;
    let product = MmaConfig {
        a_type: value,
        b_type: value,
        cd_type: sum.into(),
        m: ROWS as u32,
        n: 8,
        k: 16,
    };
    let features = &properties.features.matmul;
    hardware.plane_size_min as usize == LANES
        && hardware.plane_size_max as usize == LANES
        && features.mma.contains(&product)
        && features.ldmatrix.contains(&value)
}

/// One product's result before the first.
#[cube]
pub(super) fn zeros() -> Array<Vector<f32, Const<2>>> {
    let mut values = Array::<Vector<f32, Const<2>>>::new(2usize);
    values[0] = Vector::<f32, Const<2>>::new(0.0);
    values[1] = Vector::<f32, Const<2>>::new(0.0);
    values
}

/// One of the two right operands that were loaded at once.
#[cube]
pub(super) fn half<T: Float>(
    both: &Array<Vector<T, Const<2>>>,
    #[comptime] from: usize,
) -> Array<Vector<T, Const<2>>> {
    let mut values = Array::<Vector<T, Const<2>>>::new(2usize);
    values[0] = both[from];
    values[1] = both[comptime!(from + 1)];
    values
}

/// Four 8×8 blocks of half precision: a left operand, or two right ones. Each lane names one row of a block, in its order the
/// blocks' 32.
#[cube]
pub(super) fn load<T: Float, N: Size>(
    product: &MmaDefinition<T, T, f32>,
    shared: &SharedMemory<Vector<T, N>>,
    at: usize,
    #[comptime] ident: MatrixIdent,
    #[comptime] transposed: bool,
) -> Array<Vector<T, Const<2>>> {
    let row = shared.slice(at, at + 1);
    product.load_matrix::<Vector<T, N>, Const<2>>(&row, ident, 4usize, transposed)
}
