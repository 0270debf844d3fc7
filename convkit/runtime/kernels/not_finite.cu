// Which items of an output have values that are no numbers: flags[item * stride + block] is 1 where the block found NaN,
// plus 2 where it found infinity, and 0 where it found neither. Every block writes its flag, so nothing is cleared first.
//
// An item is `size` values one behind the other, in whatever order its axes lie. Constants: T; THREADS.
#include "convkit.cuh"

extern "C" __global__ void convkit_not_finite(const T *values, int *flags, long long size, int stride) {
    const T *item = values + blockIdx.y * size;
    const long long step = static_cast<long long>(gridDim.x) * THREADS;
    int nan = 0, infinite = 0;
    for (long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; index < size; index += step) {
        const unsigned bits = __float_as_uint(to_float(item[index])) & 0x7fffffffu;
        nan |= bits > 0x7f800000u;
        infinite |= bits == 0x7f800000u;
    }
    nan = __syncthreads_or(nan);
    infinite = __syncthreads_or(infinite);
    if (threadIdx.x == 0) flags[blockIdx.y * stride + blockIdx.x] = (nan ? 1 : 0) + (infinite ? 2 : 0);
}
