//! Other frame sizes.

use crate::Video;

/// Bilinear between the centres of pixels, without smoothing (`torch.nn.functional.interpolate`, `align_corners` off).
pub(crate) fn bilinear(video: &Video, height: usize, width: usize) -> Video {
    let [videos, frames, h, w] = video.shape();
    if [h, w] == [height, width] {
        return video.clone();
    }
    let (rows, columns) = (taps(h, height), taps(w, width));
    let frame = |x: &[f32]| -> Vec<f32> {
        let mut y = Vec::with_capacity(height * width * 3);
        for &(top, bottom, down) in &rows {
            for &(left, right, along) in &columns {
                for c in 0..3 {
                    let at = |row: usize, column: usize| x[(row * w + column) * 3 + c];
                    let line = |row| at(row, left) * (1.0 - along) + at(row, right) * along;
                    y.push(line(top) * (1.0 - down) + line(bottom) * down);
                }
            }
        }
        y
    };
    let values: Vec<Vec<f32>> = video.values().chunks(h * w * 3).map(frame).collect();
    Video::new(values.concat(), [videos, frames, height, width], video.fps)
        .expect("every frame has height times width pixels")
}

/// The two source entries of every target entry, and the weight of the second.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    let tap = |i: usize| {
        let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
        let first = (at as usize).min(from - 1);
        (first, (first + 1).min(from - 1), at - first as f32)
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_pixel_centres() {
        // torch.nn.functional.interpolate(tensor([[[[0., 1., 4.]]]]), (1, 5), mode="bilinear")
        let line = [0.0, 1.0, 4.0].map(|v| [v / 4.0; 3]).concat();
        let video = Video::new(line, [1, 1, 1, 3], 8.0).expect("three pixels");
        let wide = bilinear(&video, 2, 5);
        assert_eq!(wide.shape(), [1, 1, 2, 5]);
        let expected = [0.0, 0.4, 1.0, 2.8, 4.0];
        for (i, pixel) in wide.values().chunks(3).enumerate() {
            for value in pixel {
                assert!((value * 4.0 - expected[i % 5]).abs() < 1e-6, "{i}: {value}");
            }
        }
        // To every other size and back to the same object.
        assert_eq!(bilinear(&video, 1, 3), video);
        assert_eq!(bilinear(&video, 1, 1).values()[0], 0.25);
    }
}
