// A lower bound of the K-th largest of many 64-bit keys, found by a block with histograms over ever smaller ranges.
//
// Keys order peaks: the value's bits made ascending, then the complement of the rank. No two peaks have the same key,
// and 0 is the key of nothing. Constants used: THREADS.
#ifndef CENTERNET_BOUND_CUH
#define CENTERNET_BOUND_CUH

#include "convkit.cuh"

typedef unsigned long long Key;

constexpr int BINS = 2048;
constexpr int WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct Histogram {
    __align__(16) unsigned bins[BINS];
    Key lowest[WARPS], highest[WARPS];
    unsigned low[WARPS], high[WARPS], sums[WARPS];
    unsigned bin, above, within;
};

#if CONVKIT_DEVICE
#define COLD __device__ __noinline__  // what hardly ever runs stays out of the way of what always does
#else
#define COLD inline
#endif

#if CONVKIT_DEVICE && CONVKIT_ARCH >= 800
#define WARP_REDUCE(name, operation, combined)                                                             \
    CONVKIT_INLINE unsigned name(unsigned value) {                                                         \
        unsigned result;                                                                                   \
        asm volatile("redux.sync." operation ".u32 %0, %1, 0xffffffff;" : "=r"(result) : "r"(value));      \
        return result;                                                                                     \
    }
#else
#define WARP_REDUCE(name, operation, combined)                                          \
    CONVKIT_INLINE unsigned name(unsigned value) {                                      \
        for (int offset = 16; offset > 0; offset >>= 1) {                               \
            const unsigned other = __shfl_xor_sync(ALL_LANES, value, offset);           \
            value = combined;                                                           \
        }                                                                               \
        return value;                                                                   \
    }
#endif

// The sum, lowest and highest of a warp's values, for every lane.
WARP_REDUCE(warp_sum, "add", value + other)
WARP_REDUCE(warp_min, "min", min(value, other))
WARP_REDUCE(warp_max, "max", max(value, other))

// Bits of a value that ascend with it; zeros of either sign are equal, and NaN gives 0, below all others.
CONVKIT_INLINE unsigned ascending(float value) {
    const unsigned bits = __float_as_uint(value + 0.0f);
    return value == value ? bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u) : 0u;
}

// The value of bits that ascend.
CONVKIT_INLINE float value_of(unsigned bits) {
    return __uint_as_float(bits >> 31 ? bits ^ 0x80000000u : ~bits);
}

CONVKIT_INLINE Key make_key(float value, unsigned rank) {
    return static_cast<Key>(ascending(value)) << 32 | (0xffffffffu - rank);
}

// Lowest and highest of all threads' values, for every thread; begins and ends with a barrier.
CONVKIT_INLINE void block_range(Histogram& shared, Key& lowest, Key& highest) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        lowest = min(lowest, __shfl_xor_sync(ALL_LANES, lowest, offset));
        highest = max(highest, __shfl_xor_sync(ALL_LANES, highest, offset));
    }
    __syncthreads();
    if (lane == 0) {
        shared.lowest[warp] = lowest;
        shared.highest[warp] = highest;
    }
    __syncthreads();
    for (int other = 0; other < WARPS; ++other) {
        lowest = min(lowest, shared.lowest[other]);
        highest = max(highest, shared.highest[other]);
    }
}

// Lowest and highest of all threads' values, for every thread; has one barrier.
CONVKIT_INLINE void block_range(Histogram& shared, unsigned& low, unsigned& high) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    low = warp_min(low);
    high = warp_max(high);
    if (lane == 0) {
        shared.low[warp] = low;
        shared.high[warp] = high;
    }
    __syncthreads();
    low = warp_min(lane < WARPS ? shared.low[lane] : ~0u);
    high = warp_max(lane < WARPS ? shared.high[lane] : 0u);
}

CONVKIT_INLINE void clear_bins(Histogram& shared) {
    uint4* bins = reinterpret_cast<uint4*>(shared.bins);
#pragma unroll
    for (int bin = 0; bin < BINS / 4; bin += THREADS)
        if (THREADS <= BINS / 4 || threadIdx.x < BINS / 4) bins[bin + threadIdx.x] = make_uint4(0, 0, 0, 0);
}

// Find the highest bin at or above which there are `wanted` keys; above = ~0 if there are fewer. Ends with a barrier.
CONVKIT_INLINE void find_bin(Histogram& shared, unsigned wanted) {
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    constexpr int EACH = BINS / THREADS;
    const int first = BINS - EACH - thread * EACH;
    unsigned counts[EACH], sum = 0;
#pragma unroll
    for (int index = 0; index < EACH; ++index) sum += counts[index] = shared.bins[first + index];
    unsigned until = sum;
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
        const unsigned before = __shfl_up_sync(ALL_LANES, until, offset);
        if (lane >= offset) until += before;
    }
    if (lane == 31) shared.sums[warp] = until;
    if (thread == 0) shared.above = ~0u;
    __syncthreads();
    until += warp_sum(lane < warp ? shared.sums[lane] : 0u);
    unsigned above = until - sum;
    if (until >= wanted && above < wanted) {
        int found = -1;
#pragma unroll
        for (int index = EACH - 1; index >= 0; --index) {
            if (found < 0 && above + counts[index] >= wanted) {
                found = first + index;
                shared.within = counts[index];
            }
            if (found < 0) above += counts[index];
        }
        shared.bin = found;
        shared.above = above;
    }
    __syncthreads();
}

// A bound that at least `count` of the keys reach, and no more than `enough` of them, where enough >= count; 0 if there
// are fewer keys than `count`. stream(take) calls take(key) for every key, the same ones each time, in any thread and
// order; keys of 0 do not count.
template <typename Stream>
CONVKIT_INLINE Key lower_bound(Histogram& shared, unsigned count, unsigned enough, Stream stream) {
    Key low = ~0ull, high = 0;
    stream([&](Key key) {
        if (key == 0) return;
        low = min(low, key);
        high = max(high, key);
    });
    block_range(shared, low, high);
    if (high == 0) return 0;
    unsigned above = 0;
    while (true) {
        const int bits = 64 - __clzll(static_cast<long long>(high - low)), shift = max(0, bits - 11);
        clear_bins(shared);
        __syncthreads();
        stream([&](Key key) {
            if (key >= low && key <= high && key != 0) atomicAdd(&shared.bins[(key - low) >> shift], 1u);
        });
        __syncthreads();
        find_bin(shared, count - above);
        if (shared.above == ~0u) return 0;
        low += static_cast<Key>(shared.bin) << shift;
        const unsigned reached = above + shared.above + shared.within;
        if (reached <= enough || shift == 0) return low;
        above += shared.above;
        high = min(high, low + ((1ull << shift) - 1));
    }
}

// A bound as above from one histogram over values, whose bins have equal width; somewhat more than `enough` of the keys
// may reach it. False if there is none. The bins must be clear, and the lower half of a key that counts is not 0.
template <typename Stream>
CONVKIT_INLINE bool quick_bound(Histogram& shared, unsigned count, unsigned enough, Stream stream, Key& bound) {
    unsigned low = ~0u, high = 0;
    stream([&](Key key) {
        if (static_cast<unsigned>(key) == 0) return;
        low = min(low, static_cast<unsigned>(key >> 32));
        high = max(high, static_cast<unsigned>(key >> 32));
    });
    block_range(shared, low, high);
    bound = 0;
    if (high == 0) return true;
    const float bottom = value_of(low), range = value_of(high) - bottom, scale = __fdividef(BINS - 1.0f, range);
    if (!(range > 0.0f && range < 1e30f && scale < 1e30f)) return false;
    stream([&](Key key) {
        if (static_cast<unsigned>(key) == 0) return;
        const float value = value_of(static_cast<unsigned>(key >> 32));
        atomicAdd(&shared.bins[min(BINS - 1, static_cast<int>((value - bottom) * scale))], 1u);
    });
    __syncthreads();
    find_bin(shared, count);
    if (shared.above == ~0u) return true;
    // The edge below the bin's own is lower than all its values, however they were rounded.
    const float edge = bottom + __fdividef(static_cast<int>(shared.bin) - 1.0f, scale);
    bound = static_cast<Key>(max(low, ascending(edge))) << 32;
    return shared.above + shared.within <= enough;
}

#endif
