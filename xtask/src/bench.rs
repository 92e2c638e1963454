//! `cargo xtask bench`: rates of the kernels on this machine, and a benchmark to take to a machine with a GPU.

use std::{error::Error, fs, path::Path, process::Command};

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Processor time, GFLOP/s and the ratio to a plain matrix product, per kernel and shape of the real model
    Cpu {
        /// Only shapes whose name contains this: `conv`, `linear 512`, `memory`
        #[arg(default_value = "")]
        filter: String,
        /// What the values are in: f32, bf16 or f16
        #[arg(default_value = "f32")]
        dtype: String,
    },
    /// Seconds and GFLOP/s of every stage of the full-size model on the CPU, random weights, and their ratio to a matrix product
    Stages {
        /// The UNet's step at more frames and pixels instead: 4, 8, 16 frames of 256x256; 128x128 and 384x384
        #[arg(long)]
        growth: bool,
    },
    /// Build target/bench-gpu: a program and a script for a machine with a GPU and without cargo
    Gpu {
        /// Backends to build it with
        #[arg(long, default_value = "wgpu,cuda")]
        features: String,
    },
}

/// What runs there: both sides in one session, with the memory that the GPU says is used.
const SCRIPT: &str = r#"#!/usr/bin/env bash
# ./run.sh [DEVICE] [f16|bf16|f32] [--small] [--launches]     DEVICE is cuda or wgpu; without any: cuda where there is NVIDIA
set -eu
cd "$(dirname "$0")"
if [ $# = 0 ]; then
    if command -v nvidia-smi >/dev/null; then set -- cuda f16; else set -- wgpu f16; fi
fi
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >memory.log &
    trap 'kill $! 2>/dev/null || true' EXIT
fi
./bench_stages "$@" --blocks
if [ -s memory.log ]; then
    echo "most memory used on the GPU: $(sort -n memory.log | tail -1) MiB"
fi
if python3 -c 'import torch, diffusers; assert torch.cuda.is_available()' 2>/dev/null; then
    python3 bench_gpu.py --blocks
    python3 bench_gpu.py --compile
else
    echo "diffusers: not measured (python3 with torch for CUDA and diffusers is not here)"
fi
if [ "$1" = cuda ]; then
    echo "without products by groups of warps, which an H100 has:"
    I2VGEN_WARPGROUPS=0 ./bench_stages "$@" --only unet
fi
"#;

impl Bench {
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Cpu { filter, dtype } => {
                let run = "run --release --package i2vgen-kernels --example cpu_rates --";
                cargo(run.split(' ').chain([filter.as_str(), dtype.as_str()]))
            }
            Self::Stages { growth } => {
                let run =
                    "run --release --package i2vgen-pipeline --example bench_stages -- cpu f32";
                cargo(run.split(' ').chain(growth.then_some("--growth")))
            }
            Self::Gpu { features } => gpu(&features),
        }
    }
}

fn gpu(features: &str) -> Result<(), Box<dyn Error>> {
    let build = "build --release --package i2vgen-pipeline --example bench_stages --features";
    cargo(build.split(' ').chain([features]))?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => target.into(),
        None => root.join("target"),
    };
    let folder = target.join("bench-gpu");
    fs::create_dir_all(&folder)?;
    let program = format!("bench_stages{}", std::env::consts::EXE_SUFFIX);
    let built = target.join("release/examples").join(&program);
    fs::copy(&built, folder.join(&program))?;
    let peer = root.join("tests/peers/bench_gpu.py");
    fs::copy(peer, folder.join("bench_gpu.py"))?;
    let script = folder.join("run.sh");
    fs::write(&script, SCRIPT)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    println!(
        "copy {} to the machine and run ./run.sh there",
        folder.display()
    );
    Ok(())
}

fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(arguments).status();
    let status = status.map_err(|error| format!("cargo cannot be run: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("cargo ended with {status}").into()),
    }
}
