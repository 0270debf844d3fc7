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
    unsigned bins[BINS];
    Key lowest[WARPS], highest[WARPS];
    unsigned sums[WARPS];
    unsigned bin, above, within;
};

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

// Find the highest bin at or above which there are `wanted` keys; above = ~0 if there are fewer. Ends with a barrier.
CONVKIT_INLINE void find_bin(Histogram& shared, unsigned wanted) {
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    constexpr int EACH = BINS / THREADS;
    unsigned sum = 0;
#pragma unroll
    for (int index = 0; index < EACH; ++index) sum += shared.bins[BINS - 1 - thread * EACH - index];
    unsigned until = sum;
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
        const unsigned before = __shfl_up_sync(ALL_LANES, until, offset);
        if (lane >= offset) until += before;
    }
    if (lane == 31) shared.sums[warp] = until;
    if (thread == 0) shared.above = ~0u;
    __syncthreads();
    for (int other = 0; other < warp; ++other) until += shared.sums[other];
    if (until >= wanted && until - sum < wanted) {
        unsigned above = until - sum;
        int bin = BINS - 1 - thread * EACH;
        while (above + shared.bins[bin] < wanted) above += shared.bins[bin--];
        shared.bin = bin;
        shared.above = above;
        shared.within = shared.bins[bin];
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
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS) shared.bins[bin] = 0;
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

// A bound as above, in most cases from one histogram over values, whose bins have equal width; then somewhat more than
// `enough` of the keys may reach it.
template <typename Stream>
CONVKIT_INLINE Key quick_bound(Histogram& shared, unsigned count, unsigned enough, Stream stream) {
    Key low = ~0ull, high = 0;
    stream([&](Key key) {
        if (key == 0) return;
        low = min(low, key);
        high = max(high, key);
    });
    block_range(shared, low, high);
    if (high == 0) return 0;
    const float bottom = value_of(static_cast<unsigned>(low >> 32));
    const float range = value_of(static_cast<unsigned>(high >> 32)) - bottom, scale = (BINS - 1) / range;
    if (range > 0.0f && range < 1e30f && scale < 1e30f) {
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS) shared.bins[bin] = 0;
        __syncthreads();
        stream([&](Key key) {
            if (key == 0) return;
            const float value = value_of(static_cast<unsigned>(key >> 32));
            atomicAdd(&shared.bins[min(BINS - 1, static_cast<int>((value - bottom) * scale))], 1u);
        });
        __syncthreads();
        find_bin(shared, count);
        if (shared.above == ~0u) return 0;
        // The edge below the bin's own is lower than all its values, however they were rounded.
        if (shared.above + shared.within <= enough)
            return max(low, static_cast<Key>(ascending(bottom + (static_cast<int>(shared.bin) - 1) / scale)) << 32);
        __syncthreads();
    }
    return lower_bound(shared, count, enough, stream);
}

#endif
