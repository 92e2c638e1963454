//! The check of single operations: what it accepts, and what it must notice.

use std::ops::RangeInclusive;

use burn::tensor::{DType, Tensor};
use i2vgen_kernels::*;
use i2vgen_tests::TestBackend;

/// Every kind of operation, with sizes that no block divides.
fn operations() -> Vec<Operation> {
    let conv = |x, weight, bias, stride, padding| Operation::Conv2d {
        x,
        weight,
        bias,
        stride,
        padding,
        residual: bias == Some(2),
    };
    let frame_conv = |x, out, residual| Operation::FrameConv { x, out, residual };
    let linear = |x, out, bias, end| Operation::Linear { x, out, bias, end };
    let one_sided = Padding {
        bottom: 1,
        right: 1,
        ..Padding::same(0)
    };
    let [none, same] = [Padding::same(0), Padding::same(1)];
    vec![
        conv([2, 9, 7, 5], [6, 5, 3, 3], Some(1), 1, same),
        conv([4, 9, 7, 5], [6, 5, 3, 3], Some(2), 2, same),
        conv([1, 8, 9, 4], [6, 4, 3, 3], None, 2, one_sided),
        conv([1, 40, 41, 32], [64, 32, 1, 1], Some(1), 1, none),
        // Sizes that matrix units take.
        conv([2, 19, 7, 24], [168, 24, 3, 3], Some(2), 1, same),
        frame_conv([2, 5, 60, 24], 33, false),
        frame_conv([2, 5, 60, 24], 34, true),
        frame_conv([1, 1, 6, 8], 4, false),
        linear([300, 70], 33, true, End::None),
        linear([300, 72], 34, true, End::Residual),
        linear([300, 72], 34, true, End::Geglu),
        linear([130, 40], 160, false, End::Geglu),
        linear([1, 5], 7, false, End::None),
        Operation::Attention {
            q: [2, 300, 32],
            m: 33,
            heads: 2,
            mask: Mask::None,
        },
        Operation::Attention {
            q: [2, 77, 32],
            m: 77,
            heads: 2,
            mask: Mask::Causal,
        },
    ]
}

fn off_by(dtype: DType, expected: RangeInclusive<f64>) {
    for operation in operations() {
        let off = check::<TestBackend>(&operation, dtype, &Default::default());
        println!("{operation:?} {dtype:?}: {off:.1e}");
        assert!(expected.contains(&off), "{operation:?}: {off:e}");
    }
}

#[test]
fn right_kernels_pass() {
    off_by(DType::F32, 1e-9..=2e-6);
}

/// And the check is not blind: rounding to half precision shows.
#[test]
fn half_precision_shows() {
    use burn::tensor::backend::Backend;
    if TestBackend::supports_dtype(&Default::default(), DType::F16) {
        off_by(DType::F16, 1e-5..=1e-2);
    }
}

#[test]
fn a_trace_lists_each_operation_once() {
    let run = |operation: &Operation| {
        check::<TestBackend>(operation, DType::F32, &Default::default());
    };
    let mut all = operations();
    let ((), found) = trace(|| {
        for operation in all.iter().chain(&operations()) {
            run(operation);
        }
        // Not of the kinds that are listed.
        silu(Tensor::<TestBackend, 1>::ones([3], &Default::default()));
    });
    // Other tests run meanwhile, so there may be more.
    all.retain(|operation| found.iter().filter(|one| *one == operation).count() != 1);
    assert_eq!(all, []);
}
