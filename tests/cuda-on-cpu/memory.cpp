// Loads, stores, atomics, barriers in memory, asynchronous copies.
#include "run.h"
#include <cstdlib>
#include <type_traits>

namespace {
bool starts(const std::string &s, const char *with) { return s.rfind(with, 0) == 0; }

// Where an allocation or window ends decides; the answer for one address.
u8 *global(Warp &w, const Ins &i, u64 address, u32 bytes, int lane) {
    Range &range = w.block->ranges[i.line & 63];
    if (address < range.low || address + bytes > range.high)
        if (!find_range(address, range) || address + bytes > range.high) {
            range = {};
            fail(w, i, ILLEGAL_ADDRESS, "lane %d: %u bytes at global address %#llx, which is not allocated", lane, bytes, (unsigned long long)address);
        }
    return (u8 *)address;
}
}  // namespace

u8 *locate(Warp &w, const Ins &i, u64 address, u32 bytes, int lane) {
    u64 space = i.space;
    if (space == GENERIC) {
        space = address >> WINDOW;
        if (space) address &= (1ull << WINDOW) - 1;
        else space = GLOBAL;
    }
    if (address & (bytes - 1) & 15) fail(w, i, ILLEGAL_ADDRESS, "lane %d: %u bytes at address %#llx, which is not aligned", lane, bytes, (unsigned long long)address);
    const Block &b = *w.block;
    u64 end;
    switch (space) {
    case GLOBAL: return global(w, i, address, bytes, lane);
    case SHARED:
        end = address >= DYNAMIC_SHARED ? b.shared_bytes : b.kernel->static_shared;
        if (address + bytes > end)
            fail(w, i, ILLEGAL_ADDRESS, "lane %d: %u bytes at %llu of %llu of shared memory", lane, bytes,
                 (unsigned long long)(address >= DYNAMIC_SHARED ? address - DYNAMIC_SHARED : address),
                 (unsigned long long)(address >= DYNAMIC_SHARED ? end - DYNAMIC_SHARED : end));
        return b.shared + address;
    case LOCAL:
        if (address + bytes > b.kernel->local_bytes) fail(w, i, ILLEGAL_ADDRESS, "lane %d: beyond local memory", lane);
        return w.local + lane * (size_t)b.kernel->local_bytes + address;
    case PARAM:
        if (address + bytes > b.kernel->parameter_bytes) fail(w, i, ILLEGAL_ADDRESS, "lane %d: beyond the parameters", lane);
        return (u8 *)b.parameters + address;
    }
    fail(w, i, ILLEGAL_ADDRESS, "lane %d: no address: %#llx", lane, (unsigned long long)address);
}

namespace {
u64 address_of(Warp &w, const Ins &i, u32 operand, int lane, i64 offset) {
    u64 base = i.wide ? w.reg<u64>(operand)[lane] : w.reg<u32>(operand)[lane];
    return base + offset;
}

enum Pattern { SCATTERED, IN_ORDER, SAME };
// Host addresses of what the lanes of an instruction access, all checked.
Pattern addresses(Warp &w, const Ins &i, u32 operand, u32 bytes, u8 **p) {
    if (w.active == ~0u) {
        u64 a[LANES];
        if (i.wide) {
            const u64 *base = w.reg<u64>(operand);
            for (int l = 0; l < LANES; l++) a[l] = base[l] + i.immediate;
        } else {
            const u32 *base = w.reg<u32>(operand);
            for (int l = 0; l < LANES; l++) a[l] = base[l] + i.immediate;
        }
        u64 low = 1, high = 0, move = 0;
        const Block &b = *w.block;
        u32 space = i.space;
        if (space == GENERIC && !(a[0] >> WINDOW)) space = GLOBAL;
        if (space == GLOBAL) low = b.ranges[i.line & 63].low, high = b.ranges[i.line & 63].high;
        if (space == SHARED) {
            bool dynamic = a[0] >= DYNAMIC_SHARED;
            low = dynamic ? DYNAMIC_SHARED : 0, high = dynamic ? b.shared_bytes : b.kernel->static_shared, move = (u64)b.shared;
        }
        if (space == PARAM) low = 0, high = b.kernel->parameter_bytes, move = (u64)b.parameters;
        if (high >= low + bytes) {
            u64 span = high - low - bytes, wrong = 0, disorder = 0, differ = 0, mask = bytes - 1;
            for (int l = 0; l < LANES; l++) {
                wrong |= (a[l] - low > span ? 1 : 0) | (a[l] & mask);
                disorder |= a[l] - a[0] - l * bytes;
                differ |= a[l] - a[0];
                p[l] = (u8 *)(a[l] + move);
            }
            if (!wrong) return !disorder ? IN_ORDER : !differ ? SAME : SCATTERED;
        }
    }
    for (int l = 0; l < LANES; l++)
        if (w.active >> l & 1) p[l] = locate(w, i, address_of(w, i, operand, l, i.immediate), bytes, l);
    return SCATTERED;
}

// Four words of each of four lanes, and the other way round.
typedef u32 Four __attribute__((vector_size(16)));
void transpose(Four &a, Four &b, Four &c, Four &d) {
    Four p = __builtin_shuffle(a, b, Four{0, 4, 1, 5}), q = __builtin_shuffle(a, b, Four{2, 6, 3, 7});
    Four r = __builtin_shuffle(c, d, Four{0, 4, 1, 5}), s = __builtin_shuffle(c, d, Four{2, 6, 3, 7});
    a = __builtin_shuffle(p, r, Four{0, 1, 4, 5}), b = __builtin_shuffle(p, r, Four{2, 3, 6, 7});
    c = __builtin_shuffle(q, s, Four{0, 1, 4, 5}), d = __builtin_shuffle(q, s, Four{2, 3, 6, 7});
}

// N values of type T for each lane, extended to registers of type R.
template <class T, class R, int N> void load(Warp &w, const Ins &i) {
    u8 *p[LANES];
    Pattern pattern = addresses(w, i, i.all[N], sizeof(T) * N, p);
    if (w.active == ~0u) {
        if (N == 4 && sizeof(T) == 4 && sizeof(R) == 4 && pattern != SAME) {
            Four *x = w.reg<Four>(i.all[0]), *y = w.reg<Four>(i.all[1]), *z = w.reg<Four>(i.all[2]), *v = w.reg<Four>(i.all[3]);
            for (int l = 0; l < LANES; l += 4) {
                Four a = *(Four *)p[l], b = *(Four *)p[l + 1], c = *(Four *)p[l + 2], d = *(Four *)p[l + 3];
                transpose(a, b, c, d);
                x[l / 4] = a, y[l / 4] = b, z[l / 4] = c, v[l / 4] = d;
            }
        } else if (pattern == IN_ORDER) {
            const T *from = (const T *)p[0];
            for (int k = 0; k < N; k++) {
                R *d = w.reg<R>(i.all[k]);
#pragma GCC ivdep
                for (int l = 0; l < LANES; l++) d[l] = (R)(std::conditional_t<std::is_signed_v<T>, std::make_signed_t<R>, R>)from[l * N + k];
            }
        } else if (pattern == SAME) {
            for (int k = 0; k < N; k++) {
                R *d = w.reg<R>(i.all[k]), value = (R)((const T *)p[0])[k];
                for (int l = 0; l < LANES; l++) d[l] = value;
            }
        } else if (N == 1) {
            R *d = w.reg<R>(i.all[0]);
            for (int l = 0; l < LANES; l++) d[l] = (R)*(const T *)p[l];
        } else {
            struct { T v[LANES][N]; } t;
            for (int l = 0; l < LANES; l++) memcpy(t.v[l], p[l], sizeof t.v[l]);
            for (int k = 0; k < N; k++) {
                R *d = w.reg<R>(i.all[k]);
#pragma GCC ivdep
                for (int l = 0; l < LANES; l++) d[l] = (R)t.v[l][k];
            }
        }
        return;
    }
    for (u32 m = w.active; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        for (int k = 0; k < N; k++) w.reg<R>(i.all[k])[l] = (R)((const T *)p[l])[k];
    }
}
template <class T, class R, int N> void store(Warp &w, const Ins &i) {
    u8 *p[LANES];
    Pattern pattern = addresses(w, i, i.all[0], sizeof(T) * N, p);
    if (w.active == ~0u && pattern != SAME) {
        if (N == 1 && pattern == IN_ORDER) {
            const R *s = w.reg<R>(i.all[1]);
            T *to = (T *)p[0];
#pragma GCC ivdep
            for (int l = 0; l < LANES; l++) to[l] = (T)s[l];
            return;
        }
        if (N == 4 && sizeof(T) == 4 && sizeof(R) == 4) {
            Four *x = w.reg<Four>(i.all[1]), *y = w.reg<Four>(i.all[2]), *z = w.reg<Four>(i.all[3]), *v = w.reg<Four>(i.all[4]);
            for (int l = 0; l < LANES; l += 4) {
                Four a = x[l / 4], b = y[l / 4], c = z[l / 4], d = v[l / 4];
                transpose(a, b, c, d);
                *(Four *)p[l] = a, *(Four *)p[l + 1] = b, *(Four *)p[l + 2] = c, *(Four *)p[l + 3] = d;
            }
            return;
        }
        struct { T v[LANES][N]; } t;
        for (int k = 0; k < N; k++) {
            const R *s = w.reg<R>(i.all[k + 1]);
            for (int l = 0; l < LANES; l++) t.v[l][k] = (T)s[l];
        }
        if (pattern == IN_ORDER) memcpy(p[0], &t, sizeof t);
        else for (int l = 0; l < LANES; l++) memcpy(p[l], t.v[l], sizeof t.v[l]);
        return;
    }
    for (u32 m = w.active; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        for (int k = 0; k < N; k++) ((T *)p[l])[k] = (T)w.reg<R>(i.all[k + 1])[l];
    }
}
template <class T, class R> Handler pick(bool is_store, u32 n) {
    if constexpr (sizeof(R) >= sizeof(T)) {
        if (is_store) return n == 1 ? store<T, R, 1> : n == 2 ? store<T, R, 2> : n == 4 ? store<T, R, 4> : nullptr;
        return n == 1 ? load<T, R, 1> : n == 2 ? load<T, R, 2> : n == 4 ? load<T, R, 4> : nullptr;
    }
    return nullptr;
}
template <class T> Handler pick(bool is_store, u32 n, u32 bits) {
    return bits == 16 ? pick<T, u16>(is_store, n) : bits == 32 ? pick<T, u32>(is_store, n) : pick<T, u64>(is_store, n);
}

// Atomics: always by compare and exchange, also of what only one thread can see.
enum Change : u8 { ADD, MIN, MAX, AND, OR, XOR, EXCHANGE, COMPARE, INCREMENT, DECREMENT };
template <class T> T changed(u8 change, T old, T a, T b) {
    if (change == EXCHANGE) return a;
    if (change == COMPARE) return old == a ? b : old;
    if (change == ADD) return old + a;
    if (change == MIN) return a < old ? a : old;
    if (change == MAX) return a > old ? a : old;
    if constexpr (std::is_integral_v<T>) {
        if (change == AND) return old & a;
        if (change == OR) return old | a;
        if (change == XOR) return old ^ a;
        if (change == INCREMENT) return old >= a ? 0 : old + 1;
        if (change == DECREMENT) return old == 0 || old > a ? a : old - 1;
    }
    return old;
}
template <class T, int N = 1> void atomic(Warp &w, const Ins &i) {
    constexpr int bytes = sizeof(T) * N;
    using U = std::conditional_t<bytes == 2, u16, std::conditional_t<bytes == 4, u32, u64>>;
    u32 operand = i.results;
    for (u32 m = w.active; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        U *p = (U *)locate(w, i, address_of(w, i, i.all[operand], l, i.immediate), bytes, l);
        U a = w.reg<U>(i.all[operand + 1])[l], b = i.kind == COMPARE ? w.reg<U>(i.all[operand + 2])[l] : 0;
        U old = __atomic_load_n(p, __ATOMIC_RELAXED), fresh;
        do {
            T o[N], x[N], y[N];
            memcpy(o, &old, bytes), memcpy(x, &a, bytes), memcpy(y, &b, bytes);
            for (int k = 0; k < N; k++) {
                o[k] = changed<T>(i.kind, o[k], x[k], y[k]);
            }
            memcpy(&fresh, o, bytes);
        } while (!__atomic_compare_exchange_n(p, &old, fresh, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
        if (i.results) w.reg<U>(i.all[0])[l] = old;
    }
}
Handler pick_atomic(Type type, Change change) {
    bool whole = change >= AND;
    switch (type) {
    case U32: return atomic<u32>;
    case S32: return atomic<i32>;
    case U64: return atomic<u64>;
    case S64: return atomic<i64>;
    case U16: return whole ? atomic<u16> : nullptr;
    case F16: return atomic<f16>;
    case F16X2: return atomic<f16, 2>;
    case F32: return atomic<float>;
    case F64: return atomic<double>;
    default: return nullptr;
    }
}

// mbarrier: arrivals still expected in this phase, arrivals of a phase, bytes still expected, and the phase.
struct Counter {
    u64 pending : 20, expected : 20, phase : 1, bytes : 23;
};
static_assert(sizeof(Counter) == 8);
void settle(Counter &c) {
    if (c.pending == 0 && c.bytes == 0) {
        c.pending = c.expected;
        c.phase ^= 1;
    }
}
// With this, asynchronous copies are done as late as the program allows: waits that are missing show.
const bool late = getenv("CUDA_ON_CPU_LATE");

enum CounterOp : u8 { INIT, INVALIDATE, ARRIVE, EXPECT, COMPLETE, ARRIVE_EXPECT, WAIT, WAIT_PARITY, ARRIVE_COPY };
void counter(Warp &w, const Ins &i) {
    u32 operand = i.results, done = 0;
    for (u32 m = w.active; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        Counter &c = *(Counter *)locate(w, i, address_of(w, i, i.all[operand], l, i.immediate), 8, l);
        auto argument = [&](u32 otherwise) { return i.count > operand + 1 ? w.reg<u32>(i.all[operand + 1])[l] : otherwise; };
        u64 before = __builtin_bit_cast(u64, c);
        switch (i.kind) {
        case INIT: c = {}; c.pending = c.expected = argument(0); break;
        case INVALIDATE: c = {}; break;
        case ARRIVE:
        case ARRIVE_EXPECT:
        case ARRIVE_COPY: {
            u32 n = i.kind == ARRIVE ? argument(1) : 1;
            if (i.kind == ARRIVE_EXPECT) c.bytes += argument(0);
            if (i.kind == ARRIVE_COPY && late) {
                if (!i.flag) c.pending++;   // without .noinc it's counted as well
                w.pending.push_back({(u32)l, w.group[l], 0, (u8 *)&c});
                break;
            }
            if (i.kind == ARRIVE_COPY && !i.flag) break;
            if (n > c.pending) fail(w, i, LAUNCH_FAILED, "lane %d: more arrivals at an mbarrier than it expects", l);
            c.pending -= n;
            settle(c);
            break;
        }
        case EXPECT: c.bytes += argument(0); break;
        case COMPLETE: c.bytes -= argument(0); settle(c); break;
        case WAIT: done |= (u32)(__builtin_bit_cast(Counter, w.reg<u64>(i.all[operand + 1])[l]).phase != c.phase) << l; break;
        case WAIT_PARITY: done |= (u32)(c.phase != (argument(0) & 1)) << l; break;
        }
        if (i.results && i.kind != WAIT && i.kind != WAIT_PARITY) w.reg<u64>(i.all[0])[l] = before;
    }
    if (i.kind == WAIT || i.kind == WAIT_PARITY) {
        w.set_predicate(i.all[0], done);
        if ((done & w.active) != w.active) pause(w);
    }
}

void finish(const Pending &p) {
    if (p.bytes) memcpy(p.to, p.value, p.bytes);
    else {
        Counter &c = *(Counter *)p.to;
        c.pending--;
        settle(c);
    }
}
void commit_group(Warp &w, const Ins &) {
    for (int l = 0; l < LANES; l++) w.group[l] += w.active >> l & 1;
}
// All but the last so many groups of each lane.
void wait_group(Warp &w, const Ins &i) {
    u32 first = __builtin_ctz(w.active);
    auto &groups = w.copy_groups;
    while (!groups.empty() && (i.kind || groups.front() + w.reg<u32>(i.o[0])[first] < w.group[first])) {
        groups.erase(groups.begin());
        w.block->unfenced |= 1u << w.index;
    }
    size_t kept = 0;
    for (const Pending &p : w.pending) {
        bool due = w.active >> p.lane & 1 && p.bytes && (i.kind || p.group + w.reg<u32>(i.o[0])[p.lane] < w.group[p.lane]);
        if (due) finish(p);
        else w.pending[kept++] = p;
    }
    w.pending.resize(kept);
}

// cp.async: [to], [from], bytes, bytes to read (zeros for the rest) or a predicate to read none.
void copy(Warp &w, const Ins &i) {
    u32 group = w.group[__builtin_ctz(w.active)];
    if (w.copy_groups.empty() || w.copy_groups.back() != group) w.copy_groups.push_back(group);
    for (u32 m = w.active; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        u32 bytes = w.reg<u32>(i.all[2])[l], read = i.count < 4 ? bytes : i.kind ? w.predicate(i.all[3]) >> l & 1 ? 0 : bytes : w.reg<u32>(i.all[3])[l];
        Ins to = i, from = i;
        to.space = SHARED;
        from.space = GLOBAL;
        u8 *d = locate(w, to, address_of(w, i, i.all[0], l, i.immediate), bytes, l);
        u64 source = w.reg<u64>(i.all[1])[l] + i.second;
        if (read > bytes) fail(w, i, ILLEGAL_ADDRESS, "lane %d: cp.async reads more than it writes", l);
        u8 value[16] = {};
        if (read) memcpy(value, global(w, from, source, read, l), read);
        if (source & (bytes - 1)) fail(w, i, ILLEGAL_ADDRESS, "lane %d: cp.async from %#llx, which is not aligned", l, (unsigned long long)source);
        if (late) {
            w.pending.push_back({(u32)l, w.group[l], bytes, d});
            memcpy(w.pending.back().value, value, 16);
        } else memcpy(d, value, bytes);
    }
}
}  // namespace

void finish_copies(Warp &w) {
    for (const Pending &p : w.pending) finish(p);
    w.pending.clear();
}

bool address_handler(const std::vector<std::string> &name, Ins &ins, const std::vector<u32> &bits) {
    const std::string &base = name[0];
    Space symbol = ins.space;
    if (base == "cp") {
        if (name[1] != "async" || name.size() < 3 || name[2] == "bulk") return false;
        if (name[2] == "commit_group") ins.run[0] = commit_group;
        else if (name[2] == "wait_group" || name[2] == "wait_all") {
            ins.run[0] = wait_group;
            ins.kind = name[2] == "wait_all";
        } else if (name[2] == "mbarrier") {
            ins.flag = name.size() > 4 && name[4] == "noinc";
            ins.run[0] = counter;
            ins.kind = ARRIVE_COPY;
            ins.space = SHARED;
        } else {
            ins.run[0] = copy;
            ins.kind = ins.count > 3 && bits[3] == 1;
            if (bits[1] != 64) return false;
        }
        return true;
    }
    if (base != "ld" && base != "st" && base != "atom" && base != "red" && base != "mbarrier") return false;
    ins.space = GENERIC;
    u32 n = 1;
    for (auto &part : name) {
        if (starts(part, "shared")) ins.space = SHARED;
        if (part == "global" || part == "const") ins.space = GLOBAL;
        if (part == "local") ins.space = LOCAL;
        if (starts(part, "param")) ins.space = PARAM;
        if (part == "v2" || part == "v4" || part == "v8") n = part[1] - '0';
    }
    if (ins.space == GENERIC && symbol != GENERIC) ins.space = symbol;
    Type type = (Type)ins.type[0];
    if (base == "ld" || base == "st") {
        bool is_store = base == "st";
        if (ins.count != n + 1) return false;
        u32 width = bits[is_store ? 1 : 0];
        for (u32 k = 0; k < n; k++) if (bits[k + is_store] != width) return false;
        switch (type) {
        case U8: ins.run[0] = pick<u8>(is_store, n, width); break;
        case S8: ins.run[0] = pick<i8>(is_store, n, width); break;
        case U16: case F16: case BF16: ins.run[0] = pick<u16>(is_store, n, width); break;
        case S16: ins.run[0] = pick<i16>(is_store, n, width); break;
        case U32: case F32: case F16X2: case BF16X2: ins.run[0] = pick<u32>(is_store, n, width); break;
        case S32: ins.run[0] = pick<i32>(is_store, n, width); break;
        case U64: case S64: case F64: ins.run[0] = pick<u64>(is_store, n, width); break;
        default: return false;
        }
        return ins.run[0];
    }
    if (base == "mbarrier") {
        std::string what = name[1];
        bool parity = false, expect = false;
        for (auto &part : name) parity |= part == "parity", expect |= part == "expect_tx";
        ins.space = SHARED;
        ins.run[0] = counter;
        if (what == "init") ins.kind = INIT;
        else if (what == "inval") ins.kind = INVALIDATE;
        else if (what == "arrive") ins.kind = expect ? ARRIVE_EXPECT : ARRIVE;
        else if (what == "expect_tx") ins.kind = EXPECT;
        else if (what == "complete_tx") ins.kind = COMPLETE;
        else if (what == "test_wait" || what == "try_wait") ins.kind = parity ? WAIT_PARITY : WAIT;
        else return false;
        return true;
    }
    static const std::pair<const char *, Change> changes[] = {{"add", ADD}, {"min", MIN}, {"max", MAX}, {"and", AND}, {"or", OR},
        {"xor", XOR}, {"exch", EXCHANGE}, {"cas", COMPARE}, {"inc", INCREMENT}, {"dec", DECREMENT}};
    for (auto &part : name)
        for (auto &[text, change] : changes)
            if (part == text) {
                ins.kind = change;
                ins.run[0] = pick_atomic(type, change);
                return ins.run[0];
            }
    return false;
}
