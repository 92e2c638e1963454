// Convolution as one product of warp groups (wgmma, PTX ISA 9.7.15), for GPUs of compute capability 9.0. What it computes, and
// which block computes what, is as in kernel.rs; warpgroup.rs writes the sizes in capital letters before it.
//
// Both operands lie in shared memory as wgmma reads them: rows of 64 values (128 bytes), whose eighths are exchanged by the
// number of the row (swizzle of 128 bytes). They are asked for some turns ahead; a turn's products begin before those of the
// turn before have ended, so that the matrix units never wait for the barrier. All taps of 64 channels follow each other, as they
// read nearly the same rows of x: if CACHED, these come from the first cache.
typedef unsigned int u32;
typedef unsigned long long u64;

// Pitches and channels in vectors of 8 values.
struct Sizes {
    u64 rows, h, w, area, ow, x_pitch, weight_pitch, bias_rows, adds, across, channels, out;
};

static constexpr u32 THREADS = 256, DEEP = 8, ROW = DEEP * 16, LINES = THREADS / DEEP, ROWS = TILES * 128;
static constexpr u32 X_LOADS = ROWS / LINES, WEIGHT_LOADS = COLUMNS / LINES, STAGE = (ROWS + COLUMNS) * ROW;
static constexpr u32 RESULTS = GATED ? COLUMNS / 2 : COLUMNS, PITCH = COLUMNS + 8;
static constexpr bool PLAIN = KERNEL_H * KERNEL_W * STRIDE == 1 && PADDING_Y + PADDING_X == 0;

// One vector on its way to shared memory, by the first cache or around it; zeros unless it is inside.
template <bool FIRST> __device__ __forceinline__ void copy(u32 to, const void *from, bool inside) {
    if (FIRST) asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
    else asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ void read(const float *from, float (&to)[8]) {
    for (int i = 0; i < 2; i++) {
        float4 v = ((const float4 *)from)[i];
        to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
}
template <class V> __device__ __forceinline__ void read(const V *from, float (&to)[8]) {
    uint4 v = *(const uint4 *)from;
    for (int i = 0; i < 8; i++) to[i] = (float)((const V *)&v)[i];
}

extern "C" __global__ void __launch_bounds__(THREADS, TILES == 1 ? 2 : 1)
    NAME(const T *__restrict__ x, const T *__restrict__ weight, const P *__restrict__ bias, const T *residual, T *y,
         const __grid_constant__ Sizes sizes) {
    extern __shared__ unsigned char dynamic[];
    const u32 start = (u32)__cvta_generic_to_shared(dynamic), shared = (start + 1023) / 1024 * 1024;
    const u32 thread = threadIdx.y * 32 + threadIdx.x, part = thread % DEEP, line = thread / DEEP;
    const u32 rows = sizes.rows, out = sizes.out, h = sizes.h, w = sizes.w, channels = sizes.channels;
    const u32 x_pitch = sizes.x_pitch, weight_pitch = sizes.weight_pitch, across = sizes.across;
    const u32 first_row = blockIdx.x / across * ROWS, first_column = blockIdx.x % across * RESULTS;

    // Where the first tap of each of this thread's rows lies (possibly before the tensor), and its place in the image: far
    // outside if there is no such row.
    int corner[X_LOADS], top[X_LOADS], left[X_LOADS];
#pragma unroll
    for (u32 i = 0; i < X_LOADS; i++) {
        u32 row = first_row + line + i * LINES, area = sizes.area, ow = sizes.ow;
        if (PLAIN) {
            corner[i] = row * x_pitch + part;
            top[i] = left[i] = 0;
        } else {
            u32 place = row % area;
            top[i] = (int)(place / ow * STRIDE) - PADDING_Y;
            left[i] = (int)(place % ow * STRIDE) - PADDING_X;
            corner[i] = ((int)(row / area * h * w) + top[i] * (int)w + left[i]) * (int)x_pitch + (int)part;
        }
        if (row >= rows) top[i] = -1000000;
    }
    u32 weights[WEIGHT_LOADS];
#pragma unroll
    for (u32 i = 0; i < WEIGHT_LOADS; i++) {
        u32 place = line + i * LINES, column = first_column + place, row = column;
        if (GATED) {
            column = first_column + place / 16 * 8 + place % 8;
            row = column + place / 8 % 2 * out;
        }
        // What a row beyond the last gives is not written.
        weights[i] = (column < out ? row : 0) * (KERNEL_H * KERNEL_W) * weight_pitch + part;
    }

    // The tap and the first channel of what is asked for next, and the part of shared memory that it goes to.
    int tap_y = 0, tap_x = 0;
    u32 channel = 0, asked = 0;
    const u32 place = shared + line * ROW + (part ^ line % 8) * 16;
    auto ask = [&] {
        bool within = channel + part < channels;
        int of_x = PLAIN ? (int)channel : (tap_y * (int)w + tap_x) * (int)x_pitch + (int)channel;
        u32 of_weight = PLAIN ? channel : (tap_y * KERNEL_W + tap_x) * weight_pitch + channel;
#pragma unroll
        for (u32 i = 0; i < X_LOADS; i++) {
            bool inside = within && (PLAIN ? top[i] >= 0 : (u32)(top[i] + tap_y) < h && (u32)(left[i] + tap_x) < w);
            copy<CACHED>(place + asked + i * LINES * ROW, (const uint4 *)x + (inside ? corner[i] + of_x : 0), inside);
        }
#pragma unroll
        for (u32 i = 0; i < WEIGHT_LOADS; i++)
            copy<false>(place + asked + ROWS * ROW + i * LINES * ROW, (const uint4 *)weight + (within ? weights[i] + of_weight : 0), within);
        if (PLAIN || (++tap_x == KERNEL_W && (tap_x = 0, ++tap_y == KERNEL_H))) tap_y = 0, channel += DEEP;
        asked = asked + STAGE == STAGES * STAGE ? 0 : asked + STAGE;
    };

    // Matrix descriptors: address, distance of eight rows (both in 16 bytes), swizzle of 128 bytes.
    const u32 group = thread / 128;
    const u64 layout = 1ull << 62 | (u64)(8 * ROW / 16) << 32 | 1ull << 16;
    const u64 left_operand = layout | (shared + group * TILES * 64 * ROW) / 16, right_operand = layout | (shared + ROWS * ROW) / 16;
    float sums[TILES][COLUMNS / 2];
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
        for (u32 i = 0; i < COLUMNS / 2; i++) sums[tile][i] = 0;

    const u32 turns = (channels + DEEP - 1) / DEEP * (KERNEL_H * KERNEL_W);
    for (u32 turn = 0; turn < STAGES - 2; turn++) {
        if (turn < turns) ask();
        commit_copies();
    }
    u32 multiplied = 0;
    for (u32 turn = 0; turn < turns; turn++) {
        // This thread's copies have arrived and are seen by the matrix units; behind the barrier everybody's.
        wait_copies<STAGES - 3>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (u32 step = 0; step < DEEP / 2; step++)
#pragma unroll
            for (u32 tile = 0; tile < TILES; tile++)
                multiply<1>(sums[tile], left_operand + (multiplied + tile * 64 * ROW + step * 32) / 16,
                         right_operand + (multiplied + step * 32) / 16);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        multiplied = multiplied + STAGE == STAGES * STAGE ? 0 : multiplied + STAGE;
        // What is overwritten was multiplied two turns ago, which all warps had waited for before the barrier.
        if (turn + STAGES - 2 < turns) ask();
        commit_copies();
        wait_products<1>();
    }
    wait_products<0>();
    wait_copies<0>();
    __syncthreads();

    // Results go through shared memory, so that a thread has eight side by side: 16 rows of each warp at a time.
    const u32 warp = thread / 32, lane = thread % 32;
    float *const tile_of_warp = (float *)(dynamic + (shared - start)) + warp * 16 * PITCH;
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (u32 i = 0; i < COLUMNS / 8; i++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float2 pair = {sums[tile][4 * i + 2 * half], sums[tile][4 * i + 2 * half + 1]};
                *(float2 *)(tile_of_warp + (lane / 4 + 8 * half) * PITCH + 8 * i + lane % 4 * 2) = pair;
            }
        __syncwarp();
        for (u32 i = lane; i < 16 * (RESULTS / 8); i += 32) {
            u32 line = i / (RESULTS / 8), block = i % (RESULTS / 8), column = first_column + 8 * block;
            u32 row = first_row + (group * TILES + tile) * 64 + warp % 4 * 16 + line;
            if (row >= rows || column >= out) continue;
            const float *from = tile_of_warp + line * PITCH + 8 * block * (GATED ? 2 : 1);
            float sum[8], more[8];
            read(from, sum);
            const P *of_row = bias;
            if (sizes.bias_rows) {
                of_row += (u64)(row / (u32)sizes.bias_rows) * out * (GATED ? 2 : 1) + column;
                read(of_row, more);
                for (int k = 0; k < 8; k++) sum[k] += more[k];
            }
            if (GATED) {
                float gate[8];
                read(from + 8, gate);
                if (sizes.bias_rows) {
                    read(of_row + out, more);
                    for (int k = 0; k < 8; k++) gate[k] += more[k];
                }
                for (int k = 0; k < 8; k++) sum[k] *= 0.5f * gate[k] * erfcf(-0.70710678f * gate[k]);
            }
            u64 at = (u64)row * out + column;
            if (sizes.adds) {
                read(residual + at, more);
                for (int k = 0; k < 8; k++) sum[k] += more[k];
            }
            uint4 result;
            for (int k = 0; k < 8; k++) ((T *)&result)[k] = (T)sum[k];
            *(uint4 *)(y + at) = result;
        }
        __syncwarp();
    }
}
