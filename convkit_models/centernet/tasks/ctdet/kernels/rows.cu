// Decoded rows of x1, y1, x2, y2 in input pixels, score and class to boxes in the image; one block an image.
//
// Rows without a score above 0 are left out, the others keep their order. Constants: T, THREADS.
#include "convkit.cuh"

#include "boxes.cuh"

constexpr int WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

extern "C" __global__ void __launch_bounds__(THREADS)
convkit_ctdet_rows(const T* __restrict__ detections, const double* __restrict__ output_to_image,
                   float* __restrict__ rows, int* __restrict__ counts, int topk, float stride, long long image_step,
                   int row_step, int column_step) {
    __shared__ int totals[WARPS];
    const int image = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const T* first = detections + image * image_step;
    const double* matrix = output_to_image + MATRIX * image;
    float* own_rows = rows + static_cast<size_t>(image) * topk * 6;
    int written = 0;
    for (int start = 0; start < topk; start += THREADS) {
        const int index = start + threadIdx.x;
        const T* row = first + index * row_step;
        const float score = index < topk ? to_float(row[4 * column_step]) : 0.0f;
        const unsigned scored = __ballot_sync(ALL_LANES, score > 0.0f);
        if (lane == 0) totals[warp] = __popc(scored);
        __syncthreads();
        int place = written + __popc(scored & ((1u << lane) - 1));
        for (int other = 0; other < WARPS; ++other) {
            place += other < warp ? totals[other] : 0;
            written += totals[other];
        }
        __syncthreads();
        if (score > 0.0f) {
            const float4 corners = make_float4(__fdiv_rn(to_float(row[0]), stride),
                                               __fdiv_rn(to_float(row[column_step]), stride),
                                               __fdiv_rn(to_float(row[2 * column_step]), stride),
                                               __fdiv_rn(to_float(row[3 * column_step]), stride));
            write_row(own_rows + place * 6, to_image(matrix, corners), score, truncf(to_float(row[5 * column_step])));
        }
    }
    for (int index = written + threadIdx.x; index < topk; index += THREADS) clear_row(own_rows + index * 6);
    if (threadIdx.x == 0) counts[image] = written;
}
