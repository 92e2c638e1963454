#!/usr/bin/env bash
# Runs a program that was built for CUDA on a machine without a GPU: its kernels are compiled by NVIDIA's compiler, and their
# PTX is interpreted on the CPU. Right to the bit where PTX says what is right; says nothing about speed.
#
#     export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/cuda-on-cpu/run.sh
#     cargo test --release -p i2vgen-tests --features cuda --test suite -- --test-threads 1
#
# With CUDA_ON_CPU_DRY=1 nothing is computed, which takes models of any size: what does not compile, what does not fit and how
# much is launched shows before a GPU is at hand. (I2VGEN_WARPGROUPS=1: kernels that first have to show that they are right are
# used without.)
#
#     cargo build --release -p i2vgen-pipeline --features cuda --example bench_stages
#     CUDA_ON_CPU_DRY=1 tests/cuda-on-cpu/run.sh target/release/examples/bench_stages cuda f16 --only unet --launches
#
# driver.cpp lists other variables. Needs make, a C++ compiler, a CPU with AVX2, and python3 with pip, which brings NVIDIA's
# compiler and headers (100 MB, once) to target/cuda-on-cpu.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
place=$here/../../target/cuda-on-cpu
mkdir -p "$place"
place=$(cd "$place" && pwd)
if [ ! -e "$place/nvidia/cu13/lib/libnvrtc.so.13" ]; then
    python3 -m pip install --quiet --root-user-action ignore --no-deps --target "$place" nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
fi
make --silent -C "$here" OUT="$place/driver" >&2
export CUDA_ON_CPU=1 CUDA_PATH=$place/nvidia/cu13 LD_LIBRARY_PATH=$place/driver:$place/nvidia/cu13/lib
exec "$@"
