//! FreeU against diffusers 0.33.1 (`tests/goldens/freeu/generate.py`).

use burn::tensor::{Tensor, TensorData};
use i2vgen_tests::{TestBackend, repository};
use i2vgen_unet3d::{I2VGenXLUNet, UNetError};
use safetensors::SafeTensors;

type B = TestBackend;

const GOLDENS: &[u8] = include_bytes!("../../../tests/goldens/freeu/cases.safetensors");
const RANDOM: &str = "tests/goldens/freeu/random";
const DEMO: &str = "crates/demo-model/model/unet";

fn golden<const D: usize>(name: &str) -> Tensor<B, D> {
    let file = SafeTensors::deserialize(GOLDENS).expect("goldens");
    let tensor = file.tensor(name).expect(name);
    let (chunks, _) = tensor.data().as_chunks::<4>();
    let values: Vec<f32> = chunks.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Tensor::from_data(TensorData::new(values, tensor.shape()), &Default::default())
}

fn unet(folder: &str) -> I2VGenXLUNet<B> {
    I2VGenXLUNet::from_pretrained(repository(folder), &Default::default()).expect("loads")
}

fn forward(unet: &I2VGenXLUNet<B>, case: &str) -> Tensor<B, 5> {
    let text = golden(&format!("{case}.text"));
    let image = golden(&format!("{case}.image_embeddings"));
    let image_latents = golden(&format!("{case}.image_latents"));
    let conditioning = unet
        .prepare(text, image, image_latents, 8.0, 1.0)
        .expect(case);
    let latents = golden(&format!("{case}.latents"));
    unet.forward(latents, 321.0, &conditioning).expect(case)
}

fn close(name: &str, found: Tensor<B, 5>, expected: Tensor<B, 5>) {
    assert_eq!(found.dims(), expected.dims());
    let scale: f32 = expected.clone().abs().max().into_scalar();
    let off: f32 = (found - expected).abs().max().into_scalar();
    println!("{name}: max-abs {off:.2e} of {scale:.2}");
    assert!(off <= 1e-5 * scale, "{name}: max-abs {off:e} of {scale}");
}

#[test]
fn equals_diffusers() {
    let file = SafeTensors::deserialize(GOLDENS).expect("goldens");
    let names = file.names().into_iter();
    let cases: Vec<&str> = names.filter_map(|n| n.strip_suffix(".output")).collect();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let mut unet = unet(if case.starts_with("demo") {
            DEMO
        } else {
            RANDOM
        });
        let [plain, output] = ["plain", "output"].map(|part| golden(&format!("{case}.{part}")));
        let factors = golden::<1>(&format!("{case}.factors")).into_data();
        let factors = factors.to_vec::<f32>().expect("f32");
        let [s1, s2, b1, b2] = [0, 1, 2, 3].map(|i| f64::from(factors[i]));
        close(
            &format!("{case} without"),
            forward(&unet, case),
            plain.clone(),
        );
        unet.enable_freeu(s1, s2, b1, b2).expect("finite");
        close(case, forward(&unet, case), output);
        unet.disable_freeu();
        close(&format!("{case} disabled"), forward(&unet, case), plain);
    }
}

#[test]
fn zero_turns_it_off_as_in_diffusers() {
    let mut unet = unet(RANDOM);
    let case = "random 5x7";
    let plain = forward(&unet, case).into_data();
    unet.enable_freeu(0.9, 0.2, 1.4, 1.6).expect("finite");
    assert_ne!(forward(&unet, case).into_data(), plain);
    unet.enable_freeu(0.9, 0.0, 1.4, 1.6).expect("finite");
    assert_eq!(forward(&unet, case).into_data(), plain);
}

#[test]
fn only_finite_factors() {
    let mut unet = unet(RANDOM);
    for factors in [
        [f64::NAN, 0.2, 1.4, 1.6],
        [0.9, f64::INFINITY, 1.4, 1.6],
        [0.9, 0.2, f64::NEG_INFINITY, 1.6],
        [0.9, 0.2, 0.0, f64::NAN],
    ] {
        let [s1, s2, b1, b2] = factors;
        let error = unet.enable_freeu(s1, s2, b1, b2);
        assert!(matches!(error, Err(UNetError::FreeU(_))), "{error:?}");
    }
}
