// CenterNet's heads or packed rows to boxes in the image in one launch: peaks, the best K of them, their boxes.
//
// Every block scans a part of one image's heat map. A thread reads tiles of UNROLL vectors of VECTOR values and stores
// the highest value of each tile; a group of 1 to 32 threads stores its highest value and whether that is a peak. The
// last block of an image to finish selects the boxes. Its steps depend on each other, so they are few and read little:
//
//   1. The peaks among the groups' values have a K-th largest. At least K peaks reach it: it is a lower bound of the
//      K best.
//   2. Only tiles whose highest value reaches the bound can contain one of the K best; usually there are few more than
//      K. They are read again, and cells that reach the bound are compared with their neighbours.
//   3. The remaining peaks become boxes. The row of a box is the number of better peaks.
//
// Where more peaks reach the bound than fit into shared memory, as in a map of one value, histograms over them give a
// higher bound. Values, ranks and the order of results do not depend on which block is the last.
//
// The first words of `scratch`, one per image, are tickets: they are 0 before and after a launch. A launch that was
// aborted may leave other values; the host clears them.
//
// Constants: T; LAYOUT 0 for planes [C, H, W], 1 for cells [H, W, C], 2 for packed rows of reg, wh, C logits and C
// pooled logits; VECTOR, the values of one load; UNROLL; ROUNDS, the tiles of a thread; THREADS; MIN_BLOCKS per
// multiprocessor; CAPACITY >= K, 1024 or 2048; IN_CELLS, with which rows are left to another kernel: their boxes are in
// cells, and in the place of the class are the bits of class * cells + cell. A benchmark may define STOP, the step to
// end at.
#include "convkit.cuh"

#include "../../kernels/bound.cuh"
#include "../../kernels/boxes.cuh"
#include "../../kernels/map.cuh"
#include "../../kernels/order.cuh"

typedef Code<T> Codes;
typedef Codes::Bits Bits;

constexpr int CHUNK = 32 * UNROLL;  // vectors of a warp
constexpr int IN_FLIGHT = THREADS >= 512 ? 1 : THREADS >= 256 ? 2 : 4;  // loads of a thread of the last block in flight
constexpr int HELD_KEYS = THREADS >= 2048 ? 1 : 2048 / THREADS < 8 ? 2048 / THREADS : 8;  // keys per thread
constexpr int LIST_SIZE = 2 * CAPACITY;  // tiles in the list in shared memory
constexpr int COUNTED = 512;        // peaks from which on sorting is faster than counting better ones
constexpr int PACK = 16 / sizeof(Bits), PACK_LOG = sizeof(Bits) == 2 ? 3 : 2;
constexpr int HALF = THREADS / 2;

static_assert(THREADS % 32 == 0 && BINS % THREADS == 0, "whole warps, and every thread the same number of bins");
static_assert(IN_FLIGHT * VECTOR <= 32 && IN_FLIGHT * PACK <= 32, "one bit for each value");
static_assert((UNROLL & (UNROLL - 1)) == 0, "UNROLL must be a power of two");
static_assert(HALF <= LIST_SIZE, "room for the scores of half a block");

#ifdef STOP
#define STEP(number, result)                                                     \
    if (STOP == number) {                                                        \
        if (threadIdx.x == 0) counts[image] = static_cast<int>(result);          \
        return;                                                                  \
    }
#else
#define STEP(number, result)
#endif

// What the blocks of an image store for the last one: the codes of the tiles' highest values, and a key per group. Its
// upper half is the group's highest value, its lower half that of the value's key, or 0 if the value is no peak.
struct Summaries {
    Key* keys;
    Bits* codes;
    int groups, tiles, lanes_log;

    static CONVKIT_INLINE int unit(unsigned tile, int row) { return tile / 32 * CHUNK + row * 32 + tile % 32; }

    // A key that no cell of the tile exceeds.
    CONVKIT_INLINE Key limit(const Map& map, int tile) const {
        return static_cast<Key>(Codes::wide(codes[tile])) << 32 | (0xffffffffu - map.lowest_rank(unit(tile, 0)));
    }
};

// Scan a tile of the map per thread and store its summary.
CONVKIT_INLINE void scan(const Map& map, const Summaries& summaries, int tile) {
    const int lane = threadIdx.x & 31, begin = Summaries::unit(tile, 0);
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
    summaries.codes[tile] = static_cast<Bits>(begin < map.units ? Codes::of(best) : 0);

    const int lanes = 1 << summaries.lanes_log;
    const unsigned own = begin < map.units ? ascending(best) : 0;
    unsigned high = own;
    if (lanes == 32) {
        high = warp_max(own);
    } else {
        for (int offset = 1; offset < lanes; offset <<= 1) high = max(high, __shfl_xor_sync(ALL_LANES, high, offset));
    }
    const unsigned members = (lanes == 32 ? ALL_LANES : (1u << lanes) - 1) << (lane & ~(lanes - 1));
    const unsigned owners = __ballot_sync(ALL_LANES, own == high) & members;
    if (lane != __ffs(owners) - 1) return;
    Key key = static_cast<Key>(high) << 32;
    if (high != 0) {
        const float value = value_of(high);
        const Piece piece = map.load(unit);
        int found = VECTOR;
        if (LAYOUT == PACKED) {
            const T* values = map.first + map.unit_offset(unit);
            for (found = 0; found < VECTOR; ++found)
                if (to_float(values[found]) == value && to_float(values[found + map.classes]) == value) break;
        } else {
#pragma unroll
            for (int index = VECTOR - 1; index >= 0; --index)
                if (to_float(piece.values[index]) == value) found = index;
        }
        if (found < VECTOR) {
            const unsigned rank = map.rank(unit) + found * map.rank_step();
            const int label = map.by_cells.of(rank);
            if (map.is_peak(value, label, rank - label * map.cells())) key |= 0xffffffffu - rank;
        }
    }
    summaries.keys[tile >> summaries.lanes_log] = key;
}

// Increment the ticket and return its former value. The last block may then read what the others wrote.
CONVKIT_INLINE unsigned long long arrive(unsigned long long* ticket) {
#if CONVKIT_DEVICE
    unsigned long long before;
    asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], 1;" : "=l"(before) : "l"(ticket) : "memory");
    return before;
#else
    return atomicAdd(ticket, 1ull);
#endif
}

// Numbers of tiles: the first LIST_SIZE of them in shared memory, the others in the scratch memory.
struct List {
    int *near, *far;

    CONVKIT_INLINE int get(int index) const {
        if (index < LIST_SIZE) return near[index];
        return far[index];
    }

    CONVKIT_INLINE void set(int index, int tile) const {
        if (index < LIST_SIZE)
            near[index] = tile;
        else
            far[index] = tile;
    }
};

// List the tiles that can contain a key that reaches the bound; group_of(entry) is one of the candidate groups.
template <typename GroupOf>
CONVKIT_INLINE void list_tiles(const Map& map, const Summaries& summaries, int entries, Key bound, const List& list,
                               unsigned* count, GroupOf group_of) {
    const unsigned code = bound == 0 ? 0 : Codes::of(value_of(static_cast<unsigned>(bound >> 32)));
    const unsigned least = code > 1 ? code - 1 : 1;  // one less, because `of` may round up
    const uint4* packs = reinterpret_cast<const uint4*>(summaries.codes);
    const int split_log = max(0, summaries.lanes_log - PACK_LOG), tasks = entries << split_log;
    const unsigned members = (1u << min(PACK, 1 << summaries.lanes_log)) - 1;
#pragma unroll 1
    for (int start = threadIdx.x; start < tasks; start += IN_FLIGHT * THREADS) {
        union {
            uint4 pack;
            Bits codes[PACK];
        } packed[IN_FLIGHT];
        unsigned tiles[IN_FLIGHT];
#pragma unroll
        for (int load = 0; load < IN_FLIGHT; ++load) {
            const int task = start + load * THREADS, entry = task >> split_log;
            if (task < tasks) {
                tiles[load] = (group_of(entry) << summaries.lanes_log) + ((task - (entry << split_log)) << PACK_LOG);
                packed[load].pack = packs[tiles[load] / PACK];
            }
        }
#pragma unroll
        for (int load = 0; load < IN_FLIGHT; ++load) {
            if (start + load * THREADS >= tasks) break;
            unsigned hits = 0;
#pragma unroll
            for (int bit = 0; bit < PACK; ++bit)
                if (packed[load].codes[bit] >= least) hits |= 1u << bit;
            hits &= members << tiles[load] % PACK;
#pragma unroll 1
            for (; hits != 0; hits &= hits - 1) {
                const int tile = tiles[load] / PACK * PACK + __ffs(hits) - 1;
                if (static_cast<unsigned>(bound) != 0 && summaries.limit(map, tile) < bound) continue;
                list.set(atomicAdd(count, 1u), tile);
            }
        }
    }
}

// List the tiles of all groups.
COLD void list_all_tiles(Map map, Summaries summaries, Key bound, List list, unsigned* count) {
    list_tiles(map, summaries, summaries.groups, bound, list, count, [](int entry) { return entry; });
}

// Call take(key) for the peaks of the listed tiles that reach the bound, by all threads, until it returns false.
template <typename Take>
CONVKIT_INLINE void visit(const Map& map, const List& list, int count, Key bound, Take take) {
    const unsigned code = static_cast<unsigned>(bound >> 32);
    const float least = code > ascending(LOWEST) ? value_of(code) : LOWEST;
    const bool aligned = LAYOUT == PLANES && map.width % VECTOR == 0;  // neighbours in a vector are so in the map
    const int tasks = count * UNROLL;
    bool going = true;
#pragma unroll 1
    for (int start = threadIdx.x; start < tasks && going; start += IN_FLIGHT * THREADS) {
        Piece pieces[IN_FLIGHT];
        int units[IN_FLIGHT];
#pragma unroll
        for (int load = 0; load < IN_FLIGHT; ++load) {
            const int task = start + load * THREADS;
            units[load] = task < tasks ? Summaries::unit(list.get(task / UNROLL), task % UNROLL) : map.units;
            if (units[load] < map.units) pieces[load] = map.load(units[load]);
        }
#pragma unroll
        for (int load = 0; load < IN_FLIGHT; ++load) {
            unsigned hits = 0;
#pragma unroll
            for (int index = 0; index < VECTOR; ++index) {
                const float here = to_float(pieces[load].values[index]);
                bool hit = here >= least;
                if (index > 0) hit = hit && (!aligned || here >= to_float(pieces[load].values[index - 1]));
                if (index + 1 < VECTOR) hit = hit && (!aligned || here >= to_float(pieces[load].values[index + 1]));
                if (hit) hits |= 1u << index;
            }
            if (units[load] >= map.units) hits = 0;
#pragma unroll 1
            for (; hits != 0 && going; hits &= hits - 1) {
                const int index = __ffs(hits) - 1;
                const float value = to_float(map.first[map.unit_offset(units[load]) + index]);
                const unsigned rank = map.rank(units[load]) + index * map.rank_step();
                const Key key = make_key(value, rank);
                if (key < bound) continue;
                const int label = map.by_cells.of(rank);
                if (map.is_peak(value, label, rank - label * map.cells())) going = take(key);
            }
        }
    }
}

// The bound of the groups' keys where one histogram does not suffice.
COLD Key exact_bound(Histogram& shared, unsigned count, unsigned enough, const Key* keys, int groups) {
    return lower_bound(shared, count, enough, [&](auto take) {
        for (int group = threadIdx.x; group < groups; group += THREADS)
            take(static_cast<unsigned>(keys[group]) == 0 ? 0 : keys[group]);
    });
}

// Store the keys that reach a bound which at most CAPACITY keys reach, and their number; ends with a barrier.
COLD void crowded(Histogram& shared, Map map, List list, int listed, Key bound, unsigned count, Key* keys,
                  unsigned* found) {
    __syncthreads();
    if (threadIdx.x == 0) *found = 0;
    bound = lower_bound(shared, count, CAPACITY, [&](auto take) {
        visit(map, list, listed, bound, [&](Key key) {
            take(key);
            return true;
        });
    });
    __syncthreads();
    visit(map, list, listed, bound, [&](Key key) {
        const unsigned place = atomicAdd(found, 1u);
        if (place < CAPACITY) keys[place] = key;
        return true;
    });
    __syncthreads();
}

// The number of higher keys.
CONVKIT_INLINE int higher(const Key* keys, int count, Key own) {
    int place = 0;
#pragma unroll 4
    for (int other = 0; other + 1 < count; other += 2) {
        const ulonglong2 both = *reinterpret_cast<const ulonglong2*>(keys + other);
        place += both.x > own;
        place += both.y > own;
    }
    return place + (count % 2 != 0 && keys[count - 1] > own);
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
convkit_ctdet(const T* __restrict__ hm, const T* __restrict__ wh, const T* __restrict__ reg,
              const double* __restrict__ output_to_image, float* __restrict__ rows, int* __restrict__ counts,
              unsigned long long* scratch, int classes, int height, int width, unsigned cells_magic, int cells_shift,
              unsigned width_magic, int width_shift, unsigned vectors_magic, int vectors_shift, int topk, int lanes_log,
              long long hm_image, int hm_cell, long long wh_image, int wh_axis, int wh_cell, int wh_class,
              long long reg_image, int reg_axis, int reg_cell) {
    __shared__ union {
        Histogram histogram;
        unsigned groups[BINS];
    } shared;
    __shared__ __align__(16) Key keys[CAPACITY];
    __shared__ union {
        int tiles[LIST_SIZE];
        float scores[HALF];
    } lists;
    __shared__ double matrix[MATRIX];
    __shared__ unsigned marks[4];

    const int image = blockIdx.y;
    const Map map = map_of(hm + image * hm_image, classes, height, width, hm_cell, {cells_magic, cells_shift},
                           {width_magic, width_shift}, {vectors_magic, vectors_shift});
    Summaries summaries;
    summaries.lanes_log = lanes_log;
    summaries.tiles = gridDim.x * (ROUNDS * THREADS);
    summaries.groups = summaries.tiles >> lanes_log;
    unsigned long long* tickets = scratch;
    const size_t words = (gridDim.y + static_cast<size_t>(gridDim.y) * summaries.groups + 1) & ~static_cast<size_t>(1);
    const size_t first_tile = static_cast<size_t>(image) * summaries.tiles;
    Bits* codes = reinterpret_cast<Bits*>(scratch + words);
    summaries.keys = scratch + gridDim.y + static_cast<size_t>(image) * summaries.groups;
    summaries.codes = codes + first_tile;
    const List list = {lists.tiles, reinterpret_cast<int*>(codes + static_cast<size_t>(gridDim.y) * summaries.tiles) +
                                        first_tile};

#pragma unroll 1
    for (int round = 0; round < ROUNDS; ++round)
        scan(map, summaries, (blockIdx.x * ROUNDS + round) * THREADS + threadIdx.x);
    STEP(1, 0)

    __syncthreads();
    if (threadIdx.x == 0) {
        marks[1] = marks[2] = marks[3] = 0;
        marks[0] = arrive(tickets + image) == gridDim.x - 1;
    }
    clear_bins(shared.histogram);
    __syncthreads();
    if (!marks[0]) return;
    if (threadIdx.x == 0) tickets[image] = 0;
    STEP(2, summaries.groups)

    // needed at the end
    const double entry = threadIdx.x < MATRIX ? output_to_image[MATRIX * image + threadIdx.x] : 0.0;

    // The bound, from keys that are read once where they fit into the registers of the threads.
    Key held[HELD_KEYS];
#pragma unroll
    for (int slot = 0; slot < HELD_KEYS; ++slot) {
        const int group = slot * THREADS + threadIdx.x;
        held[slot] = group < summaries.groups ? summaries.keys[group] : 0;
    }
    const auto stream = [&](auto take) {
#pragma unroll
        for (int slot = 0; slot < HELD_KEYS; ++slot) take(held[slot]);
#pragma unroll 1
        for (int group = HELD_KEYS * THREADS + threadIdx.x; group < summaries.groups; group += THREADS)
            take(summaries.keys[group]);
    };
    const unsigned count = topk, enough = count + count / 8 + 8;
    Key bound;
    if (!quick_bound(shared.histogram, count, enough, stream, bound))
        bound = exact_bound(shared.histogram, count, enough, summaries.keys, summaries.groups);
    STEP(3, bound >> 32)

    // The groups that reach it, in the memory of the bins, which are not used any more.
    const int lane = threadIdx.x & 31;
    unsigned hits[HELD_KEYS], place = 0;
#pragma unroll
    for (int slot = 0; slot < HELD_KEYS; ++slot) {
        hits[slot] = __ballot_sync(ALL_LANES, held[slot] != 0 && held[slot] >> 32 >= bound >> 32);
        place += __popc(hits[slot]);
    }
    if (lane == 0) place = atomicAdd(&marks[1], place);
    place = __shfl_sync(ALL_LANES, place, 0);
#pragma unroll
    for (int slot = 0; slot < HELD_KEYS; ++slot) {
        const unsigned own = place + __popc(hits[slot] & ((1u << lane) - 1));
        if (hits[slot] >> lane & 1u && own < BINS) shared.groups[own] = slot * THREADS + threadIdx.x;
        place += __popc(hits[slot]);
    }
#pragma unroll 1
    for (int group = HELD_KEYS * THREADS + threadIdx.x; group < summaries.groups; group += THREADS) {
        const Key key = summaries.keys[group];
        if (key == 0 || key >> 32 < bound >> 32) continue;
        const unsigned own = atomicAdd(&marks[1], 1u);
        if (own < BINS) shared.groups[own] = group;
    }
    if (threadIdx.x < MATRIX) matrix[threadIdx.x] = entry;
    __syncthreads();
    STEP(4, marks[1])
    if (marks[1] <= BINS)
        list_tiles(map, summaries, marks[1], bound, list, &marks[2], [&](int entry) { return shared.groups[entry]; });
    else
        list_all_tiles(map, summaries, bound, list, &marks[2]);
    __syncthreads();
    STEP(5, marks[2])
    visit(map, list, marks[2], bound, [&](Key key) {
        const unsigned place = atomicAdd(&marks[3], 1u);
        if (place < CAPACITY) keys[place] = key;
        return place < CAPACITY;
    });
    __syncthreads();
    if (marks[3] > CAPACITY) crowded(shared.histogram, map, list, marks[2], bound, count, keys, &marks[3]);
    STEP(6, marks[3])

    const int found = min(marks[3], static_cast<unsigned>(CAPACITY));
    if (found > COUNTED) sort(keys, found);
    const Heads heads = {wh + image * wh_image + (LAYOUT == PACKED ? 2 : 0), reg ? reg + image * reg_image : nullptr,
                         LAYOUT == PACKED ? static_cast<int>(matrix[6]) : width, map.by_width,
                         wh_axis, wh_cell, wh_class, reg_axis, reg_cell};
    float* own_rows = rows + static_cast<size_t>(image) * topk * 6;
    // One half of the block computes scores while the other half reads the heads and finds the rows of the boxes.
    const int own = threadIdx.x % HALF;
    int boxes = 0;
#pragma unroll 1
    for (int start = 0; start < found; start += HALF) {
        const Key key = start + own < found ? keys[start + own] : 0;
        const unsigned rank = key == 0 ? 0 : 0xffffffffu - static_cast<unsigned>(key);
        const int label = map.by_cells.of(rank), cell = rank - label * map.cells();
        int place = topk;
        Heads::Read read;
        if (threadIdx.x >= HALF) {
            lists.scores[own] = sigmoid(value_of(static_cast<unsigned>(key >> 32)));
        } else if (key != 0) {
            read = heads.read(label, cell);
            place = found > COUNTED ? start + own : higher(keys, found, key);
        }
        __syncthreads();
        const float score = lists.scores[own];
        const bool scored = place < topk && score > 0.0f;
        if (scored && IN_CELLS)
            write_row(own_rows + place * 6, heads.corners(read, cell), score, __int_as_float(rank));
        else if (scored)
            write_row(own_rows + place * 6, to_image(matrix, heads.corners(read, cell)), score,
                      static_cast<float>(label));
        else if (place < topk)
            clear_row(own_rows + place * 6);
        boxes += __syncthreads_count(scored);
    }
#pragma unroll 1
    for (int place = found + threadIdx.x; place < topk; place += THREADS) clear_row(own_rows + place * 6);
    if (threadIdx.x == 0) counts[image] = boxes;
}
