//! Matrix products, with a choice among CubeK's kernels that is made beforehand instead of tried out.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubek::{
    matmul::{
        definition::{MatmulElems, MatmulGlobalElems},
        launch::{self, Strategy},
    },
    std::InputBinding,
};

use super::tensors::empty;

/// Half precision is what matrix units multiply exactly and add up in f32. (They take f32, too, but round it to 10 bits first.)
pub(super) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// `a [.., m, k]`, `b [.., k, n]` → `[.., m, n]` in `dtype`, all with the same batches.
pub(super) fn matmul<R: CubeRuntime>(
    a: CubeTensor<R>,
    b: CubeTensor<R>,
    dtype: DType,
) -> CubeTensor<R> {
    let rank = a.meta.shape().num_dims();
    let mut shape = a.meta.shape().clone();
    shape[rank - 1] = b.meta.shape()[rank - 1];
    let y = empty(&a, shape, dtype);
    let units = || Strategy::SimpleUnit(Default::default());
    let strategies = match is_half(a.dtype) {
        true => vec![Strategy::SimpleCyclicCmma(Default::default()), units()],
        false => vec![units()],
    };
    let done = strategies.iter().any(|strategy| {
        let mut types = types(&a, &b, dtype);
        let y = y.clone().binding();
        launch::launch_ref(strategy, &a.client, input(&a), input(&b), y, &mut types).is_ok()
    });
    assert!(done, "no kernel for a matrix product of this shape");
    y
}

fn input<R: CubeRuntime>(x: &CubeTensor<R>) -> InputBinding<R> {
    InputBinding::new(x.clone().binding(), x.dtype.into())
}

fn types<R: CubeRuntime>(a: &CubeTensor<R>, b: &CubeTensor<R>, dtype: DType) -> MatmulElems {
    MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: a.dtype.into(),
        rhs: b.dtype.into(),
        out: dtype.into(),
    })
}
