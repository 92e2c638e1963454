//! Animated and still PNG. The parameters are an `iTXt` chunk `parameters`.

use std::{
    io::{Cursor, Write},
    ops::Range,
};

use image::{DynamicImage, ImageDecoder, codecs::png::PngDecoder};

use super::{
    AnyError, SaveOptions, Video,
    frames::Frames,
    read::{collect, fits},
};

/// The keyword that other generators use.
const KEYWORD: &str = "parameters";

pub(super) fn write(
    video: &Video,
    index: usize,
    frames: Range<usize>,
    options: &SaveOptions,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let [_, _, height, width] = video.shape();
    let mut encoder = png::Encoder::new(out, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if frames.len() > 1 {
        encoder.set_animated(u32::try_from(frames.len())?, 0)?;
        let (numerator, denominator) = delay(video.fps);
        encoder.set_frame_delay(numerator, denominator)?;
    }
    if let Some(text) = &options.metadata {
        encoder.add_itxt_chunk(KEYWORD.into(), text.clone())?;
    }
    let mut writer = encoder.write_header()?;
    for i in frames {
        writer.write_image_data(&video.frame(index, i))?;
    }
    writer.finish()?;
    Ok(())
}

/// Seconds per frame as a fraction: exact for rates of at most two decimals.
fn delay(fps: f64) -> (u16, u16) {
    let largest = f64::from(u16::MAX);
    if fps * 100.0 <= largest {
        (100, (fps * 100.0).round().max(1.0) as u16)
    } else {
        (1, fps.round().min(largest) as u16)
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<Video, AnyError> {
    // A reader that is content with the frames it has got would not notice.
    if !bytes.ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82") {
        return Err("ends too early".into());
    }
    let decoder = PngDecoder::new(Cursor::new(bytes))?;
    fits(&decoder)?;
    match decoder.is_apng()? {
        true => collect(decoder.apng()?),
        false => still(decoder),
    }
}

/// A picture as a video of one frame.
pub(super) fn still(decoder: impl ImageDecoder) -> Result<Video, AnyError> {
    fits(&decoder)?;
    let mut frames = Frames::default();
    frames.push_rgb(&DynamicImage::from_decoder(decoder)?.to_rgb8())?;
    frames.video(0.0)
}

pub(super) fn parameters(bytes: &[u8]) -> Result<Option<String>, AnyError> {
    let reader = png::Decoder::new(Cursor::new(bytes)).read_info()?;
    let info = reader.info();
    if let Some(chunk) = info.utf8_text.iter().find(|c| c.keyword == KEYWORD) {
        return Ok(Some(chunk.get_text()?));
    }
    // Other generators write ASCII as `tEXt`.
    let plain = info.uncompressed_latin1_text.iter();
    let mut plain = plain.filter(|c| c.keyword == KEYWORD);
    Ok(plain.next().map(|c| c.text.clone()))
}
