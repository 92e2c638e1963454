use image::RgbImage;

use super::{Advice, AnyError, DEFAULT_FPS, Video};

/// Most pixels that are read from one file, all frames together: their values take 0.8 GB.
pub(super) const MAX_PIXELS: u64 = 1 << 26;

/// The frames of one video while they come out of a file.
#[derive(Default)]
pub(super) struct Frames {
    values: Vec<f32>,
    count: usize,
    size: Option<[usize; 2]>,
}

impl Frames {
    /// Refuses sizes for which a decoder should not even reserve memory.
    pub(super) fn check(width: u64, height: u64) -> Result<(), AnyError> {
        match width.checked_mul(height) {
            Some(0) => Err(Advice::error(
                "holds pictures without pixels; write it again",
            )),
            Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
            _ => Err(Advice::error(format!(
                "is too large ({width}x{height}); scale it down"
            ))),
        }
    }

    /// Adds a frame of values `[height, width, 3]`.
    pub(super) fn push(
        &mut self,
        [height, width]: [usize; 2],
        values: impl Iterator<Item = f32>,
    ) -> Result<(), AnyError> {
        let first = *self.size.get_or_insert([height, width]);
        if first != [height, width] {
            return Err(Advice::error(format!(
                "mixes frame sizes ({}x{} and {width}x{height}); make them equal",
                first[1], first[0]
            )));
        }
        if (self.count as u64 + 1) * (width * height) as u64 > MAX_PIXELS {
            return Err(Advice::error(format!(
                "is too large (over {} frames of {width}x{height}); shorten it",
                self.count
            )));
        }
        self.values.extend(values);
        self.count += 1;
        Ok(())
    }

    #[cfg(feature = "mp4")]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn push_rgb(&mut self, image: &RgbImage) -> Result<(), AnyError> {
        let size = [image.height() as usize, image.width() as usize];
        self.push(size, image.as_raw().iter().map(|v| f32::from(*v) / 255.0))
    }

    /// All of them, which last so long together; without a length, at the usual rate.
    pub(super) fn video(self, seconds: f64) -> Result<Video, AnyError> {
        let Some([height, width]) = self.size else {
            return Err(Advice::error("holds no frames; write it again"));
        };
        // Lengths are sums of rounded numbers.
        let fps = (self.count as f64 / seconds * 1e6).round() / 1e6;
        let usable = fps.is_finite() && fps > 0.0;
        let fps = if usable { fps } else { DEFAULT_FPS };
        Ok(Video::new(
            self.values,
            [1, self.count, height, width],
            fps,
        )?)
    }
}
