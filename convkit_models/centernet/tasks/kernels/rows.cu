// Rows that the graph chose to results in the image; one block an image.
//
// A row has x1, y1, x2, y2, the score, x and y of each joint in input pixels, and a class, which is copied if LABELS.
// Rows without a score above 0 are left out, the others keep their order. Constants: T, LABELS, THREADS.
#include "convkit.cuh"

#include "boxes.cuh"

constexpr int WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

extern "C" __global__ void __launch_bounds__(THREADS)
convkit_rows(const T* __restrict__ chosen, const double* __restrict__ output_to_image, float* __restrict__ rows,
             int* __restrict__ counts, int topk, int joints, float stride, long long image_step, int row_step,
             int column_step) {
    __shared__ int totals[WARPS];
    __shared__ int places[THREADS];
    const int image = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int points = joints + 2;  // two points are the corners of the box
    const int columns = 5 + 2 * joints + (LABELS ? 1 : 0);
    const T* first = chosen + image * image_step;
    const double* matrix = output_to_image + MATRIX * image;
    float* own_rows = rows + static_cast<size_t>(image) * topk * columns;
    int written = 0;
    for (int start = 0; start < topk; start += THREADS) {
        const int index = start + threadIdx.x;
        const float score = index < topk ? to_float(first[index * row_step + 4 * column_step]) : 0.0f;
        const unsigned scored = __ballot_sync(ALL_LANES, score > 0.0f);
        if (lane == 0) totals[warp] = __popc(scored);
        __syncthreads();
        int place = written + __popc(scored & ((1u << lane) - 1));
        for (int other = 0; other < WARPS; ++other) {
            place += other < warp ? totals[other] : 0;
            written += totals[other];
        }
        places[threadIdx.x] = score > 0.0f ? place : -1;
        if (score > 0.0f) {
            own_rows[place * columns + 4] = score;
            if (LABELS)
                own_rows[place * columns + columns - 1] =
                    truncf(to_float(first[index * row_step + (5 + 2 * joints) * column_step]));
        }
        __syncthreads();
        for (int task = threadIdx.x; task < THREADS * points; task += THREADS) {
            const int local = task / points, point = task - local * points, target = places[local];
            if (target < 0) continue;
            const int column = 2 * point + (point >= 2 ? 1 : 0);  // the score lies between
            const T* values = first + (start + local) * row_step + column * column_step;
            const float x = __fdiv_rn(to_float(values[0]), stride);
            const float y = __fdiv_rn(to_float(values[column_step]), stride);
            own_rows[target * columns + column] = to_image(matrix, x, y);
            own_rows[target * columns + column + 1] = to_image(matrix + 3, x, y);
        }
        __syncthreads();
    }
    for (int index = written * columns + threadIdx.x; index < topk * columns; index += THREADS) own_rows[index] = 0.0f;
    if (threadIdx.x == 0) counts[image] = written;
}
