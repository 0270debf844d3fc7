// The decoding of tensorRT_Pro for CenterNet's heads or packed rows, with a fixed order, in one launch.
//
// A cell is an object if the logit of any class is a peak and reaches `threshold`. Its class is the one with the
// highest such peak, but class 0 with its own logit where that is no lower, peak or not. Of boxes of one class that
// overlap by more than `overlap` (intersection over union, of boxes in the image) all but the first are dropped, even
// if the box that overlaps them is dropped itself. The order is that of convkit_ctdet; at most the CAPACITY best cells
// take part. `scratch` starts with two tickets per image, which are 0 before and after a launch.
//
// Constants: T; LAYOUT as in ctdet.cu; VECTOR, which is 1; THREADS; CAPACITY.
#include "convkit.cuh"

#include "../../kernels/bound.cuh"
#include "../../kernels/boxes.cuh"
#include "../../kernels/map.cuh"
#include "../../kernels/order.cuh"

constexpr int LANES = LAYOUT == PLANES ? 1 : 32;  // threads per cell: neighbours read adjacent values
constexpr int BATCH = 8;                          // loads of a thread in flight

static_assert(CAPACITY % 32 == 0, "whole words of flags");

// The highest peak of a cell that reaches the threshold, as value and ~class; 0 if there is none. Equal in all lanes
// of a cell.
CONVKIT_INLINE Key best_peak(const Map& map, int cell, float threshold) {
    Key best = 0;
    if (cell < map.cells()) {
        for (int start = threadIdx.x % LANES; start < map.classes; start += BATCH * LANES) {
            float values[BATCH];
#pragma unroll
            for (int load = 0; load < BATCH; ++load) {
                const int label = start + load * LANES;
                values[load] = label < map.classes ? map.value(label, cell) : LOWEST;
            }
#pragma unroll 1
            for (int load = 0; load < BATCH; ++load) {
                const int label = start + load * LANES;
                const Key key = make_key(values[load], label);
                if (label >= map.classes || !(values[load] >= threshold) || key <= best) continue;
                if (map.is_peak(values[load], label, cell)) best = key;
            }
        }
    }
    for (int offset = LANES >> 1; offset > 0; offset >>= 1) best = max(best, __shfl_xor_sync(ALL_LANES, best, offset));
    return best;
}

// Intersection over union, without fused operations.
CONVKIT_INLINE float overlap_of(float4 a, float4 b) {
    const float width = __fadd_rn(fminf(a.z, b.z), -fmaxf(a.x, b.x));
    const float height = __fadd_rn(fminf(a.w, b.w), -fmaxf(a.y, b.y));
    const float both = __fmul_rn(fmaxf(width, 0.0f), fmaxf(height, 0.0f));
    const float first = __fmul_rn(__fadd_rn(a.z, -a.x), __fadd_rn(a.w, -a.y));
    const float second = __fmul_rn(__fadd_rn(b.z, -b.x), __fadd_rn(b.w, -b.y));
    return __fdiv_rn(both, __fadd_rn(__fadd_rn(first, second), -both));
}

extern "C" __global__ void __launch_bounds__(THREADS)
convkit_ctdet_pro(const T* __restrict__ hm, const T* __restrict__ wh, const T* __restrict__ reg,
                  const double* __restrict__ output_to_image, float* __restrict__ rows, int* __restrict__ counts,
                  unsigned long long* scratch, int classes, int height, int width, unsigned cells_magic,
                  int cells_shift, unsigned width_magic, int width_shift, unsigned vectors_magic, int vectors_shift,
                  int topk, float threshold, float overlap, long long hm_image, int hm_cell, long long wh_image,
                  int wh_axis, int wh_cell, int wh_class, long long reg_image, int reg_axis, int reg_cell) {
    __shared__ Histogram histogram;
    __shared__ Key keys[CAPACITY], spare[CAPACITY];
    __shared__ float4 boxes[CAPACITY];
    __shared__ int labels[CAPACITY];
    __shared__ unsigned marks[2];
    __shared__ int totals[WARPS];

    const int image = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const Map map = map_of(hm + image * hm_image, classes, height, width, hm_cell, {cells_magic, cells_shift},
                           {width_magic, width_shift}, {vectors_magic, vectors_shift});
    unsigned long long* tickets = scratch + 2 * image;  // blocks that ended, and cells that were found
    Key* found = scratch + 2 * gridDim.y + static_cast<size_t>(image) * map.cells();

    const int own = (blockIdx.x * THREADS + threadIdx.x) / LANES;
    const Key peak = best_peak(map, own, threshold);
    if (peak != 0 && threadIdx.x % LANES == 0) {
        float value = value_of(static_cast<unsigned>(peak >> 32));
        unsigned label = 0xffffffffu - static_cast<unsigned>(peak);
        const float first = map.value(0, own);
        if (first >= value) {
            value = first;
            label = 0;
        }
        found[atomicAdd(tickets + 1, 1ull)] = make_key(value, label * map.cells() + own);
    }

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        marks[0] = atomicAdd(tickets, 1ull) == gridDim.x - 1;
        marks[1] = 0;
    }
    __syncthreads();
    if (!marks[0]) return;
    __threadfence();
    const int many = static_cast<int>(tickets[1]);
    Key bound = 0;
    if (many > CAPACITY)
        bound = lower_bound(histogram, CAPACITY, CAPACITY, [&](auto take) {
            for (int index = threadIdx.x; index < many; index += THREADS) take(found[index]);
        });
    for (int index = threadIdx.x; index < many; index += THREADS)
        if (found[index] >= bound) keys[atomicAdd(&marks[1], 1u)] = found[index];
    __syncthreads();
    if (threadIdx.x == 0) tickets[0] = tickets[1] = 0;

    const int count = marks[1];
    const Key* best = sorted_keys(keys, spare, count);
    const double* matrix = output_to_image + MATRIX * image;
    const Heads heads = {wh + image * wh_image + (LAYOUT == PACKED ? 2 : 0), reg ? reg + image * reg_image : nullptr,
                         LAYOUT == PACKED ? static_cast<int>(matrix[6]) : width, map.by_width,
                         wh_axis, wh_cell, wh_class, reg_axis, reg_cell};
    for (int index = threadIdx.x; index < count; index += THREADS) {
        const unsigned rank = 0xffffffffu - static_cast<unsigned>(best[index]);
        const int label = map.by_cells.of(rank), cell = rank - label * map.cells();
        boxes[index] = to_image(matrix, heads.corners(heads.read(label, cell), cell));
        labels[index] = label;
    }
    __syncthreads();

    float* own_rows = rows + static_cast<size_t>(image) * topk * 6;
    int written = 0;
    for (int start = 0; start < count; start += THREADS) {
        const int index = start + threadIdx.x;
        bool kept = index < count;
        for (int other = 0; kept && other < index; ++other)
            kept = labels[other] != labels[index] || !(overlap_of(boxes[other], boxes[index]) > overlap);
        const unsigned mask = __ballot_sync(ALL_LANES, kept);
        if (lane == 0) totals[warp] = __popc(mask);
        __syncthreads();
        int place = written + __popc(mask & ((1u << lane) - 1));
        for (int other = 0; other < WARPS; ++other) {
            place += other < warp ? totals[other] : 0;
            written += totals[other];
        }
        __syncthreads();
        if (kept && place < topk)
            write_row(own_rows + place * 6, boxes[index], sigmoid(value_of(static_cast<unsigned>(best[index] >> 32))),
                      static_cast<float>(labels[index]));
    }
    for (int index = written + threadIdx.x; index < topk; index += THREADS) clear_row(own_rows + index * 6);
    if (threadIdx.x == 0) counts[image] = min(written, topk);
}
