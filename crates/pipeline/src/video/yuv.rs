//! RGB in 0..1 ↔ 8-bit Y'CbCr 4:2:0 by ITU-R BT.709, limited range: what the MP4 declares.

use std::array::from_fn;

/// Weights of red, green and blue in the luma.
const LUMA: [f32; 3] = [0.2126, 0.7152, 0.0722];
/// From differences to ±0.5.
const BLUE: f32 = 2.0 * (1.0 - LUMA[2]);
const RED: f32 = 2.0 * (1.0 - LUMA[0]);

/// The three planes behind one another, of a frame `[height, width, 3]` of even size.
pub(super) fn from_rgb(values: &[f32], [height, width]: [usize; 2]) -> Vec<u8> {
    let pixel = |y: usize, x: usize| -> [f32; 3] {
        let at = (y * width + x) * 3;
        from_fn(|c| values[at + c].clamp(0.0, 1.0))
    };
    let luma = |rgb: [f32; 3]| -> f32 { (0..3).map(|c| LUMA[c] * rgb[c]).sum() };
    let mut planes = Vec::with_capacity(width * height * 3 / 2);
    for y in 0..height {
        planes.extend((0..width).map(|x| (16.0 + 219.0 * luma(pixel(y, x))).round() as u8));
    }
    for (channel, scale) in [(2, BLUE), (0, RED)] {
        for y in (0..height).step_by(2) {
            planes.extend((0..width).step_by(2).map(|x| {
                let four = [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)];
                let four = four.map(|(y, x)| pixel(y, x));
                let mean: [f32; 3] = from_fn(|c| four.iter().map(|p| p[c]).sum::<f32>() / 4.0);
                (128.0 + 224.0 * (mean[channel] - luma(mean)) / scale).round() as u8
            }));
        }
    }
    planes
}

/// One pixel back.
pub(super) fn to_rgb([y, cb, cr]: [u8; 3]) -> [f32; 3] {
    let y = (f32::from(y) - 16.0) / 219.0;
    let blue = y + (f32::from(cb) - 128.0) / 224.0 * BLUE;
    let red = y + (f32::from(cr) - 128.0) / 224.0 * RED;
    let green = (y - LUMA[0] * red - LUMA[2] * blue) / LUMA[1];
    [red, green, blue].map(|v| v.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_white_and_primaries_are_those_of_the_standard() {
        // BT.709, 8 bits: https://www.itu.int/rec/R-REC-BT.709 item 4 (quantised).
        let planes = |rgb: [f32; 3]| {
            let planes = from_rgb(&rgb.repeat(4), [2, 2]);
            assert_eq!(planes.len(), 6);
            [planes[0], planes[4], planes[5]]
        };
        assert_eq!(planes([0.0; 3]), [16, 128, 128]);
        assert_eq!(planes([1.0; 3]), [235, 128, 128]);
        assert_eq!(planes([1.0, 0.0, 0.0]), [63, 102, 240]);
        assert_eq!(planes([0.0, 1.0, 0.0]), [173, 42, 26]);
        assert_eq!(planes([0.0, 0.0, 1.0]), [32, 240, 118]);
    }

    #[test]
    fn uniform_colours_come_back() {
        for rgb in [[0.1, 0.5, 0.9], [0.7, 0.2, 0.3], [1.0, 1.0, 0.0]] {
            let planes = from_rgb(&rgb.repeat(4), [2, 2]);
            let back = to_rgb([planes[0], planes[4], planes[5]]);
            for c in 0..3 {
                assert!((rgb[c] - back[c]).abs() < 0.006, "{rgb:?} {back:?}");
            }
        }
    }
}
