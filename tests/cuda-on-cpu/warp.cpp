// What the lanes of a warp do together: shuffles, votes, matrices.
#include "run.h"

namespace {
float real(u32 x) { return __builtin_bit_cast(float, x); }

// The lanes named by the last operand, which have to be here.
u32 members(Warp &w, const Ins &i, u32 operand) {
    return w.reg<u32>(i.all[operand])[__builtin_ctz(w.active)];
}

enum Direction : u8 { UP, DOWN, BUTTERFLY, INDEX };
void shuffle(Warp &w, const Ins &i) {
    u32 r = i.results;
    if (!together(w, i, members(w, i, r + 3))) return;
    u32 *a = w.reg<u32>(i.all[r]), *b = w.reg<u32>(i.all[r + 1]), *c = w.reg<u32>(i.all[r + 2]), value[LANES], inside = 0;
    for (int l = 0; l < LANES; l++) {
        int at = b[l] & 31, segment = c[l] >> 8 & 31, clamp = c[l] & 31;
        int most = (l & segment) | (clamp & ~segment), least = l & segment, from;
        bool ok;
        switch (i.kind) {
        case UP: from = l - at; ok = from >= most; break;
        case DOWN: from = l + at; ok = from <= most; break;
        case BUTTERFLY: from = l ^ at; ok = from <= most; break;
        default: from = least | (at & ~segment); ok = from <= most;
        }
        if (!ok) from = l;
        inside |= (u32)ok << l;
        value[l] = a[from];
    }
    u32 *d = w.reg<u32>(i.all[0]);
    for (int l = 0; l < LANES; l++)
        if (w.active >> l & 1) d[l] = value[l];
    if (r == 2) w.set_predicate(i.all[1], inside);
}

enum Vote : u8 { ALL, ANY, UNIFORM, BALLOT };
void vote(Warp &w, const Ins &i) {
    u32 mask = members(w, i, 2);
    if (!together(w, i, mask)) return;
    u32 p = (w.predicate(i.o[1]) ^ (i.flag ? ~0u : 0)) & mask & w.active, all = mask & w.active;
    if (i.kind == BALLOT) {
        u32 *d = w.reg<u32>(i.o[0]);
        for (int l = 0; l < LANES; l++)
            if (w.active >> l & 1) d[l] = p;
    } else w.set_predicate(i.o[0], (i.kind == ALL ? p == all : i.kind == ANY ? p != 0 : p == all || p == 0) ? ~0u : 0);
}
void active_mask(Warp &w, const Ins &i) {
    u32 *d = w.reg<u32>(i.o[0]);
    for (int l = 0; l < LANES; l++)
        if (w.active >> l & 1) d[l] = w.active;
}
template <class T> void match_any(Warp &w, const Ins &i) {
    if (!together(w, i, members(w, i, 2))) return;
    T *a = w.reg<T>(i.o[1]);
    u32 *d = w.reg<u32>(i.o[0]), r[LANES] = {};
    for (int l = 0; l < LANES; l++)
        for (int k = 0; k < LANES; k++)
            if (w.active >> k & 1 && a[k] == a[l]) r[l] |= 1u << k;
    for (int l = 0; l < LANES; l++)
        if (w.active >> l & 1) d[l] = r[l];
}
template <class T> void reduce(Warp &w, const Ins &i) {
    if (!together(w, i, members(w, i, 2))) return;
    T *a = w.reg<T>(i.o[1]), r = a[__builtin_ctz(w.active)];
    for (u32 m = w.active & (w.active - 1); m; m &= m - 1) {
        T x = a[__builtin_ctz(m)];
        r = i.kind == 0 ? r + x : i.kind == 1 ? (x < r ? x : r) : i.kind == 2 ? (x > r ? x : r) : i.kind == 3 ? r & x : i.kind == 4 ? r | x : r ^ x;
    }
    T *d = w.reg<T>(i.o[0]);
    for (int l = 0; l < LANES; l++)
        if (w.active >> l & 1) d[l] = r;
}
void elect(Warp &w, const Ins &i) {
    u32 mask = members(w, i, i.count - 1);
    if (!together(w, i, mask)) return;
    u32 leader = __builtin_ctz(mask & w.active);
    if (i.results == 2)
        for (int l = 0; l < LANES; l++) w.reg<u32>(i.all[0])[l] = leader;
    w.set_predicate(i.all[i.results - 1], 1u << leader);
}
void warp_barrier(Warp &w, const Ins &i) { together(w, i, members(w, i, 0)); }

// Matrices. A register of pairs of halves is 64 halves in order of lanes.
bool whole(Warp &w, const Ins &i) {
    if (!together(w, i, ~0u)) return false;
    if (w.active != ~0u) fail(w, i, LAUNCH_FAILED, "a matrix instruction without all lanes");
    return true;
}
template <int N> void widen(const void *__restrict from, float *__restrict to, Type type) {
    if (type == F16) {
        const u16 *h = (const u16 *)from;
#pragma GCC ivdep
        for (int k = 0; k < N; k++) to[k] = from_half(h[k]);
    } else {
        const u16 *h = (const u16 *)from;
#pragma GCC ivdep
        for (int k = 0; k < N; k++) to[k] = real((u32)h[k] << 16);
    }
}

// ldmatrix: the rows of 8x8 halves, or their columns, four lanes to each.
void load_matrix(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    u32 n = i.results;
    u16 tile[4][8][8];
    for (u32 l = 0; l < n * 8; l++) {
        u64 address = (i.wide ? w.reg<u64>(i.all[n])[l] : w.reg<u32>(i.all[n])[l]) + i.immediate;
        memcpy(tile[l / 8][l % 8], locate(w, i, address, 16, l), 16);
    }
    for (u32 k = 0; k < n; k++) {
        u16 *d = w.reg<u16>(i.all[k]);
        if (!i.flag) memcpy(d, tile[k], 128);
        else
            for (int r = 0; r < 8; r++)
                for (int c = 0; c < 8; c++) d[r * 8 + c] = tile[k][c][r];
    }
}
void store_matrix(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    u32 n = i.count - 1;
    for (u32 l = 0; l < n * 8; l++) {
        u64 address = (i.wide ? w.reg<u64>(i.all[0])[l] : w.reg<u32>(i.all[0])[l]) + i.immediate;
        u16 *s = w.reg<u16>(i.all[1 + l / 8]), row[8];
        for (int c = 0; c < 8; c++) row[c] = i.flag ? s[c * 8 + l % 8] : s[l % 8 * 8 + c];
        memcpy(locate(w, i, address, 16, l), row, 16);
    }
}

// c += a b, matrices row by row. Products of what tensor cores take are exact in f32.
template <int M, int N, int K> void multiply(const float *a, const float *b, float *c) {
    typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
    for (int n = 0; n < N; n += 8)
        for (int m = 0; m < M; m += 4) {
            Eight s[4];
            for (int r = 0; r < 4; r++) s[r] = *(Eight *)(c + (m + r) * N + n);
            for (int k = 0; k < K; k++) {
                Eight y = *(const Eight *)(b + k * N + n);
                for (int r = 0; r < 4; r++) s[r] += a[(m + r) * K + k] * y;
            }
            for (int r = 0; r < 4; r++) *(Eight *)(c + (m + r) * N + n) = s[r];
        }
}
// mma.m16n8k8 (tf32, halves) and k16 (halves), sums in f32: fragments as the PTX manual draws them. A register holds a tile of
// eight rows of a, or columns of b, four lanes to each; a pair of registers holds eight rows of c.
template <int K, bool TF> void mma(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    constexpr int regs_a = TF ? K / 2 : K / 4, regs_b = regs_a / 2, part = TF ? 4 : 8;
    float a[16][K], b[K][8], c[128];
    auto read = [&](u32 operand, float (*tile)[part]) {
        const u32 *s = w.reg<u32>(i.all[operand]);
        if (TF) for (int l = 0; l < LANES; l++) tile[0][l] = real(s[l] & 0xffffe000);
        else widen<64>(s, tile[0], (Type)i.type[0]);
    };
    for (int r = 0; r < regs_a; r++) {
        float tile[8][part];
        read(4 + r, tile);
        for (int m = 0; m < 8; m++) memcpy(a[m + (r & 1) * 8] + (r >> 1) * part, tile[m], part * 4);
    }
    for (int r = 0; r < regs_b; r++) {
        float tile[8][part];
        read(4 + regs_a + r, tile);
        for (int k = 0; k < part; k++)
            for (int n = 0; n < 8; n++) b[k + r * part][n] = tile[n][k];
    }
    for (int half = 0; half < 2; half++) {
        const float *even = w.reg<float>(i.all[4 + regs_a + regs_b + half * 2]), *odd = w.reg<float>(i.all[5 + regs_a + regs_b + half * 2]);
        for (int l = 0; l < LANES; l++) c[half * 64 + l * 2] = even[l], c[half * 64 + l * 2 + 1] = odd[l];
    }
    multiply<16, 8, K>(a[0], b[0], c);
    for (int half = 0; half < 2; half++) {
        float *even = w.reg<float>(i.all[half * 2]), *odd = w.reg<float>(i.all[half * 2 + 1]);
#pragma GCC ivdep
        for (int l = 0; l < LANES; l++) even[l] = c[half * 64 + l * 2], odd[l] = c[half * 64 + l * 2 + 1];
    }
}

// wgmma: products of a warp group, the right operand in shared memory and the left one there or in registers. Each warp does its
// 16 rows, at once; that nobody writes to what is multiplied is looked at again when the program waits for it.

// Row r of an operand in shared memory, `bytes` of it: rows of 128 bytes, eights of them where the descriptor says, swizzled.
void operand_row(Warp &w, const Ins &i, u64 descriptor, u32 r, u32 bytes, void *to) {
    u64 start = (descriptor & 0x3fff) << 4;
    if (start < DYNAMIC_SHARED) start += 1 << 18;   // descriptors are made for less than what addresses take here
    u64 address = start + (r / 8) * ((descriptor >> 32 & 0x3fff) << 4) + r % 8 * 128;
    for (u32 part = 0; part < bytes; part += 16) {
        u64 at = address + part;
        memcpy((u8 *)to + part, locate(w, i, at ^ (at >> 7 & 7) << 4, 16, 0), 16);
    }
}
// The operands of a warp: its rows of the left one unless that is in registers, and the right one; as it is, a transposed one has
// 16 rows.
struct Operands { u16 left[16][16], right[4096]; };
Operands operands(Warp &w, const Ins &i, u64 left, u64 right) {
    Operands o = {};
    u32 columns = i.results * 2;
    if (!i.kind)
        for (u32 m = 0; m < 16; m++) operand_row(w, i, left, w.index % 4 * 16 + m, 32, o.left[m]);
    for (u32 r = 0; r < (i.flag ? 16 : columns); r++) {
        u32 width = i.flag ? columns : 16;
        operand_row(w, i, right, r, width * 2, o.right + r * width);
    }
    return o;
}
u64 digest(const Operands &o) {
    u64 sum = 0;
    for (size_t n = 0; n < sizeof o / 8; n++) sum = (sum ^ ((u64 *)&o)[n]) * 0x9e3779b97f4a7c15, sum ^= sum >> 29;
    return sum;
}
void group_products(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    u32 r = i.results, columns = r * 2, b = i.kind ? r + 4 : r + 1, sums = i.count - r;
    u64 left = i.kind ? 0 : w.reg<u64>(i.all[r])[0], right = w.reg<u64>(i.all[b])[0];
    if (right >> 49 != 1 << 13 || (!i.kind && left >> 49 != 1 << 13)) fail(w, i, NOT_SUPPORTED, "a matrix descriptor other than of 128 bytes' swizzle");
    if (i.flag && columns != 64) fail(w, i, NOT_SUPPORTED, "a transposed operand of other than 64 columns");
    if (w.block->unfenced) fail(w, i, LAUNCH_FAILED, "shared memory was written without fence.proxy.async behind it");
    bool adds = w.predicate(i.all[b + 1]) & 1;
    Operands o = operands(w, i, left, right);
    w.products.push_back({w.product_group, left, right, digest(o), &i});
    if (i.kind)
        for (u32 n = 0; n < 4; n++) {
            const u32 *s = w.reg<u32>(i.all[r + n]);
            for (int l = 0; l < LANES; l++) memcpy(&o.left[l / 4 + n % 2 * 8][l % 4 * 2 + n / 2 * 8], s + l, 4);
        }
    float a[16][16], wide[4096];
    widen<256>(o.left, a[0], (Type)i.type[0]);
    widen<4096>(o.right, wide, (Type)i.type[0]);
    for (u32 block = 0; block < r / 4; block++) {
        float b[16][8], c[128];
        for (u32 n = 0; n < 8; n++)
            for (u32 k = 0; k < 16; k++) b[k][n] = i.flag ? wide[k * columns + block * 8 + n] : wide[(block * 8 + n) * 16 + k];
        for (u32 k = 0; k < 128; k++) c[k] = adds ? w.reg<float>(i.all[sums + block * 4 + k / 64 * 2 + k % 2])[k % 64 / 2] : 0;
        multiply<16, 8, 16>(a[0], b[0], c);
        for (u32 k = 0; k < 128; k++) w.reg<float>(i.all[block * 4 + k / 64 * 2 + k % 2])[k % 64 / 2] = c[k];
    }
}
void commit_products(Warp &w, const Ins &i) {
    if (whole(w, i)) w.product_group++;
}
void wait_products(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    size_t kept = 0;
    for (const Product &p : w.products) {
        if (p.group + w.reg<u32>(i.o[0])[0] >= w.product_group) w.products[kept++] = p;
        else if (digest(operands(w, *p.ins, p.left, p.right)) != p.digest) fail(w, i, LAUNCH_FAILED, "an operand was overwritten while it was multiplied");
    }
    w.products.resize(kept);
}
void whole_warp(Warp &w, const Ins &i) { whole(w, i); }
void fence_proxy(Warp &w, const Ins &) { w.block->unfenced &= ~(1u << w.index); }

// wmma: how fragments lie in registers is up to the machine. Here a matrix is in them row by row, register by register:
// 64 halves or 32 words in each, again from the start when the matrix has less than the fragment.
struct Fragment { u8 rows, columns, letter; bool column_major; };
Fragment fragment(const Ins &i) { return {i.width[0], i.width[1], i.kind, i.flag}; }

void wmma_load(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    Fragment f = fragment(i);
    u32 n = i.results, bytes = bits_of((Type)i.type[0]) / 8, elements = f.rows * f.columns;
    u64 base = (i.wide ? w.reg<u64>(i.all[n])[0] : w.reg<u32>(i.all[n])[0]) + i.immediate;
    u32 major = f.column_major ? f.columns : f.rows, minor = f.column_major ? f.rows : f.columns;
    u64 stride = i.count > n + 1 ? w.reg<u32>(i.all[n + 1])[0] : minor;
    alignas(64) u8 matrix[2048];
    for (u32 m = 0; m < major; m++) {
        const u8 *from = nullptr;
        u64 address = base + m * stride * bytes;
        locate(w, i, address, 4, 0);
        from = locate(w, i, address + minor * bytes - 4, 4, 0) - (minor * bytes - 4);
        if (!f.column_major) memcpy(matrix + m * minor * bytes, from, minor * bytes);
        else if (bytes == 2)
            for (u32 k = 0; k < minor; k++) ((u16 *)matrix)[k * major + m] = ((u16 *)from)[k];
        else
            for (u32 k = 0; k < minor; k++) ((u32 *)matrix)[k * major + m] = ((u32 *)from)[k];
    }
    if (f.letter == 'c' && bytes == 2) {   // element for element what a fragment of f32 has
        u16 mixed[256];
        for (u32 k = 0; k < 256; k++) mixed[k / 64 * 64 + k % 32 * 2 + k / 32 % 2] = ((u16 *)matrix)[k];
        memcpy(matrix, mixed, sizeof mixed);
    }
    for (u32 r = 0; r < n; r++) memcpy(w.reg<u8>(i.all[r]), matrix + r * 128 % (elements * bytes), 128);
}
void wmma_store(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    Fragment f = fragment(i);
    bool stride_given = i.kind & 1;
    u32 n = i.count - 1 - stride_given, bytes = bits_of((Type)i.type[0]) / 8;
    u64 base = (i.wide ? w.reg<u64>(i.all[0])[0] : w.reg<u32>(i.all[0])[0]) + i.immediate;
    u32 minor = f.column_major ? f.rows : f.columns;
    u64 stride = stride_given ? w.reg<u32>(i.all[i.count - 1])[0] : minor;
    alignas(64) u8 matrix[1024];
    for (u32 r = 0; r < n; r++) memcpy(matrix + r * 128, w.reg<u8>(i.all[1 + r]), 128);
    for (u32 r = 0; r < f.rows; r++)
        for (u32 c = 0; c < f.columns; c++) {
            u32 e = r * f.columns + c;
            u64 address = base + (f.column_major ? c * stride + r : r * stride + c) * bytes;
            u8 *to = locate(w, i, address, bytes, 0);
            if (bytes == 4) memcpy(to, matrix + e * 4, 4);
            else memcpy(to, matrix + (e / 64 * 64 + e % 32 * 2 + e / 32 % 2) * 2, 2);
        }
}
template <int M, int N, int K> void wmma(Warp &w, const Ins &i) {
    if (!whole(w, i)) return;
    u32 regs_a = i.width[0], regs_b = i.width[1], regs_d = i.results, regs_c = i.count - regs_d - regs_a - regs_b;
    Type type = (Type)i.type[0];
    alignas(64) float a[M * K + 64], b[K * N + 64], c[M * N];
    auto read = [&](u32 first, int elements, float *to) {
        if (type == TF32)
            for (int r = 0; r < elements / 32; r++)
                for (int l = 0; l < LANES; l++) to[r * 32 + l] = real(w.reg<u32>(i.all[first + r])[l] & 0xffffe000);
        else
            for (int r = 0; r < elements / 64; r++) widen<64>(w.reg<u8>(i.all[first + r]), to + r * 64, type);
    };
    read(regs_d, M * K, a);
    read(regs_d + regs_a, K * N, b);
    u32 first_c = regs_d + regs_a + regs_b;
    for (u32 r = 0; r < 8; r++)
        if (regs_c == 8) memcpy(c + r * 32, w.reg<float>(i.all[first_c + r]), 128);
        else {
            const f16 *s = w.reg<f16>(i.all[first_c + r / 2]);
            for (int l = 0; l < LANES; l++) c[r * 32 + l] = (float)s[l * 2 + (r & 1)];
        }
    multiply<M, N, K>(a, b, c);
    for (u32 r = 0; r < 8; r++)
        if (regs_d == 8) memcpy(w.reg<float>(i.all[r]), c + r * 32, 128);
        else {
            f16 *d = w.reg<f16>(i.all[r / 2]);
            for (int l = 0; l < LANES; l++) d[l * 2 + (r & 1)] = (f16)c[r * 32 + l];
        }
}
}  // namespace

Handler warp_handler(const std::vector<std::string> &name, Ins &ins, const std::vector<u32> &bits) {
    const std::string &base = name[0];
    auto has = [&](const char *part) {
        for (auto &n : name) if (n == part) return true;
        return false;
    };
    if (base == "barrier" || base == "bar") return name[1] == "warp" ? warp_barrier : nothing;
    if (base == "shfl") {
        ins.kind = has("up") ? UP : has("down") ? DOWN : has("bfly") ? BUTTERFLY : INDEX;
        return has("sync") && ins.count == ins.results + 4 ? shuffle : nullptr;
    }
    if (base == "vote") {
        ins.kind = has("all") ? ALL : has("any") ? ANY : has("uni") ? UNIFORM : BALLOT;
        return has("sync") && bits[1] == 1 ? vote : nullptr;
    }
    if (base == "activemask") return active_mask;
    if (base == "match" && has("any")) return bits[1] == 64 ? match_any<u64> : match_any<u32>;
    if (base == "redux") {
        ins.kind = has("add") ? 0 : has("min") ? 1 : has("max") ? 2 : has("and") ? 3 : has("or") ? 4 : 5;
        return ins.type[0] == S32 ? reduce<i32> : ins.type[0] == U32 ? reduce<u32> : nullptr;
    }
    if (base == "elect") return elect;
    if (base == "ldmatrix" || base == "stmatrix") {
        ins.flag = has("trans");
        ins.space = GENERIC;
        for (auto &n : name) if (n.rfind("shared", 0) == 0) ins.space = SHARED;
        return !has("m8n8") || !has("b16") ? nullptr : base[0] == 'l' ? load_matrix : store_matrix;
    }
    if (base == "mma") {
        // mma.sync.aligned.shape.row.col.d.a.b.c
        if (name.size() < 10 || name[6] != "f32" || name[9] != "f32") return nullptr;
        Type type = type_of(name[7]);
        ins.type[0] = type;
        bool half = type == F16 || type == BF16;
        if (has("m16n8k16") && half && ins.count == 14) return mma<16, false>;
        if (has("m16n8k8") && half && ins.count == 11) return mma<8, false>;
        if (has("m16n8k8") && type == TF32 && ins.count == 14) return mma<8, true>;
        if (has("m16n8k4") && type == TF32 && ins.count == 11) return mma<4, true>;
        return nullptr;
    }
    if (base == "wgmma") {
        ins.space = SHARED;
        if (name[1] == "fence") return whole_warp;
        if (name[1] == "commit_group") return commit_products;
        if (name[1] == "wait_group") return wait_products;
        // wgmma.mma_async.sync.aligned.m64nNk16.f32.a.b {d}, a, b, p, 1, 1, 0, 0 (and d again); a may be {a0, a1, a2, a3}
        u32 n = 0;
        if (name.size() != 8 || sscanf(name[4].c_str(), "m64n%uk16", &n) != 1 || name[5] != "f32" || name[6] != name[7] || ins.results * 2 != n) return nullptr;
        ins.type[0] = type_of(name[6]);
        ins.kind = ins.count == n + 9;
        bool half = ins.type[0] == F16 || ins.type[0] == BF16, fits = ins.kind || ins.count == n + 7;
        u32 b = ins.results + (ins.kind ? 4 : 1);
        return half && fits && n <= 256 && bits[b] == 64 && bits[b + 1] == 1 ? group_products : nullptr;
    }
    if (base == "fence") return fence_proxy;
    if (base == "wmma") {
        u32 m = 0, n = 0, k = 0;
        for (auto &part : name) if (part[0] == 'm' && sscanf(part.c_str(), "m%un%uk%u", &m, &n, &k) == 3) break;
        if (!k) return nullptr;
        if (name[1] == "mma") {
            // ...shape.d.c of f16, or shape.d.a.b.c
            Type type = name.size() >= 11 ? type_of(name[name.size() - 3]) : F16;
            ins.type[0] = type;
            bool tf = type == TF32, same = type == BF16;
            ins.width[0] = tf ? 4 : same ? m * k / 64 : 8;
            ins.width[1] = tf ? 4 : same ? k * n / 64 : 8;
            u32 c = ins.count - ins.results - ins.width[0] - ins.width[1];
            if (c != 4 && c != 8) return nullptr;
            if (tf) return m == 16 && n == 16 && k == 8 ? wmma<16, 16, 8> : nullptr;
            return m == 16 && n == 16 ? wmma<16, 16, 16> : m == 32 ? wmma<32, 8, 16> : m == 8 ? wmma<8, 32, 16> : nullptr;
        }
        char letter = name[2][0];
        ins.space = GENERIC;
        for (auto &part : name) if (part.rfind("shared", 0) == 0) ins.space = SHARED; else if (part == "global") ins.space = GLOBAL;
        ins.width[0] = letter == 'b' ? k : m;
        ins.width[1] = letter == 'a' ? k : n;
        ins.flag = has("col");
        if (name[1] == "load") {
            ins.kind = letter;
            return wmma_load;
        }
        u32 regs = ins.type[0] == F16 ? 4 : 8;
        if (ins.count != regs + 1 && ins.count != regs + 2) return nullptr;
        ins.kind = ins.count == regs + 2;
        return wmma_store;
    }
    return nullptr;
}
