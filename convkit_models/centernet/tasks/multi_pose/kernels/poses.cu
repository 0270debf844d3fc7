// People whom convkit_ctdet found, with their joints, in the image. A block does one joint of one image.
//
// The joint's candidates are the K best peaks of its heat map whose logit is at least `least`. For each person the
// nearest one to the place that `hps` gives is taken, if it lies in the person's box and within 0.3 of the box's longer
// side of that place; among equally near ones the better one counts. Where there are fewer candidates than K, the
// original has one more at (FAR, FAR) that is never taken: a place that is nearer to that one than to any other stays.
//
// A row of `people` has the corners of the box in cells, the score, and the bits of the cell's number; image i has
// counts[i] of them. Rows of the result have the box's corners, the score, and x and y of each joint; those beyond the
// count are 0. All operations are those of the host's decode, so that results are equal to the bit.
//
// Constants: T; LAYOUT 0 where the cells of a heat map are adjacent, 1 where they are `heat_cell` apart; VECTOR, the
// values of one load, 1 in the second case; THREADS; CAPACITY >= K, 1024 or 2048.
#include "convkit.cuh"

#include "../../kernels/bound.cuh"
#include "../../kernels/boxes.cuh"
#include "../../kernels/map.cuh"

constexpr int IN_FLIGHT = VECTOR == 1 ? 8 : 4;  // loads of a thread in flight
constexpr int HELD = CAPACITY / THREADS;        // keys of a thread
constexpr int PERSON = 6;                       // values of a row of `people`
constexpr float FAR = -10000.0f, REACH = 0.3f;

static_assert(CAPACITY % THREADS == 0, "the same number of keys for each thread");
static_assert(LAYOUT == PLANES || VECTOR == 1, "values of one joint are adjacent in planes only");

// Call take(key) for the peaks of a map of one plane that reach a logit and a bound, by all threads.
template <typename Take>
CONVKIT_INLINE void scan(const Map& map, float least, Key bound, Take take) {
#pragma unroll 1
    for (int start = threadIdx.x; start < map.units; start += IN_FLIGHT * THREADS) {
        Piece pieces[IN_FLIGHT];
#pragma unroll
        for (int load = 0; load < IN_FLIGHT; ++load)
            if (start + load * THREADS < map.units) pieces[load] = map.load(start + load * THREADS);
        unsigned hits = 0;
#pragma unroll
        for (int load = 0; load < IN_FLIGHT; ++load)
#pragma unroll
            for (int index = 0; index < VECTOR; ++index)
                if (start + load * THREADS < map.units && to_float(pieces[load].values[index]) >= least)
                    hits |= 1u << (load * VECTOR + index);
#pragma unroll 1
        for (; hits != 0; hits &= hits - 1) {
            const int hit = __ffs(hits) - 1, cell = (start + hit / VECTOR * THREADS) * VECTOR + hit % VECTOR;
            const float value = map.value(0, cell);
            const Key key = make_key(value, cell);
            if (key >= bound && map.is_peak(value, 0, cell)) take(key);
        }
    }
}

// A bound that exactly `count` peaks reach, where more than `count` do.
COLD Key bound_of_peaks(Histogram& shared, Map map, float least, unsigned count) {
    return lower_bound(shared, count, count, [&](auto take) { scan(map, least, 0, take); });
}

COLD Key bound_of_keys(Histogram& shared, const Key* keys, int found, unsigned count) {
    return lower_bound(shared, count, count, [&](auto take) {
        for (int index = threadIdx.x; index < found; index += THREADS) take(keys[index]);
    });
}

// A squared distance as it is compared: NaN is nearer than anything, as NumPy's argmin has it.
CONVKIT_INLINE float comparable(float square) { return square == square ? square : -1.0f; }

CONVKIT_INLINE float squared(float2 a, float2 b) {
    const float x = __fadd_rn(a.x, -b.x), y = __fadd_rn(a.y, -b.y);
    return __fadd_rn(__fmul_rn(x, x), __fmul_rn(y, y));
}

extern "C" __global__ void __launch_bounds__(THREADS)
convkit_poses(const T* __restrict__ hps, const T* __restrict__ hm_hp, const T* __restrict__ hp_offset,
              const float* __restrict__ people, const int* __restrict__ counts,
              const double* __restrict__ output_to_image, float* __restrict__ rows, int height, int width,
              unsigned width_magic, int width_shift, int topk, float least, long long heat_image, int heat_joint,
              int heat_cell, long long hps_image, int hps_axis, int hps_cell, long long offset_image, int offset_axis,
              int offset_cell) {
    __shared__ Histogram histogram;
    __shared__ Key keys[CAPACITY];
    __shared__ float2 places[CAPACITY];
    __shared__ unsigned marks[2];

    const int joint = blockIdx.x, image = blockIdx.y, columns = 5 + 2 * gridDim.x;
    const Divider by_width = {width_magic, width_shift};
    if (threadIdx.x < 2) marks[threadIdx.x] = 0;
    __syncthreads();

    int candidates = 0;
    if (hm_hp) {
        const Map map = map_of(hm_hp + image * heat_image + static_cast<long long>(joint) * heat_joint, 1, height,
                               width, heat_cell, {0, 0}, by_width, {1u << 31, 31});
        scan(map, least, 0, [&](Key key) {
            const unsigned place = atomicAdd(&marks[0], 1u);
            if (place < CAPACITY) keys[place] = key;
        });
        __syncthreads();
        candidates = marks[0];
        if (candidates > CAPACITY) {
            const Key bound = bound_of_peaks(histogram, map, least, topk);
            __syncthreads();
            scan(map, least, bound, [&](Key key) { keys[atomicAdd(&marks[1], 1u)] = key; });
            candidates = topk;
        } else if (candidates > topk) {
            const Key bound = bound_of_keys(histogram, keys, candidates, topk);
            Key held[HELD];
#pragma unroll
            for (int slot = 0; slot < HELD; ++slot) {
                const int index = slot * THREADS + threadIdx.x;
                held[slot] = index < candidates ? keys[index] : 0;
            }
            __syncthreads();
#pragma unroll
            for (int slot = 0; slot < HELD; ++slot)
                if (held[slot] != 0 && held[slot] >= bound) keys[atomicAdd(&marks[1], 1u)] = held[slot];
            candidates = topk;
        }
        __syncthreads();
        for (int index = threadIdx.x; index < candidates; index += THREADS) {
            const int cell = 0xffffffffu - static_cast<unsigned>(keys[index]), row = by_width.of(cell);
            const T* offset = hp_offset + image * offset_image + cell * offset_cell;
            const float right = hp_offset ? to_float(offset[0]) : 0.5f;
            const float down = hp_offset ? to_float(offset[offset_axis]) : 0.5f;
            places[index] = make_float2(__fadd_rn(static_cast<float>(cell - row * width), right),
                                        __fadd_rn(static_cast<float>(row), down));
        }
        __syncthreads();
    }

    const double* matrix = output_to_image + MATRIX * image;
    const int count = counts[image];
    for (int index = threadIdx.x; index < topk; index += THREADS) {
        float* row = rows + (static_cast<size_t>(image) * topk + index) * columns;
        float* own = row + 5 + 2 * joint;
        if (index >= count) {
            own[0] = own[1] = 0.0f;
            if (joint == 0)
                for (int column = 0; column < 5; ++column) row[column] = 0.0f;
            continue;
        }
        const float* person = people + (static_cast<size_t>(image) * topk + index) * PERSON;
        const float4 box = make_float4(person[0], person[1], person[2], person[3]);
        const int cell = __float_as_int(person[5]), line = by_width.of(cell);
        const T* vector = hps + image * hps_image + 2 * joint * hps_axis + cell * hps_cell;
        float2 point = make_float2(__fadd_rn(to_float(vector[0]), static_cast<float>(cell - line * width)),
                                   __fadd_rn(to_float(vector[hps_axis]), static_cast<float>(line)));
        int nearest = -1;
        float distance = 0.0f;
        for (int other = 0; other < candidates; ++other) {
            const float square = comparable(squared(point, places[other]));
            if (nearest < 0 || square < distance || (square == distance && keys[other] > keys[nearest])) {
                nearest = other;
                distance = square;
            }
        }
        if (candidates < topk && comparable(squared(point, make_float2(FAR, FAR))) < distance) nearest = -1;
        if (nearest >= 0) {
            const float2 place = places[nearest];
            const float tall = __fadd_rn(box.w, -box.y), wide = __fadd_rn(box.z, -box.x);
            const float longer = tall >= wide || tall != tall ? tall : wide;  // NaN if one is
            const bool rejected = place.x < box.x || place.x > box.z || place.y < box.y || place.y > box.w ||
                                  __fsqrt_rn(distance) > __fmul_rn(longer, REACH);
            if (!rejected) point = place;
        }
        own[0] = to_image(matrix, point.x, point.y);
        own[1] = to_image(matrix + 3, point.x, point.y);
        if (joint == 0) {
            const float4 corners = to_image(matrix, box);
            row[0] = corners.x;
            row[1] = corners.y;
            row[2] = corners.z;
            row[3] = corners.w;
            row[4] = person[4];
        }
    }
}
