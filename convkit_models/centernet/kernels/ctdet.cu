// CenterNet's heads or the tutorial's tensor to boxes in the image: peaks, the best K of them, their boxes; one launch.
//
// Every block scans a part of one image's heat map, warp by warp. A group of 1 to 32 lanes, each with UNROLL vectors of
// VECTOR values, notes its highest value, and whether that is a peak. The block that ends last for an image decides:
//
//   1. Of the groups' highest values those that are peaks have a K-th largest. At least K peaks reach it, so it is a lower
//      bound of the K best ones.
//   2. Only groups whose highest value reaches the bound can hold one of these; usually there are few more than K. Their
//      cells are read again, and those which reach the bound are compared with their neighbours.
//   3. The peaks that are left get sorted, and the first K become boxes.
//
// Where there are more cells or groups than shared memory holds, as in a map of one value, a higher bound is found with
// histograms over all peaks. Values, ranks and the order of results do not depend on which block is the last.
//
// Constants: T; LAYOUT 0 for planes [C, H, W], 1 for cells [H, W, C], 2 for the tutorial's rows of reg, wh, C logits and
// C pooled logits; VECTOR, the values of one load; UNROLL; THREADS; CAPACITY >= K.
#include "convkit.cuh"

#include "bound.cuh"
#include "boxes.cuh"
#include "map.cuh"
#include "order.cuh"

constexpr int CHUNK = 32 * UNROLL;  // vectors of a warp
constexpr int BATCH = 4;            // loads that a thread of the last block has on the way

static_assert(THREADS % 32 == 0 && BINS % THREADS == 0, "whole warps, and every thread the same number of bins");
static_assert(BATCH * VECTOR <= 32, "one bit for each value");
static_assert((UNROLL & (UNROLL - 1)) == 0, "UNROLL must be a power of two");

// What the blocks of an image tell the last of them, for each group: the key of its highest value where that is a peak,
// and the bits of the highest value.
struct Groups {
    Key* peaks;
    unsigned* highs;
    int count, lanes, lanes_log;

    CONVKIT_INLINE int of(int unit) const {
        return unit / CHUNK * (32 >> lanes_log) + ((unit & 31) >> lanes_log);
    }

    // The vector number `index` of those of a group, of which there are UNROLL * lanes.
    CONVKIT_INLINE int unit(int group, int index) const {
        const int in_chunk = group & ((32 >> lanes_log) - 1), chunk = group >> (5 - lanes_log);
        return chunk * CHUNK + (index >> lanes_log) * 32 + (in_chunk << lanes_log) + (index & (lanes - 1));
    }

    // A key that no cell of the group exceeds.
    CONVKIT_INLINE Key limit(const Map& map, int group) const {
        return static_cast<Key>(highs[group]) << 32 | (0xffffffffu - map.lowest_rank(unit(group, 0)));
    }
};

// Scan this warp's chunk of the map and note its groups.
CONVKIT_INLINE void scan(const Map& map, const Groups& groups) {
    const int lane = threadIdx.x & 31, chunk = blockIdx.x * WARPS + (threadIdx.x >> 5);
    const int begin = chunk * CHUNK + lane;
    Piece pieces[UNROLL];
#pragma unroll
    for (int row = 0; row < UNROLL; ++row)
        if (begin + 32 * row < map.units) pieces[row] = map.load(begin + 32 * row);
    float best = LOWEST;
    int unit = begin;
#pragma unroll
    for (int row = 0; row < UNROLL; ++row) {
        if (begin + 32 * row >= map.units) break;
        const float high = highest(map, pieces[row], begin + 32 * row);
        if (high > best) {
            best = high;
            unit = begin + 32 * row;
        }
    }
    float high = best;
    for (int offset = 1; offset < groups.lanes; offset <<= 1) high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, offset));
    const unsigned members = (groups.lanes == 32 ? ALL_LANES : (1u << groups.lanes) - 1) << (lane & ~(groups.lanes - 1));
    const unsigned owners = __ballot_sync(ALL_LANES, best == high && begin < map.units) & members;
    if (lane != __ffs(owners ? owners : members) - 1) return;
    Key peak = 0;
    if (owners != 0) {
        const Piece piece = map.load(unit);
        int found = VECTOR;
#pragma unroll
        for (int index = VECTOR - 1; index >= 0; --index)
            if (to_float(piece.values[index]) == high) found = index;
        if (LAYOUT == TUTORIAL) {
            for (found = 0; found < VECTOR; ++found) {
                const T* here = map.first + map.unit_offset(unit) + found;
                if (to_float(here[0]) == high && to_float(here[map.classes]) == high) break;
            }
        }
        if (found < VECTOR) {
            const unsigned rank = map.rank(unit) + found * map.rank_step();
            const int label = rank / map.cells();
            if (map.is_peak(high, label, rank - label * map.cells())) peak = make_key(high, rank);
        }
    }
    const int group = chunk * (32 >> groups.lanes_log) + (lane >> groups.lanes_log);
    groups.peaks[group] = peak;
    groups.highs[group] = owners ? ascending(high) : 0;
}

// The groups that can hold a key from the bound up; all of them where there is no room for a list.
struct Survivors {
    const int* list;
    int count;  // of the list, or -1
};

// Call take(value, rank) for the cells that reach the bound; by all threads.
template <typename Take>
CONVKIT_INLINE void visit(const Map& map, const Groups& groups, const Survivors& survivors, Key bound, Take take) {
    const unsigned code = static_cast<unsigned>(bound >> 32);
    const float least = code > ascending(LOWEST) ? value_of(code) : LOWEST;
    const int each_log = groups.lanes_log + (31 - __clz(UNROLL));
    const int tasks = survivors.count < 0 ? map.units : survivors.count << each_log;
    const auto unit_of = [&](int task) {
        if (survivors.count < 0) return groups.limit(map, groups.of(task)) >= bound ? task : map.units;
        return groups.unit(survivors.list[task >> each_log], task & ((1 << each_log) - 1));
    };
#pragma unroll 1
    for (int start = threadIdx.x; start < tasks; start += BATCH * THREADS) {
        Piece pieces[BATCH];
        unsigned loaded = 0, hits = 0;
#pragma unroll
        for (int turn = 0; turn < BATCH; ++turn) {
            const int task = start + turn * THREADS, unit = task < tasks ? unit_of(task) : map.units;
            if (unit >= map.units) continue;
            pieces[turn] = map.load(unit);
            loaded |= 1u << turn;
        }
#pragma unroll
        for (int turn = 0; turn < BATCH; ++turn) {
            unsigned high = 0;
#pragma unroll
            for (int index = 0; index < VECTOR; ++index)
                if (to_float(pieces[turn].values[index]) >= least) high |= 1u << index;
            if (loaded >> turn & 1u) hits |= high << (turn * VECTOR);
        }
#pragma unroll 1
        for (; hits != 0; hits &= hits - 1) {
            const int bit = __ffs(hits) - 1, index = bit % VECTOR, unit = unit_of(start + bit / VECTOR * THREADS);
            const float value = to_float(map.first[map.unit_offset(unit) + index]);
            const unsigned rank = map.rank(unit) + index * map.rank_step();
            if (make_key(value, rank) >= bound) take(value, rank);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, THREADS <= 256 ? 768 / THREADS : 1024 / THREADS)
convkit_ctdet(const T* __restrict__ hm, const T* __restrict__ wh, const T* __restrict__ reg,
              const double* __restrict__ back, float* __restrict__ results, int* __restrict__ counts,
              unsigned long long* scratch, int classes, int height, int width, int topk, int lanes_log, long long hm_image,
              int hm_cell, long long wh_image, int wh_axis, int wh_cell, int wh_class, long long reg_image, int reg_axis,
              int reg_cell) {
    __shared__ Histogram histogram;
    __shared__ Key keys[CAPACITY], sorted[CAPACITY];
    __shared__ unsigned marks[3];

    const int image = blockIdx.y;
    Map map;
    map.first = hm + image * hm_image + (LAYOUT == TUTORIAL ? 4 : 0);
    map.classes = classes;
    map.height = height;
    map.width = width;
    map.pitch = hm_cell;
    map.per_cell = classes / VECTOR;
    map.units = classes * (height * width) / VECTOR;
    Groups groups;
    groups.lanes_log = lanes_log;
    groups.lanes = 1 << lanes_log;
    groups.count = gridDim.x * WARPS * (32 >> lanes_log);
    unsigned long long* tickets = scratch;
    groups.peaks = scratch + gridDim.y + static_cast<size_t>(image) * groups.count;
    groups.highs = reinterpret_cast<unsigned*>(scratch + gridDim.y + static_cast<size_t>(gridDim.y) * groups.count) +
                   static_cast<size_t>(image) * groups.count;

    scan(map, groups);

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        marks[0] = atomicAdd(tickets + image, 1ull) == gridDim.x - 1;
        marks[1] = marks[2] = 0;
    }
    __syncthreads();
    if (!marks[0]) return;
    __threadfence();
    if (threadIdx.x == 0) tickets[image] = 0;

    const unsigned count = topk;
    Key bound = lower_bound(histogram, count, count + count / 2 + 32, [&](auto take) {
#pragma unroll 4
        for (int group = threadIdx.x; group < groups.count; group += THREADS) take(groups.peaks[group]);
    });

    // Two lists lie where the sorted keys will be: the groups that survive, and ranks of cells that may be peaks.
    int* list = reinterpret_cast<int*>(sorted);
    unsigned* ranks = reinterpret_cast<unsigned*>(sorted) + CAPACITY;
#pragma unroll 4
    for (int group = threadIdx.x; group < groups.count; group += THREADS) {
        if (groups.limit(map, group) < bound) continue;
        const unsigned place = atomicAdd(&marks[1], 1u);
        if (place < CAPACITY) list[place] = group;
    }
    __syncthreads();
    const Survivors survivors = {list, marks[1] <= CAPACITY ? static_cast<int>(marks[1]) : -1};
    visit(map, groups, survivors, bound, [&](float, unsigned rank) {
        const unsigned place = atomicAdd(&marks[2], 1u);
        if (place < CAPACITY) ranks[place] = rank;
    });
    __syncthreads();
    const unsigned cells = marks[2];
    __syncthreads();
    if (threadIdx.x == 0) marks[2] = 0;
    __syncthreads();
    if (cells <= CAPACITY) {
        for (unsigned index = threadIdx.x; index < cells; index += THREADS) {
            const unsigned rank = ranks[index];
            const int label = rank / map.cells(), cell = rank - label * map.cells();
            const float value = map.value(label, cell);
            if (map.is_peak(value, label, cell)) keys[atomicAdd(&marks[2], 1u)] = make_key(value, rank);
        }
    } else {
        const auto peaks = [&](auto take) {
            visit(map, groups, survivors, bound, [&](float value, unsigned rank) {
                const int label = rank / map.cells();
                if (map.is_peak(value, label, rank - label * map.cells())) take(make_key(value, rank));
            });
        };
        const Key higher = lower_bound(histogram, count, CAPACITY, peaks);
        peaks([&](Key key) {
            if (key < higher) return;
            const unsigned place = atomicAdd(&marks[2], 1u);
            if (place < CAPACITY) keys[place] = key;
        });
    }
    __syncthreads();

    const int found = min(marks[2], static_cast<unsigned>(CAPACITY));
    const Key* best = sorted_keys(keys, sorted, found);

    const double* matrix = back + BACK * image;
    const int row_cells = LAYOUT == TUTORIAL ? static_cast<int>(matrix[6]) : width;
    float* rows = results + static_cast<size_t>(image) * topk * 6;
    const T* sizes = wh + image * wh_image + (LAYOUT == TUTORIAL ? 2 : 0);
    const T* offsets = reg ? reg + image * reg_image : nullptr;
    int boxes = 0;
    for (int start = 0; start < topk; start += THREADS) {
        const int place = start + threadIdx.x;
        bool scored = false;
        if (place < min(found, topk)) {
            const unsigned rank = 0xffffffffu - static_cast<unsigned>(best[place]);
            const int label = rank / map.cells(), cell = rank - label * map.cells();
            const float score = sigmoid(value_of(static_cast<unsigned>(best[place] >> 32)));
            scored = score > 0.0f;
            if (scored) {
                const int y = cell / row_cells, at = cell * wh_cell + label * wh_class;
                const float half_width = __fmul_rn(to_float(sizes[at]), 0.5f);
                const float half_height = __fmul_rn(to_float(sizes[at + wh_axis]), 0.5f);
                const float right = offsets ? to_float(offsets[cell * reg_cell]) : 0.5f;
                const float down = offsets ? to_float(offsets[cell * reg_cell + reg_axis]) : 0.5f;
                const float x_centre = __fadd_rn(static_cast<float>(cell - y * row_cells), right);
                const float y_centre = __fadd_rn(static_cast<float>(y), down);
                write_row(rows + place * 6, matrix, __fadd_rn(x_centre, -half_width), __fadd_rn(y_centre, -half_height),
                          __fadd_rn(x_centre, half_width), __fadd_rn(y_centre, half_height), score,
                          static_cast<float>(label));
            }
        }
        if (!scored && place < topk) clear_row(rows + place * 6);
        boxes += __syncthreads_count(scored);
    }
    if (threadIdx.x == 0) counts[image] = boxes;
}
