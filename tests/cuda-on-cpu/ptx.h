// A PTX kernel as it is executed here: decoded once, then run a warp (32 lanes) at a time.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i8 = int8_t;
using i16 = int16_t;
using i32 = int32_t;
using i64 = int64_t;
using f16 = _Float16;

enum { INVALID_PTX = 218, ILLEGAL_ADDRESS = 700, LAUNCH_TIMEOUT = 702, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };

// What ends a launch: CUDA's number of the error, and the story.
struct Fault {
    int code;
    std::string what;
};

constexpr int LANES = 32;
enum Space : u8 { GENERIC, GLOBAL, SHARED, LOCAL, PARAM };
// Global addresses are host addresses; generic addresses of the other spaces carry the space in the top byte.
constexpr int WINDOW = 56;
constexpr u32 DYNAMIC_SHARED = 49152;   // where dynamic shared memory starts, behind the most that static arrays can take
enum Type : u8 { U8, U16, U32, U64, S8, S16, S32, S64, F16, BF16, F32, F64, TF32, F16X2, BF16X2, PRED, NO_TYPE };

struct Warp;
struct Ins;
using Handler = void (*)(Warp &, const Ins &);

// One instruction. Operands are registers, destinations first, then sources (constants and special registers are registers
// as well): byte offsets into the register file of the warp.
struct Ins {
    Handler run[2];         // all live lanes take part, some do
    u32 o[5];               // the first operands,
    const u32 *all;         // all of them
    i64 immediate, second;  // offsets of addresses
    const Ins *target;      // of a branch
    u32 count, results;     // operands, and how many of them are written
    u32 line;               // in the PTX
    Space space;
    u8 wide;                // an address is in a 64-bit register
    u8 kind, mode;          // for the handlers: what to do, and how to round
    u8 type[2], width[2];   // likewise
    bool flag;
};

struct Register {
    u32 bits;               // 1 (predicate), 16, 32, 64
    bool constant = false, fixed = false;
    u64 value = 0;          // of a constant
    u32 offset = 0;
};

enum Special { TID, NTID = 3, CTAID = 6, NCTAID = 9, LANE = 12, WARP_ID, NWARP, MASK_EQ, MASK_LT, MASK_LE, MASK_GT, MASK_GE, ZERO,
               DYNAMIC, SPECIALS };

struct Kernel {
    struct Parameter { u32 offset, bytes; };
    std::string name, unsupported;
    std::shared_ptr<std::string> text;
    std::vector<Parameter> parameters;
    u32 parameter_bytes = 0, static_shared = 0, local_bytes = 0, file_bytes = 0;
    std::vector<Ins> code;
    std::vector<u32> operands;
    std::vector<Register> registers;
    int special[SPECIALS];   // which register, -1 where unused

    std::string line(u32 number) const;
};

struct Module {
    std::shared_ptr<std::string> text;
    std::map<std::string, std::unique_ptr<Kernel>> kernels;
    std::vector<std::unique_ptr<u64[]>> globals;   // module-level variables
    std::vector<std::pair<u64, u64>> ranges;       // where they are
};
void parse(Module &module);

// How the decoder learns of an operation: bits of every operand, destinations first.
struct Operation {
    Handler run[2];
    std::vector<u8> bits;
    u32 results = 1;
};
const Operation *operation(const std::string &name);   // ops.cpp; null if there's none
Handler comparison(const std::string &compare, const std::string &type, u32 &bits);   // of setp
void convert(Warp &, const Ins &);                     // any cvt
void convert_pair(Warp &, const Ins &);                // cvt.rn.f16x2.f32 and the like
bool address_handler(const std::vector<std::string> &name, Ins &ins, const std::vector<u32> &bits);   // memory.cpp

// Control (run.cpp).
void branch(Warp &, const Ins &);
void branch_if(Warp &, const Ins &);
void leave(Warp &, const Ins &);
void barrier(Warp &, const Ins &);
void trap(Warp &, const Ins &);
void unsupported(Warp &, const Ins &);
void nothing(Warp &, const Ins &);
void doze(Warp &, const Ins &);
// Warps and matrices (warp.cpp); null where it isn't known.
Handler warp_handler(const std::vector<std::string> &name, Ins &ins, const std::vector<u32> &bits);

Type type_of(const std::string &name);
u32 bits_of(Type type);
