// The state of what runs.
#pragma once
#include "ptx.h"

struct Barrier { u32 arrived = 0, needed = 0; };
struct Range { u64 low = 1, high = 0; };
// A copy by cp.async, or the arrival that follows one, that has been put off (CUDA_ON_CPU_LATE).
struct Pending { u32 lane, group, bytes; u8 *to, value[16]; };
// A wgmma that has not been waited for: its operands, and what they were.
struct Product { u32 group; u64 left, right, digest; const Ins *ins; };
enum State : u8 { RUNNING, PAUSED, WAITING, DONE };

struct Block {
    const Kernel *kernel;
    u8 *shared;
    u32 shared_bytes;
    const u8 *parameters;
    u32 live;                // threads that have not left
    u32 position[3];
    u32 unfenced;            // warps that wrote to shared memory by cp.async and have not told the matrix units
    Barrier barriers[16];
    Range ranges[64];        // the last allocations met by each instruction (by its number)
};

struct Warp {
    u8 *file;                // of registers
    const Ins *pc, *limit;   // what is next, and where to stop to let others catch up
    u32 active, live;        // lanes at pc, lanes that have not left
    u32 blocked;             // lanes that wait for others of this warp
    u32 partial;             // not all live lanes are active
    State state;
    u32 index, barrier;
    Block *block;
    u8 *local;
    u32 lane_pc[LANES];      // of lanes that are not active
    u32 group[LANES];        // of copies, that the next cp.async of a lane belongs to
    std::vector<Pending> pending;
    std::vector<u32> copy_groups;   // that have copies and were not waited for
    u32 product_group;       // of wgmma, that the next one belongs to
    std::vector<Product> products;

    template <class T> T *reg(u32 offset) { return (T *)__builtin_assume_aligned(file + offset, sizeof(T) > 1 ? 64 : 4); }
    u32 &predicate(u32 offset) { return *(u32 *)(file + offset); }
    void set_predicate(u32 offset, u32 value) {
        u32 &p = predicate(offset);
        p = (p & ~active) | (value & active);
    }
};

// f16 to and from f32 in steps that GCC vectorises, as it doesn't the conversions of _Float16.
inline float from_half(u16 h) {
    u32 rest = h & 0x7fff;
    u32 b = __builtin_bit_cast(u32, __builtin_bit_cast(float, rest << 13) * 0x1p112f);
    return __builtin_bit_cast(float, b | (rest >= 0x7c00 ? 0x7f800000 : 0) | (h & 0x8000u) << 16);
}
inline u16 to_half(float x) {
    u32 b = __builtin_bit_cast(u32, x), sign = b >> 16 & 0x8000;
    b &= 0x7fffffff;
    u32 normal = (b + 0xfff + (b >> 13 & 1) - (112u << 23)) >> 13;
    u32 small = __builtin_bit_cast(u32, __builtin_bit_cast(float, b) + 0.5f) - 0x3f000000;
    return b > 0x7f800000 ? 0x7fff : (b >= 0x477ff000 ? 0x7c00 : b < 0x38800000 ? small : normal) | sign;
}

[[noreturn]] void fail(const Warp &w, const Ins &i, int code, const char *format, ...);
void pause(Warp &w);                                   // let other warps run
bool together(Warp &w, const Ins &i, u32 lanes);       // are they all here? Otherwise wait for them.
u8 *locate(Warp &w, const Ins &i, u64 address, u32 bytes, int lane);   // checked host address

void finish_copies(Warp &w);                           // all that is pending

bool find_range(u64 address, Range &range);            // driver.cpp
struct Launch { u32 grid[3], block[3], dynamic; const u8 *parameters; };
void execute(const Kernel &kernel, const Launch &launch);   // throws Fault
