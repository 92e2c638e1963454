//! The UNet whose layers are read when they are used.

use burn::tensor::DType;
use i2vgen_pipeline::{GenerateOptions, I2VGenXLPipeline, decode_image};
use i2vgen_tests::{TestBackend, computes_in, noise};
use i2vgen_unet3d::I2VGenXLUNet;

type B = TestBackend;

#[test]
fn equals_the_loaded_one_step_after_step() {
    let (folder, device) = (i2vgen_demo_model::folder(), Default::default());
    let folder = folder.subfolder("unet").unwrap();
    for dtype in [DType::F32, DType::F16] {
        if !computes_in(dtype) {
            continue;
        }
        let loaded = I2VGenXLUNet::<B>::from_folder(&folder, None, dtype, &device).unwrap();
        let streamed =
            I2VGenXLUNet::<B>::from_folder_streamed(&folder, None, dtype, &device).unwrap();
        let width = loaded.config.cross_attention_dim;
        let run = |unet: &I2VGenXLUNet<B>| {
            let (text, image) = (noise([1, 77, width], 1), noise([1, 1, width], 2));
            let images = noise([1, 4, 8, 8, 8], 3);
            let prepared = unet.prepare(text, image, images, 8.0, 1.0).unwrap();
            let steps = [900.0, 300.0].map(|t| {
                let x = noise([1, 4, 8, 8, 8], 4);
                unet.forward(x, t, &prepared).unwrap().into_data()
            });
            assert_ne!(steps[0], steps[1]);
            steps
        };
        assert_eq!(run(&loaded), run(&streamed));
    }
}

#[test]
fn the_pipeline_makes_the_same_video() {
    let image = decode_image(i2vgen_demo_model::IMAGE, "IMAGE").unwrap();
    let run = |stream_unet| {
        let (folder, device) = (i2vgen_demo_model::folder(), Default::default());
        let pipeline =
            I2VGenXLPipeline::<B>::from_folder(folder, None, DType::F32, &device).unwrap();
        let options = GenerateOptions {
            height: 64,
            width: 64,
            num_frames: 4,
            num_inference_steps: 3,
            seed: Some(8888),
            stream_unet,
            ..Default::default()
        };
        let video = pipeline.generate(&image, i2vgen_demo_model::PROMPT, &options);
        video.unwrap().values().to_vec()
    };
    assert_eq!(run(false), run(true));
}
