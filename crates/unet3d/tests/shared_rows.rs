//! Rows of text that share a video are computed together until they meet their text: the same as computed apart, but for
//! rounding (a kernel is chosen by the number of rows).

use burn::{
    backend::Flex,
    tensor::{Int, Tensor},
};
use i2vgen_unet3d::{I2VGenXLUNet, UNet3DConditionModel, UNet3DConditionModelConfig};

const RANDOM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/goldens/freeu/random"
);

fn data<const D: usize>(dims: [usize; D], seed: i64) -> Tensor<Flex, D> {
    let len = dims.iter().product::<usize>() as i64;
    let numbers = Tensor::<Flex, 1, Int>::arange(0..len, &Default::default()).float();
    (numbers * 12.9898 + seed as f32).sin().reshape(dims)
}

#[track_caller]
fn close(found: Tensor<Flex, 5>, expected: Tensor<Flex, 5>) {
    assert_eq!(found.dims(), expected.dims());
    let scale = expected.clone().abs().max().into_scalar();
    let off = (found - expected).abs().max().into_scalar();
    assert!(off <= 3e-6 * scale, "{off} of {scale}");
}

fn twice<const D: usize>(x: Tensor<Flex, D>) -> Tensor<Flex, D> {
    Tensor::cat(vec![x.clone(), x], 0)
}

#[test]
fn of_the_image_to_video_unet() {
    let unet = I2VGenXLUNet::<Flex>::from_pretrained(RANDOM, &Default::default()).expect("loads");
    let (text, images, embeddings) = (
        data([4, 5, 8], 1),
        data([2, 4, 3, 7, 10], 2),
        data([4, 1, 8], 3),
    );
    let x = data([2, 4, 3, 7, 10], 4);
    let prepare = |images| {
        let (text, embeddings) = (text.clone(), embeddings.clone());
        unet.prepare(text, embeddings, images, 8.0, 1.0)
            .expect("prepares")
    };
    let (shared, apart) = (prepare(images.clone()), prepare(twice(images)));
    let expected = unet.forward(twice(x.clone()), 300.0, &apart).expect("runs");
    assert_eq!(expected.dims(), [4, 4, 3, 7, 10]);
    let halves: Vec<_> = expected.clone().chunk(2, 0);
    assert_ne!(halves[0].to_data(), halves[1].to_data());
    for latents in [x.clone(), twice(x.clone())] {
        let found = unet.forward(latents, 300.0, &shared).expect("runs");
        close(found, expected.clone());
    }
    // Parts of the rows, whole groups and others.
    for (start, count) in [(0, 2), (2, 2), (1, 2), (3, 1)] {
        let latents = twice(x.clone()).narrow(0, start, count);
        let [found, expected] = [&shared, &apart].map(|conditioning| {
            let part = conditioning.narrow(start, count);
            let y = unet.forward(latents.clone(), 300.0, &part);
            y.expect("runs")
        });
        close(found, expected);
    }
    for rows in [1, 3] {
        let wrong = data([rows, 4, 3, 7, 10], 4);
        assert!(unet.forward(wrong, 300.0, &shared).is_err(), "{rows}");
    }
}

#[test]
fn of_the_second_stage() {
    let config = UNet3DConditionModelConfig {
        block_out_channels: vec![8, 16],
        down_block_types: vec!["CrossAttnDownBlock3D".into(), "DownBlock3D".into()],
        up_block_types: vec!["UpBlock3D".into(), "CrossAttnUpBlock3D".into()],
        layers_per_block: 1,
        norm_num_groups: 4,
        cross_attention_dim: 8,
        attention_head_dim: i2vgen_unet3d::PerLevel::All(4),
        ..Default::default()
    };
    let unet = UNet3DConditionModel::<Flex>::new(config, &Default::default()).expect("builds");
    let text = unet.prepare(data([2, 5, 8], 1)).expect("prepares");
    let x = data([1, 4, 3, 7, 10], 4);
    let expected = unet.forward(twice(x.clone()), 300.5, &text).expect("runs");
    let found = unet.forward(x, 300.5, &text).expect("runs");
    close(found, expected);
}
