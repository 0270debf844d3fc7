// Reverses an array inside one block, through dynamic shared memory.
#include "convkit.cuh"

extern "C" __global__ void test_reverse(const float *input, float *output, int count) {
    extern __shared__ float staged[];
    for (int i = threadIdx.x; i < count; i += blockDim.x) staged[i] = input[i];
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) output[i] = staged[count - 1 - i];
}
