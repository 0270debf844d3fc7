// Which items of an output have values that are no numbers: flags[item * stride + block] is 1 where the block found NaN,
// plus 2 where it found infinity, and 0 where it found neither. Every block writes its flag, so nothing is cleared first.
//
// An item is `size` values one behind the other, in whatever order its axes lie. Constants: T; THREADS.
#include "convkit.cuh"

// The bits of a value without its sign: above those of infinity is NaN.
CONVKIT_INLINE unsigned magnitude(unsigned word, int half) {
    return sizeof(T) == 4 ? word & 0x7fffffffu : (word >> (16 * half)) & 0x7fffu;
}

CONVKIT_INLINE unsigned magnitude(const T *value) {
    if (sizeof(T) == 4) return magnitude(*reinterpret_cast<const unsigned *>(value), 0);
    return magnitude(*reinterpret_cast<const unsigned short *>(value), 0);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    convkit_not_finite(const T *values, int *flags, long long size, int stride) {
    const T endless = from_float<T>(__uint_as_float(0x7f800000u));
    const unsigned infinity = magnitude(&endless);
    int nan = 0, infinite = 0;
    const T *item = values + blockIdx.y * size;
    const long long step = static_cast<long long>(gridDim.x) * THREADS;
    const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;

    // Whole vectors of 16 bytes, and the few values before and behind them.
    constexpr int LENGTH = 16 / sizeof(T);
    const long long skew = (reinterpret_cast<unsigned long long>(item) & 15u) / sizeof(T);
    const long long before = skew ? min(LENGTH - skew, size) : 0, vectors = (size - before) / LENGTH;
    const uint4 *vector = reinterpret_cast<const uint4 *>(item + before);
#pragma unroll 4
    for (long long index = thread; index < vectors; index += step) {
        const uint4 four = __ldg(vector + index);
        const unsigned words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int place = 0; place < LENGTH; ++place) {
            const unsigned bits = magnitude(words[place * sizeof(T) / 4], place & 1);
            nan |= bits > infinity;
            infinite |= bits == infinity;
        }
    }
    const long long rest = size - vectors * LENGTH;
    if (thread < rest) {
        const unsigned bits = magnitude(item + (thread < before ? thread : thread + vectors * LENGTH));
        nan |= bits > infinity;
        infinite |= bits == infinity;
    }
    nan = __syncthreads_or(nan);
    infinite = __syncthreads_or(infinite);
    if (threadIdx.x == 0) flags[blockIdx.y * stride + blockIdx.x] = (nan ? 1 : 0) + (infinite ? 2 : 0);
}
