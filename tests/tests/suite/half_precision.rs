//! f16 and bf16 against f32, module by module and end to end, with the demo model.

use burn::tensor::{DType, Int, Tensor, TensorData, activation};
use i2vgen_clip_encoders::{CLIPTextModel, CLIPVisionModelWithProjection};
use i2vgen_kernels::{Mask, attention, group_norm};
use i2vgen_pipeline::{GenerateOptions, I2VGenXLPipeline, decode_image};
use i2vgen_tests::{TestBackend, computes_in, noise};
use i2vgen_unet3d::I2VGenXLUNet;
use i2vgen_vae::AutoencoderKL;

type B = TestBackend;

const HALVES: [DType; 2] = [DType::F16, DType::BF16];

/// What the model makes of the same inputs in some dtype, in order: text, picture, moments' mean, decoded picture, noise.
fn modules(dtype: DType) -> [(&'static str, Vec<f32>); 5] {
    let (folder, device) = (i2vgen_demo_model::folder(), Default::default());
    let part = |name| folder.subfolder(name).unwrap();
    let text = CLIPTextModel::<B>::from_folder(&part("text_encoder"), None, dtype, 0, &device);
    let text = text.unwrap();
    let tokens = (0..77).map(|i| (i * 7 % 300) as i64).collect();
    let tokens = Tensor::<B, 2, Int>::from_data(TensorData::new(tokens, [1, 77]), &device);
    let text = text.forward(tokens, Some(1)).unwrap();

    let vision = part("image_encoder");
    let vision = CLIPVisionModelWithProjection::<B>::from_folder(&vision, None, dtype, &device);
    let vision = vision.unwrap();
    let side = vision.config.image_size;
    let picture = vision
        .forward(noise::<B, 4>([1, 3, side, side], 1))
        .unwrap();

    let vae = AutoencoderKL::<B>::from_folder(&part("vae"), None, dtype, &device).unwrap();
    assert_eq!(vae.dtype(), dtype);
    let pixels = (noise::<B, 4>([1, 3, 64, 64], 2) * 0.5).clamp(-1.0, 1.0);
    let latents = vae.encode(pixels).unwrap().mode();
    let decoded = vae.decode(noise::<B, 4>([1, 4, 8, 8], 3)).unwrap();

    let unet = I2VGenXLUNet::<B>::from_folder(&part("unet"), None, dtype, &device).unwrap();
    let [images, x] = [4, 5].map(|seed| noise::<B, 5>([1, 4, 8, 8, 8], seed));
    let image = picture.clone().unsqueeze_dim::<3>(1);
    let conditioning = unet.prepare(text.clone(), image, images, 8.0, 1.0).unwrap();
    let predicted = unet.forward(x, 500.0, &conditioning).unwrap();
    assert_eq!(predicted.dtype(), dtype);
    [
        ("text encoder", host(text)),
        ("image encoder", host(picture)),
        ("VAE encoder", host(latents)),
        ("VAE decoder", host(decoded)),
        ("UNet", host(predicted)),
    ]
}

fn host<const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    x.cast(DType::F32).into_data().to_vec().unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn every_module() {
    let exact = modules(DType::F32);
    for dtype in HALVES.into_iter().filter(|dtype| computes_in(*dtype)) {
        for ((name, half), (_, full)) in modules(dtype).iter().zip(&exact) {
            assert_eq!(half.len(), full.len());
            let cosine = cosine(half, full);
            println!("{name} in {dtype:?}: cosine {cosine:.6}");
            assert!(half != full, "{name} in {dtype:?} was computed in f32");
            assert!(cosine >= 0.999, "{name} in {dtype:?}: {cosine}");
        }
    }
}

#[test]
fn frames() {
    let image = decode_image(i2vgen_demo_model::IMAGE, "IMAGE").unwrap();
    let frames = |dtype| {
        let (folder, device) = (i2vgen_demo_model::folder(), Default::default());
        let pipeline = I2VGenXLPipeline::<B>::from_folder(folder, None, dtype, &device).unwrap();
        let options = GenerateOptions {
            height: 64,
            width: 64,
            num_frames: 8,
            num_inference_steps: 10,
            guidance_scale: 2.5,
            target_fps: 8.0,
            seed: Some(8888),
            ..Default::default()
        };
        let video = pipeline.generate(&image, i2vgen_demo_model::PROMPT, &options);
        video.unwrap().values().to_vec()
    };
    let exact = frames(DType::F32);
    for dtype in HALVES.into_iter().filter(|dtype| computes_in(*dtype)) {
        let half = frames(dtype);
        let pairs = half.iter().zip(&exact);
        let squares = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let psnr = -10.0 * (squares / exact.len() as f64).log10();
        println!("frames in {dtype:?}: {psnr:.1} dB");
        assert!(psnr >= 30.0, "{dtype:?}: {psnr}");
    }
}

/// f16 ends at 65504: squares and products of such activations must not be taken in it.
#[test]
fn large_activations() {
    let device = Default::default();
    let check = |half: Tensor<B, 3>, full: Tensor<B, 3>| {
        let (half, full) = (host(half), host(full));
        assert!(half.iter().all(|v| v.is_finite()));
        assert!(cosine(&half, &full) > 0.999);
    };
    for dtype in HALVES.into_iter().filter(|dtype| computes_in(*dtype)) {
        let rounded = |x: Tensor<B, 3>| x.cast(dtype).cast(DType::F32);
        let (x, ones, zeros) = (
            rounded(noise::<B, 3>([2, 90, 64], 6) * (60000.0 / 3f32.sqrt())),
            Tensor::<B, 1>::ones([64], &device),
            Tensor::<B, 1>::zeros([64], &device),
        );
        let norm = |x: Tensor<B, 3>| {
            let (weight, bias) = (ones.clone(), zeros.clone());
            let (weight, bias) = (weight.cast(x.dtype()), bias.cast(x.dtype()));
            group_norm(x, weight, bias, 8, 1e-5, true)
        };
        check(norm(x.clone().cast(dtype)), norm(x.clone()));
        let attend = |x: Tensor<B, 3>| attention(x.clone(), x.clone(), x, 2, Mask::None);
        check(attend(x.clone().cast(dtype)), attend(x));
    }
    // Softmax of equal scores far beyond e^88.
    let scores = Tensor::<B, 2>::full([1, 4], 60000.0, &device);
    assert!(
        host(activation::softmax(scores, 1))
            .iter()
            .all(|v| (v - 0.25).abs() < 1e-6)
    );
}
