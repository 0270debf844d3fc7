// CenterNet's heads or the tutorial's tensor to boxes in the image: peaks, the best K of them, their boxes; one launch.
//
// Every block scans a part of one image's heat map. A thread reads a tile of UNROLL vectors of VECTOR values and notes
// the highest one; a group of 1 to 32 threads notes its highest value, if that is a peak. The block that ends last for
// an image decides:
//
//   1. Those peaks of the groups have a K-th largest. At least K peaks reach it: it is a lower bound of the K best.
//   2. Only tiles whose highest value reaches the bound can hold one of these; usually there are few more than K.
//      They are read again, and cells that reach the bound are compared with their neighbours.
//   3. The peaks that are left get sorted, and the first K become boxes.
//
// Where more peaks reach the bound than shared memory holds, as in a map of one value, a higher bound is found with
// histograms over them. Values, ranks and the order of results do not depend on which block is the last.
//
// Constants: T; LAYOUT 0 for planes [C, H, W], 1 for cells [H, W, C], 2 for the tutorial's rows of reg, wh, C logits
// and C pooled logits; VECTOR, the values of one load; UNROLL; THREADS; CAPACITY >= K, 1024 or 2048.
#include "convkit.cuh"

#include "bound.cuh"
#include "boxes.cuh"
#include "map.cuh"
#include "order.cuh"

typedef Code<T> Codes;
typedef Codes::Bits Bits;

constexpr int CHUNK = 32 * UNROLL;  // vectors of a warp
constexpr int BATCH = 4;            // loads that a thread of the last block has on the way
constexpr int CELLS = CAPACITY <= 1024 ? 4096 : 3072;
constexpr int ROOM = 2 * CAPACITY;  // tiles that shared memory lists
constexpr int PACK = 16 / sizeof(Bits);

static_assert(THREADS % 32 == 0 && BINS % THREADS == 0, "whole warps, and every thread the same number of bins");
static_assert(BATCH * VECTOR <= 32 && BATCH * PACK <= 32, "one bit for each value");
static_assert((UNROLL & (UNROLL - 1)) == 0, "UNROLL must be a power of two");

// What the blocks of an image tell the last of them: the codes of the tiles' highest values, and the keys of those of
// the groups where these are peaks.
struct Notes {
    Key* peaks;
    Bits* codes;
    int groups, tiles, lanes_log;

    static CONVKIT_INLINE int unit(int tile, int row) { return tile / 32 * CHUNK + row * 32 + tile % 32; }

    // A key that no cell of the tile exceeds.
    CONVKIT_INLINE Key limit(const Map& map, int tile, unsigned code) const {
        return static_cast<Key>(Codes::wide(code)) << 32 | (0xffffffffu - map.lowest_rank(unit(tile, 0)));
    }
};

// Scan this thread's tile of the map and note what it holds.
CONVKIT_INLINE void scan(const Map& map, const Notes& notes) {
    const int lane = threadIdx.x & 31, tile = blockIdx.x * THREADS + threadIdx.x, begin = Notes::unit(tile, 0);
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
    notes.codes[tile] = static_cast<Bits>(begin < map.units ? Codes::of(best) : 0);

    const int lanes = 1 << notes.lanes_log;
    float high = best;
    for (int offset = 1; offset < lanes; offset <<= 1) high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, offset));
    const unsigned members = (lanes == 32 ? ALL_LANES : (1u << lanes) - 1) << (lane & ~(lanes - 1));
    const unsigned owners = __ballot_sync(ALL_LANES, best == high && begin < map.units) & members;
    if (lane != __ffs(owners ? owners : members) - 1) return;
    Key peak = 0;
    if (owners != 0) {
        const Piece piece = map.load(unit);
        int found = VECTOR;
        if (LAYOUT == TUTORIAL) {
            const T* values = map.first + map.unit_offset(unit);
            for (found = 0; found < VECTOR; ++found)
                if (to_float(values[found]) == high && to_float(values[found + map.classes]) == high) break;
        } else {
#pragma unroll
            for (int index = VECTOR - 1; index >= 0; --index)
                if (to_float(piece.values[index]) == high) found = index;
        }
        if (found < VECTOR) {
            const unsigned rank = map.rank(unit) + found * map.rank_step();
            const int label = rank / map.cells();
            if (map.is_peak(high, label, rank - label * map.cells())) peak = make_key(high, rank);
        }
    }
    notes.peaks[tile >> notes.lanes_log] = peak;
}

// Numbers of tiles: the first ROOM of them in shared memory, the others in the scratch memory, which has room for all.
struct List {
    int *near, *far;

    CONVKIT_INLINE int& operator[](int index) const { return index < ROOM ? near[index] : far[index]; }
};

// List the tiles that can hold a key from the bound up.
CONVKIT_INLINE void list_tiles(const Map& map, const Notes& notes, Key bound, const List& list, unsigned* count) {
    const float value = value_of(static_cast<unsigned>(bound >> 32));
    const unsigned code = bound == 0 ? 0 : Codes::of(value);
    const unsigned least = code > 1 ? code - 1 : 1;  // one less, because `of` may round up
    const uint4* packs = reinterpret_cast<const uint4*>(notes.codes);
    const int many = notes.tiles / PACK;
#pragma unroll 1
    for (int start = threadIdx.x; start < many; start += BATCH * THREADS) {
        union {
            uint4 pack;
            Bits codes[PACK];
        } packed[BATCH];
#pragma unroll
        for (int turn = 0; turn < BATCH; ++turn)
            packed[turn].pack = start + turn * THREADS < many ? packs[start + turn * THREADS] : make_uint4(0, 0, 0, 0);
        unsigned hits = 0;
#pragma unroll
        for (int bit = 0; bit < BATCH * PACK; ++bit)
            if (packed[bit / PACK].codes[bit % PACK] >= least) hits |= 1u << bit;
#pragma unroll 1
        for (; hits != 0; hits &= hits - 1) {
            const int bit = __ffs(hits) - 1, tile = (start + bit / PACK * THREADS) * PACK + bit % PACK;
            if (notes.limit(map, tile, notes.codes[tile]) < bound) continue;
            list[atomicAdd(count, 1u)] = tile;
        }
    }
}

// Call take(value, rank) for the cells of the listed tiles that reach the bound; by all threads. Cells that are no
// peaks may be left out.
template <typename Take>
CONVKIT_INLINE void visit(const Map& map, const List& list, int count, Key bound, Take take) {
    const unsigned code = static_cast<unsigned>(bound >> 32);
    const float least = code > ascending(LOWEST) ? value_of(code) : LOWEST;
    const bool aligned = LAYOUT == PLANES && map.width % VECTOR == 0;  // neighbours in a vector are so in the map
    const int tasks = count * UNROLL;
    const auto unit_of = [&](int task) { return Notes::unit(list[task / UNROLL], task % UNROLL); };
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
            for (int index = 0; index < VECTOR; ++index) {
                const float here = to_float(pieces[turn].values[index]);
                bool hit = here >= least;
                if (index > 0) hit = hit && (!aligned || here >= to_float(pieces[turn].values[index - 1]));
                if (index + 1 < VECTOR) hit = hit && (!aligned || here >= to_float(pieces[turn].values[index + 1]));
                if (hit) high |= 1u << index;
            }
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
              unsigned long long* scratch, int classes, int height, int width, int topk, int lanes_log,
              long long hm_image, int hm_cell, long long wh_image, int wh_axis, int wh_cell, int wh_class,
              long long reg_image, int reg_axis, int reg_cell) {
    __shared__ union {
        Histogram histogram;
        unsigned ranks[CELLS];
    } shared;
    __shared__ Key keys[CAPACITY], sorted[CAPACITY];
    __shared__ unsigned marks[4];

    const int image = blockIdx.y;
    Map map;
    map.first = hm + image * hm_image + (LAYOUT == TUTORIAL ? 4 : 0);
    map.classes = classes;
    map.height = height;
    map.width = width;
    map.pitch = hm_cell;
    map.per_cell = classes / VECTOR;
    map.units = classes * (height * width) / VECTOR;
    Notes notes;
    notes.lanes_log = lanes_log;
    notes.tiles = gridDim.x * THREADS;
    notes.groups = notes.tiles >> lanes_log;
    unsigned long long* tickets = scratch;
    Key* peaks = scratch + gridDim.y;
    const size_t words = (gridDim.y + static_cast<size_t>(gridDim.y) * notes.groups + 1) & ~static_cast<size_t>(1);
    const size_t first_tile = static_cast<size_t>(image) * notes.tiles;
    Bits* codes = reinterpret_cast<Bits*>(scratch + words);
    notes.peaks = peaks + static_cast<size_t>(image) * notes.groups;
    notes.codes = codes + first_tile;
    int* far = reinterpret_cast<int*>(codes + static_cast<size_t>(gridDim.y) * notes.tiles) + first_tile;

    scan(map, notes);

    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        marks[0] = atomicAdd(tickets + image, 1ull) == gridDim.x - 1;
        marks[1] = marks[2] = marks[3] = 0;
        __threadfence();
    }
    __syncthreads();
    if (!marks[0]) return;
    if (threadIdx.x == 0) tickets[image] = 0;

    const unsigned count = topk;
    const Key bound = quick_bound(shared.histogram, count, count + count / 8 + 8, [&](auto take) {
#pragma unroll 4
        for (int group = threadIdx.x; group < notes.groups; group += THREADS) take(notes.peaks[group]);
    });

    const List list = {reinterpret_cast<int*>(sorted), far};  // the sorted keys will lie where the list is
    list_tiles(map, notes, bound, list, &marks[1]);
    __syncthreads();
    const int listed = marks[1];
    visit(map, list, listed, bound, [&](float, unsigned rank) {
        const unsigned place = atomicAdd(&marks[2], 1u);
        if (place < CELLS) shared.ranks[place] = rank;
    });
    __syncthreads();
    const unsigned cells = marks[2];
    if (cells <= CELLS) {
        for (unsigned index = threadIdx.x; index < cells; index += THREADS) {
            const unsigned rank = shared.ranks[index];
            const int label = rank / map.cells(), cell = rank - label * map.cells();
            const float value = map.value(label, cell);
            if (!map.is_peak(value, label, cell)) continue;
            const unsigned place = atomicAdd(&marks[3], 1u);
            if (place < CAPACITY) keys[place] = make_key(value, rank);
        }
        __syncthreads();
    }
    if (cells > CELLS || marks[3] > CAPACITY) {
        __syncthreads();
        if (threadIdx.x == 0) marks[3] = 0;
        const auto all_peaks = [&](auto take) {
            visit(map, list, listed, bound, [&](float value, unsigned rank) {
                const int label = rank / map.cells();
                if (map.is_peak(value, label, rank - label * map.cells())) take(make_key(value, rank));
            });
        };
        const Key higher = lower_bound(shared.histogram, count, CAPACITY, all_peaks);
        __syncthreads();
        all_peaks([&](Key key) {
            if (key < higher) return;
            const unsigned place = atomicAdd(&marks[3], 1u);
            if (place < CAPACITY) keys[place] = key;
        });
        __syncthreads();
    }

    const int found = min(marks[3], static_cast<unsigned>(CAPACITY));
    const Key* best = sorted_keys(keys, sorted, found);

    const double* matrix = back + BACK * image;
    const Heads heads = {wh + image * wh_image + (LAYOUT == TUTORIAL ? 2 : 0), reg ? reg + image * reg_image : nullptr,
                         LAYOUT == TUTORIAL ? static_cast<int>(matrix[6]) : width,
                         wh_axis, wh_cell, wh_class, reg_axis, reg_cell};
    float* rows = results + static_cast<size_t>(image) * topk * 6;
    int boxes = 0;
    for (int start = 0; start < topk; start += THREADS) {
        const int place = start + threadIdx.x;
        bool scored = false;
        if (place < min(found, topk)) {
            const unsigned rank = 0xffffffffu - static_cast<unsigned>(best[place]);
            const int label = rank / map.cells();
            const float score = sigmoid(value_of(static_cast<unsigned>(best[place] >> 32)));
            scored = score > 0.0f;
            if (scored)
                write_row(rows + place * 6, to_image(matrix, heads.corners(label, rank - label * map.cells())), score,
                          static_cast<float>(label));
        }
        if (!scored && place < topk) clear_row(rows + place * 6);
        boxes += __syncthreads_count(scored);
    }
    if (threadIdx.x == 0) counts[image] = boxes;
}
