//! `--continue-from`: the last frame of one video is the picture of the next. A heuristic: the model sees a still picture,
//! not where things were going, so speed and direction may change at the seam.

use std::path::Path;

use i2vgen_pipeline::{Latents, Video};
use image::RgbImage;

use crate::{failure::Failure, layers, settings::Settings};

const FLAG: &str = "--continue-from";

/// Where the picture comes from.
pub(crate) enum Source {
    /// It is here.
    Picture(RgbImage),
    /// One frame, to be decoded: `[1, channels, 1, h, w]`.
    Latents(Latents),
}

/// The defaults that a continued sidecar gives: its arguments, for its first video alone, with the next seed. The same seed
/// would give the same noise again, and with it a similar motion and the same faults.
pub(crate) fn defaults(path: &Path) -> Result<Settings, Failure> {
    if !is_sidecar(path) {
        return Ok(Settings::default());
    }
    fn first<T: Clone>(list: Option<Vec<T>>) -> Option<Vec<T>> {
        list.map(|list| list[..list.len().min(1)].to_vec())
    }
    let before = layers::sidecar(FLAG, path)?.arguments.without_outputs();
    let next = |seed: &u64| seed.wrapping_add(1);
    Ok(Settings {
        image: None,
        continue_from: None,
        prompt: first(before.prompt),
        negative_prompt: first(before.negative_prompt),
        seed: first(before.seed.map(|seeds| seeds.iter().map(next).collect())),
        num_videos_per_prompt: None,
        latents: None,
        ..before
    })
}

/// The end of the video or of the latents in `path`.
pub(crate) fn source(path: &Path) -> Result<Source, Failure> {
    if !is_sidecar(path) {
        return open(path);
    }
    let record = layers::sidecar(FLAG, path)?;
    match record.outputs.first() {
        Some(output) => open(output),
        None => Err(Failure::Input(format!(
            "{FLAG}: '{}' names no outputs; give the .json beside a video",
            path.display()
        ))),
    }
}

fn is_sidecar(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("json"))
}

fn open(path: &Path) -> Result<Source, Failure> {
    if crate::tensors::holds_latents(path) {
        return Ok(Source::Latents(last_frame(&Latents::read(path)?)?));
    }
    let video = Video::open(path).map_err(|e| Failure::Input(format!("{FLAG}: {e}")))?;
    let [_, frames, ..] = video.shape();
    Ok(Source::Picture(video.frame(0, frames - 1)))
}

fn last_frame(latents: &Latents) -> Result<Latents, Failure> {
    let [_, channels, frames, h, w] = latents.shape;
    if latents.values.is_empty() {
        return Err(Failure::Input(format!(
            "{FLAG}: the latents have no frames"
        )));
    }
    let of_channel = |c: usize| &latents.values[(c * frames + frames - 1) * h * w..][..h * w];
    Ok(Latents {
        values: (0..channels).flat_map(of_channel).copied().collect(),
        shape: [1, channels, 1, h, w],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_of_the_first_video() {
        let shape = [2, 2, 3, 1, 2];
        let values = (0..24).map(|i| i as f32).collect();
        let last = last_frame(&Latents { values, shape }).expect("there");
        assert_eq!(last.shape, [1, 2, 1, 1, 2]);
        assert_eq!(last.values, [4.0, 5.0, 10.0, 11.0]);
    }
}
