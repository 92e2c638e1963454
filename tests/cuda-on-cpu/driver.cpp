// A libcuda for a machine without a GPU (see run.sh). Programs start, their kernels are compiled by NVIDIA's real compiler
// (NVRTC) and run by the CPU; memory and launches are counted. With CUDA_ON_CPU_DRY nothing runs, and results are zeros.
//
// CUDA_ON_CPU_MIB: memory of the device, 81920. CUDA_ON_CPU_PTX: folder for the PTX of every module. CUDA_ON_CPU_LOG: list launches
// and copies to the host.
// Wrong addresses, lanes or warps that wait for ever and unknown instructions end the launch with CUDA's error and a message. CUDA_ON_CPU_POISON: what is not initialised is NaN. CUDA_ON_CPU_ORDER: the warps of a block run in another order,
// that of this seed. CUDA_ON_CPU_LATE: cp.async copies as late as the program allows. CUDA_ON_CPU_TIMES: seconds of each kernel.
// CUDA_ON_CPU_FAIL: something goes wrong. launch:N, the Nth launch reads a wrong address: it and every later use of the context
// return 700. lost:N, the device is gone from the Nth launch on: every call returns 719. module:N, the Nth module is refused
// with 218 (only that one).
#include "run.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <sys/mman.h>

typedef int Result;
typedef uint64_t Pointer;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2 };

static std::mutex mutex;                      // of everything below; kernels run under it
static size_t used, peak, launches, modules;
static std::map<Pointer, size_t> allocations;  // with the variables of modules
static const bool running = !getenv("CUDA_ON_CPU_DRY"), poison = getenv("CUDA_ON_CPU_POISON");

static std::map<std::string, std::pair<double, size_t>> times;   // of kernels

static void report(void) {
    if (getenv("CUDA_ON_CPU_TIMES")) {
        std::multimap<double, std::string> order;
        for (auto &[name, time] : times) order.insert({-time.first, name});
        for (auto &[seconds, name] : order) fprintf(stderr, "%9.3f s %7zu %s\n", -seconds, times[name].second, name.c_str());
    }
    fprintf(stderr, "CUDA on the CPU: at most %.3f GB, %zu launches, %zu modules\n", peak / 1e9, launches, modules);
}

// The error that a fault has left behind; everything returns it from then on, as CUDA does.
static volatile Result broken;

// The fault that CUDA_ON_CPU_FAIL asks for, where it is the turn of the given event.
static int fails(const char *event, size_t number) {
    const char *fail = getenv("CUDA_ON_CPU_FAIL");
    size_t length = strlen(event);
    return fail && !strncmp(fail, event, length) && fail[length] == ':' && (size_t)atoll(fail + length + 1) == number;
}
// What a call returns that would work: of the context, and of the device, which outlives a broken context but not its own loss.
static Result context_result(void) { return broken; }
static const bool tells = getenv("CUDA_ON_CPU_LOG");
static void tell_copy(size_t bytes) {
    if (tells) fprintf(stderr, "to the host: %zu B\n", bytes);
}
static Result device_result(void) { return broken == LAUNCH_FAILED ? broken : SUCCESS; }

bool find_range(u64 address, Range &range) {
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return false;
    auto at = std::prev(next);
    range = {at->first, at->first + at->second};
    return address < range.high;
}

#pragma GCC visibility push(default)
extern "C" {
Result cuInit(unsigned flags) {
    static int once;
    if (!once++) atexit(report);
    return SUCCESS;
}

// The device: what CubeCL asks an H100 for (numbers of CUdevice_attribute).
Result cuDeviceGet(int *device, int i) { *device = i; return device_result(); }
Result cuDeviceGetCount(int *n) { *n = 1; return device_result(); }
Result cuDeviceGetName(char *name, int n, int device) { snprintf(name, n, "H100 on the CPU"); return device_result(); }
Result cuDeviceGetUuid_v2(void *id, int device) { memset(id, 1, 16); return device_result(); }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) {
    const char *mib = getenv("CUDA_ON_CPU_MIB");
    *bytes = (size_t)(mib ? atoi(mib) : 81920) << 20;
    return device_result();
}
Result cuMemGetInfo_v2(size_t *unused, size_t *total) {
    cuDeviceTotalMem_v2(total, 0);
    *unused = *total - used;
    return context_result();
}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;  // threads of a block, and along x and y
    case 4: *value = 64; break;                    // along z
    case 5: *value = 2147483647; break;            // blocks along x
    case 6: case 7: *value = 65535; break;         // along y and z
    case 8: *value = 49152; break;                 // shared memory of a block
    case 10: *value = 32; break;                   // threads of a warp
    case 16: *value = 132; break;                  // multiprocessors
    case 75: *value = 9; break;                    // compute capability
    case 76: *value = 0; break;
    case 97: *value = 232448; break;               // shared memory of a block that asks for it
    default: *value = 1;
    }
    return device_result();
}
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return device_result(); }
Result cuDevicePrimaryCtxRelease_v2(int device) { return device_result(); }
Result cuCtxSetCurrent(void *context) { return device_result(); }
Result cuCtxGetCurrent(void **context) { *context = (void *)1; return device_result(); }
Result cuCtxSynchronize(void) { return context_result(); }

// Memory: of the host, so that an address is the same on both sides.
static Result allocate(Pointer *pointer, size_t bytes) {
    size_t total;
    if (broken) return broken;
    cuDeviceTotalMem_v2(&total, 0);
    std::lock_guard<std::mutex> hold(mutex);
    if (used + bytes > total) return OUT_OF_MEMORY;
    void *area = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) return OUT_OF_MEMORY;
    if (running && poison) memset(area, 255, bytes);
    *pointer = (Pointer)area;
    allocations[*pointer] = bytes;
    used += bytes;
    if (used > peak) peak = used;
    return SUCCESS;
}
static Result release(Pointer pointer) {
    std::lock_guard<std::mutex> hold(mutex);
    auto found = allocations.find(pointer);
    if (found != allocations.end()) {
        munmap((void *)pointer, found->second);
        used -= found->second;
        allocations.erase(found);
    }
    return context_result();
}
Result cuMemAlloc_v2(Pointer *p, size_t n) { return allocate(p, n); }
Result cuMemAllocAsync(Pointer *p, size_t n, void *stream) { return allocate(p, n); }
Result cuMemFree_v2(Pointer p) { return release(p); }
Result cuMemFreeAsync(Pointer p, void *stream) { return release(p); }
Result cuMemAllocHost_v2(void **p, size_t n) {
    if (broken) return broken;
    *p = calloc(1, n);
    return *p ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemFreeHost(void *p) { free(p); return context_result(); }
static bool allocated(Pointer p, size_t n) {
    Range range;
    if (n && (!find_range(p, range) || p + n > range.high)) {
        fprintf(stderr, "CUDA on the CPU: a copy of %zu bytes at %#lx, which is not allocated\n", n, (unsigned long)p);
        return false;
    }
    return true;
}
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t n, void *stream) {
    if (broken || !running) return broken;
    std::lock_guard<std::mutex> hold(mutex);
    if (!allocated(to, n)) return INVALID_VALUE;
    memcpy((void *)to, from, n);
    return SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t n, void *stream) {
    tell_copy(n);
    if (broken || !running) { memset(to, 0, n); return broken; }
    std::lock_guard<std::mutex> hold(mutex);
    if (!allocated(from, n)) return INVALID_VALUE;
    memcpy(to, (void *)from, n);
    return SUCCESS;
}
// CUDA_MEMCPY2D: memory types are 1 host, 2 device.
struct End { size_t x, y; unsigned type; void *host; Pointer device; void *array; size_t pitch; };
struct Copy { End from, to; size_t bytes, rows; };
Result cuMemcpy2DAsync_v2(const Copy *copy, void *stream) {
    if (copy->to.type == 1) tell_copy(copy->bytes * copy->rows);
    auto start = [](const End &e) { return (e.type == 1 ? (u8 *)e.host : (u8 *)e.device) + e.y * e.pitch + e.x; };
    u8 *from = start(copy->from), *to = start(copy->to);
    if (broken || !running) {
        if (copy->to.type == 1)
            for (size_t row = 0; row < copy->rows; row++) memset(to + row * copy->to.pitch, 0, copy->bytes);
        return broken;
    }
    std::lock_guard<std::mutex> hold(mutex);
    for (size_t row = 0; row < copy->rows; row++, from += copy->from.pitch, to += copy->to.pitch) {
        if ((copy->from.type != 1 && !allocated((Pointer)from, copy->bytes)) || (copy->to.type != 1 && !allocated((Pointer)to, copy->bytes)))
            return INVALID_VALUE;
        memcpy(to, from, copy->bytes);
    }
    return SUCCESS;
}
Result cuMemsetD8Async(Pointer p, unsigned char value, size_t n, void *stream) {
    if (broken || !running) return broken;
    std::lock_guard<std::mutex> hold(mutex);
    if (!allocated(p, n)) return INVALID_VALUE;
    memset((void *)p, value, n);
    return SUCCESS;
}
Result cuDeviceGetDefaultMemPool(void **pool, int device) { *pool = (void *)1; return device_result(); }
Result cuMemPoolSetAttribute(void *pool, int attribute, void *value) { return context_result(); }
Result cuMemPoolGetAttribute(void *pool, int attribute, void *value) { return context_result(); }
Result cuMemPoolTrimTo(void *pool, size_t n) { return context_result(); }

// Order: everything is done when it is asked for.
Result cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)1; return context_result(); }
Result cuStreamCreateWithPriority(void **stream, unsigned flags, int p) { *stream = (void *)1; return context_result(); }
Result cuStreamDestroy_v2(void *stream) { return context_result(); }
Result cuStreamSynchronize(void *stream) { return context_result(); }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return context_result(); }
Result cuEventCreate(void **event, unsigned flags) { *event = (void *)1; return context_result(); }
Result cuEventDestroy_v2(void *event) { return context_result(); }
Result cuEventRecord(void *event, void *stream) { return context_result(); }
Result cuEventSynchronize(void *event) { return context_result(); }
Result cuEventQuery(void *event) { return context_result(); }
Result cuEventElapsedTime_v2(float *ms, void *from, void *to) { *ms = 1; return context_result(); }

// Kernels. A module is decoded when one of its kernels is launched.
static Module *decode(Module *module) {
    if (module->kernels.empty()) {
        parse(*module);
        for (auto &[low, high] : module->ranges) allocations[low] = high - low;
    }
    return module;
}
Result cuModuleLoadData(Module **module, const char *ptx) {
    const char *folder = getenv("CUDA_ON_CPU_PTX"), *entry = strstr(ptx, ".entry ");
    char name[101] = "", path[512];
    if (entry) sscanf(entry, ".entry %100[^( \n]", name);
    if (folder) {
        snprintf(path, sizeof path, "%s/%05zu_%s.ptx", folder, modules, name);
        FILE *file = fopen(path, "w");
        if (file) { fputs(ptx, file); fclose(file); }
    }
    *module = new Module;
    if (running) (*module)->text = std::make_shared<std::string>(ptx);
    return fails("module", ++modules) ? (Result)INVALID_PTX : context_result();
}
struct Function { Module *module; std::string name; };
Result cuModuleGetFunction(Function **function, Module *module, const char *name) {
    *function = new Function{module, name};
    return context_result();
}
Result cuModuleUnload(Module *module) { return context_result(); }   // functions may outlive it
Result cuFuncSetAttribute(void *function, int attribute, int value) { return context_result(); }

static Result launch(const Function &function, const Launch &launch, void **arguments) {
    std::lock_guard<std::mutex> hold(mutex);
    Launch with = launch;
    try {
        auto &kernels = decode(function.module)->kernels;
        auto found = kernels.find(function.name);
        if (found == kernels.end()) throw Fault{INVALID_PTX, "no kernel " + function.name};
        const Kernel &kernel = *found->second;
        std::vector<u64> parameters(kernel.parameter_bytes / 8 + 1);
        for (size_t n = 0; n < kernel.parameters.size(); n++)
            memcpy((u8 *)parameters.data() + kernel.parameters[n].offset, arguments[n], kernel.parameters[n].bytes);
        with.parameters = (u8 *)parameters.data();
        auto start = std::chrono::steady_clock::now();
        execute(kernel, with);
        auto &[seconds, count] = times[kernel.name];
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        count++;
    } catch (const Fault &fault) {
        fprintf(stderr, "CUDA on the CPU: error %d: %s\n", fault.code, fault.what.c_str());
        broken = fault.code;
    }
    return broken;
}
Result cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned x, unsigned y, unsigned z,
                      unsigned shared, void *stream, void **arguments, void **extra) {
    launches++;
    if (fails("launch", launches)) broken = ILLEGAL_ADDRESS;
    if (fails("lost", launches)) broken = LAUNCH_FAILED;
    if (broken) return broken;
    if (tells)
        fprintf(stderr, "%s: %ux%ux%u blocks of %ux%ux%u, %u B shared\n", function->name.c_str(), gx, gy, gz, x, y, z, shared);
    if (gy > 65535 || gz > 65535 || x * y * z > 1024 || shared > 232448) return INVALID_VALUE;
    return running ? launch(*function, {{gx, gy, gz}, {x, y, z}, shared, nullptr}, arguments) : (Result)SUCCESS;
}
Result cuTensorMapEncodeTiled(void *map, ...) { return context_result(); }
Result cuTensorMapEncodeIm2col(void *map, ...) { return context_result(); }

Result cuGetErrorName(Result error, const char **name) {
    switch (error) {
    case SUCCESS: *name = "CUDA_SUCCESS"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case INVALID_PTX: *name = "CUDA_ERROR_INVALID_PTX"; break;
    case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case LAUNCH_TIMEOUT: *name = "CUDA_ERROR_LAUNCH_TIMEOUT"; break;
    case NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *name = "CUDA_ERROR_INVALID_VALUE";
    }
    return SUCCESS;
}
Result cuGetErrorString(Result error, const char **text) {
    switch (error) {
    case SUCCESS: *text = "no error"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case INVALID_PTX: *text = "a PTX JIT compilation failed"; break;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case LAUNCH_TIMEOUT: *text = "the launch timed out and was terminated"; break;
    case NOT_SUPPORTED: *text = "operation not supported"; break;
    case LAUNCH_FAILED: *text = "unspecified launch failure"; break;
    default: *text = "invalid argument";
    }
    return SUCCESS;
}
}  // extern "C"
