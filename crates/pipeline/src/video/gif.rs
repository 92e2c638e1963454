//! GIF: at most 256 colours, times in hundredths of a second, the parameters in a comment extension.

use std::{
    array::from_fn,
    collections::{BTreeSet, HashMap},
    io::{Cursor, Write},
};

use color_quant::NeuQuant;
use gif::{
    AnyExtension, Encoder, Extension, Frame, Repeat,
    streaming_decoder::{Block, Decoded, OutputBuffer, StreamingDecoder},
};
use image::{RgbImage, codecs::gif::GifDecoder};

use super::{AnyError, GifDither, GifPalette, SaveOptions, Video, read::animation};

pub(super) fn write(
    video: &Video,
    index: usize,
    options: &SaveOptions,
    out: &mut dyn Write,
) -> Result<(), AnyError> {
    let [_, count, height, width] = video.shape();
    let (width, height) = (u16::try_from(width)?, u16::try_from(height)?);
    let frames: Vec<RgbImage> = (0..count).map(|i| video.frame(index, i)).collect();
    let mut global = match options.gif_palette {
        GifPalette::Global => Some(Palette::of(&frames)),
        GifPalette::PerFrame => None,
    };
    let colors = global.as_ref().map(Palette::bytes).unwrap_or_default();
    let mut encoder = Encoder::new(out, width, height, &colors)?;
    encoder.set_repeat(Repeat::Infinite)?;
    if let Some(text) = &options.metadata {
        encoder.write_raw_extension(AnyExtension::from(Extension::Comment), &[text.as_bytes()])?;
    }
    // Rounding the ends, not the lengths, keeps the total right.
    let end = |n: usize| (n as f64 * 100.0 / video.fps).round();
    for (i, image) in frames.iter().enumerate() {
        let mut own = match global {
            Some(_) => None,
            None => Some(Palette::of(std::slice::from_ref(image))),
        };
        let colors = own.as_ref().map(Palette::bytes);
        let indices = match own.as_mut().or(global.as_mut()) {
            Some(palette) => palette.indices(image, options.gif_dither),
            None => continue,
        };
        let mut frame = Frame::from_indexed_pixels(width, height, indices, None);
        frame.palette = colors;
        // Viewers slow frames shorter than this down to a tenth of a second.
        frame.delay = (end(i + 1) - end(i)).clamp(2.0, 65535.0) as u16;
        encoder.write_frame(&frame)?;
    }
    Ok(())
}

pub(super) fn read(bytes: &[u8]) -> Result<Video, AnyError> {
    // The decoder takes the end of the file for the end of the video.
    if bytes.last() != Some(&0x3b) {
        return Err("ends too early".into());
    }
    animation(GifDecoder::new(Cursor::new(bytes))?)
}

/// The first comment extension.
pub(super) fn comment(mut bytes: &[u8]) -> Result<Option<String>, AnyError> {
    let comment = AnyExtension::from(Extension::Comment);
    let mut decoder = StreamingDecoder::new();
    let mut text = Vec::new();
    while !bytes.is_empty() {
        let (used, event) = decoder.update(bytes, &mut OutputBuffer::None)?;
        bytes = bytes.get(used..).unwrap_or_default();
        match event {
            Decoded::SubBlock { ext, is_last } if ext == comment => {
                text.extend(decoder.last_ext_sub_block());
                if is_last {
                    return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
                }
            }
            Decoded::BlockStart(Block::Trailer) => return Ok(None),
            _ => {}
        }
    }
    Err("ends too early".into())
}

/// At most 256 colours, and which of them is nearest to others.
struct Palette {
    colors: Vec<[u8; 3]>,
    nearest: HashMap<[u8; 3], u8>,
}

impl Palette {
    /// All colours of the pictures if they are few, else a choice by neural-net quantisation (Dekker, 1994).
    fn of(images: &[RgbImage]) -> Self {
        let pixels = || images.iter().flat_map(RgbImage::pixels).map(|p| p.0);
        let mut distinct = BTreeSet::new();
        for color in pixels() {
            distinct.insert(color);
            if distinct.len() > 256 {
                break;
            }
        }
        let colors = if distinct.len() <= 256 {
            distinct.into_iter().collect()
        } else {
            let rgba: Vec<u8> = pixels().flat_map(|[r, g, b]| [r, g, b, 255]).collect();
            // Some 400 000 samples are plenty.
            let every = (rgba.len() / 4 / 400_000).clamp(1, 30);
            let map = NeuQuant::new(every as i32, 256, &rgba).color_map_rgb();
            map.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect()
        };
        Self {
            colors,
            nearest: HashMap::new(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.colors.concat()
    }

    fn index(&mut self, color: [u8; 3]) -> u8 {
        let colors = &self.colors;
        *self.nearest.entry(color).or_insert_with(|| {
            let distance = |other: &[u8; 3]| -> u32 {
                let squares = (0..3).map(|c| u32::from(color[c].abs_diff(other[c])).pow(2));
                squares.sum()
            };
            let nearest = (0..colors.len()).min_by_key(|i| distance(&colors[*i]));
            nearest.unwrap_or(0) as u8
        })
    }

    fn indices(&mut self, image: &RgbImage, dither: GifDither) -> Vec<u8> {
        let width = image.width() as usize;
        let mut indices = Vec::with_capacity(width * image.height() as usize);
        // Errors that the row above has left, with a margin of one pixel on both sides.
        let mut below = vec![[0f32; 3]; width + 2];
        for row in image.rows() {
            let above = std::mem::replace(&mut below, vec![[0.0; 3]; width + 2]);
            let mut left = [0f32; 3];
            for (x, pixel) in row.enumerate() {
                let wanted: [f32; 3] = from_fn(|c| {
                    (f32::from(pixel[c]) + above[x + 1][c] + left[c]).clamp(0.0, 255.0)
                });
                let index = self.index(wanted.map(|v| v.round() as u8));
                indices.push(index);
                if dither == GifDither::FloydSteinberg {
                    let color = self.colors[usize::from(index)];
                    for c in 0..3 {
                        let error = wanted[c] - f32::from(color[c]);
                        left[c] = error * 7.0 / 16.0;
                        below[x][c] += error * 3.0 / 16.0;
                        below[x + 1][c] += error * 5.0 / 16.0;
                        below[x + 2][c] += error / 16.0;
                    }
                }
            }
        }
        indices
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn grey_becomes_a_mixture_of_black_and_white() {
        let mut palette = Palette {
            colors: vec![[0; 3], [255; 3]],
            nearest: HashMap::new(),
        };
        let grey = RgbImage::from_pixel(40, 40, Rgb([51; 3]));
        let mut white = |dither| -> usize {
            let indices = palette.indices(&grey, dither);
            assert_eq!(indices.len(), 1600);
            indices.iter().map(|i| usize::from(*i)).sum()
        };
        assert_eq!(white(GifDither::None), 0);
        // A fifth of 1600, but for what runs over the edges.
        let found = white(GifDither::FloydSteinberg);
        assert!((300..=330).contains(&found), "{found}");
    }
}
