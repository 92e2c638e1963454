//! Pictures from files: recognised by their first bytes, turned upright, converted to 8-bit RGB.

use std::{io::Cursor, path::Path};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use crate::PipelineError;

/// Most pixels of a picture; more would need gigabytes.
const MAX_PIXELS: u64 = 300_000_000;

/// Reads a PNG, JPEG, WebP or BMP file.
///
/// Transparency is dropped as by Pillow's `convert("RGB")`; 16-bit values are rounded to 8 bits.
///
/// # Errors
/// If the file is missing, empty, damaged, too large or no picture.
pub fn open_image(path: &Path) -> Result<RgbImage, PipelineError> {
    let fail = |problem: String| PipelineError::Image {
        path: path.display().to_string(),
        problem,
    };
    if path.is_dir() {
        return Err(fail("is a folder; give an image file".into()));
    }
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => fail("does not exist; check the path".into()),
        _ => fail(format!("cannot be read: {e}")),
    })?;
    decode_image(&bytes, &path.display().to_string())
}

/// As [`open_image`], from memory; `name` is for messages.
///
/// # Errors
/// As [`open_image`].
pub fn decode_image(bytes: &[u8], name: &str) -> Result<RgbImage, PipelineError> {
    let fail = |problem: String| PipelineError::Image {
        path: name.to_owned(),
        problem,
    };
    if bytes.is_empty() {
        return Err(fail(
            "is empty (zero bytes); give a complete image file".into(),
        ));
    }
    let format = image::guess_format(bytes)
        .map_err(|_| fail("is not an image; give a PNG, JPEG, WebP or BMP file".into()))?;
    if !matches!(
        format,
        ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Bmp
    ) {
        return Err(fail(format!(
            "is a {} file, which is not supported; give a PNG, JPEG, WebP or BMP file",
            format.extensions_str().first().unwrap_or(&"strange")
        )));
    }
    // The JPEG decoder fills the rest of a truncated picture with grey instead of complaining.
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err(fail("is truncated; download or export it again".into()));
    }
    let damaged =
        |e: image::ImageError| fail(format!("is damaged ({e}); download or export it again"));
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format)
        .into_decoder()
        .map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(fail(format!(
            "has {width}x{height} pixels, more than {MAX_PIXELS}; reduce it first"
        )));
    }
    if width == 0 || height == 0 {
        return Err(fail("has no pixels; give another image".into()));
    }
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Whether the end marker comes after the last start of a scan (a thumbnail has markers of its own before it).
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    match (last([0xff, 0xda]), last([0xff, 0xd9])) {
        (Some(scan), Some(end)) => end > scan,
        _ => false,
    }
}
