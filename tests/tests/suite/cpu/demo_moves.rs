//! What a newcomer sees: the red circle of the embedded demo moves as the prompt says.

use burn::{backend::Flex, tensor::DType};
use i2vgen_pipeline::{GenerateOptions, I2VGenXLPipeline, Video, decode_image};

/// Mean column of the pixels that are clearly red.
fn column(video: &Video, frame: usize) -> f64 {
    let frame = video.frame(0, frame);
    let red: Vec<f64> = frame
        .enumerate_pixels()
        .filter(|(_, _, p)| p[0] > 150 && p[1] < 90 && p[2] < 90)
        .map(|(x, _, _)| f64::from(x))
        .collect();
    assert!(
        red.len() > 40,
        "the shape is gone: {} red pixels",
        red.len()
    );
    red.iter().sum::<f64>() / red.len() as f64
}

#[test]
fn left_and_right() {
    let device = Default::default();
    let folder = i2vgen_demo_model::folder();
    let pipeline =
        I2VGenXLPipeline::<Flex>::from_folder(folder, None, DType::F32, &device).expect("opens");
    let image = decode_image(i2vgen_demo_model::IMAGE, "embedded").expect("decodes");
    let options = GenerateOptions {
        height: 64,
        width: 64,
        num_frames: 8,
        target_fps: 8.0,
        num_inference_steps: 25,
        guidance_scale: 2.5,
        seed: Some(0),
        ..Default::default()
    };
    for (prompt, sign) in [
        (i2vgen_demo_model::PROMPT, -1.0),
        ("a red circle moves right", 1.0),
    ] {
        let video = pipeline.generate(&image, prompt, &options).expect(prompt);
        let moved = sign * (column(&video, 7) - column(&video, 0));
        println!("{prompt}: {moved:.1} pixels");
        assert!(moved > 8.0, "{prompt}: moved {moved} pixels");
    }
}
