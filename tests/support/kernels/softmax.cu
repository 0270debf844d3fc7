// probabilities[item][class] of logits[item][class]; a thread an item, for the tests of device sides.
#include "convkit.cuh"

extern "C" __global__ void test_softmax(const float *logits, const float *offsets, float *probabilities, int items,
                                        int classes) {
    const int item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= items) return;
    float largest = logits[item * classes], total = 0.0f;
    for (int i = 1; i < classes; ++i) largest = fmaxf(largest, logits[item * classes + i]);
    for (int i = 0; i < classes; ++i) total += expf(logits[item * classes + i] - largest);
    for (int i = 0; i < classes; ++i) {
        probabilities[item * classes + i] = expf(logits[item * classes + i] - largest) / total + offsets[item];
    }
}
