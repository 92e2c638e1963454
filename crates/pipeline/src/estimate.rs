//! What a run will need, before anything is loaded: memory and floating-point operations, from the configs alone.

mod clip;
mod gpu;
mod memory;
mod meter;
mod tiles;
mod unet;
mod vae;

use std::fmt;

use i2vgen_checkpoint::Folder;
use i2vgen_clip_encoders::{CLIPError, CLIPTextConfig, CLIPVisionConfig};
use i2vgen_unet3d::I2VGenXLUNetConfig;
use i2vgen_vae::{AutoencoderKLConfig, Tiling, VaeError};
use serde::Serialize;

use crate::PipelineError;
pub use gpu::GpuMemory;
pub use memory::available_memory;
use meter::{Classes, Hidden, Meter, total};

/// Tokens of a prompt with its padding.
const TOKENS: f64 = 77.0;
/// Channels of a frame.
const RGB: f64 = 3.0;
/// What every process takes before it has a model: code, threads' stacks, tokenizer, buffers of the matrix products.
const BASE_BYTES: f64 = 16e6;
/// What the allocator's heap holds at most besides living tensors while a component is loaded: glibc's trim threshold, twice
/// the size from which tensors are large, in f32.
const HEAP_TOP: f64 = (16 << 20) as f64;
/// Holes between small tensors, as a share of them (fitted; runs of small tensors only had 0.1 to 0.8).
const HOLES: f64 = 0.33;
/// What stays of the heap when a component is dropped, as a share, because something that lives on lies above it (measured:
/// 0.36 to 0.47).
const KEPT: f64 = 0.45;
/// No real config has more layers in a row; a walk over absurdly many would not end.
const MAX_LAYERS: usize = 1 << 12;

/// The sizes of a run.
#[derive(Clone, Debug)]
pub struct EstimateInput {
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// Frames of a video.
    pub num_frames: usize,
    /// Videos of the run.
    pub videos: usize,
    /// Whether classifier-free guidance is on, which doubles the rows of the UNet.
    pub guided: bool,
    /// Whether the UNet sees the two halves of these rows one after the other.
    pub split_guidance: bool,
    /// Whether the UNet's layers are read when they are used, so that one of them is in memory at a time.
    pub stream_unet: bool,
    /// How often the UNet is run: once per step, more often with schedulers of higher order.
    pub model_evaluations: usize,
    /// How many of these it takes until one is full again, the others using its deep features (DeepCache); 1 if all are full.
    pub cache_interval: usize,
    /// Frames that the VAE decodes at once; 0 if the run ends with latents.
    pub decode_chunk_size: usize,
    /// Layers that the text encoder leaves out at its end.
    pub clip_skip: usize,
    /// Bytes of a number.
    pub bytes_per_value: usize,
    /// Bytes of a weight: 2 where the large ones stay in half precision (`i2vgen_kernels::takes_half_weights`), otherwise as
    /// any number.
    pub bytes_per_weight: usize,
    /// Whether all components stay loaded together, rather than each for its stage only.
    pub resident: bool,
    /// The VAE's tiles, if it works in tiles.
    pub tiling: Option<Tiling>,
    /// Whether the VAE decodes the frames of a chunk one after the other.
    pub slicing: bool,
    /// Where tensors lie, if that is a GPU.
    pub gpu: Option<GpuMemory>,
}

/// What one stage needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageEstimate {
    /// As in the timings of a run: `text_encoder`, `image_encoder`, `vae_encode`, `unet_prepare`, `denoise`, `vae_decode`.
    pub name: &'static str,
    /// Parameters of the component that are in memory; the UNet and the VAE are whole in each of their two stages.
    pub parameters: u64,
    /// Bytes of the loaded weights.
    pub weight_bytes: u64,
    /// Most bytes of activations that are alive at once.
    pub activation_bytes: u64,
    /// Most memory of the process in this stage, or of the GPU.
    pub peak_bytes: u64,
    /// Floating-point operations of one run: a prompt, a picture, a model evaluation (the mean of them, if not all are full),
    /// a decoded frame.
    pub flops_per_run: u64,
    /// How many of them there are.
    pub runs: u64,
}

impl StageEstimate {
    fn new(
        name: &'static str,
        count: &Count,
        runs: usize,
        peak_bytes: f64,
        bytes_per_value: f64,
    ) -> Self {
        let bytes = |values: Classes| (total(values) * bytes_per_value) as u64;
        // Casts from float saturate.
        Self {
            name,
            parameters: total(count.parameters) as u64,
            weight_bytes: bytes(count.weights),
            activation_bytes: bytes(count.activations),
            peak_bytes: peak_bytes as u64,
            flops_per_run: count.flops_per_run as u64,
            runs: runs as u64,
        }
    }

    /// Operations of the whole stage, two for a multiply and add.
    pub fn flops(&self) -> u64 {
        self.flops_per_run.saturating_mul(self.runs)
    }
}

/// What a walk has counted for one stage, in values and operations.
struct Count {
    parameters: Classes,
    /// Their memory, counted in values.
    weights: Classes,
    /// Most values while the weights are loaded.
    loading: f64,
    activations: Classes,
    /// Most values of small tensors.
    small: f64,
    /// Values of the largest weight and of the largest other tensor.
    largest: [f64; 2],
    flops_per_run: f64,
}

/// What a run will need. Prints as a small table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// In the order of the run.
    pub stages: Vec<StageEstimate>,
    /// Most memory at once.
    pub peak_bytes: u64,
    /// The stage that needs it.
    pub peak_stage: &'static str,
    /// Operations of everything.
    pub flops: u64,
    /// What to change if that is too much.
    pub advice: &'static str,
    /// The largest single tensor.
    pub largest_tensor: LargestTensor,
}

/// A GPU holds a tensor in one buffer, which has a limit however much memory there is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LargestTensor {
    /// Its size.
    pub bytes: u64,
    /// The stage that has it.
    pub stage: &'static str,
    /// What to change if that is too much.
    pub advice: &'static str,
}

/// Predicts memory and work of a run with the model in `folder`, reading nothing but its configs.
///
/// Work is exact: convolutions, linear layers and attention, two operations for a multiply and add; what goes element by
/// element is not counted. Memory is that of the CPU backend on Linux: a constant, the weights, and the activations that a
/// walk through the modules finds alive. Small tensors lie on the allocator's heap, which keeps some of what is freed; large
/// ones come and go. On a GPU they lie in the pages of a pool, some of which are empty, and the host's memory is not counted.
/// It is compared with measured runs in `tests/goldens/estimate/memory.json`.
///
/// # Errors
/// If a config is missing or cannot be built, or a size is out of range.
pub fn estimate(folder: &Folder, input: &EstimateInput) -> Result<Estimate, PipelineError> {
    let text: CLIPTextConfig = folder.subfolder("text_encoder")?.read_json("config.json")?;
    let vision: CLIPVisionConfig = folder
        .subfolder("image_encoder")?
        .read_json("config.json")?;
    let unet: I2VGenXLUNetConfig = folder.subfolder("unet")?.read_json("config.json")?;
    let vae: AutoencoderKLConfig = folder.subfolder("vae")?.read_json("config.json")?;
    unet.check()?;
    vae.check()?;
    check_layers("text_encoder", text.num_hidden_layers)?;
    check_layers("image_encoder", vision.num_hidden_layers)?;
    check_layers("unet", unet.layers_per_block)?;
    check_layers("vae", vae.layers_per_block)?;
    if vision.patch_size == 0 {
        let text = "patch_size of the image encoder must be at least 1".into();
        return Err(CLIPError::Config(text).into());
    }
    // Beyond 14 halvings nothing is left of the largest picture.
    let levels = vae.block_out_channels.len().min(15);
    let factor = 1 << (levels - 1);
    input.check(factor)?;

    let latents = [input.height / factor, input.width / factor];
    let guidance: u32 = if input.guided { 2 } else { 1 };
    let passes = if input.split_guidance { guidance } else { 1 };
    let size = unet::Size {
        rows: input.videos as f64 * f64::from(guidance),
        passes: f64::from(passes),
        frames: input.num_frames as f64,
        latents,
        tokens: TOKENS,
        hidden: input.gpu.map_or(Hidden::OF_CPU, |gpu| Hidden {
            budget: gpu.budget as f64 / input.bytes_per_value as f64,
            by_gate: gpu.hidden_by_geglu as f64,
        }),
    };
    let table = text.vocab_size as f64 * text.hidden_size as f64;
    let mut encoder = clip::text(&text, input.clip_skip, TOKENS);
    if input.resident {
        // Who keeps it does not know yet what runs will leave out.
        encoder.parameters = clip::text(&text, 0, TOKENS).parameters;
    }
    let text = encoder;
    let vision = clip::vision(&vision);
    let streamed = (input.stream_unet && !input.resident).then(|| unet::streamed(&unet));
    let unet = unet::Walk::new(&unet, size);
    let grid = input.tiling.map(|tiling| tiles::Grid::new(tiling, factor));
    let moments = 2.0 * vae.latent_channels as f64;
    let encode = tiles::walk(latents, grid, moments, |size| {
        vae::encode(&vae, 1.0, size.map(|n| n * factor))
    });
    let all_frames = input.videos as f64 * input.num_frames as f64;
    let chunk = (input.decode_chunk_size as f64).min(all_frames);
    let slice = if input.slicing { chunk.min(1.0) } else { chunk };
    let per_latent = RGB * (factor * factor) as f64;
    let mut decode = tiles::walk(latents, grid, slice * per_latent, |size| {
        vae::decode(&vae, slice, size)
    });
    if slice < chunk {
        let frame = per_latent * (latents[0] * latents[1]) as f64;
        decode.repeat(chunk, frame);
    }

    let add = |a: Classes, b: Classes| [a[0] + b[0], a[1] + b[1]];
    let narrow = input.bytes_per_weight as f64 / input.bytes_per_value as f64;
    let weights = |parameters: Classes| parameters.map(|values| values * narrow);
    let whole = |meter: &Meter| Count {
        parameters: meter.parameters,
        weights: weights(meter.parameters),
        loading: meter.loading * narrow,
        activations: meter.most,
        small: meter.most_small,
        largest: [meter.largest_weight, meter.largest],
        flops_per_run: meter.flops,
    };
    // Of two halves of a component, each of which runs in a stage of its own, with what else is alive then.
    let half = |meter: &Meter, other: &Meter, alive: Classes| Count {
        parameters: add(meter.parameters, other.parameters),
        weights: weights(add(meter.parameters, other.parameters)),
        loading: meter.loading.max(total(meter.parameters) + other.loading) * narrow,
        activations: add(meter.most, alive),
        small: meter.most_small + alive[0],
        largest: [
            meter.largest_weight.max(other.largest_weight),
            meter.largest,
        ],
        flops_per_run: meter.flops,
    };
    let of_unet = |meter: &Meter, other: &Meter| {
        let mut count = half(meter, other, unet.held);
        if let Some(values) = streamed {
            count.parameters = [0.0, values.min(total(count.parameters))];
            count.weights = weights(count.parameters);
            count.loading = total(count.weights);
        }
        count
    };
    let mut denoise = of_unet(&unet.step, &unet.prepare);
    if input.cache_interval > 1 {
        let evaluations = input.model_evaluations as f64;
        let full = input.model_evaluations.div_ceil(input.cache_interval) as f64;
        let share = if evaluations > 0.0 {
            full / evaluations
        } else {
            1.0
        };
        denoise.flops_per_run = share * unet.step.flops + (1.0 - share) * unet.cached_flops;
        denoise.activations = add(denoise.activations, unet.deep);
        denoise.small += unet.deep[0];
    }
    let mut text_stage = whole(&text);
    // The table of the tokens is not among those that stay narrow.
    text_stage.weights[1] += (1.0 - narrow) * table;
    let mut stages = vec![
        ("text_encoder", text_stage, guidance as usize),
        ("image_encoder", whole(&vision), 1),
        ("vae_encode", half(&encode, &decode, [0.0; 2]), 1),
        ("unet_prepare", of_unet(&unet.prepare, &unet.step), 1),
        ("denoise", denoise, input.model_evaluations),
    ];
    if chunk > 0.0 {
        // The finished frames of all chunks stay, on the host.
        let frames = all_frames * RGB * input.height as f64 * input.width as f64;
        let mut count = half(&decode, &encode, [0.0, frames]);
        count.flops_per_run /= chunk;
        let runs = input.videos.saturating_mul(input.num_frames);
        stages.push(("vae_decode", count, runs));
    }
    Ok(Estimate::new(stages, input))
}

fn check_layers(component: &'static str, layers: usize) -> Result<(), PipelineError> {
    if layers <= MAX_LAYERS {
        return Ok(());
    }
    Err(PipelineError::Option {
        name: component,
        problem: format!("its config has {layers} layers, more than {MAX_LAYERS}"),
    })
}

impl EstimateInput {
    fn check(&self, factor: usize) -> Result<(), PipelineError> {
        let fail = |name, problem: String| Err(PipelineError::Option { name, problem });
        for (name, value) in [("height", self.height), ("width", self.width)] {
            if value < factor || !value.is_multiple_of(factor) || value > 1 << 14 {
                let problem = format!("{value} must be a multiple of {factor}, at most 16384");
                return fail(name, problem);
            }
        }
        for (name, value) in [
            ("num_frames", self.num_frames),
            ("num_videos_per_prompt", self.videos),
            ("cache_interval", self.cache_interval),
            ("bytes_per_value", self.bytes_per_value),
            ("bytes_per_weight", self.bytes_per_weight),
        ] {
            if value == 0 {
                return fail(name, "0 must be at least 1".into());
            }
        }
        let Some(tiling) = self.tiling else {
            return Ok(());
        };
        let found = tiling.tile_sample_min_size;
        if !found.iter().all(|n| *n > 0 && n.is_multiple_of(factor)) {
            return Err(VaeError::TileSize { found, factor }.into());
        }
        if !(0.0..1.0).contains(&tiling.tile_overlap_factor) {
            return Err(VaeError::TileOverlap(tiling.tile_overlap_factor).into());
        }
        Ok(())
    }
}

impl Estimate {
    fn new(counts: Vec<(&'static str, Count, usize)>, input: &EstimateInput) -> Self {
        // Both stages of the UNet and of the VAE have the same weights.
        let mut all = [0.0; 2];
        for (name, count, _) in &counts {
            if !matches!(*name, "unet_prepare" | "vae_decode") {
                all = [0, 1].map(|class| all[class] + count.weights[class]);
            }
        }
        // The most that the heap of small tensors has been: with this component, and what was kept of others. What is free
        // of it adds to what is large.
        let (mut heap, mut kept) = (0.0_f64, 0.0_f64);
        let mut stages = Vec::new();
        let mut largest_tensor = LargestTensor {
            bytes: 0,
            stage: "",
            advice: "",
        };
        for (name, count, runs) in &counts {
            let weights = if input.resident { all } else { count.weights };
            if !(input.resident || matches!(*name, "denoise")) {
                kept = KEPT * heap.max(kept);
                heap = 0.0;
            }
            heap = heap.max(weights[0] + count.small);
            let [small, _] = count.activations;
            let free = (heap - weights[0] - small + HOLES * small).min(HEAP_TOP);
            let running =
                total(weights) + total(count.activations) + free.max(kept - weights[0] - small);
            let bytes = input.bytes_per_value as f64;
            let [weight, other] = count.largest;
            let values = weight.max(other);
            let peak = match input.gpu {
                None => running.max(count.loading) * bytes + BASE_BYTES,
                Some(gpu) => {
                    let tensors = total(weights) + total(count.activations);
                    gpu.peak(tensors * bytes, values * bytes)
                }
            };
            stages.push(StageEstimate::new(name, count, *runs, peak, bytes));
            if (values * bytes) as u64 > largest_tensor.bytes {
                let advice = match weight < other {
                    true => advice(name, input),
                    false if input.bytes_per_value > 2 => "use --dtype f16, or another device",
                    false => "use another device",
                };
                largest_tensor = LargestTensor {
                    bytes: (values * bytes) as u64,
                    stage: name,
                    advice,
                };
            }
        }
        let largest = stages.iter().max_by_key(|stage| stage.peak_bytes);
        let (peak_bytes, peak_stage) = largest.map_or((0, ""), |s| (s.peak_bytes, s.name));
        let weights_rule = largest.is_some_and(|s| s.activation_bytes < peak_bytes / 4);
        let advice = match peak_stage {
            _ if weights_rule && input.resident => "do not keep all components loaded",
            "denoise" | "unet_prepare" if weights_rule && !input.stream_unet => "use --memory min",
            _ if weights_rule => {
                "the weights alone need most of it; use a machine with more memory"
            }
            _ => advice(peak_stage, input),
        };
        Self {
            peak_bytes,
            peak_stage,
            flops: stages
                .iter()
                .map(StageEstimate::flops)
                .fold(0, u64::saturating_add),
            advice,
            largest_tensor,
            stages,
        }
    }

    /// Whether every tensor fits in a buffer of so many bytes.
    ///
    /// # Errors
    /// If not: one line that says which stage has a larger one and which option to change.
    pub fn fits_buffers(&self, limit: u64) -> Result<(), String> {
        let largest = &self.largest_tensor;
        if largest.bytes <= limit {
            return Ok(());
        }
        Err(format!(
            "{} has a tensor of {}, but the device's buffers end at {}: {}",
            largest.stage,
            Bytes(largest.bytes),
            Bytes(limit),
            largest.advice
        ))
    }

    /// Whether so many bytes are enough.
    ///
    /// # Errors
    /// If not: one line that says how much is missing and which option to change.
    pub fn fits(&self, available: u64) -> Result<(), String> {
        if self.peak_bytes <= available {
            return Ok(());
        }
        Err(format!(
            "{} needs about {} of memory, but {} are available: {}",
            self.peak_stage,
            Bytes(self.peak_bytes),
            Bytes(available),
            self.advice
        ))
    }
}

/// What makes the activations of a stage less.
fn advice(stage: &str, input: &EstimateInput) -> &'static str {
    match stage {
        "vae_decode" if input.decode_chunk_size > 1 => "use --decode-chunk-size 1",
        "vae_encode" | "vae_decode" if input.tiling.is_none() => "use --vae-tiling",
        "vae_encode" => "use a smaller --height and --width",
        "denoise" if input.guided && !input.split_guidance => "use --split-guidance",
        _ => "use a smaller --height and --width, or fewer --num-frames",
    }
}

/// In decimal units, as on the box of a memory module.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            n if n < 1_000_000_000 => (n as f64 / 1e6, "MB"),
            n => (n as f64 / 1e9, "GB"),
        };
        f.pad(&format!("{value:.2} {unit}"))
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:14}{:>14}{:>12}{:>13}{:>12}{:>7}{:>14}",
            "stage", "parameters", "weights", "activations", "peak", "runs", "GFLOP per run"
        )?;
        for stage in &self.stages {
            writeln!(
                f,
                "{:14}{:>14}{:>12}{:>13}{:>12}{:>7}{:>14.1}",
                stage.name,
                stage.parameters,
                Bytes(stage.weight_bytes),
                Bytes(stage.activation_bytes),
                Bytes(stage.peak_bytes),
                stage.runs,
                stage.flops_per_run as f64 / 1e9
            )?;
        }
        write!(
            f,
            "about {} of memory (in {}), {:.2} TFLOP in all",
            Bytes(self.peak_bytes),
            self.peak_stage,
            self.flops as f64 / 1e12
        )
    }
}
