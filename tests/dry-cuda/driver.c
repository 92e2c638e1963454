// A libcuda in which nothing runs: for a machine without a GPU. Programs start, their kernels are compiled by NVIDIA's real
// compiler (NVRTC), memory is counted, launches are counted; results are zeros. See run.sh.
//
// DRY_CUDA_MIB: memory of the device, 81920. DRY_CUDA_PTX: folder for the PTX of every module. DRY_CUDA_LOG: list launches.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int Result;
typedef uint64_t Pointer;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used, peak, launches, modules, count;
static struct { Pointer pointer; size_t bytes; } allocations[1 << 20];

static void report(void) {
    fprintf(stderr, "dry CUDA: at most %.3f GB, %zu launches, %zu modules\n", peak / 1e9, launches, modules);
}

Result cuInit(unsigned flags) {
    static int once;
    if (!once++) atexit(report);
    return SUCCESS;
}

// The device: what CubeCL asks an H100 for (numbers of CUdevice_attribute).
Result cuDeviceGet(int *device, int i) { *device = i; return SUCCESS; }
Result cuDeviceGetCount(int *n) { *n = 1; return SUCCESS; }
Result cuDeviceGetName(char *name, int n, int device) { snprintf(name, n, "dry H100"); return SUCCESS; }
Result cuDeviceGetUuid_v2(void *id, int device) { memset(id, 1, 16); return SUCCESS; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) {
    const char *mib = getenv("DRY_CUDA_MIB");
    *bytes = (size_t)(mib ? atoi(mib) : 81920) << 20;
    return SUCCESS;
}
Result cuMemGetInfo_v2(size_t *unused, size_t *total) {
    cuDeviceTotalMem_v2(total, 0);
    *unused = *total - used;
    return SUCCESS;
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
    return SUCCESS;
}
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
Result cuCtxSetCurrent(void *context) { return SUCCESS; }
Result cuCtxGetCurrent(void **context) { *context = (void *)1; return SUCCESS; }
Result cuCtxSynchronize(void) { return SUCCESS; }

// Memory: addresses that nothing is ever written to.
static Result allocate(Pointer *pointer, size_t bytes) {
    size_t total;
    cuDeviceTotalMem_v2(&total, 0);
    pthread_mutex_lock(&lock);
    void *area = MAP_FAILED;
    if (used + bytes <= total && count < sizeof allocations / sizeof *allocations)
        area = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area != MAP_FAILED) {
        *pointer = allocations[count].pointer = (Pointer)area;
        allocations[count++].bytes = bytes;
        used += bytes;
        if (used > peak) peak = used;
    }
    pthread_mutex_unlock(&lock);
    return area == MAP_FAILED ? OUT_OF_MEMORY : SUCCESS;
}
static Result release(Pointer pointer) {
    pthread_mutex_lock(&lock);
    for (size_t i = count; i--;)
        if (allocations[i].pointer == pointer) {
            munmap((void *)pointer, allocations[i].bytes);
            used -= allocations[i].bytes;
            allocations[i] = allocations[--count];
            break;
        }
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}
Result cuMemAlloc_v2(Pointer *p, size_t n) { return allocate(p, n); }
Result cuMemAllocAsync(Pointer *p, size_t n, void *stream) { return allocate(p, n); }
Result cuMemFree_v2(Pointer p) { return release(p); }
Result cuMemFreeAsync(Pointer p, void *stream) { return release(p); }
Result cuMemAllocHost_v2(void **p, size_t n) { *p = calloc(1, n); return *p ? SUCCESS : OUT_OF_MEMORY; }
Result cuMemFreeHost(void *p) { free(p); return SUCCESS; }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t n, void *stream) { return SUCCESS; }
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t n, void *stream) { memset(to, 0, n); return SUCCESS; }
Result cuMemcpy2DAsync_v2(const void *copy, void *stream) { return SUCCESS; }
Result cuMemsetD8Async(Pointer p, unsigned char value, size_t n, void *stream) { return SUCCESS; }
Result cuDeviceGetDefaultMemPool(void **pool, int device) { *pool = (void *)1; return SUCCESS; }
Result cuMemPoolSetAttribute(void *pool, int attribute, void *value) { return SUCCESS; }
Result cuMemPoolGetAttribute(void *pool, int attribute, void *value) { return SUCCESS; }
Result cuMemPoolTrimTo(void *pool, size_t n) { return SUCCESS; }

// Order: everything is done when it is asked for.
Result cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)1; return SUCCESS; }
Result cuStreamCreateWithPriority(void **stream, unsigned flags, int p) { *stream = (void *)1; return SUCCESS; }
Result cuStreamDestroy_v2(void *stream) { return SUCCESS; }
Result cuStreamSynchronize(void *stream) { return SUCCESS; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return SUCCESS; }
Result cuEventCreate(void **event, unsigned flags) { *event = (void *)1; return SUCCESS; }
Result cuEventDestroy_v2(void *event) { return SUCCESS; }
Result cuEventRecord(void *event, void *stream) { return SUCCESS; }
Result cuEventSynchronize(void *event) { return SUCCESS; }
Result cuEventQuery(void *event) { return SUCCESS; }
Result cuEventElapsedTime_v2(float *ms, void *from, void *to) { *ms = 1; return SUCCESS; }

// Kernels.
Result cuModuleLoadData(void **module, const char *ptx) {
    const char *folder = getenv("DRY_CUDA_PTX"), *entry = strstr(ptx, ".entry ");
    char name[101] = "", path[512];
    if (entry) sscanf(entry, ".entry %100[^( \n]", name);
    if (folder) {
        snprintf(path, sizeof path, "%s/%05zu_%s.ptx", folder, modules, name);
        FILE *file = fopen(path, "w");
        if (file) { fputs(ptx, file); fclose(file); }
    }
    modules++;
    *module = (void *)1;
    return SUCCESS;
}
Result cuModuleGetFunction(void **function, void *module, const char *name) { *function = strdup(name); return SUCCESS; }
Result cuModuleUnload(void *module) { return SUCCESS; }
Result cuFuncSetAttribute(void *function, int attribute, int value) { return SUCCESS; }
Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned x, unsigned y, unsigned z,
                      unsigned shared, void *stream, void **arguments, void **extra) {
    launches++;
    if (getenv("DRY_CUDA_LOG"))
        fprintf(stderr, "%s: %ux%ux%u blocks of %ux%ux%u, %u B shared\n", (char *)function, gx, gy, gz, x, y, z, shared);
    // CUDA_ERROR_INVALID_VALUE
    return gy > 65535 || gz > 65535 ? 1 : SUCCESS;
}
Result cuTensorMapEncodeTiled(void *map, ...) { return SUCCESS; }
Result cuTensorMapEncodeIm2col(void *map, ...) { return SUCCESS; }

Result cuGetErrorName(Result error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}
Result cuGetErrorString(Result error, const char **text) { return cuGetErrorName(error, text); }
