// Checks instructions whose meaning is easy to get wrong, by running small kernels (make check).
#include "run.h"
#include <cfenv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

static u64 memory[1024];
bool find_range(u64 address, Range &range) {
    range = {(u64)memory, (u64)(memory + 1024)};
    return address >= range.low && address < range.high;
}
static int failures;

// Runs a body over 32 threads; %rd1 is the address of memory, %r1 the thread. Returns the error.
static int run(const std::string &body, u32 threads = 32, u32 dynamic = 256) {
    Module module;
    module.text = std::make_shared<std::string>(
        ".extern .shared .align 16 .b8 dyn[];\n.visible .entry k(.param .u64 p)\n{\n.reg .pred %p<9>; .reg .b16 %h<20>; .reg .b32 %r<40>;"
        " .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .f64 %d<20>;\nld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 8;\n"
        "add.s64 %rd2, %rd2, %rd1;\n" + body + "\nret;\n}\n");
    u64 address = (u64)memory;
    try {
        parse(module);
        if (!module.kernels["k"]->unsupported.empty()) printf("unsupported: %s\n", module.kernels["k"]->unsupported.c_str()), failures++;
        execute(*module.kernels["k"], {{1, 1, 1}, {threads, 1, 1}, dynamic, (u8 *)&address});
    } catch (const Fault &f) {
        if (getenv("VERBOSE")) puts(f.what.c_str());
        return f.code;
    }
    return 0;
}
static void expect(const char *what, bool ok) {
    if (!ok) printf("FAILED: %s\n", what), failures++;
}
static float real(u32 x) { return __builtin_bit_cast(float, x); }
static u32 random32() { return (u32)rand() << 17 ^ (u32)rand() << 5 ^ rand(); }
// Of very different or of similar size.
static float random_float() { return rand() & 1 ? real(random32() % 0x7f000000 | (rand() & 1u) << 31) : (rand() % 2001 - 1000) / 64.f; }

int main() {
    // Directed rounding against the machine's.
    struct { const char *name; int mode; } modes[] = {{"rn", FE_TONEAREST}, {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}};
    for (auto &[name, mode] : modes)
        for (int turn = 0; turn < 300; turn++) {
            float in[32][3];
            for (int l = 0; l < 32; l++)
                for (int k = 0; k < 3; k++) ((float *)memory)[l * 4 + k] = in[l][k] = random_float();
            if (turn & 1)   // cancellation
                for (int l = 0; l < 32; l++) ((float *)memory)[l * 4 + 2] = in[l][2] = -in[l][0] * in[l][1];
            run("mul.wide.u32 %rd3, %r1, 16; add.s64 %rd3, %rd3, %rd1; ld.global.v2.f32 {%f1, %f2}, [%rd3]; ld.global.f32 %f3, [%rd3+8];"
                "fma." + std::string(name) + ".f32 %f4, %f1, %f2, %f3; cvt.f64.f32 %d1, %f1; mul.f64 %d1, %d1, 0d3FF0000010000001;"
                "cvt." + name + ".f32.f64 %f5, %d1; st.global.v2.f32 [%rd3], {%f4, %f5}; cvt." + name + ".f16.f32 %h1, %f2; st.global.u16 [%rd3+8], %h1;");
            for (int l = 0; l < 32; l++) {
                fesetround(mode);
                volatile float a = in[l][0], b = in[l][1], c = in[l][2];
                volatile float r = fmaf(a, b, c);
                volatile double d = real(0x3f800000);
                fesetround(FE_TONEAREST);
                d = a * __builtin_bit_cast(double, 0x3FF0000010000001ull);
                fesetround(mode);
                volatile float s = (float)d;
                fesetround(FE_TONEAREST);
                float got = ((float *)memory)[l * 4], got2 = ((float *)memory)[l * 4 + 1];
                // Zeros from cancellation have the sign that the mode gives; values that over- or underflow are not compared.
                if (r == r && std::isfinite(r) && (fabsf(r) > 1e-37f || r == 0) && got != r)
                    printf("fma.%s %a %a %a: %a, not %a\n", name, a, b, c, got, r), failures++;
                if (std::isfinite(s) && fabsf(s) > 1e-37f && got2 != s) printf("cvt.%s %a: %a, not %a\n", name, d, got2, s), failures++;
                f16 h = ((f16 *)memory)[l * 8 + 4];
                f16 nearest = (f16)b;
                if (fabsf(b) < 60000) {
                    float x = (float)h;
                    u16 bits = __builtin_bit_cast(u16, h);
                    float more = (float)__builtin_bit_cast(f16, (u16)(bits + 1)), less = bits & 0x7fff ? (float)__builtin_bit_cast(f16, (u16)(bits - 1)) : -more;
                    float high = std::max(more, less), low = std::min(more, less);
                    bool ok = mode == FE_TONEAREST ? h == nearest : mode == FE_UPWARD ? x >= b && low < b : mode == FE_DOWNWARD ? x <= b && high > b
                              : fabsf(x) <= fabsf(b) && (x == b || fabsf(more) > fabsf(b));
                    if (!ok) printf("cvt.%s.f16.f32 %a: %a\n", name, b, x), failures++;
                }
            }
        }
    // Fused in half precision: exact in 128 bits.
    for (int turn = 0; turn < 300; turn++) {
        u16 in[32][3];
        for (auto &lane : in)
            for (u16 &x : lane) x = random32() & 0xfbff;
        memcpy(memory, in, sizeof in);
        run("mul.lo.s32 %r2, %r1, 6; cvt.u64.u32 %rd3, %r2; add.s64 %rd3, %rd3, %rd1; ld.global.u16 %h1, [%rd3]; ld.global.u16 %h2, [%rd3+2];"
            "ld.global.u16 %h3, [%rd3+4]; fma.rn.f16 %h4, %h1, %h2, %h3; fma.rn.bf16 %h5, %h1, %h2, %h3; st.global.u16 [%rd3], %h4; st.global.u16 [%rd3+2], %h5;");
        u16 out[32][3];
        memcpy(out, memory, sizeof out);
        for (int l = 0; l < 32; l++) {
            auto h = [&](int k) { return (__float128)(float)__builtin_bit_cast(f16, in[l][k]); };
            auto b = [&](int k) { return (__float128)real((u32)in[l][k] << 16); };
            __float128 x = h(0) * h(1) + h(2), y = b(0) * b(1) + b(2);
            auto near = [&](__float128 exact, u16 got, auto decode) {   // no neighbour is nearer (which of two does not matter: 128 bits may hide it)
                __float128 off = decode(got) - exact;
                for (int step : {-1, 1}) {
                    __float128 other = decode((u16)(got + step)) - exact, p = off < 0 ? -off : off, q = other < 0 ? -other : other;
                    if (q < p) return false;
                }
                return true;
            };
            u16 got = out[l][0], got_b = out[l][1];
            if ((got & 0x7c00) != 0x7c00 && (got & 0x7fff) && !near(x, got, [](u16 v) { return (__float128)(float)__builtin_bit_cast(f16, v); }))
                printf("fma.rn.f16 %x %x %x: %x\n", in[l][0], in[l][1], in[l][2], got), failures++;
            if ((got_b & 0x7f80) != 0x7f80 && (got_b & 0x7f80) && !near(y, got_b, [](u16 v) { return (__float128)real((u32)v << 16); }))
                printf("fma.rn.bf16 %x %x %x: %x\n", in[l][0], in[l][1], in[l][2], got_b), failures++;
        }
    }
    for (u32 n = 0; n < 65536; n++) {
        f16 h = __builtin_bit_cast(f16, (u16)n);
        float f = (float)h;
        if (f == f) expect("from_half", from_half(n) == f && to_half(f) == n);
        else expect("from_half of NaN", from_half(n) != from_half(n) && to_half(f) == 0x7fff);
    }
    for (int n = 0; n < 3000000; n++) {
        float f = n & 1 ? random_float() : real(0x33000000 + random32() % 0x15000000);
        if (f == f) expect("to_half", to_half(f) == __builtin_bit_cast(u16, (f16)f));
    }
    auto out = [](int l) { return (i64)memory[l]; };
    auto each = [&](const char *what, const std::string &body, auto want) {
        int error = run(body + " st.global.u64 [%rd2], %rd9;");
        bool ok = !error;
        for (int l = 0; l < 32 && ok; l++)
            if (out(l) != (i64)want(l)) printf("lane %d: %lld, not %lld. ", l, (long long)out(l), (long long)want(l)), ok = false;
        expect(what, ok);
    };
    auto word = [](const char *body) { return std::string(body) + " cvt.u64.u32 %rd9, %r9;"; };
    each("loops of different length", word("mov.u32 %r9, 0; mov.u32 %r2, 0; L: add.s32 %r9, %r9, %r2; add.s32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %r1; @%p1 bra L;"),
         [](int l) { return l * (l + 1) / 2; });
    each("guards", word("mov.u32 %r9, 7; setp.gt.u32 %p1, %r1, 9; @%p1 add.s32 %r9, %r9, %r1; @!%p1 mov.u32 %r9, 3;"),
         [](int l) { return l > 9 ? 7 + l : 3; });
    each("two predicates", word("setp.lt.u32 %p1, %r1, 20; setp.lt.and.u32 %p2|%p3, %r1, 10, !%p1; selp.b32 %r2, 1, 0, %p2; selp.b32 %r9, 2, %r2, %p3;"),
         [](int l) { return l >= 20 ? 2 : 0; });
    each("shfl up", word("shfl.sync.up.b32 %r9|%p1, %r1, 3, 0, -1; @!%p1 add.s32 %r9, %r9, 100;"), [](int l) { return l < 3 ? l + 100 : l - 3; });
    each("shfl down in segments of 8", word("shfl.sync.down.b32 %r9, %r1, 3, 0x181f, -1;"), [](int l) { return l % 8 < 5 ? l + 3 : l; });
    each("shfl bfly", word("shfl.sync.bfly.b32 %r9, %r1, 5, 31, -1;"), [](int l) { return l ^ 5; });
    each("shfl idx of 16", word("shfl.sync.idx.b32 %r9, %r1, 3, 0x101f, -1;"), [](int l) { return l / 16 * 16 + 3; });
    each("ballot", word("setp.gt.u32 %p1, %r1, 29; vote.sync.ballot.b32 %r9, %p1, -1;"), [](int) { return 0xc0000000u; });
    each("shuffle after parting", word("mov.u32 %r3, %r1; setp.lt.u32 %p1, %r1, 7; @%p1 bra A; add.s32 %r3, %r3, 50; bra.uni B; A: add.s32 %r3, %r3, 90; B: shfl.sync.bfly.b32 %r9, %r3, 31, 31, -1;"),
         [](int l) { return (31 - l) + (31 - l < 7 ? 90 : 50); });
    each("bfe.s32", word("mov.u32 %r2, 0xf0; bfe.s32 %r9, %r2, 4, 4;"), [](int) { return 0xffffffffu; });
    each("bfi", word("mov.u32 %r2, 0xffff; bfi.b32 %r9, %r1, %r2, 4, 5;"), [](int l) { return (0xffff & ~0x1f0) | l << 4; });
    each("prmt", word("mov.u32 %r2, 0x44332211; mov.u32 %r3, 0x88776655; prmt.b32 %r9, %r2, %r3, 0x7d20;"), [](int) { return 0x88003311u; });
    each("shf", word("mov.u32 %r2, 0x12345678; mov.u32 %r3, 0x9abcdef0; shf.l.wrap.b32 %r9, %r2, %r3, 8;"), [](int) { return 0xbcdef012u; });
    each("mul.hi.s32", word("mov.u32 %r2, -5; mul.hi.s32 %r9, %r2, %r1;"), [](int l) { return (u32)(l ? -1 : 0); });
    each("shifts", word("sub.s32 %r2, 0, 64; shr.s32 %r3, %r2, %r1; shr.s32 %r4, %r2, 40; shl.b32 %r5, %r2, 33; sub.s32 %r9, %r3, %r4; add.s32 %r9, %r9, %r5;"),
         [](int l) { return (u32)((-64 >> l) + 1); });
    each("float to int", word("mov.f32 %f1, 0fC0200000; cvt.rni.s32.f32 %r2, %f1; cvt.rmi.s32.f32 %r3, %f1; cvt.rzi.u32.f32 %r4, %f1; mov.f32 %f2, 0f7FC00000; cvt.rzi.s32.f32 %r5, %f2; mad.lo.s32 %r9, %r2, 100, %r3; add.s32 %r9, %r9, %r4; add.s32 %r9, %r9, %r5;"),
         [](int) { return (u32)-203; });
    each("signed bytes", word("cvt.u16.u32 %h1, %r1; neg.s16 %h1, %h1; cvt.s32.s8 %r9, %h1;"), [](int l) { return (u32)-l; });
    each("local memory", word(".local .align 4 .b8 a[64]; mov.u64 %rd3, a; cvta.local.u64 %rd4, %rd3; st.local.u32 [a+8], %r1; ld.u32 %r9, [%rd4+8];"), [](int l) { return l; });
    each("generic shared memory", word("mov.u64 %rd3, dyn; cvta.shared.u64 %rd4, %rd3; mul.wide.u32 %rd5, %r1, 4; add.s64 %rd4, %rd4, %rd5; add.s64 %rd3, %rd3, %rd5; st.u32 [%rd4], %r1; ld.shared.u32 %r9, [%rd3];"),
         [](int l) { return l; });
    each("scopes", word("{ .reg .b32 t; add.s32 t, %r1, 1; { .reg .b32 t; mov.b32 t, 5; } mov.b32 %r9, t; }"), [](int l) { return l + 1; });
    each("atomics", word("mov.u32 %r2, 0; st.shared.u32 [dyn], %r2; bar.sync 0; atom.shared.add.u32 %r3, [dyn], %r1; bar.sync 0; ld.shared.u32 %r9, [dyn];"), [](int) { return 496; });
    each("tf32", word("cvt.rn.f32.u32 %f1, %r1; add.f32 %f1, %f1, 0f3A000000; cvt.rna.tf32.f32 %r9, %f1;"),
         [](int l) { float x = l + 0x1p-11f; return (__builtin_bit_cast(u32, x) + 0x1000) & 0xffffe000; });

    // Two warps over an mbarrier: the second waits until the first has arrived.
    int error = run("setp.ne.u32 %p1, %r1, 0; @%p1 bra S; mbarrier.init.shared.b64 [dyn], 32; S: bar.sync 0; setp.lt.u32 %p2, %r1, 32; @%p2 bra W;"
                    "st.shared.u32 [dyn+16], %r1; mbarrier.arrive.shared.b64 _, [dyn]; bra.uni E;"
                    "W: mbarrier.try_wait.parity.shared.b64 %p3, [dyn], 0; @!%p3 bra W; ld.shared.u32 %r2, [dyn+16]; cvt.u64.u32 %rd9, %r2; st.global.u64 [%rd2], %rd9; E:", 64);
    expect("mbarrier", !error && memory[3] >= 32 && memory[3] < 64);
    expect("deadlock", run("setp.ne.u32 %p1, %r1, 0; @%p1 bra S; mbarrier.init.shared.b64 [dyn], 33; S: bar.sync 0; mbarrier.arrive.shared.b64 _, [dyn]; W: mbarrier.try_wait.parity.shared.b64 %p3, [dyn], 0; @!%p3 bra W;") == LAUNCH_TIMEOUT);
    expect("barrier in one arm", run("setp.lt.u32 %p1, %r1, 5; @%p1 bra A; bar.sync 0; bra.uni B; A: bar.sync 0; B:") == LAUNCH_TIMEOUT);
    expect("out of bounds", run("st.global.u32 [%rd1+8192], %r1;") == ILLEGAL_ADDRESS);
    expect("shared out of bounds", run("st.shared.u32 [dyn+256], %r1;") == ILLEGAL_ADDRESS && !run("st.shared.u32 [dyn+252], %r1;"));
    expect("misaligned", run("ld.global.v2.u32 {%r2, %r3}, [%rd1+4];") == ILLEGAL_ADDRESS);
    expect("trap", run("trap;") == LAUNCH_FAILED);

    // Asynchronous copies: what is read too early is there or not, with CUDA_ON_CPU_LATE.
    bool late = getenv("CUDA_ON_CPU_LATE");
    std::string copies = "mov.u32 %r2, 77; st.global.u32 [%rd2], %r2; mov.u32 %r9, 0; mul.wide.u32 %rd3, %r1, 4; mov.u64 %rd4, dyn; add.s64 %rd3, %rd3, %rd4;"
                         "st.shared.u32 [%rd3], %r9; cp.async.ca.shared.global [%rd3], [%rd2], 4; cp.async.commit_group; cp.async.commit_group; ";
    each("cp.async, two groups may be open", word((copies + "cp.async.wait_group 2; ld.shared.u32 %r9, [%rd3];").c_str()), [&](int) { return late ? 0 : 77; });
    each("cp.async, one may", word((copies + "cp.async.wait_group 1; ld.shared.u32 %r9, [%rd3];").c_str()), [&](int) { return 77; });
    each("cp.async with an mbarrier", word("mov.u32 %r2, 77; st.global.u32 [%rd2], %r2; mov.u32 %r9, 0; mul.wide.u32 %rd3, %r1, 4; mov.u64 %rd4, dyn; add.s64 %rd3, %rd3, %rd4;"
         "st.shared.u32 [%rd3], %r9; setp.ne.u32 %p1, %r1, 0; @%p1 bra S; mbarrier.init.shared.b64 [dyn+248], 32; S: bar.sync 0;"
         "cp.async.ca.shared.global [%rd3], [%rd2], 4; cp.async.mbarrier.arrive.noinc.shared.b64 [dyn+248];"
         "W: mbarrier.test_wait.parity.shared.b64 %p2, [dyn+248], 0; @!%p2 bra W; ld.shared.u32 %r9, [%rd3];"), [](int) { return 77; });

    // mma.m16n8k16 and ldmatrix, from the definition: fragments filled by formula.
    u16 a[16][16], b[16][8];
    for (auto &row : a) for (u16 &x : row) x = __builtin_bit_cast(u16, (f16)(rand() % 17 - 8));
    for (auto &row : b) for (u16 &x : row) x = __builtin_bit_cast(u16, (f16)(rand() % 17 - 8));
    memcpy(memory, a, 512), memcpy((u8 *)memory + 512, b, 256);
    error = run("shl.b32 %r2, %r1, 2; L: cvt.u64.u32 %rd3, %r2; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r3, [%rd4]; mov.u64 %rd5, dyn; add.s64 %rd5, %rd5, %rd3; st.shared.u32 [%rd5], %r3; add.s32 %r2, %r2, 128; setp.lt.u32 %p1, %r2, 768; @%p1 bra L; bar.sync 0;"
                "and.b32 %r4, %r1, 15; shl.b32 %r4, %r4, 5; shr.u32 %r5, %r1, 4; shl.b32 %r5, %r5, 4; add.s32 %r4, %r4, %r5; add.s32 %r4, %r4, 49152;"
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r4];"
                "and.b32 %r6, %r1, 15; shl.b32 %r6, %r6, 4; add.s32 %r6, %r6, 49664; ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r14, %r15}, [%r6];"
                "mov.f32 %f1, 0f3F800000; mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f1, %f1, %f1, %f1};"
                "mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd6, %rd1; st.global.v4.f32 [%rd6], {%f2, %f3, %f4, %f5};", 32, 1024);
    bool ok = !error;
    for (int l = 0; l < 32 && ok; l++)
        for (int k = 0; k < 4; k++) {
            int m = l / 4 + k / 2 * 8, n = l % 4 * 2 + k % 2;
            float want = 1;
            for (int i = 0; i < 16; i++) want += (float)__builtin_bit_cast(f16, a[m][i]) * (float)__builtin_bit_cast(f16, b[i][n]);
            ok &= ((float *)memory)[l * 4 + k] == want;
        }
    expect("ldmatrix and mma", ok);

    // wgmma of ones, and what it forbids.
    std::string ones = "mov.u32 %r3, 0x3C003C00; mov.u32 %r2, 0; L: shl.b32 %r4, %r1, 2; add.s32 %r4, %r4, %r2; add.s32 %r4, %r4, 49152; st.shared.u32 [%r4], %r3;"
                       "add.s32 %r2, %r2, 512; setp.lt.u32 %p1, %r2, 9216; @%p1 bra L; bar.sync 0; ";
    std::string product = "mov.f32 %f1, 0f3F800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1; mov.u64 %rd3, 0x4000004000010C00; mov.u64 %rd4, 0x4000004000010E00;"
                          "setp.ne.b32 %p2, 1, 0; wgmma.fence.sync.aligned;"
                          "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f1, %f2, %f3, %f4}, %rd3, %rd4, %p2, 1, 1, 0, 0; wgmma.commit_group.sync.aligned; ";
    std::string result = "wgmma.wait_group.sync.aligned 0; add.f32 %f1, %f1, %f4; cvt.rzi.u32.f32 %r9, %f1; cvt.u64.u32 %rd9, %r9; st.global.u64 [%rd2], %rd9;";
    std::string copied = "cp.async.ca.shared.global [%r4], [%rd1], 4; cp.async.wait_all; ", fenced = copied + "fence.proxy.async.shared::cta; ";
    expect("wgmma", !run(ones + product + result, 128, 9216) && memory[0] == 34 && memory[127] == 34);
    expect("operand overwritten", run(ones + product + "st.shared.u32 [dyn], %r1; " + result, 128, 9216) == LAUNCH_FAILED);
    expect("copies without a fence", run(ones + copied + "bar.sync 0; " + product + result, 128, 9216) == LAUNCH_FAILED);
    expect("copies with a fence", !run(ones + fenced + "bar.sync 0; " + product + result, 128, 9216));
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
