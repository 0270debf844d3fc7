// A convolution of 1 x 1 with a few filters in channels-last memory: what the size and the offset of objects end in.
//
// Eight lanes read a pixel, each pieces of eight channels, so that the input is read once and at full speed; a library's
// matrix product would pad the filters to at least 8. x [pixels, CHANNELS] has `pitch` values between pixels, a multiple
// of 8; out [pixels, FILTERS] is dense. Sums are float.
#include "convkit.cuh"

static_assert(CHANNELS % 8 == 0 && FILTERS <= 8, "no such layer");

extern "C" __global__ void __launch_bounds__(256)
    convkit_few_filters(const T* x, const T* weight, const T* bias, T* out, long long pixels, int pitch) {
    __shared__ float weights[FILTERS][CHANNELS];
    const int thread = threadIdx.x, lane = thread % 8;
    for (int i = thread; i < FILTERS * CHANNELS; i += 256) weights[i / CHANNELS][i % CHANNELS] = to_float(weight[i]);
    __syncthreads();
    // every lane of a warp takes part in the sums, whether its pixel exists or not
    for (long long first = blockIdx.x * 32ll; first < pixels; first += gridDim.x * 32ll) {
        const long long pixel = first + thread / 8;
        float sums[FILTERS];
#pragma unroll
        for (int f = 0; f < FILTERS; ++f) sums[f] = 0.f;
        if (pixel < pixels)
#pragma unroll
            for (int piece = lane; piece < CHANNELS / 8; piece += 8) {
                const uint4 words = *(const uint4*)(x + pixel * pitch + piece * 8);
                const unsigned pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float2 value = unpack2<T>(pairs[i]);
#pragma unroll
                    for (int f = 0; f < FILTERS; ++f)
                        sums[f] += value.x * weights[f][piece * 8 + 2 * i] + value.y * weights[f][piece * 8 + 2 * i + 1];
                }
            }
#pragma unroll
        for (int f = 0; f < FILTERS; ++f)
#pragma unroll
            for (int distance = 4; distance > 0; distance /= 2)
                sums[f] += __shfl_xor_sync(0xffffffffu, sums[f], distance);
        if (pixel < pixels && lane < FILTERS) {
            float mine = sums[0];
#pragma unroll
            for (int f = 1; f < FILTERS; ++f) mine = lane == f ? sums[f] : mine;
            out[pixel * FILTERS + lane] = from_float<T>(mine + to_float(bias[lane]));
        }
    }
}
