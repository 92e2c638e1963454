//! Slicing and tiling against diffusers 0.33.1 (`tests/goldens/vae_tiling/generate.py`).

use burn::tensor::{DType, Tensor, TensorData};
use i2vgen_tests::{TestBackend, repository};
use i2vgen_vae::{AutoencoderKL, DiagonalGaussianDistribution, Tiling, VaeError};
use safetensors::SafeTensors;

type B = TestBackend;

const GOLDENS: &[u8] = include_bytes!("../../../tests/goldens/vae_tiling/cases.safetensors");
const RANDOM: &str = "tests/goldens/vae_tiling/random";
const DEMO: &str = "crates/demo-model/model/vae";

fn golden(name: &str) -> Tensor<B, 4> {
    let file = SafeTensors::deserialize(GOLDENS).expect("goldens");
    let tensor = file.tensor(name).expect(name);
    let dtype = match tensor.dtype() {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::F16 => DType::F16,
        other => panic!("{name} is {other:?}"),
    };
    let data = TensorData::from_bytes_vec(tensor.data().to_vec(), tensor.shape(), dtype);
    Tensor::<B, 4>::from_data(data, (&Default::default(), dtype)).cast(DType::F32)
}

fn vae(folder: &str) -> AutoencoderKL<B> {
    AutoencoderKL::from_pretrained(repository(folder), &Default::default()).expect("loads")
}

fn tiling(sides: [usize; 2], overlap: f64) -> Tiling {
    Tiling {
        tile_sample_min_size: sides,
        tile_overlap_factor: overlap,
    }
}

/// Largest difference, and the first index where it is more than 1e-5 of the scale.
fn difference(found: Tensor<B, 4>, expected: Tensor<B, 4>) -> (f32, Option<usize>) {
    assert_eq!(found.dims(), expected.dims());
    let scale: f32 = expected.clone().abs().max().into_scalar();
    let off: Vec<f32> = (found - expected).abs().into_data().to_vec().expect("f32");
    let max = off.iter().copied().fold(0.0, f32::max);
    (
        max,
        off.iter().position(|x| x.is_nan() || *x > 1e-5 * scale),
    )
}

fn close(name: &str, found: Tensor<B, 4>, expected: Tensor<B, 4>) {
    let (max, bad) = difference(found, expected);
    println!("{name}: max-abs {max:.2e}");
    assert_eq!(bad, None, "{name}: first bad index; max-abs {max:e}");
}

fn differs(name: &str, found: Tensor<B, 4>, expected: Tensor<B, 4>) {
    let (max, _) = difference(found, expected);
    assert!(max > 1e-3, "{name}: max-abs {max:e}");
}

fn image(vae: &AutoencoderKL<B>, name: &str) -> DiagonalGaussianDistribution<B> {
    vae.encode(golden(&format!("{name}.image"))).expect(name)
}

fn decoded(vae: &AutoencoderKL<B>, name: &str) -> Tensor<B, 4> {
    vae.decode(golden(&format!("{name}.latents"))).expect(name)
}

fn check(vae: &AutoencoderKL<B>, name: &str) {
    let posterior = image(vae, name);
    let expected = |part: &str| golden(&format!("{name}.{part}"));
    close(&format!("{name} mean"), posterior.mean, expected("mean"));
    close(
        &format!("{name} logvar"),
        posterior.logvar,
        expected("logvar"),
    );
    close(
        &format!("{name} decoded"),
        decoded(vae, name),
        expected("decoded"),
    );
}

#[test]
fn equals_diffusers() {
    let file = SafeTensors::deserialize(GOLDENS).expect("goldens");
    let names = file.names().into_iter();
    let cases: Vec<&str> = names.filter_map(|n| n.strip_suffix(".decoded")).collect();
    assert_eq!(cases.len(), 8);
    for name in cases {
        let words: Vec<&str> = name.split(' ').collect();
        let mut vae = vae(if words[0] == "demo" { DEMO } else { RANDOM });
        let (tile, overlap) = (
            words[1].parse().expect("tile"),
            words[2].parse().expect("overlap"),
        );
        let whole = decoded(&vae, name);
        let whole_image = image(&vae, name).mean;
        vae.enable_tiling(Some(tiling([tile; 2], overlap)))
            .expect(name);
        check(&vae, name);
        // Otherwise tiling could be ignored unnoticed.
        differs(name, decoded(&vae, name), whole.clone());
        differs(name, image(&vae, name).mean, whole_image);
        vae.enable_slicing();
        check(&vae, name);
        vae.disable_tiling();
        close("disabled", decoded(&vae, name), whole);
    }
}

#[test]
fn default_tiles_are_the_configs() {
    let mut vae = vae(DEMO);
    vae.enable_tiling(None).expect("the default");
    check(&vae, "demo 64 0.25 17x13");
    // Not larger than a tile: one piece, to the bit.
    let z = golden("demo 64 0.25 17x13.latents").narrow(2, 0, 16);
    let tiled = vae.decode(z.clone()).expect("decodes");
    vae.disable_tiling();
    assert_eq!(
        tiled.into_data(),
        vae.decode(z).expect("decodes").into_data()
    );
}

/// diffusers has square tiles only; along an axis shorter than the distance of two tiles their size does not matter.
#[test]
fn tiles_need_not_be_square() {
    let mut vae = vae(RANDOM);
    let name = "random 32 0.25 13x5";
    vae.enable_tiling(Some(tiling([32, 64], 0.25)))
        .expect("legal");
    check(&vae, name);
    vae.enable_tiling(Some(tiling([64, 32], 0.25)))
        .expect("legal");
    let tiled = decoded(&vae, name);
    vae.disable_tiling();
    assert_eq!(tiled.into_data(), decoded(&vae, name).into_data());
}

#[test]
fn slices_equal_the_batch() {
    let mut vae = vae(RANDOM);
    let name = "random 32 0.25 9x11";
    let (posterior, whole) = (image(&vae, name), decoded(&vae, name));
    assert_eq!(whole.dims()[0], 2);
    vae.enable_slicing();
    close("mean", image(&vae, name).mean, posterior.mean);
    close("logvar", image(&vae, name).logvar, posterior.logvar);
    close("decoded", decoded(&vae, name), whole.clone());
    vae.disable_slicing();
    assert_eq!(decoded(&vae, name).into_data(), whole.into_data());
}

/// Sizes at which diffusers fails or loses its grid still give an image of the right size.
#[test]
fn any_size_and_overlap() {
    let mut vae = vae(RANDOM);
    for (overlap, [h, w]) in [
        (0.25, [49, 74]),
        (0.25, [27, 50]),
        (0.3, [50, 40]),
        (0.0, [67, 33]),
        (0.999_999, [40, 35]),
        (1.0 - f64::EPSILON / 2.0, [36, 33]),
    ] {
        vae.enable_tiling(Some(tiling([32, 16], overlap)))
            .expect("legal");
        let x = Tensor::<B, 4>::ones([1, 3, h, w], &Default::default());
        let latents = vae.encode(x).expect("encodes").mode();
        assert_eq!(latents.dims(), [1, 4, h / 4, w / 4], "{overlap}");
        let x = vae.decode(latents).expect("decodes");
        assert_eq!(x.dims(), [1, 3, h / 4 * 4, w / 4 * 4], "{overlap}");
        let values = x.into_data().to_vec::<f32>().expect("f32");
        assert!(values.iter().all(|value| value.is_finite()), "{overlap}");
    }
}

#[test]
fn half_precision() {
    let mut vae = vae(RANDOM);
    let name = "random 32 0.25 9x11";
    vae.enable_tiling(None).expect("the default");
    let exact = decoded(&vae, name);
    let folder = i2vgen_checkpoint::Folder::open(repository(RANDOM)).expect("opens");
    let device = Default::default();
    let mut half =
        AutoencoderKL::<B>::from_folder(&folder, None, DType::F16, &device).expect("loads");
    half.enable_tiling(None).expect("the default");
    let latents = golden(&format!("{name}.latents")).cast(DType::F16);
    let found = half.decode(latents).expect("decodes");
    assert_eq!(found.dtype(), DType::F16);
    let off: f32 = (found.cast(DType::F32) - exact).abs().max().into_scalar();
    assert!(off < 0.05, "{off}");
}

#[test]
fn impossible_tiles_are_errors() {
    let mut vae = vae(RANDOM);
    for sides in [[30, 32], [32, 2], [0, 32], [32, 0]] {
        let error = vae.enable_tiling(Some(tiling(sides, 0.25)));
        assert!(matches!(error, Err(VaeError::TileSize { .. })), "{error:?}");
    }
    for overlap in [1.0, -0.1, 2.0, f64::NAN, f64::INFINITY] {
        let error = vae.enable_tiling(Some(tiling([32; 2], overlap)));
        assert!(matches!(error, Err(VaeError::TileOverlap(_))), "{error:?}");
    }
    vae.config.sample_size = 30;
    assert!(matches!(
        vae.enable_tiling(None),
        Err(VaeError::TileSize { .. })
    ));
}
