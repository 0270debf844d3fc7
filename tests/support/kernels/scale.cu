// output = pixels * factor, four values a thread; a small kernel for the tests of the layer.
#include "convkit.cuh"
#include "tail.cuh"

extern "C" __global__ void test_scale(const unsigned char *pixels, T *output, int count, float factor, long long offset) {
    __shared__ float staged[THREADS * 4];
    const long long first = 4ll * (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (inside(first + k, count)) staged[threadIdx.x * 4 + k] = to_float(pixels[offset + first + k]) * factor;
    }
    __syncthreads();
    for (int k = 0; k < 4; ++k) {
        if (inside(first + k, count)) output[first + k] = from_float<T>(staged[threadIdx.x * 4 + k]);
    }
}
