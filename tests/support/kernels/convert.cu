// Conversions of every kind: bits to float, float to bits, and two at a time through one word.
#include "convkit.cuh"

extern "C" __global__ void test_convert(const float *values, unsigned short *bits, float *back, unsigned *pairs, float *halves,
                                        int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const T value = from_float<T>(values[i]);
    bits[i] = value.bits;
    back[i] = to_float(value);
    if (i % 2 == 0) {
        const float next = i + 1 < count ? values[i + 1] : 0.f;
        pairs[i / 2] = pack2<T>(values[i], next);
        const float2 two = unpack2<T>(pairs[i / 2]);
        halves[i] = two.x;
        if (i + 1 < count) halves[i + 1] = two.y;
    }
}
