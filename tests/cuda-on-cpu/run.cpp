// Runs kernels: blocks over two threads, the warps of a block by turns, the lanes of a warp together while they agree.
//
// Lanes that part are run by the smallest position in the program first, so that they meet again where the program joins.
#include "run.h"
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdlib>
#include <mutex>
#include <sys/mman.h>
#include <thread>

void fail(const Warp &w, const Ins &i, int code, const char *format, ...) {
    char text[300], where[200];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    const Block &b = *w.block;
    snprintf(where, sizeof where, " (block %u %u %u, warp %u)\n", b.position[0], b.position[1], b.position[2], w.index);
    throw Fault{code, b.kernel->name + ": " + text + where + "    line " + std::to_string(i.line) + ": " + b.kernel->line(i.line)};
}

namespace {
u32 position(const Warp &w, const Ins *i) { return i - w.block->kernel->code.data(); }

// Lanes do not agree: who goes on, and until where.
void choose(Warp &w) {
    const Ins *code = w.block->kernel->code.data();
    u32 ready = w.live & ~w.blocked;
    if (!ready) {
        // Only complete groups are ever let go, so these wait for ever.
        w.active = w.live;
        fail(w, code[w.lane_pc[__builtin_ctz(w.live)]], LAUNCH_TIMEOUT, "lanes of a warp wait at different places");
    }
    u32 least = ~0u, next = ~0u, active = 0;
    for (int l = 0; l < LANES; l++) least = std::min(least, ready >> l & 1 ? w.lane_pc[l] : ~0u);
    for (int l = 0; l < LANES; l++) {
        u32 pc = w.live >> l & 1 ? w.lane_pc[l] : 0;
        next = std::min(next, pc > least ? pc : ~0u);
        active |= pc == least ? 1u << l : 0;
    }
    w.active = active & w.live;
    w.blocked &= ~w.active;
    w.partial = w.active != w.live;
    w.pc = code + least;
    w.limit = next == ~0u ? nullptr : code + next;
}
void remember(Warp &w, u32 lanes, const Ins *at) {
    u32 p = position(w, at);
    for (int l = 0; l < LANES; l++) w.lane_pc[l] = lanes >> l & 1 ? p : w.lane_pc[l];
}
// Stops the loop below after this instruction.
void stop(Warp &w, State state) {
    w.state = state;
    w.limit = w.pc;
}

void run(Warp &w) {
    w.state = RUNNING;
    remember(w, w.active, w.pc);
    choose(w);
    for (;;) {
        const Ins *i = w.pc;
        w.pc = i + 1;
        i->run[w.partial](w, *i);
        if (w.pc == w.limit) {
            if (w.state != RUNNING) return;
            remember(w, w.active, w.pc);
            choose(w);
        }
    }
}
}  // namespace

void pause(Warp &w) {
    finish_copies(w);
    stop(w, PAUSED);
}
bool together(Warp &w, const Ins &i, u32 lanes) {
    if (!w.partial || !(lanes & w.live & ~w.active)) return true;
    w.blocked |= w.active;
    remember(w, w.active, &i);
    choose(w);
    return false;
}
void branch(Warp &w, const Ins &i) {
    w.pc = i.target;
    if (w.partial) {
        remember(w, w.active, w.pc);
        choose(w);
    }
}
void branch_if(Warp &w, const Ins &i) {
    u32 taken = (w.predicate(i.o[0]) ^ (i.flag ? ~0u : 0)) & w.active;
    if (taken == w.active) return branch(w, i);
    if (!taken) return;
    remember(w, taken, i.target);
    remember(w, w.active & ~taken, w.pc);
    choose(w);
}
void leave(Warp &w, const Ins &i) {
    w.live &= ~w.active;
    w.block->live -= __builtin_popcount(w.active);
    if (w.live) choose(w);
    else finish_copies(w), stop(w, DONE);
}
void barrier(Warp &w, const Ins &i) {
    if (!together(w, i, ~0u)) return;
    u32 first = __builtin_ctz(w.active), id = w.reg<u32>(i.o[0])[first];
    if (id > 15) fail(w, i, LAUNCH_FAILED, "no such barrier");
    Barrier &b = w.block->barriers[id];
    // Without a number, all threads of the block that have not left.
    b.needed = i.count > 1 ? w.reg<u32>(i.o[1])[first] : 0;
    b.arrived += i.count > 1 ? LANES : __builtin_popcount(w.live);
    if (i.kind) return;
    w.barrier = id;
    stop(w, WAITING);
}
void trap(Warp &w, const Ins &i) { fail(w, i, LAUNCH_FAILED, "trap"); }
void unsupported(Warp &w, const Ins &i) { fail(w, i, NOT_SUPPORTED, "an instruction that is not supported"); }
void nothing(Warp &, const Ins &) {}
void doze(Warp &w, const Ins &) { pause(w); }

namespace {
struct Area {
    u8 *start = nullptr;
    size_t bytes = 0;
    u8 *get(size_t n) {
        if (n > bytes) {
            if (start) munmap(start, bytes);
            bytes = (n + (1 << 20)) & ~4095ull;
            start = (u8 *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (start == MAP_FAILED) throw Fault{LAUNCH_FAILED, "no memory for the state of a block"};
        }
        return start;
    }
};

// What one host thread needs to run blocks.
struct Worker {
    Area files, shared, local;
    std::vector<Warp> warps;
    Block block;
    std::vector<u32> order;
    u64 random = 0;

    void prepare(const Kernel &kernel, const Launch &launch) {
        u32 threads = launch.block[0] * launch.block[1] * launch.block[2], count = (threads + LANES - 1) / LANES;
        block = {};
        block.kernel = &kernel;
        block.shared_bytes = DYNAMIC_SHARED + launch.dynamic;
        block.shared = shared.get(block.shared_bytes);
        block.parameters = launch.parameters;
        u8 *file = files.get((size_t)kernel.file_bytes * count), *place = local.get((size_t)kernel.local_bytes * LANES * count);
        warps = std::vector<Warp>(count);
        order.resize(count);
        if (getenv("CUDA_ON_CPU_POISON")) memset(file, 255, (size_t)kernel.file_bytes * count);
        if (const char *seed = getenv("CUDA_ON_CPU_ORDER")) random = strtoull(seed, nullptr, 0) * 2 + 1;
        for (u32 n = 0; n < count; n++) {
            Warp &w = warps[n];
            w.file = file + (size_t)kernel.file_bytes * n;
            w.local = place + (size_t)kernel.local_bytes * LANES * n;
            w.index = n;
            w.block = &block;
            order[n] = n;
            for (auto &r : kernel.registers)
                if (r.constant) {
                    if (r.bits == 1) w.predicate(r.offset) = r.value ? ~0u : 0;
                    else
                        for (int l = 0; l < LANES; l++) memcpy(w.file + r.offset + l * r.bits / 8, &r.value, r.bits / 8);
                }
            for (u32 l = 0; l < LANES; l++) {
                u32 t = n * LANES + l;
                set(w, TID, l, t % launch.block[0]);
                set(w, TID + 1, l, t / launch.block[0] % launch.block[1]);
                set(w, TID + 2, l, t / launch.block[0] / launch.block[1]);
                for (int axis = 0; axis < 3; axis++) {
                    set(w, NTID + axis, l, launch.block[axis]);
                    set(w, NCTAID + axis, l, launch.grid[axis]);
                }
                u32 below = (1u << l) - 1;
                set(w, LANE, l, l);
                set(w, WARP_ID, l, n);
                set(w, NWARP, l, count);
                set(w, MASK_EQ, l, 1u << l);
                set(w, MASK_LT, l, below);
                set(w, MASK_LE, l, below | 1u << l);
                set(w, MASK_GT, l, ~(below | 1u << l));
                set(w, MASK_GE, l, ~below);
                set(w, ZERO, l, 0);
                set(w, DYNAMIC, l, launch.dynamic);
            }
        }
    }
    void set(Warp &w, int special, u32 lane, u32 value) {
        int id = block.kernel->special[special];
        if (id >= 0) w.reg<u32>(block.kernel->registers[id].offset)[lane] = value;
    }

    void run_block(const Launch &launch, u64 number) {
        const Kernel &kernel = *block.kernel;
        block.position[0] = number % launch.grid[0];
        block.position[1] = number / launch.grid[0] % launch.grid[1];
        block.position[2] = number / launch.grid[0] / launch.grid[1];
        u32 threads = launch.block[0] * launch.block[1] * launch.block[2];
        block.live = threads;
        for (Barrier &b : block.barriers) b = {};
        block.unfenced = 0;
        static const bool poison = getenv("CUDA_ON_CPU_POISON");
        if (poison) {
            memset(block.shared, 255, kernel.static_shared);
            memset(block.shared + DYNAMIC_SHARED, 255, launch.dynamic);
            memset(local.start, 255, (size_t)kernel.local_bytes * LANES * warps.size());
        }
        for (Warp &w : warps) {
            u32 here = std::min<u32>(LANES, threads - w.index * LANES);
            w.live = w.active = here == LANES ? ~0u : (1u << here) - 1;
            w.pc = kernel.code.data();
            w.products.clear();
            w.copy_groups.clear();
            w.blocked = 0;
            w.state = PAUSED;
            for (int axis = 0; axis < 3; axis++)
                if (int id = kernel.special[CTAID + axis]; id >= 0)
                    std::fill_n(w.reg<u32>(kernel.registers[id].offset), LANES, block.position[axis]);
        }
        for (u64 idle = 0; block.live;) {
            if (random)   // another order
                for (size_t n = order.size(); n > 1; n--) {
                    random = random * 6364136223846793005 + 1442695040888963407;
                    std::swap(order[n - 1], order[(random >> 33) % n]);
                }
            bool ran = false, went_on = false;
            for (u32 n : order)
                if (warps[n].state == PAUSED) {
                    run(warps[n]);
                    ran = true;
                    went_on |= warps[n].state != PAUSED;
                }
            bool opened = false;
            for (u32 id = 0; id < 16; id++) {
                Barrier &b = block.barriers[id];
                u32 waiting = 0;
                for (Warp &w : warps) waiting += w.state == WAITING && w.barrier == id;
                if (!b.arrived || b.arrived < (b.needed ? b.needed : block.live)) continue;
                b = {};
                for (Warp &w : warps)
                    if (w.state == WAITING && w.barrier == id) w.state = PAUSED;
                opened |= waiting > 0;
            }
            if (!went_on && !opened)
                for (Warp &w : warps) finish_copies(w);
            idle = went_on || opened ? 0 : idle + 1;
            if (block.live && ((!ran && !opened) || idle > 100000))
                for (Warp &w : warps)
                    if (w.state != DONE) fail(w, w.pc[-1], LAUNCH_TIMEOUT, "the warps wait for each other");
        }
    }
};

// A launch under way: blocks are taken by whoever is free.
struct Pool {
    Worker workers[2];
    std::mutex mutex;
    std::condition_variable wake, done;
    u64 generation = 0;
    bool busy = false;
    const Kernel *kernel;
    const Launch *launch;
    std::atomic<u64> next;
    u64 blocks;
    Fault fault;

    Pool() {
        std::thread([this] {
            for (u64 seen = 0;;) {
                std::unique_lock<std::mutex> hold(mutex);
                wake.wait(hold, [&] { return generation != seen; });
                seen = generation;
                hold.unlock();
                work(workers[1]);
                hold.lock();
                busy = false;
                done.notify_one();
            }
        }).detach();
    }
    void work(Worker &worker) {
        try {
            u64 number = next++;
            if (number >= blocks) return;
            worker.prepare(*kernel, *launch);
            for (; number < blocks; number = next++) worker.run_block(*launch, number);
        } catch (const Fault &f) {
            std::lock_guard<std::mutex> hold(mutex);
            if (!fault.code) fault = f;
            next = blocks;
        }
    }
};
}  // namespace

void execute(const Kernel &kernel, const Launch &launch) {
    static Pool &pool = *new Pool;   // never destroyed: its thread outlives the statics
    pool.kernel = &kernel;
    pool.launch = &launch;
    pool.next = 0;
    pool.blocks = (u64)launch.grid[0] * launch.grid[1] * launch.grid[2];
    pool.fault = {};
    if (pool.blocks > 1) {
        std::lock_guard<std::mutex> hold(pool.mutex);
        pool.generation++;
        pool.busy = true;
        pool.wake.notify_one();
    }
    pool.work(pool.workers[0]);
    std::unique_lock<std::mutex> hold(pool.mutex);
    pool.done.wait(hold, [&] { return !pool.busy; });
    if (pool.fault.code) throw pool.fault;
}
