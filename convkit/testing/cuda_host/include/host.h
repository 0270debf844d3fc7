// Runs one CUDA kernel on the host. The Python module concatenates this file, host_races.h, host_functions.h,
// host_guard.h and the flattened source of a kernel, and compiles them to a C++17 shared library for Linux.
//
// Blocks run one after another. Each thread of a block is a fibre with its own stack. A fibre runs until it waits at a
// barrier, a shuffle or a vote, or returns; then the next one runs. A barrier that a thread never reaches ends the
// launch with an error, as do lanes of a warp that wait at different operations. Shared memory is filled with 0xff
// before each block, which is NaN in every floating-point type, so uninitialised reads show in the results.
#define CONVKIT_HOST 1

// What is the same for all kernels, the core, is compiled once, where CONVKIT_HOST_CORE is 1, and linked with each
// kernel. Sources of kernels see its declarations only, so that they compile in less time.
#ifndef CONVKIT_HOST_CORE
#define CONVKIT_HOST_CORE 0
#endif
#if CONVKIT_HOST_CORE
#define CONVKIT_HOST_VARIABLE __attribute__((visibility("hidden")))
#else
#define CONVKIT_HOST_VARIABLE extern __attribute__((visibility("hidden")))
#endif

#include <limits.h>
#include <link.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <type_traits>
#include <utility>

// --- The language ----------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
// Shared variables are thread-local variables of the library: they have a segment of their own. The Python module
// replaces `extern __shared__ T name[];` by a reference to the pointer convkit_host::dynamic_memory.
#define __shared__ static thread_local

#define CONVKIT_HOST_VECTORS(T, name, align2, align4)                                        \
    struct name##1 { T x; };                                                                 \
    struct alignas(align2) name##2 { T x, y; };                                              \
    struct name##3 { T x, y, z; };                                                           \
    struct alignas(align4) name##4 { T x, y, z, w; };                                        \
    inline name##1 make_##name##1(T x) { return {x}; }                                       \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                               \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                       \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

CONVKIT_HOST_VECTORS(signed char, char, 2, 4)
CONVKIT_HOST_VECTORS(unsigned char, uchar, 2, 4)
CONVKIT_HOST_VECTORS(short, short, 4, 8)
CONVKIT_HOST_VECTORS(unsigned short, ushort, 4, 8)
CONVKIT_HOST_VECTORS(int, int, 8, 16)
CONVKIT_HOST_VECTORS(unsigned, uint, 8, 16)
CONVKIT_HOST_VECTORS(long long, longlong, 16, 16)
CONVKIT_HOST_VECTORS(unsigned long long, ulonglong, 16, 16)
CONVKIT_HOST_VECTORS(float, float, 8, 16)
CONVKIT_HOST_VECTORS(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

CONVKIT_HOST_VARIABLE uint3 threadIdx, blockIdx;
CONVKIT_HOST_VARIABLE dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// CUDA allows these between specifiers, C++ does not.
#define __align__(bytes) __attribute__((aligned(bytes)))
#define alignas(bytes) __attribute__((aligned(bytes)))

// --- Threads as fibres -----------------------------------------------------------------------------------------------

namespace convkit_host {

constexpr int MOST_THREADS = 1024, WARP = 32;
constexpr size_t STACK = 256 * 1024, PAGE_GUARD = 16 << 20, SHARED = 232448;  // 227 KiB, the most of any GPU

enum Operation : unsigned char { NONE, BARRIER, SYNCWARP, SHUFFLE, VOTE, WATCH };
constexpr const char* NAMES[] = {"", "a block barrier", "__syncwarp", "a shuffle", "a vote",
                                   "a memory location"};

struct Place {  // a line of the source
    const char* file;
    int line;
    bool operator!=(const Place& other) const { return line != other.line || strcmp(file, other.file) != 0; }
};

struct Fibre {
    jmp_buf resume;
    uint3 index;
    bool started, done;
    Operation waits;  // NONE if the thread can run
    Place place;
    unsigned mask;              // of a warp operation: its lanes
    int source;                 // of a shuffle: the lane to read from, or -1
    unsigned long long value, result;
    bool (*ready)(const void*, unsigned);  // of a watch: whether `watched` has the state that the thread waits for
    const void* watched;
    unsigned wanted;
};

struct Warp {
    unsigned live, waiting;
};

// An argument of a launch; the Python module fills in the first five members.
struct Span {
    const char* name;
    unsigned char* data;
    size_t bytes, alignment;
    int output;
    unsigned char *mapped, *placed;  // the guarded copy
    size_t mapped_bytes;
};

// A launch, as the Python module passes it.
struct Request {
    unsigned grid[3], block[3];
    unsigned shared;
    int order;  // 0 forward, 1 reverse, 2 shuffled with the seed
    unsigned long long seed;
    void** values;  // for each argument a pointer to its value
    Span* spans;    // one for each argument; data is null for scalars
    int count;
    int guard;  // 0 none, 1 behind the arrays, 2 before them
    unsigned timeout;
    char* message;
    size_t capacity;
};

CONVKIT_HOST_VARIABLE Fibre* fibres;
CONVKIT_HOST_VARIABLE Fibre* current;
CONVKIT_HOST_VARIABLE Warp warps[MOST_THREADS / WARP];
CONVKIT_HOST_VARIABLE jmp_buf scheduler;
CONVKIT_HOST_VARIABLE unsigned char *stacks, *shared_region, *dynamic_memory;
CONVKIT_HOST_VARIABLE int threads, live, arrived;
CONVKIT_HOST_VARIABLE int votes;  // at the current block barrier
CONVKIT_HOST_VARIABLE Request request;
CONVKIT_HOST_VARIABLE void (*body)(void**);

inline int lane_of(const Fibre* fibre) { return int(fibre - fibres) % WARP; }

int wait_block(bool vote, Place place);
unsigned long long wait_warp(Operation kind, unsigned mask, unsigned long long value, int source, Place place);
// Wait until ready(watched, wanted).
void wait_until(bool (*ready)(const void*, unsigned), const void* watched, unsigned wanted, Place place);
bool run_grid();
void run_guarded();

#if CONVKIT_HOST_CORE

static thread_local char first_of_shared;  // makes the segment exist, to be found by its address

// Defined in host_races.h; they do nothing unless races are checked.
bool begin_races(void* variables, size_t bytes);
void end_races();
void begin_block();
void on_block_barrier();
void on_syncwarp(int warp, unsigned lanes);
bool is_ready(const Fibre* fibre);

inline Warp& warp_of(const Fibre* fibre) { return warps[(fibre - fibres) / WARP]; }

__attribute__((noinline)) inline void report(const char* format, ...) {
    const size_t used = strlen(request.message);
    va_list list;
    va_start(list, format);
    vsnprintf(request.message + used, request.capacity - used, format, list);
    va_end(list);
}

inline void report_thread() {
    report(" in block (%u, %u, %u), thread (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y,
        threadIdx.z);
}

[[noreturn]] inline void stop() { _longjmp(scheduler, 2); }

__attribute__((noinline)) inline void yield() {
    if (_setjmp(current->resume) == 0) _longjmp(scheduler, 1);
}

inline void release_barrier() {
    const Fibre* first = nullptr;
    for (int i = 0; i < threads; ++i) {
        const Fibre& fibre = fibres[i];
        if (fibre.waits != BARRIER) continue;
        if (first == nullptr) first = &fibre;
        if (first->place != fibre.place) {
            report("threads of block (%u, %u, %u) wait at different barriers, %s:%d and %s:%d", blockIdx.x, blockIdx.y,
                blockIdx.z, first->place.file, first->place.line, fibre.place.file, fibre.place.line);
            stop();
        }
    }
    for (int i = 0; i < threads; ++i) {
        if (fibres[i].waits == BARRIER) fibres[i].waits = NONE, fibres[i].result = unsigned(votes);
    }
    arrived = votes = 0;
    on_block_barrier();
}

// Resume the lanes of `mask` if all of them that have not returned wait at the same operation.
inline void release_warp(int warp, unsigned mask) {
    const unsigned lanes = mask & warps[warp].live;
    if ((warps[warp].waiting & lanes) != lanes || lanes == 0) return;
    Fibre* const first = fibres + warp * WARP;
    const Fibre& leader = first[__builtin_ctz(lanes)];
    for (int i = 0; i < WARP; ++i) {
        if (!(lanes >> i & 1)) continue;
        if (first[i].mask != mask || first[i].waits != leader.waits || first[i].place != leader.place) return;
    }
    const Operation leader_waits = leader.waits;
    unsigned ballot = 0;
    for (int i = 0; i < WARP; ++i) {
        if (lanes >> i & 1 && first[i].value != 0) ballot |= 1u << i;
    }
    for (int i = 0; i < WARP; ++i) {
        if (!(lanes >> i & 1)) continue;
        Fibre& fibre = first[i];
        if (fibre.waits == SHUFFLE) {
            const bool known = fibre.source >= 0 && lanes >> fibre.source & 1;
            fibre.result = known ? first[fibre.source].value : ~0ull;  // undefined on a GPU
        } else {
            fibre.result = ballot;
        }
    }
    for (int i = 0; i < WARP; ++i) {
        if (lanes >> i & 1) first[i].waits = NONE;
    }
    warps[warp].waiting &= ~lanes;
    if (leader_waits == SYNCWARP) on_syncwarp(warp, lanes);
}

int wait_block(bool vote, Place place) {
    current->waits = BARRIER;
    current->place = place;
    votes += vote;
    if (++arrived == live) release_barrier();
    yield();
    return int(current->result);
}

unsigned long long wait_warp(Operation kind, unsigned mask, unsigned long long value, int source, Place place) {
    const int lane = lane_of(current);
    if (!(mask >> lane & 1)) {
        report("lane %d uses %s whose mask 0x%08x leaves it out, %s:%d", lane, NAMES[kind], mask, place.file,
               place.line);
        report_thread();
        stop();
    }
    current->waits = kind;
    current->place = place;
    current->mask = mask;
    current->value = value;
    current->source = source;
    warp_of(current).waiting |= 1u << lane;
    release_warp(int(current - fibres) / WARP, mask);
    yield();
    return current->result;
}

void wait_until(bool (*ready)(const void*, unsigned), const void* watched, unsigned wanted, Place place) {
    current->waits = WATCH;
    current->place = place;
    current->mask = 0;
    current->ready = ready;
    current->watched = watched;
    current->wanted = wanted;
    yield();
}

// End a thread, and resume threads that waited for it.
inline void finish() {
    const int warp = int(current - fibres) / WARP;
    current->done = true;
    warps[warp].live &= ~(1u << lane_of(current));
    --live;
    if (live > 0 && arrived == live) release_barrier();
    for (unsigned waiting = warps[warp].waiting; waiting != 0; waiting &= waiting - 1) {
        const Fibre& fibre = fibres[warp * WARP + __builtin_ctz(waiting)];
        if (fibre.waits != NONE) release_warp(warp, fibre.mask);
    }
}

inline void fibre_main() {
    for (;;) {
        body(request.values);
        finish();
        yield();
    }
}

// Run a thread until it waits or returns. Return false if it ended the launch.
__attribute__((noinline)) inline bool enter(Fibre* fibre) {
    current = fibre;
    threadIdx = fibre->index;
    const int reason = _setjmp(scheduler);
    if (reason == 0) {
        if (fibre->started) _longjmp(fibre->resume, 1);
        fibre->started = true;
        static ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks + size_t(fibre - fibres) * STACK + 4096;
        context.uc_stack.ss_size = STACK - 4096;
        context.uc_link = nullptr;
        makecontext(&context, fibre_main, 0);
        setcontext(&context);
    }
    return reason == 1;
}

inline unsigned long long random_bits(unsigned long long& state) {  // splitmix64
    unsigned long long z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

// Write the numbers below `count` in the requested order.
inline void arrange(unsigned* order, unsigned count, unsigned long long& state) {
    for (unsigned i = 0; i < count; ++i) order[i] = request.order == 1 ? count - 1 - i : i;
    if (request.order != 2) return;
    for (unsigned i = count; i > 1; --i) std::swap(order[i - 1], order[random_bits(state) % i]);
}

inline void report_deadlock() {
    report("threads of block (%u, %u, %u) wait for threads that never arrive:", blockIdx.x, blockIdx.y, blockIdx.z);
    bool reported[MOST_THREADS] = {};
    int groups = 0;
    for (int i = 0; i < threads && groups < 4; ++i) {
        const Fibre& fibre = fibres[i];
        if (fibre.done || reported[i]) continue;
        int members = 0;
        for (int j = i; j < threads; ++j) {
            const Fibre& other = fibres[j];
            const bool same = !other.done && other.waits == fibre.waits && !(other.place != fibre.place) &&
                              (fibre.waits == BARRIER || other.mask == fibre.mask);
            if (same) reported[j] = true, ++members;
        }
        report("%s %d at %s, %s:%d", groups == 0 ? "" : ";", members, NAMES[fibre.waits], fibre.place.file,
            fibre.place.line);
        if (fibre.mask != 0 && fibre.waits != BARRIER) report(" (mask 0x%08x)", fibre.mask);
        ++groups;
    }
    if (live < threads) report("; %d have returned", threads - live);
}

inline bool run_block(unsigned* order, unsigned long long& state) {
    live = threads;
    arrived = votes = 0;
    begin_block();
    for (int w = 0; w * WARP < threads; ++w) {
        const int lanes = threads - w * WARP;
        warps[w] = {lanes >= WARP ? ~0u : (1u << lanes) - 1, 0};
    }
    for (int i = 0; i < threads; ++i) fibres[i].done = false, fibres[i].waits = NONE;
    // With a seed, about half of the warps pause until the others cannot continue, then they change roles. Barriers
    // limit how far warps get ahead of each other; shuffles do not.
    unsigned paused = request.order == 2 ? unsigned(random_bits(state)) : 0;
    bool stuck = request.order != 2;
    while (live > 0) {
        bool progress = false;
        arrange(order, unsigned(threads), state);
        for (int i = 0; i < threads; ++i) {
            Fibre* const fibre = fibres + order[i];
            if (fibre->done || paused >> order[i] / WARP & 1) continue;
            if (fibre->waits == WATCH && is_ready(fibre)) fibre->waits = NONE;
            if (fibre->waits != NONE) continue;
            progress = true;
            if (!enter(fibre)) return false;
        }
        if (!progress && stuck) {
            report_deadlock();
            return false;
        }
        stuck = request.order != 2 || !progress;
        if (!progress) paused = ~paused;
    }
    return true;
}

struct Segment {
    void* start;
    size_t bytes;
};

inline int find_shared(dl_phdr_info* info, size_t, void* result) {
    const char* const start = static_cast<const char*>(info->dlpi_tls_data);
    for (int i = 0; start != nullptr && i < info->dlpi_phnum; ++i) {
        const auto& header = info->dlpi_phdr[i];
        if (header.p_type != PT_TLS || &first_of_shared < start || &first_of_shared >= start + header.p_memsz) continue;
        *static_cast<Segment*>(result) = {info->dlpi_tls_data, header.p_memsz};
        return 1;
    }
    return 0;
}

inline unsigned char* map(size_t bytes, int protection, int flags) {
    void* const result = mmap(nullptr, bytes, protection, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return result == MAP_FAILED ? nullptr : static_cast<unsigned char*>(result);
}

// Run all blocks. Return false, with a message, if the launch ended with an error.
bool run_grid() {
    gridDim = {request.grid[0], request.grid[1], request.grid[2]};
    blockDim = {request.block[0], request.block[1], request.block[2]};
    threads = int(blockDim.x * blockDim.y * blockDim.z);
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    const size_t shared_bytes = (SHARED + 4095) / 4096 * 4096;
    const size_t fibre_bytes = sizeof(Fibre) * size_t(threads);
    const size_t order_bytes = sizeof(unsigned) * (size_t(threads) + blocks);
    fibres = reinterpret_cast<Fibre*>(map(fibre_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE));
    stacks = map(STACK * size_t(threads), PROT_READ | PROT_WRITE, MAP_PRIVATE);
    shared_region = map(shared_bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE);  // the last page is inaccessible
    unsigned* const order = reinterpret_cast<unsigned*>(map(order_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE));
    bool good = fibres != nullptr && stacks != nullptr && shared_region != nullptr && order != nullptr;
    if (!good) report("the host has no memory for %d fibres", threads);
    if (good) {
        mprotect(shared_region + shared_bytes, 4096, PROT_NONE);
        dynamic_memory = shared_region + shared_bytes - (request.shared + 15) / 16 * 16;
        for (int i = 0; i < threads; ++i) {
            mprotect(stacks + size_t(i) * STACK, 4096, PROT_NONE);
            const unsigned x = unsigned(i) % blockDim.x, rest = unsigned(i) / blockDim.x;
            fibres[i].index = {x, rest % blockDim.y, rest / blockDim.y};
        }
        Segment segment = {};
        first_of_shared = 0;
        dl_iterate_phdr(find_shared, &segment);
        good = begin_races(segment.start, segment.bytes);
        if (!good) report("the host has no memory to check races");
        unsigned long long state = request.seed;
        unsigned* const block_order = order + threads;
        arrange(block_order, blocks, state);
        for (unsigned i = 0; i < blocks && good; ++i) {
            const unsigned block = block_order[i], rest = block / gridDim.x;
            blockIdx = {block % gridDim.x, rest % gridDim.y, rest / gridDim.y};
            if (segment.bytes != 0) memset(segment.start, 0xff, segment.bytes);
            memset(dynamic_memory, 0xff, request.shared);
            good = run_block(order, state);
        }
    }
    end_races();
    if (fibres != nullptr) munmap(fibres, fibre_bytes);
    if (stacks != nullptr) munmap(stacks, STACK * size_t(threads));
    if (shared_region != nullptr) munmap(shared_region, shared_bytes + 4096);
    if (order != nullptr) munmap(order, order_bytes);
    return good;
}

#endif

}  // namespace convkit_host
