#!/usr/bin/env bash
# Runs a program that was built for CUDA on a machine without a GPU, so far as that goes: every kernel is compiled, nothing is
# computed (driver.c). Finds what does not compile, what does not fit and how much is launched before a GPU is at hand.
#
#     cargo build --release -p i2vgen-pipeline --features cuda --example bench_stages
#     tests/dry-cuda/run.sh target/release/examples/bench_stages cuda f16 --only unet --launches
#
# Needs a C compiler and python3 with pip, which brings NVIDIA's compiler and headers (100 MB, once) to target/dry-cuda.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
place=$here/../../target/dry-cuda
mkdir -p "$place/driver"
place=$(cd "$place" && pwd)
if [ ! -e "$place/nvidia/cu13/lib/libnvrtc.so.13" ]; then
    python3 -m pip install --quiet --no-deps --target "$place" nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
fi
# Not libcuda.so.1: NVRTC looks for that, and asks it for more than is there.
cc -shared -fPIC -O1 -o "$place/driver/libcuda.so" "$here/driver.c"
export CUDA_PATH=$place/nvidia/cu13 LD_LIBRARY_PATH=$place/driver:$place/nvidia/cu13/lib
exec "$@"
