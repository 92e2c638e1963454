//! Deep features used again, against diffusers 0.33.1 with them put in by hand (`tests/goldens/deep_cache/generate.py`).

use burn::tensor::{DType, Tensor, TensorData};
use i2vgen_checkpoint::Folder;
use i2vgen_tests::{SLACK, TestBackend, repository};
use i2vgen_unet3d::{Conditioning, DeepCache, I2VGenXLUNet, UNetError};
use safetensors::SafeTensors;

type B = TestBackend;

const GOLDENS: &[u8] = include_bytes!("../../../tests/goldens/deep_cache/cases.safetensors");
const CASES: [&str; 5] = ["plain", "batch", "guided", "freeu", "demo"];
const TIMESTEPS: [f64; 2] = [700.0, 421.0];

fn golden<const D: usize>(name: &str) -> Tensor<B, D> {
    let file = SafeTensors::deserialize(GOLDENS).expect("goldens");
    let tensor = file.tensor(name).expect(name);
    let (chunks, _) = tensor.data().as_chunks::<4>();
    let values: Vec<f32> = chunks.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Tensor::from_data(TensorData::new(values, tensor.shape()), &Default::default())
}

fn unet(case: &str, streamed: bool) -> I2VGenXLUNet<B> {
    let folder = match case {
        "demo" => "crates/demo-model/model/unet",
        _ => "tests/goldens/freeu/random",
    };
    let (folder, device) = (Folder::open(repository(folder)), Default::default());
    let folder = folder.expect("there");
    let unet = match streamed {
        true => I2VGenXLUNet::from_folder_streamed(&folder, None, DType::F32, &device),
        false => I2VGenXLUNet::from_folder(&folder, None, DType::F32, &device),
    };
    let mut unet = unet.expect("loads");
    if case == "freeu" {
        unet.enable_freeu(0.9, 0.2, 1.4, 1.6).expect("finite");
    }
    unet
}

fn prepare(unet: &I2VGenXLUNet<B>, case: &str) -> Conditioning<B> {
    let of = |part: &str| golden(&format!("{case}.{part}"));
    let images = golden(&format!("{case}.image_latents"));
    let prepared = unet.prepare(of("text"), of("image_embeddings"), images, 8.0, 1.0);
    prepared.expect(case)
}

fn latents(case: &str) -> [Tensor<B, 5>; 2] {
    ["latents", "next_latents"].map(|part| golden(&format!("{case}.{part}")))
}

fn off(found: &Tensor<B, 5>, expected: &Tensor<B, 5>) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let scale: f32 = expected.clone().abs().max().into_scalar();
    let off: f32 = (found.clone() - expected.clone()).abs().max().into_scalar();
    off / scale
}

#[test]
fn equals_diffusers_with_the_features_put_in() {
    for case in CASES {
        for streamed in [false, true] {
            let unet = unet(case, streamed);
            let conditioning = prepare(&unet, case);
            let [first, full, cached] =
                ["first", "full", "cached"].map(|part| golden::<5>(&format!("{case}.{part}")));
            let [x, next] = latents(case);
            let mut cache = DeepCache::new();
            let pass = |x: &Tensor<B, 5>, t, cache: &mut DeepCache<B>| {
                let y = unet.forward_cached(x.clone(), t, &conditioning, cache);
                y.expect(case)
            };
            assert!(cache.is_empty());
            let found = pass(&x, TIMESTEPS[0], &mut cache);
            assert!(off(&found, &first) <= 1e-5 * SLACK, "{case}: first");
            assert!(!cache.is_empty());
            // More than once: the cache serves until it is cleared.
            for _ in 0..2 {
                let found = pass(&next, TIMESTEPS[1], &mut cache);
                let error = off(&found, &cached);
                println!(
                    "{case}: {error:.1e}, and {:.1e} from full",
                    off(&found, &full)
                );
                assert!(error <= 1e-5 * SLACK, "{case}: cached is off by {error}");
                assert!(off(&found, &full) > 0.05, "{case}: nothing was saved");
            }
            cache.clear();
            let found = pass(&next, TIMESTEPS[1], &mut cache);
            assert!(off(&found, &full) <= 1e-5 * SLACK, "{case}: full again");
        }
    }
}

#[test]
fn what_filled_the_cache_gives_what_it_gave() {
    for case in CASES {
        let unet = unet(case, false);
        let conditioning = prepare(&unet, case);
        let [x, _] = latents(case);
        let plain = unet.forward(x.clone(), TIMESTEPS[0], &conditioning);
        let plain = plain.expect(case).into_data();
        let mut cache = DeepCache::default();
        for _ in 0..2 {
            let y = unet.forward_cached(x.clone(), TIMESTEPS[0], &conditioning, &mut cache);
            assert_eq!(y.expect(case).into_data(), plain, "{case}");
        }
    }
}

#[test]
fn a_cache_of_other_rows_or_another_size_is_refused() {
    let unet = unet("batch", false);
    let (conditioning, other) = (prepare(&unet, "batch"), prepare(&unet, "guided"));
    let ([x, _], [larger, _]) = (latents("batch"), latents("guided"));
    let mut cache = DeepCache::new();
    let filled = unet.forward_cached(x.clone(), 500.0, &conditioning, &mut cache);
    filled.expect("fills");
    let one = conditioning.narrow(0, 1);
    let single = x.narrow(0, 0, 1);
    for (x, conditioning) in [(single, &one), (larger, &other)] {
        let refused = unet.forward_cached(x.clone(), 500.0, conditioning, &mut cache.clone());
        assert!(
            matches!(refused, Err(UNetError::ForeignCache)),
            "{refused:?}"
        );
        let mut cleared = cache.clone();
        cleared.clear();
        let taken = unet.forward_cached(x, 500.0, conditioning, &mut cleared);
        assert!(taken.is_ok());
    }
}
