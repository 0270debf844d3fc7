// Add a bias to each channel of a tensor in channels-last memory, in place, and apply a ReLU where RELU says so.
//
// x [pixels, CHANNELS] is dense; eight values at a time are read and written. NaN stays NaN.
#include "convkit.cuh"

constexpr int PIECES = CHANNELS / 8;
static_assert(CHANNELS % 8 == 0, "a piece has eight channels");

CONVKIT_INLINE unsigned biased(unsigned pair, unsigned bias) {
    const float2 value = unpack2<T>(pair), added = unpack2<T>(bias);
    const float first = value.x + added.x, second = value.y + added.y;
    return pack2<T>(RELU && first < 0.f ? 0.f : first, RELU && second < 0.f ? 0.f : second);
}

extern "C" __global__ void __launch_bounds__(256) convkit_bias(T* x, const T* bias, long long pieces) {
    const long long stride = (long long)gridDim.x * 256;
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < pieces; i += stride) {
        uint4 value = ((const uint4*)x)[i];
        const uint4 added = ((const uint4*)bias)[i % PIECES];
        value.x = biased(value.x, added.x), value.y = biased(value.y, added.y);
        value.z = biased(value.z, added.z), value.w = biased(value.w, added.w);
        ((uint4*)x)[i] = value;
    }
}
