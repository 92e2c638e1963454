// Attention by warp groups (wgmma, PTX ISA 9.7.15), for GPUs of compute capability 9.0 and heads of 64 channels. What it computes
// is as in flash.rs; warpgroup.rs writes the sizes in capital letters before it.
//
// A block has 128 queries, half of them for each of its two warp groups. Queries, keys and values lie in shared memory as wgmma
// reads them: rows of 64 values (128 bytes), whose eighths are exchanged by the number of the row (swizzle of 128 bytes). Two
// blocks share a multiprocessor: while one finds its weights, the other multiplies.
typedef unsigned int u32;
typedef unsigned long long u64;

// Distances in vectors of 8 values.
struct Sizes {
    u64 query_count, key_count, q_batch, q_row, k_batch, k_row, v_batch, v_row, heads, scale;
};

static constexpr u32 THREADS = 256, DEEP = 8, ROW = DEEP * 16, LINES = THREADS / DEEP, QUERIES = 128;
static constexpr u32 LOADS = (KEYS + LINES - 1) / LINES, RUN = KEYS * ROW, STAGE = 2 * RUN;

// One vector on its way to shared memory; zeros unless it is inside.
__device__ __forceinline__ void copy(u32 to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
// Powers of two; what is below the smallest normal number is zero.
__device__ __forceinline__ float power(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ u32 pair(float low, float high) {
    T both[2] = {(T)low, (T)high};
    return *(u32 *)both;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    NAME(const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, T *y, const __grid_constant__ Sizes sizes) {
    extern __shared__ unsigned char dynamic[];
    const u32 shared = ((u32)__cvta_generic_to_shared(dynamic) + 1023) / 1024 * 1024;
    const u32 thread = threadIdx.y * 32 + threadIdx.x, part = thread % DEEP, line = thread / DEEP;
    const u32 first = blockIdx.x * QUERIES, query_count = sizes.query_count, key_count = sizes.key_count;
    const u64 head = blockIdx.y * DEEP + part, batch = blockIdx.z;

    // Queries, then stages of keys and values.
    const u32 place = shared + line * ROW + (part ^ line % 8) * 16, stages = QUERIES * ROW;
    const uint4 *from = (const uint4 *)q + batch * sizes.q_batch + head;
#pragma unroll
    for (u32 i = 0; i < QUERIES; i += LINES) {
        u32 row = first + line + i;
        bool inside = row < query_count;
        copy(place + i * ROW, from + (inside ? row * sizes.q_row : 0), inside);
    }
    const uint4 *const keys = (const uint4 *)k + batch * sizes.k_batch + head, *const values = (const uint4 *)v + batch * sizes.v_batch + head;
    auto ask = [&](u32 start, u32 stage) {
#pragma unroll
        for (u32 i = 0; i < LOADS; i++) {
            u32 at = line + i * LINES, row = start + at, to = place + stages + stage * STAGE + i * LINES * ROW;
            if (KEYS % LINES && at >= KEYS) break;
            bool inside = row < key_count;
            copy(to, keys + (inside ? row * sizes.k_row : 0), inside);
            copy(to + RUN, values + (inside ? row * sizes.v_row : 0), inside);
        }
    };
    ask(0, 0);

    // Matrix descriptors: address, distance of eight rows (both in 16 bytes), swizzle of 128 bytes.
    const u64 layout = 1ull << 62 | (u64)(8 * ROW / 16) << 32 | 1ull << 16;
    const u32 group = thread / 128, lane = thread % 32;
    const u64 queries = layout | (shared + group * 64 * ROW) / 16, first_stage = layout | (shared + stages) / 16;
    const float scale = __uint_as_float((u32)sizes.scale);
    // A thread has two rows of each result, 8 apart, with the three lanes beside it.
    float top[2] = {-1e30f, -1e30f}, sum[2] = {0, 0}, outputs[32];
#pragma unroll
    for (u32 i = 0; i < 32; i++) outputs[i] = 0;

    u32 stage = 0;
    for (u32 start = 0; start < key_count; start += KEYS) {
        // This thread's copies have arrived and are seen by the matrix units; behind the barrier everybody's.
        asm volatile("cp.async.wait_all;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();

        float scores[KEYS / 2];
        const u64 operands = first_stage + stage * STAGE / 16;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        multiply_keys<0>(scores, queries, operands);
#pragma unroll
        for (u32 step = 1; step < 4; step++) multiply_keys<1>(scores, queries + step * 2, operands + step * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        // What is overwritten was multiplied a turn ago, which all warps had waited for before the barrier.
        if (start + KEYS < key_count) ask(start + KEYS, stage ^ 1);
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");

        if (start + KEYS > key_count) {
#pragma unroll
            for (u32 i = 0; i < KEYS / 2; i++)
                if (start + i / 4 * 8 + lane % 4 * 2 + i % 2 >= key_count) scores[i] = -1e30f;
        }
#pragma unroll
        for (u32 row = 0; row < 2; row++) {
            float highest = top[row];
#pragma unroll
            for (u32 i = 0; i < KEYS / 8; i++) highest = fmaxf(highest, fmaxf(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]));
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
            float fade = power((top[row] - highest) * scale), more = 0;
            top[row] = highest;
#pragma unroll
            for (u32 i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (u32 n = 4 * i + 2 * row; n < 4 * i + 2 * row + 2; n++) {
                    // The difference first: the highest score has to give exactly 1 even where it is beyond 10^8.
                    scores[n] = power((scores[n] - highest) * scale);
                    more += scores[n];
                }
            sum[row] = sum[row] * fade + more;
#pragma unroll
            for (u32 i = 0; i < 8; i++) outputs[4 * i + 2 * row] *= fade, outputs[4 * i + 2 * row + 1] *= fade;
        }
        u32 weights[KEYS / 4];
#pragma unroll
        for (u32 i = 0; i < KEYS / 4; i++) weights[i] = pair(scores[2 * i], scores[2 * i + 1]);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++)
            multiply_values<1>(outputs, weights + 4 * step, operands + (RUN + step * 16 * ROW) / 16);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        stage ^= 1;
    }
    __syncthreads();

    // Results take the place of the queries, so that a thread has eight side by side.
    const u32 warp = thread / 32;
    unsigned char *const rows = dynamic + (shared - (u32)__cvta_generic_to_shared(dynamic)) + warp * 16 * ROW;
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        float all = sum[row];
        all += __shfl_xor_sync(~0u, all, 1);
        all += __shfl_xor_sync(~0u, all, 2);
        float share = 1 / all;
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            *(u32 *)(rows + (lane / 4 + 8 * row) * ROW + (i ^ lane / 4) * 16 + lane % 4 * 4) =
                pair(outputs[4 * i + 2 * row] * share, outputs[4 * i + 2 * row + 1] * share);
    }
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < 16; i += 4) {
        u32 row = i + lane / 8, query = first + warp * 16 + row;
        if (query < query_count)
            ((uint4 *)y)[(batch * query_count + query) * sizes.heads * DEEP + blockIdx.y * DEEP + lane % 8] =
                *(const uint4 *)(rows + row * ROW + (lane % 8 ^ row % 8) * 16);
    }
}
