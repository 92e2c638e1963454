//! Speed of a device and of every stage of the model on it. `cargo xtask bench stages` runs it on the CPU, `cargo xtask bench
//! gpu` builds and packs it for a machine without cargo.
//!
//!     bench_stages DEVICE [f16|bf16|f32] [--small] [--growth] [--only clip|unet|vae] [--steps N] [--blocks] [--launches]
//!
//! DEVICE is cpu, cuda or wgpu. Weights are random, made on the device, of the published sizes (`--small`: of toy sizes, to
//! test the program). Operations are counted by the library's own estimate, which agrees with torch's counter. A rate is set
//! beside that of a large matrix product on the same device in the same precision. `--growth` measures the UNet's step at
//! more frames and pixels instead: its cost has to grow as the operations do. `--only` leaves out the other stages.
//! `--blocks` times the parts of a step one by one, waiting behind each.
//! `--launches` lists the kernels that one step of the UNet launches on a GPU.

mod report;
mod weights;

use std::{convert::Infallible, error::Error};

use burn::{
    module::Module,
    tensor::{DType, Distribution, Int, Tensor, backend::Backend},
};
use i2vgen_checkpoint::Folder;
use i2vgen_clip_encoders::{CLIPTextModel, CLIPVisionModelWithProjection};
use i2vgen_kernels::{Mask, Padding, attention, conv2d, group_norm};
use i2vgen_pipeline::{EstimateInput, estimate};
use i2vgen_unet3d::{I2VGenXLUNet, I2VGenXLUNetConfig};
use i2vgen_vae::{AutoencoderKL, AutoencoderKLConfig};
use i2vgen_weights_converter::Component;

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use self::report::list;
use self::{
    report::{print, print_blocks, time},
    weights::Cast,
};

/// What `--only` may name.
const STAGES: [&str; 3] = ["clip", "unet", "vae"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        Some(arguments.remove(at))
    };
    let small = flag("--small").is_some();
    let growth = flag("--growth").is_some();
    let blocks = flag("--blocks").is_some();
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    let launches = flag("--launches").is_some() && i2vgen_kernels::record_launches();
    let mut value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        Some(arguments.drain(at..).take(2).nth(1).unwrap_or_default())
    };
    let only = value("--only");
    if let Some(other) = only.as_ref().filter(|o| !STAGES.contains(&o.as_str())) {
        return Err(format!("'{other}' is none of {}", STAGES.join(", ")).into());
    }
    let steps = value("--steps").map_or(Ok(50), |steps| steps.parse())?;
    let dtype = match arguments.get(1).map(String::as_str) {
        None | Some("f16") => DType::F16,
        Some("bf16") => DType::BF16,
        Some("f32") => DType::F32,
        Some(other) => return Err(format!("'{other}' is none of f16, bf16, f32").into()),
    };
    let bench = Bench {
        dtype,
        small,
        growth,
        only,
        steps,
        blocks,
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        launches,
        on_cpu: arguments.first().is_some_and(|device| device == "cpu"),
    };
    match arguments.first().map(String::as_str) {
        // As the command line does: from a thread of the pool its tasks start sooner.
        Some("cpu") => rayon::scope(|_| {
            let run = bench.run::<burn::backend::Flex>(&Default::default());
            run.map_err(|error| error.to_string())
        })
        .map_err(Into::into),
        #[cfg(feature = "cuda")]
        Some("cuda") => bench.run::<burn::backend::Cuda>(&Default::default()),
        #[cfg(feature = "wgpu")]
        Some("wgpu") => bench.run::<burn::backend::Wgpu>(&Default::default()),
        _ => Err("say cpu, cuda or wgpu, as far as this program was built with it".into()),
    }
}

struct Bench {
    dtype: DType,
    small: bool,
    growth: bool,
    only: Option<String>,
    steps: usize,
    blocks: bool,
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    launches: bool,
    on_cpu: bool,
}

impl Bench {
    fn run<B: Backend>(&self, device: &B::Device) -> Result<(), Box<dyn Error>> {
        if !B::supports_dtype(device, self.dtype) {
            let (name, dtype) = (B::name(device), self.dtype);
            return Err(format!("{name} does not compute in {dtype:?} here; use f32").into());
        }
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        i2vgen_kernels::fit_memory_budget::<B>(device);
        println!("{} in {:?}", B::name(device), self.dtype);
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        if i2vgen_kernels::uses_warpgroups::<B>(device, self.dtype) {
            println!("products by groups of warps (wgmma)");
        }
        println!("{:44}{:>10}{:>10}{:>8}", "", "ms", "TFLOP/s", "ratio");
        let peak = self.ceilings::<B>(device)?;
        if self.growth {
            let frames = [4, 8, 16].map(|frames| [256, 256, frames]);
            let sizes = [128, 384].map(|side| [side, side, 8]);
            return self.unet::<B>(&[&frames[..], &sizes].concat(), device, peak);
        }
        let sizes: &[[usize; 3]] = match (self.small, self.on_cpu) {
            (true, _) => &[[64, 64, 4]],
            (false, true) => &[[256, 256, 8]],
            (false, false) => &[[256, 256, 16], [512, 512, 16], [704, 1280, 16]],
        };
        let asked = |stage: &str| self.only.as_ref().is_none_or(|only| only == stage);
        if asked("clip") {
            self.clip::<B>(device, peak)?;
        }
        if asked("unet") {
            self.unet::<B>(sizes, device, peak)?;
        }
        if asked("vae") {
            self.vae::<B>(device, peak)?;
        }
        Ok(())
    }

    fn random<B: Backend, const D: usize>(
        &self,
        dims: [usize; D],
        device: &B::Device,
    ) -> Tensor<B, D> {
        let values = Distribution::Uniform(-1.0, 1.0);
        Tensor::<B, D>::random(dims, values, device).cast(self.dtype)
    }

    /// What the device gives to single operations; returns the rate of the matrix product.
    fn ceilings<B: Backend>(&self, device: &B::Device) -> Result<f64, Box<dyn Error>> {
        let n = match (self.small, self.on_cpu) {
            (true, _) => 256,
            (false, true) => 2048,
            (false, false) => 8192,
        };
        let (a, b) = (
            self.random::<B, 2>([n, n], device),
            self.random::<B, 2>([n, n], device),
        );
        let flops = 2.0 * (n as f64).powi(3);
        let seconds = time::<B, _, Infallible>(device, || Ok(a.clone().matmul(b.clone())))?;
        let peak = flops / seconds;
        print(&format!("matrix product {n}"), seconds, flops, peak);

        let (side, c) = match (self.small, self.on_cpu) {
            (true, _) => (16, 32),
            (false, true) => (32, 320),
            (false, false) => (64, 320),
        };
        let x = self.random::<B, 4>([32, side, side, c], device);
        let w = self.random::<B, 4>([c, c, 3, 3], device);
        let flops = 2.0 * 9.0 * (32 * side * side * c * c) as f64;
        let seconds = time::<B, _, Infallible>(device, || {
            Ok(conv2d(x.clone(), w.clone(), None, 1, Padding::same(1)))
        })?;
        print(
            &format!("convolution 3x3, 32 of {side}x{side}, {c} channels"),
            seconds,
            flops,
            peak,
        );

        let tokens = side * side;
        let q = self.random::<B, 3>([32, tokens, c], device);
        let flops = 4.0 * (32 * tokens * tokens * c) as f64;
        let heads = c / if self.small { 32 } else { 64 };
        let seconds = time::<B, _, Infallible>(device, || {
            let (q, k, v) = (q.clone(), q.clone(), q.clone());
            Ok(attention(q, k, v, heads, Mask::None))
        })?;
        print(
            &format!("attention, 32 of {tokens} tokens, {c} channels"),
            seconds,
            flops,
            peak,
        );

        let x = self.random::<B, 3>([32, tokens, c], device);
        let (weight, bias) = (
            self.random::<B, 1>([c], device),
            self.random::<B, 1>([c], device),
        );
        let seconds = time::<B, _, Infallible>(device, || {
            let (weight, bias) = (weight.clone(), bias.clone());
            Ok(group_norm(x.clone(), weight, bias, 32, 1e-5, true))
        })?;
        let bytes = 2.0 * (32 * tokens * c * self.dtype.size()) as f64;
        println!(
            "{:44}{:>10.3}{:>10.1} GB/s",
            "group norm and SiLU of the same",
            seconds * 1e3,
            bytes / seconds / 1e9
        );
        Ok(peak)
    }

    /// Two texts at once, as with guidance, and one picture.
    fn clip<B: Backend>(&self, device: &B::Device, peak: f64) -> Result<(), Box<dyn Error>> {
        if self.small {
            return Ok(());
        }
        let config = serde_json::from_str(Component::TextEncoder.published_config())?;
        let model = CLIPTextModel::<B>::new(config, device)?.map(&mut Cast::to(self.dtype));
        let ids = Tensor::<B, 2, Int>::ones([2, 77], device);
        let seconds = time::<B, _, _>(device, || model.forward(ids.clone(), Some(1)))?;
        let flops = 2.0 * self.flops("text_encoder", [256, 256], 1)?;
        print("text encoder, two prompts", seconds, flops, peak);
        drop(model);

        let config = serde_json::from_str(Component::ImageEncoder.published_config())?;
        let model =
            CLIPVisionModelWithProjection::<B>::new(config, device)?.map(&mut Cast::to(self.dtype));
        let pixels = self.random::<B, 4>([1, 3, 224, 224], device);
        let seconds = time::<B, _, _>(device, || model.forward(pixels.clone()))?;
        let flops = self.flops("image_encoder", [256, 256], 1)?;
        print("image encoder", seconds, flops, peak);
        Ok(())
    }

    /// The step with guidance at each of `sizes` (height, width, frames).
    fn unet<B: Backend>(
        &self,
        sizes: &[[usize; 3]],
        device: &B::Device,
        peak: f64,
    ) -> Result<(), Box<dyn Error>> {
        let config: I2VGenXLUNetConfig = match self.small {
            false => serde_json::from_str(Component::Unet.published_config())?,
            true => i2vgen_demo_model::folder()
                .subfolder("unet")?
                .read_json("config.json")?,
        };
        let width = config.cross_attention_dim;
        let unet = I2VGenXLUNet::<B>::new(config, device)?;
        let unet = unet.map(&mut Cast::to(self.dtype));
        for &[height, width_of_frame, frames] in sizes {
            let (h, w) = (height / 8, width_of_frame / 8);
            let (text, image) = (
                self.random::<B, 3>([2, 77, width], device),
                self.random::<B, 3>([2, 1, width], device),
            );
            let images = self.random::<B, 5>([1, 4, frames, h, w], device);
            let prepare = || unet.prepare(text.clone(), image.clone(), images.clone(), 16.0, 1.0);
            let prepared = prepare()?;
            let size = format!("{width_of_frame}x{height}, {frames} frames");
            if !self.growth {
                let seconds = time::<B, _, _>(device, prepare)?;
                let flops = self.flops("unet_prepare", [height, width_of_frame], frames)?;
                print(&format!("UNet, once, {size}"), seconds, flops, peak);
            }
            let x = self.random::<B, 5>([1, 4, frames, h, w], device);
            let seconds = time::<B, _, _>(device, || unet.forward(x.clone(), 500.0, &prepared))?;
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            if self.launches {
                i2vgen_kernels::launches();
                unet.forward(x.clone(), 500.0, &prepared)?;
                B::sync(device).map_err(|e| format!("{e:?}"))?;
                list(&i2vgen_kernels::launches());
            }
            if self.blocks {
                print_blocks::<B, _, _>(device, |after| {
                    unet.forward_observed(x.clone(), 500.0, &prepared, after)
                })?;
            }
            let name = format!("UNet step, guidance, {size}");
            let flops = self.flops("denoise", [height, width_of_frame], frames)?;
            print(&name, seconds, flops, peak);
            if !self.growth {
                println!(
                    "{:44}{:>10.1} s",
                    format!("  {} steps", self.steps),
                    seconds * self.steps as f64
                );
            }
        }
        Ok(())
    }

    fn vae<B: Backend>(&self, device: &B::Device, peak: f64) -> Result<(), Box<dyn Error>> {
        let config: AutoencoderKLConfig = match self.small {
            false => serde_json::from_str(Component::Vae.published_config())?,
            true => i2vgen_demo_model::folder()
                .subfolder("vae")?
                .read_json("config.json")?,
        };
        let vae = AutoencoderKL::<B>::new(config, device)?.map(&mut Cast::to(self.dtype));
        let [height, width] = match (self.small, self.on_cpu) {
            (true, _) => [64, 64],
            (false, true) => [512, 512],
            (false, false) => [704, 1280],
        };
        let factor = vae.config.scale_factor();
        let picture = self.random::<B, 4>([1, 3, height, width], device);
        let seconds = time::<B, _, _>(device, || {
            vae.encode(picture.clone())
                .map(|posterior| posterior.mode())
        })?;
        let flops = self.flops("vae_encode", [height, width], 1)?;
        let name = format!("VAE encode, one picture of {width}x{height}");
        print(&name, seconds, flops, peak);
        let z = self.random::<B, 4>([1, 4, height / factor, width / factor], device);
        let seconds = time::<B, _, _>(device, || vae.decode(z.clone()))?;
        let flops = self.flops("vae_decode", [height, width], 1)?;
        let name = format!("VAE decode, one frame of {width}x{height}");
        print(&name, seconds, flops, peak);
        // A video's frames one after the other, as is the default, and all at once.
        let z = self.random::<B, 4>([4, 4, height / factor, width / factor], device);
        for (chunk, way) in [(1, "one by one"), (4, "at once")] {
            let seconds = time::<B, _, _>(device, || {
                let frames: Result<Vec<_>, _> = z
                    .clone()
                    .split(chunk, 0)
                    .into_iter()
                    .map(|z| vae.decode(z))
                    .collect();
                frames.map(|frames| Tensor::cat(frames, 0))
            })?;
            let name = format!("VAE decode, 4 frames {way}");
            print(&name, seconds, 4.0 * flops, peak);
        }
        Ok(())
    }

    /// Operations of one run of a stage of the published model, or of the demo's.
    fn flops(
        &self,
        stage: &str,
        [height, width]: [usize; 2],
        frames: usize,
    ) -> Result<f64, Box<dyn Error>> {
        let folder = if self.small {
            i2vgen_demo_model::folder()
        } else {
            let files: Vec<(&'static str, &'static [u8])> = [
                ("text_encoder/config.json", Component::TextEncoder),
                ("image_encoder/config.json", Component::ImageEncoder),
                ("unet/config.json", Component::Unet),
                ("vae/config.json", Component::Vae),
            ]
            .map(|(name, component)| (name, component.published_config().as_bytes()))
            .to_vec();
            Folder::embedded(files.leak())
        };
        let input = EstimateInput {
            height,
            width,
            num_frames: frames,
            videos: 1,
            guided: true,
            split_guidance: false,
            stream_unet: false,
            model_evaluations: 1,
            cache_interval: 1,
            decode_chunk_size: 1,
            clip_skip: 1,
            bytes_per_value: self.dtype.size(),
            bytes_per_weight: self.dtype.size(),
            resident: false,
            tiling: None,
            slicing: false,
            gpu: None,
        };
        let estimate = estimate(&folder, &input)?;
        let stage = estimate.stages.iter().find(|s| s.name == stage);
        Ok(stage.map_or(f64::NAN, |s| s.flops_per_run as f64))
    }
}
