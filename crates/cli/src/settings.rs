//! Everything that a run can be told, wherever it is told.

use std::path::{Path, PathBuf};

use clap::Args;
use i2vgen_pipeline::Container;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::choices::{
    CompatArg, DtypeArg, GifDitherArg, GifPaletteArg, ImageLatentsArg, LoraFile, MemoryArg,
    OutputTypeArg, parse_freeu,
};

/// Instead of a path: the model or the picture that is inside of this program.
pub(crate) const EMBEDDED: &str = "embedded";

/// One layer of settings: a command line, the record in a sidecar, a line of a job list or a config file. What a layer does
/// not say is `None`. In files the keys are the long flags with `_` for `-`.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// A diffusers model folder, or a name like ali-vilab/i2vgen-xl to download, or `embedded`: the toy model of
    /// `i2vgen demo`
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Variant of the weights, like fp16; by default whichever is there
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// Branch, tag or commit of a downloaded model [default: main]
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Download nothing, use what is in the cache
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) offline: Option<bool>,
    /// cpu, cuda, cuda:N, wgpu or wgpu:N; 'i2vgen devices' lists them [default: cpu]
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Precision of the computation [default: f32]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<DtypeArg>,
    /// Threads of the CPU; by default one for each core
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Load all weights once and keep them, instead of stage by stage (batch does)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) keep_resident: Option<bool>,
    /// Warn instead of refusing if the estimate is more memory than there is
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) allow_oversize: Option<bool>,

    /// The first frame; repeat it for several prompts, or give one for all
    #[arg(long, value_name = "FILE")]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) image: Option<Vec<PathBuf>>,
    /// Instead of an image: the last frame of an earlier video. Of its .json the other arguments are then the defaults, too,
    /// and the seed is one more; it may also be the video itself, or latents (.safetensors). A heuristic: the model knows
    /// nothing of the earlier frames
    #[arg(long, value_name = "FILE")]
    pub(crate) continue_from: Option<PathBuf>,
    /// What happens; repeat it for several videos
    #[arg(long, value_name = "TEXT")]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) prompt: Option<Vec<String>>,
    /// What should not be seen, one for each prompt or one for all; read when guidance is on
    #[arg(long, value_name = "TEXT")]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) negative_prompt: Option<Vec<String>>,
    /// Instead of prompts: tensor `prompt_embeds` of this file
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_embeds: Option<PathBuf>,
    /// Instead of negative prompts: tensor `negative_prompt_embeds` of this file, which may be the same one
    #[arg(long, value_name = "FILE")]
    pub(crate) negative_prompt_embeds: Option<PathBuf>,
    /// Read `(word)`, `(word:1.3)` and `[word]` in prompts as more or less weight
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) prompt_weighting: Option<bool>,
    /// Last layers of the text encoder to leave out [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) clip_skip: Option<usize>,

    /// Pixels [default: 704]
    #[arg(long, value_name = "N")]
    pub(crate) height: Option<usize>,
    /// Pixels [default: 1280]
    #[arg(long, value_name = "N")]
    pub(crate) width: Option<usize>,
    /// Frames of a video [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) num_frames: Option<usize>,
    /// Frames per second [default: 16]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) target_fps: Option<f64>,
    /// Videos for each prompt [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) num_videos_per_prompt: Option<usize>,

    /// Denoising steps [default: 50]
    #[arg(long, value_name = "N")]
    pub(crate) num_inference_steps: Option<usize>,
    /// Weight of the prompt; guidance is on above 1 [default: 9]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) guidance_scale: Option<f64>,
    /// Where guidance begins, as a fraction of the steps [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) guidance_start: Option<f64>,
    /// Where guidance ends, as a fraction of the steps [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) guidance_end: Option<f64>,
    /// How much of the contrast that guidance adds is taken back, 0 to 1 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) guidance_rescale: Option<f64>,
    /// Run the whole UNet in every N-th step only; the steps between use its deep features again (DeepCache): faster, an
    /// approximation [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) cache_interval: Option<usize>,
    /// Make the two predictions of guidance one after the other: less memory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) split_guidance: Option<bool>,
    /// Read the UNet's layers from disk whenever they are used: least memory, every step reads the file once
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) stream_unet: Option<bool>,
    /// How much memory to spend on speed; the numbers agree to rounding. low: --split-guidance and --vae-slicing; min: also
    /// --stream-unet [default: normal]
    #[arg(long, value_enum)]
    pub(crate) memory: Option<MemoryArg>,
    /// The sampler: ddim, ddpm, pndm, lms, euler, euler-ancestral, heun, kdpm2, dpmsolver++, sde-dpmsolver++, unipc, deis or
    /// lcm; by default the model's own
    #[arg(long, value_name = "NAME")]
    pub(crate) scheduler: Option<String>,
    /// Noise levels spaced as Karras et al. do
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) karras_sigmas: Option<bool>,
    /// Order of a multistep sampler, 1 to 3
    #[arg(long, value_name = "N")]
    pub(crate) solver_order: Option<usize>,
    /// Weight of the noise that DDIM adds in each step [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) eta: Option<f64>,
    /// Seed of all random numbers, as torch.manual_seed; by default from the clock. Repeat it to give each video its own
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) seed: Option<Vec<u64>>,
    /// Start noise: tensor `latents` of this file (or `initial_latents`, if it is from --save-latents)
    #[arg(long, value_name = "FILE")]
    pub(crate) latents: Option<PathBuf>,
    /// Sample the picture's latents, or take their mean [default: sample]
    #[arg(long, value_enum)]
    pub(crate) image_latents: Option<ImageLatentsArg>,
    /// Whose behaviour to follow where the reference has a defect [default: corrected]
    #[arg(long, value_enum)]
    pub(crate) compat: Option<CompatArg>,
    /// FreeU's factors, like 0.9,0.2,1.4,1.6
    #[arg(long, value_name = "S1,S2,B1,B2", value_parser = parse_freeu, allow_negative_numbers = true)]
    pub(crate) freeu: Option<[f64; 4]>,
    /// A LoRA file, with its strength (1 if not given); repeat it for several
    #[arg(long, value_name = "FILE[:STRENGTH]")]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) lora: Option<Vec<LoraFile>>,
    /// Multiplies the strengths of all LoRA files [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) lora_scale: Option<f32>,
    /// Leave out what a LoRA file has for layers that the model lacks
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) allow_unknown: Option<bool>,

    /// A second stage that makes a better video of the first's: a folder with a UNet3DConditionModel (see `i2vgen refine`), or
    /// `self`, which runs this model once more over its own video
    #[arg(long, value_name = "DIR|self")]
    pub(crate) refine: Option<PathBuf>,
    /// The second stage's prompt [default: the first's]
    #[arg(long, value_name = "TEXT")]
    pub(crate) refine_prompt: Option<String>,
    /// How much the second stage makes anew, above 0 and at most 1 [default: self 0.4, other models see `i2vgen refine`]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) refine_strength: Option<f64>,
    /// Steps of the second stage's whole noise schedule [default: self as the first, other models see `i2vgen refine`]
    #[arg(long, value_name = "N")]
    pub(crate) refine_steps: Option<usize>,
    /// Frames decoded at once [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) decode_chunk_size: Option<usize>,
    /// Encode and decode pictures in overlapping tiles: less memory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) vae_tiling: Option<bool>,
    /// Side of the tiles in pixels; by default the VAE's own
    #[arg(long, value_name = "N")]
    pub(crate) vae_tile_size: Option<usize>,
    /// Part of a tile that it shares with the next one [default: 0.25]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) vae_tile_overlap: Option<f64>,
    /// Encode and decode pictures one by one: less memory
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_possible_values = true)]
    pub(crate) vae_slicing: Option<bool>,

    /// Frames, or latents as the scheduler left them [default: video]
    #[arg(long, value_enum)]
    pub(crate) output_type: Option<OutputTypeArg>,
    /// Whether a GIF has a palette for each frame or one for all [default: global]
    #[arg(long, value_enum)]
    pub(crate) gif_palette: Option<GifPaletteArg>,
    /// How a GIF imitates colours that its palette lacks [default: floyd-steinberg]
    #[arg(long, value_enum)]
    pub(crate) gif_dither: Option<GifDitherArg>,
    /// After every so many steps, write what the model believes the video to be: OUTPUT.step-NNNN.png (animated)
    #[arg(long, value_name = "K")]
    pub(crate) preview_every: Option<usize>,
    /// Where to write: .mp4, .webp, .gif, .png (animated), .safetensors, .npy, or a folder of PNGs
    #[arg(long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Write the embeddings of the prompts, for --prompt-embeds and --negative-prompt-embeds
    #[arg(long, value_name = "FILE")]
    pub(crate) save_prompt_embeds: Option<PathBuf>,
    /// Write tensors `initial_latents` and `latents`: the noise and what became of it
    #[arg(long, value_name = "FILE")]
    pub(crate) save_latents: Option<PathBuf>,
}

impl Settings {
    /// This layer on top of another. Where two settings exclude each other, what this one says drops the other's.
    pub(crate) fn merged_over(self, mut lower: Self) -> Self {
        if self.image.is_some() {
            lower.continue_from = None;
        }
        if self.continue_from.is_some() {
            lower.image = None;
        }
        if self.prompt.is_some() {
            lower.prompt_embeds = None;
        }
        if self.prompt_embeds.is_some() {
            lower.prompt = None;
        }
        if self.negative_prompt.is_some() {
            lower.negative_prompt_embeds = None;
        }
        if self.negative_prompt_embeds.is_some() {
            lower.negative_prompt = None;
        }
        if self.memory.is_some() {
            (lower.split_guidance, lower.stream_unet, lower.vae_slicing) = (None, None, None);
        }
        macro_rules! or {
            ($($field:ident)*) => { Self { $($field: self.$field.or(lower.$field)),* } };
        }
        or!(
            model variant revision offline device dtype threads keep_resident allow_oversize
            image continue_from prompt negative_prompt prompt_embeds negative_prompt_embeds prompt_weighting clip_skip
            height width num_frames target_fps num_videos_per_prompt
            num_inference_steps guidance_scale guidance_start guidance_end guidance_rescale cache_interval split_guidance stream_unet
            memory
            scheduler karras_sigmas solver_order eta seed latents image_latents compat freeu lora lora_scale allow_unknown
            refine refine_prompt refine_strength refine_steps
            decode_chunk_size vae_tiling vae_tile_size vae_tile_overlap vae_slicing
            output_type gif_palette gif_dither preview_every output save_prompt_embeds save_latents
        )
    }

    /// Without the files that it writes: a repeated run must not replace those of the first.
    pub(crate) fn without_outputs(self) -> Self {
        Self {
            output: None,
            save_prompt_embeds: None,
            save_latents: None,
            ..self
        }
    }

    /// Every file that a run reads.
    pub(crate) fn inputs(&self) -> Vec<PathBuf> {
        let single = [
            &self.continue_from,
            &self.prompt_embeds,
            &self.negative_prompt_embeds,
            &self.latents,
        ];
        let images = self.image.iter().flatten();
        let loras = self.lora.iter().flatten().map(|lora| &lora.path);
        let all = single.into_iter().flatten().chain(images).chain(loras);
        all.cloned().collect()
    }

    /// Every file that a run writes, besides the sidecar.
    pub(crate) fn outputs_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [
            &mut self.output,
            &mut self.save_prompt_embeds,
            &mut self.save_latents,
        ]
        .into_iter()
        .flatten()
    }

    /// Every file that appears, besides previews and the sidecar: several videos become several files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let prompts = self.prompt.as_ref().map_or(1, Vec::len);
        let videos = prompts.saturating_mul(self.num_videos_per_prompt.unwrap_or(1));
        let video = self
            .output
            .iter()
            .flat_map(|path| match Container::of(path) {
                // More names than anyone can compare are refused when the job's turn comes.
                Ok(container) => container.paths(path, videos.clamp(1, 1 << 12)),
                Err(_) => vec![path.clone()],
            });
        let others = [&self.save_prompt_embeds, &self.save_latents];
        video.chain(others.into_iter().flatten().cloned()).collect()
    }

    /// Every path, but not a model's name.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let is_name = |path: &Path| path.to_str().is_some_and(i2vgen_hub::is_model_id);
        let single = [
            self.model.as_mut().filter(|model| !is_name(model)),
            self.continue_from.as_mut(),
            self.prompt_embeds.as_mut(),
            self.negative_prompt_embeds.as_mut(),
            self.latents.as_mut(),
            self.output.as_mut(),
            self.save_prompt_embeds.as_mut(),
            self.save_latents.as_mut(),
        ];
        let images = self.image.iter_mut().flatten();
        let loras = self.lora.iter_mut().flatten().map(|lora| &mut lora.path);
        single.into_iter().flatten().chain(images).chain(loras)
    }

    /// With paths that mean the same from everywhere.
    pub(crate) fn with_absolute_paths(mut self) -> Self {
        for path in self.paths_mut() {
            *path = absolute(path);
        }
        self
    }

    /// Only what is said, as a JSON object.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map.into_iter().filter(|(_, v)| !v.is_null()).collect(),
            // A path that is not UTF-8, and `with_absolute_paths` leaves none.
            _ => Map::new(),
        }
    }
}

/// JSON has no other paths than UTF-8; odd bytes are replaced.
fn absolute(path: &Path) -> PathBuf {
    if path == Path::new(EMBEDDED) {
        return path.to_owned();
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_string_lossy().into_owned().into()
}

/// A list, for which a single value may stand.
fn one_or_many<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a value or a list of values")]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Settings {
        serde_json::from_str(json).expect("settings")
    }

    #[test]
    fn the_upper_layer_wins() {
        let upper = read(r#"{"prompt": "a", "seed": [1, 2], "vae_tiling": false}"#);
        let lower = read(r#"{"prompt": ["b", "c"], "height": 32, "vae_tiling": true}"#);
        let merged = upper.merged_over(lower);
        let expected =
            read(r#"{"prompt": ["a"], "seed": [1, 2], "height": 32, "vae_tiling": false}"#);
        assert_eq!(merged, expected);
    }

    #[test]
    fn what_excludes_each_other_does_not_come_from_two_layers() {
        let pairs = [
            (r#"{"image": "a.png"}"#, r#"{"continue_from": "b.json"}"#),
            (r#"{"prompt": "a"}"#, r#"{"prompt_embeds": "b"}"#),
            (
                r#"{"negative_prompt": "a"}"#,
                r#"{"negative_prompt_embeds": "b"}"#,
            ),
        ];
        for (a, b) in pairs {
            assert_eq!(read(a).merged_over(read(b)), read(a));
            assert_eq!(read(b).merged_over(read(a)), read(b));
        }
    }

    #[test]
    fn to_json_and_back() {
        let json = r#"{"lora": ["a:b.safetensors:-0.5", "c"], "freeu": [0.9, 0.2, 1.4, 1.6],
            "seed": 18446744073709551615, "compat": "vgen", "gif_palette": "per-frame", "gif_dither": "floyd-steinberg"}"#;
        let settings = read(json);
        let again = serde_json::from_value(Value::Object(settings.to_json())).expect("its own");
        assert_eq!(settings, again);
        assert_eq!(settings.to_json()["lora"][0], "a:b.safetensors:-0.5");
    }
}
