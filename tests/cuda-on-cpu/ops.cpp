// Operations on registers, lane by lane: tables of functions, each applied to 32 lanes by a loop that the compiler vectorises.
#include "run.h"
#include <chrono>
#include <cmath>

namespace {
struct bf16 {
    u16 bits;
    operator float() const { return __builtin_bit_cast(float, (u32)bits << 16); }
};
u32 bits(float x) { return __builtin_bit_cast(u32, x); }
u64 bits(double x) { return __builtin_bit_cast(u64, x); }
u16 bits(f16 x) { return __builtin_bit_cast(u16, x); }
float real(u32 x) { return __builtin_bit_cast(float, x); }
double real(u64 x) { return __builtin_bit_cast(double, x); }

float flush(float x) { return (bits(x) & 0x7f800000) ? x : real(bits(x) & 0x80000000); }
bf16 to_bf16(float x) {
    u32 b = bits(x);
    return {(u16)(x != x ? 0x7fff : (b + 0x7fff + (b >> 16 & 1)) >> 16)};
}
// s is a rounded sum and e what it misses: makes s odd if it's inexact, so that rounding it further rounds the exact sum.
double odd(double s, double e) {
    u64 b = bits(s);
    bool inexact = e != 0 && e == e && !(b & 1) && (s - s == 0);
    u64 step = (e > 0) == (s > 0) ? 1 : -1;
    return real(inexact ? b + step : b);
}
double sum_odd(double p, double c) {
    double s = p + c, v = s - p, e = (p - (s - v)) + (c - v);
    return odd(s, e);
}
// To float, the last bit set if that's inexact.
float odd_float(double x) {
    float f = (float)x;
    double back = f;
    u32 b = bits(f), step = (x > back) == (x > 0) ? 1 : -1;
    return back == x || x != x || f - f != 0 || b & 1 ? f : real(b + step);
}
f16 fma16(f16 a, f16 b, f16 c) {
    auto wide = [](f16 x) { return (double)from_half(bits(x)); };
    return __builtin_bit_cast(f16, to_half(odd_float(sum_odd(wide(a) * wide(b), wide(c)))));
}
bf16 fma_bf16(bf16 a, bf16 b, bf16 c) { return to_bf16(odd_float(sum_odd((double)(float)a * (float)b, (float)c))); }

// f is near the exact s + e: the neighbour of f that the rounding mode wants. 1 to zero, 2 down, 3 up.
inline __attribute__((always_inline)) float direct(double s, double e, int mode) {
    float f = (float)s;
    double d = f;
    bool above = d > s || (d == s && e < 0), below = d < s || (d == s && e > 0), negative = s < 0 || (s == 0 && e < 0);
    bool down = mode == 2 || (mode == 1 && !negative), up = mode == 3 || (mode == 1 && negative);
    u32 b = bits(f);
    if (f != f) return f;
    if (above && down) return f == 0 ? real(0x80000001) : real(b & 0x80000000 ? b + 1 : b - 1);
    if (below && up) return f == 0 ? real(1u) : real(b & 0x80000000 ? b - 1 : b + 1);
    return f;
}
inline __attribute__((always_inline)) float fma_direct(float a, float b, float c, int mode) {
    double p = (double)a * b, s = p + c, v = s - p, e = (p - (s - v)) + (c - v);
    return direct(s, e == e ? e : 0, mode);
}

// 2^x, in a form that vectorises: off by less than ex2.approx may be.
inline __attribute__((always_inline)) float exp2_(float x) {
    double y = x < -200 ? -200 : x > 200 ? 200 : x, n = __builtin_nearbyint(y), f = y - n;
    constexpr double L = 0.6931471805599453;
    double p = 1 + f * L * (1 + f * L / 2 * (1 + f * L / 3 * (1 + f * L / 4 * (1 + f * L / 5 * (1 + f * L / 6 * (1 + f * L / 7))))));
    double scale = real((bits(n + 0x1.8p52) + 1023) << 52);
    return x != x ? x : (float)(p * scale);
}

template <class T> T smaller(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a < b || (a == b && std::signbit((double)a)) ? a : b;
}
template <class T> T larger(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a > b || (a == b && !std::signbit((double)a)) ? a : b;
}
template <> float smaller(float a, float b) {
    float m = a == b ? real(bits(a) | bits(b)) : a < b ? a : b;
    return a != a ? b : b != b ? a : m;
}
template <> float larger(float a, float b) {
    float m = a == b ? real(bits(a) & bits(b)) : a > b ? a : b;
    return a != a ? b : b != b ? a : m;
}

template <class T> struct Width { static constexpr int value = sizeof(T) * 8; };
template <> struct Width<bool> { static constexpr int value = 1; };

// A function applied to all lanes. N is 64 where a register holds pairs.
template <int N, class F, class D, class... A> struct Lanes {
    static void apply(D *__restrict d, const A *...a) {
        F f;
#pragma GCC ivdep
        for (int l = 0; l < N; l++) d[l] = f(a[l]...);
    }
    static void apply_masked(u32 mask, D *__restrict d, const A *...a) {
        F f;
#pragma GCC ivdep
        for (int l = 0; l < N; l++) {
            D value = f(a[l]...), old = d[l];
            d[l] = mask >> (l * LANES / N) & 1 ? value : old;
        }
    }
    template <size_t... K> static void full(Warp &w, const Ins &i, std::index_sequence<K...>) {
        apply(w.reg<D>(i.o[0]), w.reg<A>(i.o[K + 1])...);
    }
    template <size_t... K> static void masked(Warp &w, const Ins &i, std::index_sequence<K...>) {
        apply_masked(w.active, w.reg<D>(i.o[0]), w.reg<A>(i.o[K + 1])...);
    }
    static void run_full(Warp &w, const Ins &i) { full(w, i, std::index_sequence_for<A...>()); }
    static void run_masked(Warp &w, const Ins &i) { masked(w, i, std::index_sequence_for<A...>()); }
};
template <class D, class... A, class F> Operation lanes(F) {
    return {{Lanes<32, F, D, A...>::run_full, Lanes<32, F, D, A...>::run_masked}, {Width<D>::value, Width<A>::value...}};
}
template <class D, class... A, class F> Operation pairs(F) {
    return {{Lanes<64, F, D, A...>::run_full, Lanes<64, F, D, A...>::run_masked}, {Width<D>::value * 2, Width<A>::value * 2 ...}};
}

using Table = std::map<std::string, Operation>;

template <class F> struct Flushed {
    template <class... A> float operator()(A... a) const { return flush(F{}(flush(a)...)); }
};
float saturate(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
template <class F> struct Saturated {
    template <class... A> float operator()(A... a) const { return saturate(F{}(a...)); }
};
// add.f32, add.ftz.f32, add.sat.f32, add.ftz.sat.f32
template <class... A, class F> void define32(Table &t, const std::string &name, F f) {
    t[name + ".f32"] = lanes<float, A...>(f);
    t[name + ".ftz.f32"] = lanes<float, A...>(Flushed<F>{});
    t[name + ".sat.f32"] = lanes<float, A...>(Saturated<F>{});
    t[name + ".ftz.sat.f32"] = lanes<float, A...>(Saturated<Flushed<F>>{});
}

template <class S, class U, class W, class UW> void integers(Table &t, const std::string &b) {
    constexpr int B = sizeof(U) * 8;
    std::string s = ".s" + b, u = ".u" + b, x = ".b" + b;
    auto both = [&](const std::string &name, Operation op) { t[name + s] = t[name + u] = op; };
    both("add", lanes<U, U, U>([](U a, U b) { return U(a + b); }));
    both("sub", lanes<U, U, U>([](U a, U b) { return U(a - b); }));
    both("mul.lo", lanes<U, U, U>([](U a, U b) { return U((UW)a * b); }));
    both("mad.lo", lanes<U, U, U, U>([](U a, U b, U c) { return U((UW)a * b + c); }));
    t["mul.hi" + s] = lanes<S, S, S>([](S a, S b) { return S((W)a * b >> B); });
    t["mul.hi" + u] = lanes<U, U, U>([](U a, U b) { return U((UW)a * b >> B); });
    t["mad.hi" + s] = lanes<S, S, S, S>([](S a, S b, S c) { return S(U((W)a * b >> B) + (U)c); });
    t["mad.hi" + u] = lanes<U, U, U, U>([](U a, U b, U c) { return U(((UW)a * b >> B) + c); });
    t["div" + s] = lanes<S, S, S>([](S a, S b) { return S(b == 0 ? -1 : b == -1 ? S(-(U)a) : a / b); });
    t["div" + u] = lanes<U, U, U>([](U a, U b) { return U(b ? a / b : ~U(0)); });
    t["rem" + s] = lanes<S, S, S>([](S a, S b) { return S(b == 0 ? a : b == -1 ? 0 : a % b); });
    t["rem" + u] = lanes<U, U, U>([](U a, U b) { return U(b ? a % b : a); });
    t["min" + s] = lanes<S, S, S>([](S a, S b) { return a < b ? a : b; });
    t["min" + u] = lanes<U, U, U>([](U a, U b) { return a < b ? a : b; });
    t["max" + s] = lanes<S, S, S>([](S a, S b) { return a > b ? a : b; });
    t["max" + u] = lanes<U, U, U>([](U a, U b) { return a > b ? a : b; });
    t["neg" + s] = lanes<U, U>([](U a) { return U(-a); });
    t["abs" + s] = lanes<S, S>([](S a) { return S(a < 0 ? -(U)a : (U)a); });
    t["and" + x] = lanes<U, U, U>([](U a, U b) { return U(a & b); });
    t["or" + x] = lanes<U, U, U>([](U a, U b) { return U(a | b); });
    t["xor" + x] = lanes<U, U, U>([](U a, U b) { return U(a ^ b); });
    t["not" + x] = lanes<U, U>([](U a) { return U(~a); });
    t["cnot" + x] = lanes<U, U>([](U a) { return U(!a); });
    t["shl" + x] = lanes<U, U, u32>([](U a, u32 n) { return U(n < B ? (UW)a << n : 0); });
    t["shr" + x] = t["shr" + u] = lanes<U, U, u32>([](U a, u32 n) { return U(n < B ? a >> n : 0); });
    t["shr" + s] = lanes<S, S, u32>([](S a, u32 n) { return S(a >> (n < B ? n : B - 1)); });
    t["mov" + x] = lanes<U, U>([](U a) { return a; });
    t["sad" + s] = lanes<U, S, S, U>([](S a, S b, U c) { return U(c + (a > b ? (U)a - (U)b : (U)b - (U)a)); });
    t["sad" + u] = lanes<U, U, U, U>([](U a, U b, U c) { return U(c + (a > b ? a - b : b - a)); });
    t["slct" + x + ".s32"] = t["slct" + u + ".s32"] = t["slct" + s + ".s32"] =
        lanes<U, U, U, i32>([](U a, U b, i32 c) { return c >= 0 ? a : b; });
    t["slct" + x + ".f32"] = lanes<U, U, U, float>([](U a, U b, float c) { return c >= 0 ? a : b; });
}
template <class S, class U> void wide_bits(Table &t, const std::string &b) {
    constexpr u32 B = sizeof(U) * 8;
    t["clz.b" + b] = lanes<u32, U>([](U a) { return u32(a ? (B == 64 ? __builtin_clzll(a) : __builtin_clz(a)) : B); });
    t["popc.b" + b] = lanes<u32, U>([](U a) { return u32(__builtin_popcountll(a)); });
    t["bfind.u" + b] = lanes<u32, U>([](U a) { return u32(a ? 63 - __builtin_clzll(a) : -1); });
    t["bfind.s" + b] = lanes<u32, S>([](S a) { u64 v = (U)(a < 0 ? ~a : a); return u32(v ? 63 - __builtin_clzll(v) : -1); });
    t["brev.b" + b] = lanes<U, U>([](U a) {
        U r = 0;
        for (u32 k = 0; k < B; k++) r |= (a >> k & 1) << (B - 1 - k);
        return r;
    });
    t["bfi.b" + b] = lanes<U, U, U, u32, u32>([](U a, U b, u32 at, u32 n) {
        at &= 255, n &= 255;
        U mask = at >= B ? 0 : (n >= B ? ~U(0) : (U(1) << n) - 1) << at;
        return U((b & ~mask) | ((at >= B ? 0 : a << at) & mask));
    });
    t["bfe.u" + b] = lanes<U, U, u32, u32>([](U a, u32 at, u32 n) {
        at &= 255, n &= 255;
        return U((at >= B ? 0 : a >> at) & (n >= B ? ~U(0) : (U(1) << n) - 1));
    });
    t["bfe.s" + b] = lanes<S, S, u32, u32>([](S a, u32 at, u32 n) {
        at &= 255, n &= 255;
        if (!n) return S(0);
        S v = a >> (at >= B ? B - 1 : at);
        u32 left = n >= B ? 0 : B - n;
        if (at + n > B && at < B) return v;
        return S(S((U)v << left) >> left);
    });
}
u32 permute(u32 a, u32 b, u32 c) {
    u64 v = (u64)b << 32 | a;
    u32 r = 0;
    for (int k = 0; k < 4; k++) {
        u32 s = c >> 4 * k & 15;
        u8 byte = v >> 8 * (s & 7);
        if (s & 8) byte = byte & 128 ? 255 : 0;
        r |= (u32)byte << 8 * k;
    }
    return r;
}
u32 lop3(u32 a, u32 b, u32 c, u32 table) {
    u32 r = 0;
    for (int k = 0; k < 8; k++)
        if (table >> k & 1) r |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    return r;
}

// Halves: of one or two in a register.
template <class T, class Up, class Down, class Fma> void halves(Table &t, const std::string &name, Up, Down, Fma) {
    auto both = [&](const std::string &op, auto f, auto... types) {
        t[op + "." + name] = lanes<T, decltype(types)...>(f);
        t[op + "." + name + "x2"] = pairs<T, decltype(types)...>(f);
    };
    T x{};
    both("add", [](T a, T b) { return Down{}(Up{}(a) + Up{}(b)); }, x, x);
    both("sub", [](T a, T b) { return Down{}(Up{}(a) - Up{}(b)); }, x, x);
    both("mul", [](T a, T b) { return Down{}(Up{}(a) * Up{}(b)); }, x, x);
    both("fma", [](T a, T b, T c) { return Fma{}(a, b, c); }, x, x, x);
    both("fma.relu", [](T a, T b, T c) { T r = Fma{}(a, b, c); return Up{}(r) > 0 || Up{}(r) != Up{}(r) ? r : T{}; }, x, x, x);
    both("min", [](T a, T b) { return Down{}(smaller<float>(Up{}(a), Up{}(b))); }, x, x);
    both("max", [](T a, T b) { return Down{}(larger<float>(Up{}(a), Up{}(b))); }, x, x);
    both("min.NaN", [](T a, T b) { float p = Up{}(a), q = Up{}(b); return Down{}(p != p || q != q ? p + q : smaller<float>(p, q)); }, x, x);
    both("max.NaN", [](T a, T b) { float p = Up{}(a), q = Up{}(b); return Down{}(p != p || q != q ? p + q : larger<float>(p, q)); }, x, x);
    both("ex2.approx", [](T a) { return Down{}(exp2f(Up{}(a))); }, x);
    t["ex2.approx.ftz." + name] = t["ex2.approx." + name];
    t["ex2.approx.ftz." + name + "x2"] = t["ex2.approx." + name + "x2"];
    both("tanh.approx", [](T a) { return Down{}(tanhf(Up{}(a))); }, x);
    for (auto *suffix : {"", "x2"}) {
        bool two = *suffix;
        auto neg = [](u16 a) { return u16(a ^ 0x8000); };
        auto abs = [](u16 a) { return u16(a & 0x7fff); };
        t["neg." + name + suffix] = two ? pairs<u16, u16>(neg) : lanes<u16, u16>(neg);
        t["abs." + name + suffix] = two ? pairs<u16, u16>(abs) : lanes<u16, u16>(abs);
    }
}

void boolean_and(Warp &w, const Ins &i) { w.set_predicate(i.o[0], w.predicate(i.o[1]) & w.predicate(i.o[2])); }
void boolean_or(Warp &w, const Ins &i) { w.set_predicate(i.o[0], w.predicate(i.o[1]) | w.predicate(i.o[2])); }
void boolean_xor(Warp &w, const Ins &i) { w.set_predicate(i.o[0], w.predicate(i.o[1]) ^ w.predicate(i.o[2])); }
void boolean_not(Warp &w, const Ins &i) { w.set_predicate(i.o[0], ~w.predicate(i.o[1])); }
void boolean_mov(Warp &w, const Ins &i) { w.set_predicate(i.o[0], w.predicate(i.o[1])); }

template <class T> void select(Warp &w, const Ins &i) {
    T *d = w.reg<T>(i.o[0]), *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]);
    u32 p = w.predicate(i.o[3]), mask = w.active;
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) {
        T value = p >> l & 1 ? a[l] : b[l], old = d[l];
        d[l] = mask >> l & 1 ? value : old;
    }
}
template <class T, class P> void unpack(Warp &w, const Ins &i) {
    constexpr int N = sizeof(T) / sizeof(P);
    T *a = w.reg<T>(i.all[N]), copy[LANES];
    memcpy(copy, a, sizeof copy);
    for (int k = 0; k < N; k++) {
        P *d = w.reg<P>(i.all[k]);
        u32 mask = w.active;
#pragma GCC ivdep
        for (int l = 0; l < LANES; l++) {
            P value = copy[l] >> k * sizeof(P) * 8, old = d[l];
            d[l] = mask >> l & 1 ? value : old;
        }
    }
}
template <class T, class P> void pack(Warp &w, const Ins &i) {
    constexpr int N = sizeof(T) / sizeof(P);
    T *d = w.reg<T>(i.all[0]), value[LANES] = {};
    for (int k = 0; k < N; k++) {
        P *a = w.reg<P>(i.all[k + 1]);
        for (int l = 0; l < LANES; l++) value[l] |= (T)a[l] << k * sizeof(P) * 8;
    }
    u32 mask = w.active;
#pragma GCC ivdep
    for (int l = 0; l < LANES; l++) d[l] = mask >> l & 1 ? value[l] : d[l];
}
u64 now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

Table build() {
    Table t;
    integers<i16, u16, i32, u32>(t, "16");
    integers<i32, u32, i64, u64>(t, "32");
    integers<i64, u64, __int128, unsigned __int128>(t, "64");
    wide_bits<i32, u32>(t, "32");
    wide_bits<i64, u64>(t, "64");
    t["mul.wide.s16"] = lanes<i32, i16, i16>([](i16 a, i16 b) { return (i32)a * b; });
    t["mul.wide.u16"] = lanes<u32, u16, u16>([](u16 a, u16 b) { return (u32)a * b; });
    t["mul.wide.s32"] = lanes<i64, i32, i32>([](i32 a, i32 b) { return (i64)a * b; });
    t["mul.wide.u32"] = lanes<u64, u32, u32>([](u32 a, u32 b) { return (u64)a * b; });
    t["mad.wide.s32"] = lanes<u64, i32, i32, u64>([](i32 a, i32 b, u64 c) { return (i64)a * b + c; });
    t["mad.wide.u32"] = lanes<u64, u32, u32, u64>([](u32 a, u32 b, u64 c) { return (u64)a * b + c; });
    t["prmt.b32"] = lanes<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return permute(a, b, c); });
    t["lop3.b32"] = lanes<u32, u32, u32, u32, u32>([](u32 a, u32 b, u32 c, u32 f) { return lop3(a, b, c, f); });
    t["shf.l.wrap.b32"] = lanes<u32, u32, u32, u32>([](u32 a, u32 b, u32 n) { return u32((((u64)b << 32 | a) << (n & 31)) >> 32); });
    t["shf.r.wrap.b32"] = lanes<u32, u32, u32, u32>([](u32 a, u32 b, u32 n) { return u32(((u64)b << 32 | a) >> (n & 31)); });
    t["shf.l.clamp.b32"] = lanes<u32, u32, u32, u32>([](u32 a, u32 b, u32 n) { return n >= 32 ? a : u32((((u64)b << 32 | a) << n) >> 32); });
    t["shf.r.clamp.b32"] = lanes<u32, u32, u32, u32>([](u32 a, u32 b, u32 n) { return n >= 32 ? b : u32(((u64)b << 32 | a) >> n); });
    t["dp4a.s32.s32"] = lanes<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) {
        for (int k = 0; k < 32; k += 8) c += (i8)(a >> k) * (i8)(b >> k);
        return c;
    });
    t["dp4a.u32.u32"] = lanes<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) {
        for (int k = 0; k < 32; k += 8) c += (u8)(a >> k) * (u8)(b >> k);
        return c;
    });

    define32<float, float>(t, "add", [](float a, float b) { return a + b; });
    define32<float, float>(t, "sub", [](float a, float b) { return a - b; });
    define32<float, float>(t, "mul", [](float a, float b) { return a * b; });
    define32<float, float, float>(t, "fma", [](float a, float b, float c) { return __builtin_fmaf(a, b, c); });
    define32<float, float, float>(t, "fma.rz", [](float a, float b, float c) { return fma_direct(a, b, c, 1); });
    define32<float, float, float>(t, "fma.rm", [](float a, float b, float c) { return fma_direct(a, b, c, 2); });
    define32<float, float, float>(t, "fma.rp", [](float a, float b, float c) { return fma_direct(a, b, c, 3); });
    define32<float, float>(t, "add.rz", [](float a, float b) { return fma_direct(a, 1, b, 1); });
    define32<float, float>(t, "add.rm", [](float a, float b) { return fma_direct(a, 1, b, 2); });
    define32<float, float>(t, "add.rp", [](float a, float b) { return fma_direct(a, 1, b, 3); });
    define32<float, float>(t, "mul.rz", [](float a, float b) { return direct((double)a * b, 0, 1); });
    define32<float, float>(t, "mul.rm", [](float a, float b) { return direct((double)a * b, 0, 2); });
    define32<float, float>(t, "mul.rp", [](float a, float b) { return direct((double)a * b, 0, 3); });
    for (auto *form : {"div", "div.full", "div.approx"}) define32<float, float>(t, form, [](float a, float b) { return a / b; });
    for (auto *form : {"rcp", "rcp.approx"}) define32<float>(t, form, [](float a) { return 1 / a; });
    for (auto *form : {"sqrt", "sqrt.approx"}) define32<float>(t, form, [](float a) { return __builtin_sqrtf(a); });
    define32<float>(t, "rsqrt.approx", [](float a) { return (float)(1 / __builtin_sqrt((double)a)); });
    define32<float>(t, "ex2.approx", [](float a) { return exp2_(a); });
    define32<float>(t, "lg2.approx", [](float a) { return log2f(a); });
    define32<float>(t, "sin.approx", [](float a) { return sinf(a); });
    define32<float>(t, "cos.approx", [](float a) { return cosf(a); });
    define32<float>(t, "tanh.approx", [](float a) { return tanhf(a); });
    define32<float>(t, "neg", [](float a) { return -a; });
    define32<float>(t, "abs", [](float a) { return real(bits(a) & 0x7fffffff); });
    define32<float, float>(t, "min", [](float a, float b) { return smaller(a, b); });
    define32<float, float>(t, "max", [](float a, float b) { return larger(a, b); });
    define32<float, float>(t, "min.NaN", [](float a, float b) { return a != a || b != b ? real(0x7fffffffu) : smaller(a, b); });
    define32<float, float>(t, "max.NaN", [](float a, float b) { return a != a || b != b ? real(0x7fffffffu) : larger(a, b); });
    t["min.ftz.NaN.f32"] = t["min.NaN.ftz.f32"];
    t["max.ftz.NaN.f32"] = t["max.NaN.ftz.f32"];
    t["copysign.f32"] = lanes<u32, u32, u32>([](u32 a, u32 b) { return (b & 0x7fffffff) | (a & 0x80000000); });
    t["copysign.f64"] = lanes<u64, u64, u64>([](u64 a, u64 b) { return (b & ~(1ull << 63)) | (a & 1ull << 63); });
    t["add.f64"] = lanes<double, double, double>([](double a, double b) { return a + b; });
    t["sub.f64"] = lanes<double, double, double>([](double a, double b) { return a - b; });
    t["mul.f64"] = lanes<double, double, double>([](double a, double b) { return a * b; });
    t["div.f64"] = lanes<double, double, double>([](double a, double b) { return a / b; });
    t["fma.f64"] = lanes<double, double, double, double>([](double a, double b, double c) { return __builtin_fma(a, b, c); });
    t["rcp.f64"] = t["rcp.approx.ftz.f64"] = lanes<double, double>([](double a) { return 1 / a; });
    t["sqrt.f64"] = lanes<double, double>([](double a) { return __builtin_sqrt(a); });
    t["rsqrt.approx.f64"] = t["rsqrt.approx.ftz.f64"] = lanes<double, double>([](double a) { return 1 / __builtin_sqrt(a); });
    t["neg.f64"] = lanes<double, double>([](double a) { return -a; });
    t["abs.f64"] = lanes<double, double>([](double a) { return __builtin_fabs(a); });
    t["min.f64"] = lanes<double, double, double>([](double a, double b) { return smaller(a, b); });
    t["max.f64"] = lanes<double, double, double>([](double a, double b) { return larger(a, b); });

    auto up16 = [](f16 a) { return a; };
    auto down16 = [](auto a) { return (f16)a; };
    halves<f16>(t, "f16", up16, down16, [](f16 a, f16 b, f16 c) { return fma16(a, b, c); });
    auto up_b = [](bf16 a) { return (float)a; };
    auto down_b = [](float a) { return to_bf16(a); };
    halves<bf16>(t, "bf16", up_b, down_b, [](bf16 a, bf16 b, bf16 c) { return fma_bf16(a, b, c); });

    t["and.pred"] = {{boolean_and, boolean_and}, {1, 1, 1}};
    t["or.pred"] = {{boolean_or, boolean_or}, {1, 1, 1}};
    t["xor.pred"] = {{boolean_xor, boolean_xor}, {1, 1, 1}};
    t["not.pred"] = {{boolean_not, boolean_not}, {1, 1}};
    t["mov.b1"] = {{boolean_mov, boolean_mov}, {1, 1}};
    for (auto *type : {"b16", "u16", "s16", "f16", "bf16"}) t[std::string("selp.") + type] = {{select<u16>, select<u16>}, {16, 16, 16, 1}};
    for (auto *type : {"b32", "u32", "s32", "f32"}) t[std::string("selp.") + type] = {{select<u32>, select<u32>}, {32, 32, 32, 1}};
    for (auto *type : {"b64", "u64", "s64", "f64"}) t[std::string("selp.") + type] = {{select<u64>, select<u64>}, {64, 64, 64, 1}};
    t["unpack.32.16"] = {{unpack<u32, u16>, unpack<u32, u16>}, {}};
    t["unpack.64.32"] = {{unpack<u64, u32>, unpack<u64, u32>}, {}};
    t["unpack.64.16"] = {{unpack<u64, u16>, unpack<u64, u16>}, {}};
    t["pack.32.16"] = {{pack<u32, u16>, pack<u32, u16>}, {}};
    t["pack.64.32"] = {{pack<u64, u32>, pack<u64, u32>}, {}};
    t["pack.64.16"] = {{pack<u64, u16>, pack<u64, u16>}, {}};

    t["cvt.f32.f16"] = lanes<float, u16>([](u16 a) { return from_half(a); });
    t["cvt.rn.f16.f32"] = lanes<u16, float>([](float a) { return to_half(a); });
    t["cvt.f32.bf16"] = lanes<float, bf16>([](bf16 a) { return (float)a; });
    t["cvt.rn.bf16.f32"] = lanes<bf16, float>([](float a) { return to_bf16(a); });
    t["cvt.rn.f16.f64"] = lanes<u16, double>([](double a) { return to_half(odd_float(a)); });
    t["cvt.rn.f16.s32"] = lanes<u16, i32>([](i32 a) { return to_half(odd_float((double)a)); });
    t["cvt.rn.f16.u32"] = lanes<u16, u32>([](u32 a) { return to_half(odd_float((double)a)); });
    t["cvt.rn.bf16.f64"] = lanes<bf16, double>([](double a) { return to_bf16(odd_float(a)); });
    t["cvt.rn.bf16.s32"] = lanes<bf16, i32>([](i32 a) { return to_bf16(odd_float((double)a)); });
    t["cvt.rn.bf16.u32"] = lanes<bf16, u32>([](u32 a) { return to_bf16(odd_float((double)a)); });
    t["cvt.rzi.s32.f32"] = lanes<i32, float>([](float a) { return a != a ? 0 : a >= 0x1p31f ? INT32_MAX : a < -0x1p31f ? INT32_MIN : (i32)a; });
    t["cvt.rzi.u32.f32"] = lanes<u32, float>([](float a) { return !(a > 0) ? 0 : a >= 0x1p32f ? UINT32_MAX : (u32)a; });
    t["cvt.rn.f32.s32"] = lanes<float, i32>([](i32 a) { return (float)a; });
    t["cvt.rn.f32.u32"] = lanes<float, u32>([](u32 a) { return (float)a; });
    t["cvt.rn.f32.f64"] = lanes<float, double>([](double a) { return (float)a; });
    t["cvt.f64.f32"] = lanes<double, float>([](float a) { return (double)a; });
    t["cvt.sat.f32.f32"] = lanes<float, float>([](float a) { return saturate(a); });
    t["cvt.rna.tf32.f32"] = lanes<u32, u32>([](u32 a) { return (a & 0x7f800000) == 0x7f800000 ? a : (a + 0x1000) & 0xffffe000; });
    t["cvt.u32.u64"] = t["cvt.s32.s64"] = t["cvt.u32.s64"] = t["cvt.s32.u64"] = lanes<u32, u64>([](u64 a) { return (u32)a; });
    t["cvt.u64.u32"] = t["cvt.s64.u32"] = lanes<u64, u32>([](u32 a) { return (u64)a; });
    t["cvt.s64.s32"] = t["cvt.u64.s32"] = lanes<i64, i32>([](i32 a) { return (i64)a; });
    t["cvt.u32.u16"] = t["cvt.s32.u16"] = lanes<u32, u16>([](u16 a) { return (u32)a; });
    t["cvt.s32.s16"] = t["cvt.u32.s16"] = lanes<i32, i16>([](i16 a) { return (i32)a; });
    t["cvt.u16.u32"] = t["cvt.s16.s32"] = lanes<u16, u32>([](u32 a) { return (u16)a; });

    t["clock.u64"] = t["clock.b64"] = lanes<u64>([] { return now(); });
    t["clock.u32"] = t["clock.b32"] = lanes<u32>([] { return (u32)now(); });
    return t;
}

// setp. Unordered comparisons are true of NaN.
template <class T, class F> void compare_lanes(Warp &w, const Ins &i) {
    u32 first = i.results;
    T *a = w.reg<T>(i.all[first]), *b = w.reg<T>(i.all[first + 1]);
    u32 result = 0, inverse;
    F f;
    u32 lane[LANES];
    for (int l = 0; l < LANES; l++) lane[l] = f(a[l], b[l]) ? 1u << l : 0;
    for (int l = 0; l < LANES; l++) result |= lane[l];
    inverse = ~result;
    if (i.kind) {
        u32 c = w.predicate(i.all[first + 2]) ^ (i.flag ? ~0u : 0);
        result = i.kind == 1 ? result & c : i.kind == 2 ? result | c : result ^ c;
        inverse = i.kind == 1 ? inverse & c : i.kind == 2 ? inverse | c : inverse ^ c;
    }
    w.set_predicate(i.all[0], result);
    if (i.results == 2) w.set_predicate(i.all[1], inverse);
}
template <class T> Handler pick_comparison(const std::string &c) {
    using R = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
#define COMPARE(name, expression) \
    if (c == name) { auto f = [](R a, R b) { return expression; }; return compare_lanes<T, decltype(f)>; }
    COMPARE("eq", a == b)
    COMPARE("ne", (a < b) || (a > b))
    COMPARE("lt", a < b)
    COMPARE("le", a <= b)
    COMPARE("gt", a > b)
    COMPARE("ge", a >= b)
    COMPARE("lo", a < b)
    COMPARE("ls", a <= b)
    COMPARE("hi", a > b)
    COMPARE("hs", a >= b)
    COMPARE("equ", !((a < b) || (a > b)))
    COMPARE("neu", !(a == b))
    COMPARE("ltu", !(a >= b))
    COMPARE("leu", !(a > b))
    COMPARE("gtu", !(a <= b))
    COMPARE("geu", !(a < b))
    COMPARE("num", a == a && b == b)
    COMPARE("nan", a != a || b != b)
#undef COMPARE
    return nullptr;
}

double whole(double x, int mode) {
    return mode == 0 ? __builtin_nearbyint(x) : mode == 1 ? __builtin_trunc(x) : mode == 2 ? __builtin_floor(x) : __builtin_ceil(x);
}
// A double to a smaller format, in the rounding mode.
u64 encode(double x, Type type, int mode) {
    if (type == F64) return bits(x);
    if (type == F32) return bits(mode ? direct(x, 0, mode) : (float)x);
    if (type == F16) {
        f16 h = (f16)x;
        double back = (double)h;
        u16 b = bits(h);
        bool down = mode == 2 || (mode == 1 && x > 0), up = mode == 3 || (mode == 1 && x < 0);
        if (x != x || back == x) return b;
        if (back > x && down) return b == 0 ? 0x8001 : b & 0x8000 ? b + 1 : b - 1;
        if (back < x && up) return (b & 0x7fff) == 0 ? 1 : b & 0x8000 ? b - 1 : b + 1;
        return b;
    }
    float f = odd_float(x);
    if (!mode || f != f) return to_bf16(f).bits;
    u32 b = bits(f) >> 16, rest = bits(f) & 0xffff;
    bool away = mode == 2 ? f < 0 : mode == 3 ? f > 0 : false;
    return b + (rest && away);
}
}  // namespace

const Operation *operation(const std::string &name) {
    static const Table table = build();
    auto found = table.find(name);
    return found == table.end() ? nullptr : &found->second;
}

Handler comparison(const std::string &compare, const std::string &type, u32 &bits) {
    Type t = type_of(type);
    bits = bits_of(t);
    switch (t) {
    case U16: return pick_comparison<u16>(compare);
    case U32: return pick_comparison<u32>(compare);
    case U64: return pick_comparison<u64>(compare);
    case S16: return pick_comparison<i16>(compare);
    case S32: return pick_comparison<i32>(compare);
    case S64: return pick_comparison<i64>(compare);
    case F16: return pick_comparison<f16>(compare);
    case BF16: return pick_comparison<bf16>(compare);
    case F32: return pick_comparison<float>(compare);
    case F64: return pick_comparison<double>(compare);
    default: return nullptr;
    }
}

// Any conversion, slowly.
void convert(Warp &w, const Ins &i) {
    Type to = (Type)i.type[0], from = (Type)i.type[1];
    for (int l = 0; l < LANES; l++) {
        if (!(w.active >> l & 1)) continue;
        u64 raw = 0;
        memcpy(&raw, w.file + i.o[1] + l * i.width[1], i.width[1]);
        bool real_from = from >= F16 && from <= TF32, real_to = to >= F16 && to <= TF32;
        double x = 0;
        __int128 n = 0;
        switch (from) {
        case U8: n = (u8)raw; break;
        case U16: n = (u16)raw; break;
        case U32: n = (u32)raw; break;
        case U64: n = raw; break;
        case S8: n = (i8)raw; break;
        case S16: n = (i16)raw; break;
        case S32: n = (i32)raw; break;
        case S64: n = (i64)raw; break;
        case F16: x = (double)__builtin_bit_cast(f16, (u16)raw); break;
        case BF16: x = (float)bf16{(u16)raw}; break;
        case F64: x = real(raw); break;
        default: x = real((u32)raw);
        }
        u64 result;
        if (real_to) {
            if (real_from) {
                if (i.kind) x = whole(x, i.mode);
                if (i.flag) x = x > 0 ? x < 1 ? x : 1 : 0;
                result = encode(x, to, i.kind ? 0 : i.mode);
            } else if (to == F32 && !i.mode) result = bits((float)n);
            else result = encode(to == F64 ? (double)n : odd((double)n, (double)(n - (__int128)(double)n)), to, i.mode);
        } else {
            u32 b = bits_of(to);
            bool is_signed = to >= S8 && to <= S64;
            __int128 low = is_signed ? -((__int128)1 << (b - 1)) : 0, high = ((__int128)1 << (is_signed ? b - 1 : b)) - 1;
            if (real_from) {
                if (x != x) n = 0;
                else {
                    x = whole(x, i.mode);
                    n = x >= 1e20 ? high : x <= -1e20 ? low : (__int128)x;
                }
            }
            if (real_from || i.flag) n = n < low ? low : n > high ? high : n;
            result = b == 64 ? (u64)n : (u64)n & ((1ull << b) - 1);
            if (is_signed && b < 64 && result >> (b - 1) & 1) result |= ~0ull << b;   // into a wider register
        }
        memcpy(w.file + i.o[0] + l * i.width[0], &result, i.width[0]);
    }
}
// Two floats to a register of halves, the first one on top.
void convert_pair(Warp &w, const Ins &i) {
    Type half = i.type[0] == F16X2 ? F16 : BF16;
    u32 *d = w.reg<u32>(i.o[0]);
    float *a = w.reg<float>(i.o[1]), *b = w.reg<float>(i.o[2]);
    for (int l = 0; l < LANES; l++)
        if (w.active >> l & 1) d[l] = (u32)encode(a[l], half, i.mode) << 16 | (u16)encode(b[l], half, i.mode);
}
