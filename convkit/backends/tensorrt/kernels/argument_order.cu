// Writes back what it was given, so that the order of its arguments is seen in the outputs.
#include "convkit.cuh"

extern "C" __global__ void convkit_argument_order(
    const float *first, const float *second, int seven, int count, int triple, float *numbers, float *copy
) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int scalars[3] = {seven, count, triple};
    numbers[i] = i < 3 ? (float)scalars[i] : first[i];
    copy[i] = second[i];
}
