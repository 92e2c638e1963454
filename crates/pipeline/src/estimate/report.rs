//! What an estimate says.

use std::fmt;

use serde::Serialize;

use super::{Count, EstimateInput, StageEstimate, meter::total};

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

impl Estimate {
    pub(super) fn new(counts: Vec<(&'static str, Count, usize)>, input: &EstimateInput) -> Self {
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
