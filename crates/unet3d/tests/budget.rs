//! The memory budget changes how the UNet computes, not what. One test, because the budget is one number for the process.

use burn::{
    backend::{Autodiff, Flex},
    tensor::{Int, Tensor, backend::Backend},
};
use i2vgen_kernels::set_memory_budget;
use i2vgen_tests::TestBackend;
use i2vgen_unet3d::I2VGenXLUNet;

const RANDOM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/goldens/freeu/random"
);

fn data<B: Backend, const D: usize>(dims: [usize; D], seed: i64) -> Tensor<B, D> {
    let len = dims.iter().product::<usize>() as i64;
    let numbers = Tensor::<B, 1, Int>::arange(0..len, &Default::default()).float();
    (numbers * 12.9898 + seed as f32).sin().reshape(dims)
}

fn run<B: Backend>(budget: usize) -> Vec<f32> {
    set_memory_budget(budget);
    let mut unet = I2VGenXLUNet::<B>::from_pretrained(RANDOM, &Default::default()).expect("loads");
    unet.enable_freeu(0.9, 0.2, 1.4, 1.6).expect("finite");
    let shape = [2, 4, 3, 7, 10];
    let conditioning = unet
        .prepare(
            data([2, 5, 8], 1),
            data([2, 1, 8], 2),
            data(shape, 3),
            8.0,
            1.0,
        )
        .expect("prepares");
    let y = unet
        .forward(data(shape, 4), 300.0, &conditioning)
        .expect("runs");
    y.into_data().to_vec().expect("f32")
}

#[test]
fn turns_do_not_change_results() {
    for (name, run) in [
        ("kernels", run::<TestBackend> as fn(usize) -> Vec<f32>),
        ("composed", run::<Autodiff<Flex>>),
    ] {
        let whole = run(usize::MAX);
        let scale = whole.iter().fold(0f32, |max, x| max.max(x.abs()));
        for budget in [3_000, 100_000] {
            let turns = run(budget);
            assert_eq!(whole.len(), turns.len());
            let off = whole.iter().zip(&turns).map(|(a, b)| (a - b).abs());
            let off = off.fold(0f32, f32::max);
            println!("{name}, {budget} bytes: max-abs {off:e} of {scale}");
            assert!(
                scale > 0.1 && off <= 1e-6 * scale,
                "{name}, {budget}: {off:e} of {scale}"
            );
        }
    }
}
