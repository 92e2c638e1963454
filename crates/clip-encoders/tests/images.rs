//! Cropping, resampling and normalising against diffusers and Pillow (`tests/goldens/clip/image/generate.py`): to the bit.

mod common;

use burn::tensor::Tensor;
use common::Goldens;
use i2vgen_clip_encoders::{CLIPImageProcessor, CropMode, crop_wide, vae_pixels};
use i2vgen_tests::TestBackend;
use image::RgbImage;
use serde_json::{Value, json};

/// The picture that `generate.py` makes.
fn picture(width: u32, height: u32) -> RgbImage {
    let value = |n: u64| ((n * 2_654_435_761 + 12_345) % (1 << 32)) >> 13 & 255;
    let values = (0..u64::from(width) * u64::from(height) * 3).map(|n| value(n) as u8);
    RgbImage::from_raw(width, height, values.collect()).expect("fits")
}

/// `zlib.crc32`.
fn crc(bytes: &[u8]) -> i64 {
    let table: Vec<u32> = (0..256u32)
        .map(|n| (0..8).fold(n, |c, _| c >> 1 ^ (0xEDB8_8320 * (c & 1))))
        .collect();
    let update = |c: u32, b: &u8| table[usize::from(c as u8 ^ b)] ^ c >> 8;
    i64::from(!bytes.iter().fold(!0, update))
}

fn processor(config: Value) -> Result<CLIPImageProcessor, serde_json::Error> {
    serde_json::from_value(config)
}

fn square(side: u32) -> CLIPImageProcessor {
    processor(json!({ "crop_size": side })).expect("a config")
}

#[test]
fn crops() {
    let goldens = Goldens::read("image/cases.safetensors");
    let mut cases = 0;
    for name in goldens.names() {
        // "crop 50x40 to 40x40"
        let Some((from, to)) = name
            .strip_prefix("crop ")
            .and_then(|n| n.split_once(" to "))
        else {
            continue;
        };
        let pair = |text: &str| -> (u32, u32) {
            let (w, h) = text.split_once('x').expect("a size");
            (w.parse().expect("width"), h.parse().expect("height"))
        };
        let ((iw, ih), (width, height)) = (pair(from), pair(to));
        let found = crop_wide(&picture(iw, ih), width, height, CropMode::Reference);
        assert_eq!(found.as_raw(), &goldens.bytes(&name), "{name}");
        cases += 1;
    }
    assert!(cases >= 30, "{cases}");
}

#[test]
fn large_crops() {
    let goldens = Goldens::read("image/cases.safetensors");
    for case in goldens.i64("crop crc").chunks(5) {
        let [w, h, width, height] = [0, 1, 2, 3].map(|i| case[i] as u32);
        let found = crop_wide(&picture(w, h), width, height, CropMode::Reference);
        assert_eq!(crc(found.as_raw()), case[4], "{case:?}");
    }
}

#[test]
fn bilinear() {
    let goldens = Goldens::read("image/cases.safetensors");
    for case in goldens.i64("bilinear crc").chunks(4) {
        let [w, h, side] = [0, 1, 2].map(|i| case[i] as u32);
        // Cropping a square to its own size changes nothing.
        let found = square(side).resized(&picture(w, h), w, CropMode::Reference);
        assert_eq!(crc(found.as_raw()), case[3], "{case:?}");
    }
}

#[test]
fn pixels_of_both_branches() {
    let goldens = Goldens::read("image/cases.safetensors");
    let image = picture(50, 41);
    let device = Default::default();
    let check = |name: &str, found: Tensor<TestBackend, 4>| {
        assert_eq!(found.dims().to_vec(), goldens.shape(name));
        let found: Vec<f32> = found.into_data().to_vec().expect("f32");
        let expected = goldens.f32(name);
        let bad = (0..found.len()).find(|i| found[*i].to_bits() != expected[*i].to_bits());
        if let Some(i) = bad {
            panic!("{name}: value {i} is {}, not {}", found[i], expected[i]);
        }
    };
    let clip = square(16).preprocess(&image, 40, CropMode::Reference, &device);
    check("clip 50x41 to 40, 16", clip);
    let vae = vae_pixels(&image, 40, 24, CropMode::Reference, &device);
    check("vae 50x41 to 40x24", vae);
}

#[test]
fn corrected_differs_only_where_the_reference_has_a_border() {
    for (w, h) in [
        (64, 40),
        (50, 40),
        (37, 53),
        (1024, 1024),
        (1920, 1080),
        (640, 480),
    ] {
        let image = picture(w, h);
        let crop = |mode| crop_wide(&image, 128, 72, mode);
        let (reference, corrected) = (crop(CropMode::Reference), crop(CropMode::Corrected));
        let black = |x: u32, y: u32| reference.get_pixel(x, y).0 == [0; 3];
        let border = (0..128).all(|x| black(x, 0)) || (0..72).all(|y| black(0, y));
        assert_eq!(reference != corrected, border, "{w}x{h}");
    }
}

#[test]
fn configs() {
    let sides = |config: Value| {
        let size = processor(config).expect("a config").crop_size;
        (size.height, size.width)
    };
    assert_eq!(sides(json!({})), (224, 224));
    assert_eq!(sides(json!({"crop_size": 32})), (32, 32));
    assert_eq!(
        sides(json!({"crop_size": {"height": 8, "width": 9}})),
        (8, 9)
    );
    let kept = json!({"crop_size": {"height": 8, "width": 9}, "resample": 3, "image_mean": [0.5, 0.25, 0.0],
                      "image_std": [0.5, 0.25, 1.0]});
    let parsed = processor(kept.clone()).expect("a config");
    assert_eq!(serde_json::to_value(&parsed).expect("JSON"), kept);
    for (bad, word) in [
        (json!({"image_mean": [0.5]}), "image_mean"),
        (json!({"image_std": "1"}), "image_std"),
        (json!({"image_std": [1, 0, 1]}), "image_std"),
        (json!({"crop_size": 0}), "crop_size"),
        (json!({"crop_size": {"height": 224}}), "crop_size"),
        (json!([]), "object"),
    ] {
        let error = processor(bad).expect_err("bad").to_string();
        assert!(error.contains(word), "{error}");
    }
}
