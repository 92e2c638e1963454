//! What a run will need, before anything is loaded: memory and floating-point operations, from the configs alone.

mod clip;
mod gpu;
mod memory;
mod meter;
mod report;
mod tiles;
mod unet;
mod vae;

use i2vgen_checkpoint::Folder;
use i2vgen_clip_encoders::{CLIPError, CLIPTextConfig, CLIPVisionConfig};
use i2vgen_unet3d::I2VGenXLUNetConfig;
use i2vgen_vae::{AutoencoderKLConfig, Tiling, VaeError};
use serde::Serialize;

use crate::PipelineError;
pub use gpu::GpuMemory;
pub use memory::available_memory;
use meter::{Classes, Hidden, Meter, total};
pub use report::{Estimate, LargestTensor};

/// Tokens of a prompt with its padding.
const TOKENS: f64 = 77.0;
/// Channels of a frame.
const RGB: f64 = 3.0;
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
