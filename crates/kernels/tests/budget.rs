//! Attention in turns equals attention at once. One test, because the budget is one number for the process.

use burn::{
    backend::{Autodiff, Flex},
    tensor::{DType, Tensor, backend::Backend},
};
use i2vgen_kernels::*;
use i2vgen_tests::TestBackend;

/// Not `Flex`, so it gets the composed form.
type Composed = Autodiff<Flex>;

fn data<B: Backend, const D: usize>(dims: [usize; D], seed: i64) -> Tensor<B, D> {
    let len = dims.iter().product::<usize>() as i64;
    let numbers = Tensor::<B, 1, burn::tensor::Int>::arange(0..len, &Default::default()).float();
    ((numbers * 12.9898 + seed as f32).sin() * 3.0).reshape(dims)
}

/// `[b, n]` queries and `[kb, m]` keys.
fn tokens<B: Backend>([b, n, kb, m]: [usize; 4], mask: Mask, dtype: DType) -> Vec<f32> {
    let [q, k, v] = [([b, n, 24], 1), ([kb, m, 24], 2), ([kb, m, 24], 3)]
        .map(|(dims, seed)| data::<B, 3>(dims, seed).cast(dtype));
    let y = attention(q, k, v, 3, mask).cast(DType::F32);
    y.into_data().to_vec().unwrap()
}

fn frames<B: Backend>() -> Vec<f32> {
    let x = |seed| data::<B, 4>([2, 5, 37, 24], seed);
    let y = frame_attention(x(1), x(2), x(3), 3);
    y.into_data().to_vec().unwrap()
}

fn off(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn turns_do_not_change_results() {
    assert_eq!(memory_budget(), 64 << 20, "the documented default");
    type Case = Box<dyn Fn() -> Vec<f32>>;
    let shapes = [[3, 70, 3, 33], [6, 20, 2, 33], [1, 90, 1, 400]];
    let mut cases: Vec<(String, Case)> = Vec::new();
    for shape in shapes {
        for dtype in [DType::F32, DType::F16] {
            let run = move || tokens::<Composed>(shape, Mask::None, dtype);
            cases.push((format!("composed {shape:?} {dtype:?}"), Box::new(run)));
        }
        let run = move || tokens::<TestBackend>(shape, Mask::None, DType::F32);
        cases.push((format!("kernel {shape:?}"), Box::new(run)));
    }
    let causal = [2, 77, 2, 77];
    let run = move || tokens::<Composed>(causal, Mask::Causal, DType::F32);
    cases.push(("composed causal".into(), Box::new(run)));
    let run = move || tokens::<TestBackend>(causal, Mask::Causal, DType::F32);
    cases.push(("kernel causal".into(), Box::new(run)));
    cases.push(("composed frames".into(), Box::new(frames::<Composed>)));
    cases.push(("kernel frames".into(), Box::new(frames::<TestBackend>)));

    for (name, run) in cases {
        set_memory_budget(usize::MAX);
        let whole = run();
        let scale = whole.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert!(scale > 0.1, "{name}");
        // One query at a time, some queries, some batches.
        for budget in [0, 1, 5_000, 30_000] {
            set_memory_budget(budget);
            let off = off(&whole, &run());
            println!("{name}, {budget} bytes: {off:e}");
            // A single query is a matrix-vector product, which burn sums in another order; half precision rounds the
            // scores, up to 25, to 2⁻⁶.
            let tolerance = if name.ends_with("F16") { 2e-2 } else { 1e-6 };
            let tolerance = tolerance * scale;
            assert!(off <= tolerance, "{name}, {budget} bytes: {off:e}");
        }
    }
}

#[test]
fn joins_turns_in_order() {
    let x = data::<TestBackend, 2>([3, 10], 5);
    for turn in [0, 1, 3, 10, 99] {
        let mut starts = Vec::new();
        let y = in_turns(x.clone(), turn, 1, |part, start| {
            assert!(part.dims()[1] <= turn.max(1));
            starts.push(start);
            part * 2.0
        });
        assert_eq!(y.into_data(), (x.clone() * 2.0).into_data());
        let step = turn.max(1);
        assert_eq!(starts, (0..10).step_by(step).collect::<Vec<_>>());
    }
}
