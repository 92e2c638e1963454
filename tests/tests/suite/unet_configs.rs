//! The UNet under configurations that no checkpoint here has. (diffusers itself cannot build head widths per level.)

use burn::tensor::{Distribution, Tensor};
use i2vgen_tests::TestBackend;
use i2vgen_unet3d::{I2VGenXLUNet, I2VGenXLUNetConfig, UNetError};

type B = TestBackend;

fn unet(head_dims: &str) -> I2VGenXLUNet<B> {
    let json = format!(
        r#"{{"block_out_channels": [8, 16, 16], "norm_num_groups": 4, "cross_attention_dim": 12,
            "layers_per_block": 1, "attention_head_dim": {head_dims},
            "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"]}}"#
    );
    let config: I2VGenXLUNetConfig = serde_json::from_str(&json).expect("valid");
    I2VGenXLUNet::new(config, &Default::default()).expect("legal")
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<B, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

#[test]
fn head_widths_per_level_odd_sizes_and_rows_that_do_not_mix() {
    for (heads, [f, h, w]) in [
        ("[4, 8, 16]", [3, 5, 7]),
        ("8", [1, 1, 9]),
        ("4", [2, 6, 4]),
    ] {
        let unet = unet(heads);
        let text = random([2, 6, 12]);
        let image = random([2, 1, 12]);
        let image_latents = random([2, 4, f, h, w]);
        let latents = random([2, 4, f, h, w]);
        let run = |from: usize, rows: usize| {
            let row3 = |x: &Tensor<B, 3>| x.clone().narrow(0, from, rows);
            let row5 = |x: &Tensor<B, 5>| x.clone().narrow(0, from, rows);
            let conditioning = unet
                .prepare(row3(&text), row3(&image), row5(&image_latents), 8.0, 1.0)
                .expect("prepares");
            unet.forward(row5(&latents), 500.0, &conditioning)
                .expect("runs")
        };
        let both = run(0, 2);
        assert_eq!(both.dims(), [2, 4, f, h, w]);
        let single = Tensor::cat(vec![run(0, 1), run(1, 1)], 0);
        let off: f32 = (both.clone() - single).abs().max().into_scalar();
        let scale: f32 = both.abs().max().into_scalar();
        assert!(
            scale > 1e-3 && off <= 1e-5 * scale,
            "{heads}: {off:e} of {scale:e}"
        );
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let unet = unet("4");
    let prepare = |text: [usize; 3], image: [usize; 3], latents: [usize; 5]| {
        unet.prepare(random(text), random(image), random(latents), 8.0, 1.0)
    };
    let good = prepare([1, 6, 12], [1, 1, 12], [1, 4, 2, 4, 4]).expect("fits");
    for (text, image, latents) in [
        ([2, 6, 12], [1, 1, 12], [1, 4, 2, 4, 4]),
        ([1, 6, 11], [1, 1, 12], [1, 4, 2, 4, 4]),
        ([1, 6, 12], [1, 2, 12], [1, 4, 2, 4, 4]),
        ([1, 6, 12], [1, 1, 12], [1, 3, 2, 4, 4]),
    ] {
        let error = prepare(text, image, latents);
        assert!(matches!(error, Err(UNetError::Shape { .. })), "{error:?}");
    }
    let error = unet.forward(random([1, 4, 3, 4, 4]), 1.0, &good);
    assert!(matches!(error, Err(UNetError::Shape { .. })), "{error:?}");
}
