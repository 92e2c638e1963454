//! From a picture to the pixels that the vision tower and the VAE read (reference `overview.md` §5).

use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use i2vgen_checkpoint::{Folder, write_json};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    CLIPError,
    resample::{Filter, resize_window},
};

/// How a picture is cut to the wanted aspect ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CropMode {
    /// The whole target is filled.
    #[default]
    Corrected,
    /// As the reference, whose rounding can leave a black line of one pixel on the left or on top.
    Reference,
}

/// Resizes with a box filter so that the target is covered, then cuts out its middle.
pub fn crop_wide(image: &RgbImage, width: u32, height: u32, mode: CropMode) -> RgbImage {
    if image.width() == 0 || image.height() == 0 || width == 0 || height == 0 {
        return RgbImage::new(width, height);
    }
    let (resized, origin) = geometry(image.dimensions(), (width, height), mode);
    // The target's range of the resized picture, and where in the target that starts.
    let visible = |start: i64, resized: u64, target: u32| {
        let from = start.max(0) as u64;
        let to = (start + i64::from(target)).clamp(0, resized as i64) as u64;
        (from..to, (-start).max(0))
    };
    let (columns, left) = visible(origin.0, resized.0, width);
    let (rows, top) = visible(origin.1, resized.1, height);
    let part = resize_window(image, resized, columns, rows, Filter::Box);
    if (part.width(), part.height()) == (width, height) {
        return part;
    }
    let mut canvas = RgbImage::new(width, height);
    image::imageops::replace(&mut canvas, &part, left, top);
    canvas
}

/// Size to which a picture is resized, and where in that the target begins.
fn geometry(
    (iw, ih): (u32, u32),
    (width, height): (u32, u32),
    mode: CropMode,
) -> ((u64, u64), (i64, i64)) {
    let (iw, ih) = (f64::from(iw), f64::from(ih));
    let scale = (iw / f64::from(width)).min(ih / f64::from(height));
    let size = |n: f64, target: u32| {
        let n = floor_division(n, scale) as u64;
        match mode {
            CropMode::Corrected => n.max(u64::from(target)),
            CropMode::Reference => n.max(1),
        }
    };
    let resized = (size(iw, width), size(ih, height));
    let origin = |resized: u64, target: u32| (resized as i64 - i64::from(target)).div_euclid(2);
    (
        resized,
        (origin(resized.0, width), origin(resized.1, height)),
    )
}

/// Python's `a // b` for positive doubles: the floor of the exact quotient, not of the rounded one.
fn floor_division(a: f64, b: f64) -> f64 {
    let quotient = (a - a % b) / b;
    let floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor + 1.0
    } else {
        floor
    }
}

/// The pixels that the VAE encodes.
///
/// # Shapes
/// → `[1, 3, height, width]` in −1..1
pub fn vae_pixels<B: Backend>(
    image: &RgbImage,
    width: u32,
    height: u32,
    mode: CropMode,
    device: &B::Device,
) -> Tensor<B, 4> {
    let image = crop_wide(image, width, height, mode);
    planes(&image, |value, _| 2.0 * value - 1.0, device)
}

/// One plane per channel, of values in 0..1 mapped by `f`.
fn planes<B: Backend>(
    image: &RgbImage,
    f: impl Fn(f32, usize) -> f32,
    device: &B::Device,
) -> Tensor<B, 4> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let values: Vec<f32> = (0..3)
        .flat_map(|c| image.as_raw()[c..].iter().step_by(3).map(move |v| (*v, c)))
        .map(|(v, c)| f(f32::from(v) / 255.0, c))
        .collect();
    let data = TensorData::new(values, [1, 3, height, width]);
    Tensor::from_data(data, (device, DType::F32))
}

/// `feature_extractor/preprocessor_config.json`: only its mean, deviation and crop size are used.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct CLIPImageProcessor {
    /// Per channel.
    pub image_mean: [f32; 3],
    /// Per channel.
    pub image_std: [f32; 3],
    /// Height and width that the tower reads.
    pub crop_size: CropSize,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// Pixels of the tower's input.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct CropSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl TryFrom<Value> for CLIPImageProcessor {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let Value::Object(mut rest) = value else {
            return Err("is not an object".into());
        };
        let mut triple = |name: &str, default: [f32; 3]| match rest.remove(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => serde_json::from_value(value)
                .map_err(|e| format!("{name} must be three numbers, one per channel ({e})")),
        };
        let image_mean = triple("image_mean", [0.481_454_66, 0.457_827_5, 0.408_210_73])?;
        let image_std = triple("image_std", [0.268_629_54, 0.261_302_6, 0.275_777_1])?;
        if image_std.iter().any(|std| *std <= 0.0) {
            return Err("image_std must be positive".into());
        }
        let crop = rest.remove("crop_size").filter(|crop| !crop.is_null());
        let crop = crop.unwrap_or(json!(224));
        let side = |name: &str| {
            let n = crop.as_u64().or_else(|| crop[name].as_u64());
            n.filter(|n| (1..=8192).contains(n))
                .map(|n| n as u32)
                .ok_or_else(|| {
                    format!(
                        "crop_size must be a number or a height and a width in 1..=8192, not {crop}"
                    )
                })
        };
        let crop_size = CropSize {
            height: side("height")?,
            width: side("width")?,
        };
        Ok(Self {
            image_mean,
            image_std,
            crop_size,
            rest,
        })
    }
}

impl CLIPImageProcessor {
    /// Reads a `feature_extractor` folder.
    ///
    /// # Errors
    /// If its config is missing, not JSON, or not that of an image processor.
    pub fn from_pretrained(path: impl AsRef<Path>) -> Result<Self, CLIPError> {
        Self::from_folder(&Folder::open(path)?)
    }

    /// As [`Self::from_pretrained`], for a folder that is already open.
    ///
    /// # Errors
    /// As [`Self::from_pretrained`].
    pub fn from_folder(folder: &Folder) -> Result<Self, CLIPError> {
        Ok(folder.read_json("preprocessor_config.json")?)
    }

    /// Writes the config to an existing folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_pretrained(&self, path: impl AsRef<Path>) -> Result<(), CLIPError> {
        let path = path.as_ref().join("preprocessor_config.json");
        Ok(write_json(&path, self)?)
    }

    /// The 8-bit picture that the tower sees: a square of the output's width, reduced bilinearly.
    pub fn resized(&self, image: &RgbImage, width: u32, mode: CropMode) -> RgbImage {
        let square = crop_wide(image, width, width, mode);
        let CropSize { height, width } = self.crop_size;
        let (w, h) = (u64::from(width), u64::from(height));
        resize_window(&square, (w, h), 0..w, 0..h, Filter::Bilinear)
    }

    /// The normalised pixels of [`Self::resized`]; `width` is that of the output video.
    ///
    /// # Shapes
    /// → `[1, 3, crop height, crop width]`
    pub fn preprocess<B: Backend>(
        &self,
        image: &RgbImage,
        width: u32,
        mode: CropMode,
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let image = self.resized(image, width, mode);
        let normalise = |v: f32, c: usize| (v - self.image_mean[c]) / self.image_std[c];
        planes(&image, normalise, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_of_the_exact_quotient() {
        // 1024 / (1024 / 1280) rounds to 1280, but the exact quotient is below it.
        assert_eq!(floor_division(1024.0, 1024.0 / 1280.0), 1279.0);
        assert_eq!(floor_division(7.0, 2.0), 3.0);
    }

    /// `reference/preprocess_vectors.json`: what Pillow and the stock crop do.
    fn vectors() -> Value {
        let text = include_str!("../tests/preprocess_vectors.json");
        serde_json::from_str(text).expect("valid")
    }

    fn pair(value: &Value) -> [i64; 2] {
        serde_json::from_value(value.clone()).expect("two numbers")
    }

    #[test]
    fn crop_geometry_of_the_reference() {
        let vectors = vectors();
        let sizes = vectors["sizes"].as_array().expect("a list");
        assert!(sizes.len() >= 38);
        for case in sizes {
            let size = |name: &str| {
                let [w, h] = pair(&case[name]);
                (w as u32, h as u32)
            };
            let (resized, origin) = geometry(size("in"), size("target"), CropMode::Reference);
            let resized = [resized.0 as i64, resized.1 as i64];
            assert_eq!(resized, pair(&case["resized"]), "{case}");
            assert_eq!([origin.0, origin.1], pair(&case["crop_origin"]), "{case}");
        }
    }

    #[test]
    fn resampling_is_pillows_to_the_bit() {
        let vectors = vectors();
        let cases = vectors["resize"].as_array().expect("a list");
        assert!(cases.len() >= 10);
        for case in cases {
            let bytes = |name: &str| -> Vec<u8> {
                serde_json::from_value(case[name].clone()).expect("bytes")
            };
            let filter = match case["filter"].as_str() {
                Some("box") => Filter::Box,
                Some("bilinear") => Filter::Bilinear,
                other => panic!("{other:?}"),
            };
            let [w, h] = pair(&case["in_wh"]);
            let pixels = bytes("in").into_iter().flat_map(|v| [v; 3]).collect();
            let image = RgbImage::from_raw(w as u32, h as u32, pixels).expect("fits");
            let [w, h] = pair(&case["out_wh"]).map(|n| n as u64);
            let out = resize_window(&image, (w, h), 0..w, 0..h, filter);
            let found: Vec<u8> = out.as_raw().iter().step_by(3).copied().collect();
            assert_eq!(found, bytes("out_horizontal_first"), "{case}");
        }
    }

    #[test]
    fn extreme_shapes_fill_the_target() {
        for (w, h) in [(1, 1), (30000, 1), (1, 30000), (1279, 703)] {
            let image = RgbImage::from_pixel(w, h, image::Rgb([9, 8, 7]));
            let out = crop_wide(&image, 1280, 704, CropMode::Corrected);
            assert_eq!((out.width(), out.height()), (1280, 704));
            assert!(out.pixels().all(|p| p.0 == [9, 8, 7]), "{w}x{h}");
        }
    }

    #[test]
    fn the_reference_leaves_a_black_line() {
        let image = RgbImage::from_pixel(1024, 1024, image::Rgb([200; 3]));
        let out = crop_wide(&image, 1280, 704, CropMode::Reference);
        assert_eq!(out.get_pixel(0, 0).0, [0; 3]);
        assert_eq!(out.get_pixel(1, 0).0, [200; 3]);
    }
}
