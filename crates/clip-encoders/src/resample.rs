//! Pillow's 8-bit resampling to the bit (reference `overview.md` §5.3), computed only where it is looked at.

use std::ops::Range;

use image::RgbImage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Box,
    Bilinear,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bilinear => 1.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Box if -0.5 < x && x <= 0.5 => 1.0,
            Self::Box => 0.0,
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
        }
    }
}

/// Fixed-point digits of a weight.
const PRECISION: u32 = 22;

/// Weights of one output pixel along one axis, from input `start` on.
struct Taps {
    start: usize,
    weights: Vec<i64>,
}

fn taps(input: usize, output: u64, filter: Filter, window: Range<u64>) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let reciprocal = 1.0 / filter_scale;
    window
        .map(|o| {
            let center = (o as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input).max(start);
            let weight = |j: usize| filter.weight((j as f64 - center + 0.5) * reciprocal);
            let weights: Vec<f64> = (start..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: f64| {
                let w = if sum == 0.0 { w } else { w / sum } * f64::from(1u32 << PRECISION);
                (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i64
            };
            Taps {
                start,
                weights: weights.into_iter().map(fixed).collect(),
            }
        })
        .collect()
}

fn round(sum: i64) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// The part `columns` × `rows` of `image` resized to `width` × `height`. Horizontal first, as Pillow before 13.
pub(crate) fn resize_window(
    image: &RgbImage,
    (width, height): (u64, u64),
    columns: Range<u64>,
    rows: Range<u64>,
    filter: Filter,
) -> RgbImage {
    let (in_width, in_height) = (image.width() as usize, image.height() as usize);
    let out_width = (columns.end - columns.start) as usize;
    let out_height = (rows.end - rows.start) as usize;
    let vertical =
        (height != in_height as u64).then(|| taps(in_height, height, filter, rows.clone()));
    // Input rows that any output row reads.
    let needed = match &vertical {
        Some(taps) => {
            let start = taps.iter().map(|t| t.start).min().unwrap_or(0);
            let end = taps.iter().map(|t| t.start + t.weights.len()).max();
            start..end.unwrap_or(0).max(start)
        }
        None => rows.start as usize..rows.end as usize,
    };
    let pixels = image.as_raw();
    let mut wide = vec![0u8; needed.len() * out_width * 3];
    let horizontal =
        (width != in_width as u64).then(|| taps(in_width, width, filter, columns.clone()));
    if out_width > 0 {
        for (row, out) in needed.clone().zip(wide.chunks_exact_mut(out_width * 3)) {
            let line = &pixels[row * in_width * 3..][..in_width * 3];
            match &horizontal {
                Some(taps) => {
                    for (taps, out) in taps.iter().zip(out.chunks_exact_mut(3)) {
                        accumulate(taps, out, |j, c| line[j * 3 + c]);
                    }
                }
                None => out.copy_from_slice(&line[columns.start as usize * 3..][..out_width * 3]),
            }
        }
    }
    let stride = out_width * 3;
    let result = match &vertical {
        Some(taps) => {
            let mut tall = vec![0u8; out_height * stride];
            for (y, taps) in taps.iter().enumerate() {
                for x in 0..out_width {
                    let out = &mut tall[y * stride + x * 3..][..3];
                    accumulate(taps, out, |j, c| {
                        wide[(j - needed.start) * stride + x * 3 + c]
                    });
                }
            }
            tall
        }
        None => wide,
    };
    RgbImage::from_raw(out_width as u32, out_height as u32, result)
        .expect("the buffer was made for this size")
}

fn accumulate(taps: &Taps, out: &mut [u8], pixel: impl Fn(usize, usize) -> u8) {
    for (c, out) in out.iter_mut().enumerate() {
        let products = taps
            .weights
            .iter()
            .enumerate()
            .map(|(j, w)| w * i64::from(pixel(taps.start + j, c)));
        *out = round(products.sum());
    }
}
