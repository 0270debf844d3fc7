// Keys into descending order, by all threads of a block. Constants used: THREADS.
#ifndef CENTERNET_ORDER_CUH
#define CENTERNET_ORDER_CUH

#include "bound.cuh"

// Sort keys in descending order, those of `count` and zeros behind them up to a power of two; by all threads.
COLD void sort(Key* keys, int count) {
    const int size = count > 1 ? 1 << (32 - __clz(count - 1)) : 1;
    for (int index = count + threadIdx.x; index < size; index += THREADS) keys[index] = 0;
    __syncthreads();
    for (int run = 2; run <= size; run <<= 1) {
        for (int step = run >> 1; step > 0; step >>= 1) {
            for (int pair = threadIdx.x; pair < size >> 1; pair += THREADS) {
                const int left = (pair / step) * 2 * step + pair % step;
                const Key a = keys[left], b = keys[left + step];
                if ((a < b) == ((left & run) == 0)) {
                    keys[left] = b;
                    keys[left + step] = a;
                }
            }
            __syncthreads();
        }
    }
}

// Copy keys to where they stand in descending order; for few of them faster than `sort`.
CONVKIT_INLINE void order(const Key* keys, Key* sorted, int count) {
    for (int index = threadIdx.x; index < count; index += THREADS) {
        const Key own = keys[index];
        int place = 0;
#pragma unroll 8
        for (int other = 0; other < count; ++other) place += keys[other] > own;
        sorted[place] = own;
    }
}

// Sort distinct keys; `spare` has room for as many, and the result lies in the one that is returned. Ends with a
// barrier.
CONVKIT_INLINE const Key* sorted_keys(Key* keys, Key* spare, int count) {
    if (count > 512) {
        sort(keys, count);
        return keys;
    }
    order(keys, spare, count);
    __syncthreads();
    return spare;
}

#endif
