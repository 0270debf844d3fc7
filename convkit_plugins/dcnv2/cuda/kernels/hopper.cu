// Modulated deformable convolution for Hopper (sm_90a) with warp-specialised warpgroups.
//
// Producers sample: they load pixels, blend them and write tiles of samples to a ring in shared memory. One consumer
// multiplies these by tiles of weights with wgmma. Of the helpers, one warp copies the weights to another ring, and the
// others fill the tables that tell the producers where to sample next.
//
// x is channels-last and dense, its channels a multiple of 8. A block computes patches of 64 pixels, TILE_W wide, times
// TILE_N output channels: PATCHES of them per turn, for as many turns as there are. The weights are packed in tiles of
// 128 bytes of channels (`pack_for_wgmma` in _weights.py) in the order of their use: taps innermost.
//
// Further macros: N (output channels); the fields of a tactic (`Tactic` in _tactics.py); SHARED and the registers of
// the roles (hopper_layout.cuh); BF16, RELU, OUT_PLANES (NCHW). With CLUSTER_K > 1 there is one turn.
#define TF32 0
#include "gather.cuh"

#if BF16
#define ELEMENT "bf16"
#else
#define ELEMENT "f16"
#endif
#include "epilogue.cuh"
#include "hopper_layout.cuh"
#include "wgmma.cuh"

// A slot of a ring of COUNT buffers, and the parity of the barrier phase that its user waits for.
template <int COUNT>
struct Pipeline {
    int slot, phase;

    template <int STEPS>
    CONVKIT_INLINE void advance() {
        slot += STEPS;
        if (STEPS == 1 ? slot == COUNT : slot >= COUNT) {
            slot = STEPS == 1 ? 0 : slot - COUNT;
            phase ^= 1;
        }
    }
};

// A call: the arguments of the kernel.
struct Call {
    const T *x, *offset, *mask, *weight, *bias;
    T* out;
    Sizes sizes;
    Strides offset_strides, mask_strides;
};

// A block: its threads, its shared memory, and the part of the call that it computes.
struct Block {
    unsigned thread, in_group, lane;  // of the calling thread: in the block, in its warpgroup, in its warp
    unsigned char* memory;
    Shared full_weights, empty_weights, full_samples, empty_samples, full_tables, empty_tables;
    Shared weights, samples, tables, sums;
    int rank_m, rank_k;         // in the cluster
    unsigned tiles_x, tiles_y;  // patches per image
    int first_patch, turns;

    CONVKIT_INLINE Block(const Sizes& sizes, unsigned char* dynamic_memory) {
        memory = dynamic_memory;
        const Shared base = shared_address(memory);
        full_weights = base + SharedStorage::full_weights;
        empty_weights = base + SharedStorage::empty_weights;
        full_samples = base + SharedStorage::full_samples;
        empty_samples = base + SharedStorage::empty_samples;
        full_tables = base + SharedStorage::full_tables;
        empty_tables = base + SharedStorage::empty_tables;
        weights = base + SharedStorage::weights;
        samples = base + SharedStorage::samples;
        tables = base + SharedStorage::tables;
        sums = base + SharedStorage::sums;
        thread = threadIdx.x;
        in_group = thread % 128;
        lane = thread % 32;
        rank_m = CLUSTER_M > 1 ? blockIdx.x % CLUSTER_M : 0;
        rank_k = blockIdx.z;
        tiles_x = (sizes.out_width + TILE_W - 1) / TILE_W;
        tiles_y = (sizes.out_height + TILE_H - 1) / TILE_H;
        const unsigned sets = (sizes.batch * tiles_x * tiles_y + PATCHES - 1) / PATCHES;  // patches of one turn
        const int most = CLUSTER_K > 1 ? 1 : (sets + gridDim.x - 1) / gridDim.x, first_set = int(blockIdx.x) * most;
        first_patch = first_set * PATCHES;
        // Blocks that share weights have equally many turns; what they compute beyond the last patch is not written.
        turns = CLUSTER_M > 1 ? most : min(most, max(0, int(sets) - first_set));
    }

    CONVKIT_INLINE float* bias() const { return (float*)(memory + SharedStorage::bias); }

    // The block's patch of that number; its image lies beyond the batch where there are no more.
    CONVKIT_INLINE Patch patch_of(int number) const {
        const unsigned patch = first_patch + number, line = patch / tiles_x, image = line / tiles_y;
        return {int(image), int(line - image * tiles_y) * TILE_H, int(patch - line * tiles_x) * TILE_W};
    }
};

// Load offset and mask of pixel r of a patch and tap t; those of another pixel where there is no such one.
CONVKIT_INLINE Raw load_raw(const Call& call, const Patch& patch, int r, int t) {
    const int y = patch.y + r / TILE_W, x = patch.x + r % TILE_W;
    const bool exists = r < ROWS && t < ALL_TAPS && patch.image < call.sizes.batch && y < call.sizes.out_height &&
                        x < call.sizes.out_width;
    return read(call.offset, call.offset_strides, call.mask, call.mask_strides, exists ? patch.image : 0,
                exists ? t : 0, exists ? y * call.sizes.out_width + x : 0);
}

// Write what the producers need of pixel r and tap t of a patch to the table of that number.
CONVKIT_INLINE void store_sample(const Call& call, const Block& block, int table, const Patch& patch, int r, int t,
                                 const Raw& raw) {
    if (r >= ROWS || t >= ALL_TAPS) return;
    const Sample sample = sample_of(raw, t % TAPS, patch.y + r / TILE_W, patch.x + r % TILE_W, call.sizes);
    unsigned char* const to = block.memory + SharedStorage::tables + table * TABLE_BYTES;
    write_weights(to + t * WEIGHT_PITCH + r * WEIGHT_SIZE, sample);
    *(unsigned*)(to + CORNERS + t * CORNER_PITCH + r * 4) =
        corner_of(sample, patch.image < call.sizes.batch ? patch.image : 0, call.sizes);
}

CONVKIT_INLINE void init_barriers(const Block& block) {
    for (int s = 0; s < WEIGHT_STAGES; ++s) {
        init_barrier(block.full_weights + 8 * s, 1);
        init_barrier(block.empty_weights + 8 * s, CLUSTER_M);
    }
    for (int s = 0; s < SAMPLE_STAGES; ++s) {
        init_barrier(block.full_samples + 8 * s, 4);
        init_barrier(block.empty_samples + 8 * s, 1);
    }
    for (int s = 0; s < 2; ++s) {
        init_barrier(block.full_tables + 8 * s, PREPARERS / 32);
        init_barrier(block.empty_tables + 8 * s, PRODUCERS * 4);
    }
    publish_barriers();
}

// Copy the block's n-th tile of weights. Blocks that share weights copy a part of it each, to all of them.
CONVKIT_INLINE void copy_weights(const Call& call, const Block& block, int n) {
    const int s = n % WEIGHT_STAGES;
    if (n >= WEIGHT_STAGES) wait(block.empty_weights + 8 * s, (n / WEIGHT_STAGES - 1) & 1);
    const unsigned char* from =
        (const unsigned char*)call.weight + block.rank_m * (WEIGHT_BYTES / CLUSTER_M) +
        ((size_t)blockIdx.y * CHUNKS + block.rank_k * PART + n % PART) * WEIGHT_BYTES;
    copy_tile<CLUSTER_M>(
        block.weights + s * WEIGHT_BYTES + block.rank_m * (WEIGHT_BYTES / CLUSTER_M), from,
        WEIGHT_BYTES, block.full_weights + 8 * s,
        ((1u << CLUSTER_M) - 1) << (CLUSTER_M * block.rank_k));
}

// The helpers: fill the tables of the next turn; one thread copies the weights that did not fit at the start.
CONVKIT_INLINE void help(const Call& call, const Block& block, int copied, int total_weights) {
    if (!RESIDENT && block.thread == 128)
        for (; copied < total_weights; ++copied) copy_weights(call, block, copied);
    if (block.in_group >= 128 - PREPARERS) {
        constexpr int BATCH = 5;  // offsets are loaded that many passes before their use
        const Walk<PREPARERS> walk(block.in_group - (128 - PREPARERS), call.offset_strides.pixel == 1);
        Raw raws[BATCH];
        auto load_ahead = [&](const Patch& patch, int pass) {
#pragma unroll
            for (int e = 0; e < BATCH; ++e)
                raws[e] = load_raw(call, patch, walk.row + (pass + e) * walk.rows, walk.tap + (pass + e) * walk.taps);
        };
        if (block.turns > 1) load_ahead(block.patch_of(PATCHES), 0);
        for (int number = PATCHES; number < block.turns * PATCHES; ++number) {
            const int turn = number / PATCHES;
            const Patch patch = block.patch_of(number);
            if (number % PATCHES == 0 && turn >= 2)
                wait(block.empty_tables + turn % 2 * 8, (turn / 2 - 1) & 1);
            for (int pass = 0; pass < walk.passes; pass += BATCH) {
                if (pass > 0) load_ahead(patch, pass);
#pragma unroll
                for (int e = 0; e < BATCH; ++e)
                    store_sample(call, block, number % (2 * PATCHES), patch, walk.row + (pass + e) * walk.rows,
                                 walk.tap + (pass + e) * walk.taps, raws[e]);
            }
            if (number % PATCHES == PATCHES - 1) {
                __syncwarp();
                if (block.lane == 0) arrive(block.full_tables + turn % 2 * 8);
            }
            if (number + 1 < block.turns * PATCHES) load_ahead(block.patch_of(number + 1), 0);
        }
    }
}

// Where a producer's thread loads the samples of one tile: rows first_row to first_row + 3, 16 bytes of their channels.
struct Source {
    uint4 corner;  // of four rows
    const char *upper, *lower;
    Shared weights;

    CONVKIT_INLINE void seek(const Call& call, const Block& block, int tile, int turn, int first_row, int piece) {
        const int at = block.rank_k * PART + tile / PATCHES, channel = at / TAPS * CHUNK + piece * PIECE;
        const int inside = C % CHUNK ? min(channel, C - PIECE) : channel;  // beyond C the weights are zero
        const int tap = (G > 1 ? inside / (C / G) * TAPS : 0) + at % TAPS;
        const int number = (TABLES > PATCHES ? turn % 2 * PATCHES : 0) + tile % PATCHES;
        const Shared table = block.tables + number * TABLE_BYTES;
        weights = table + tap * WEIGHT_PITCH + first_row * WEIGHT_SIZE;
        corner = load_shared(table + CORNERS + tap * CORNER_PITCH + first_row * 4);
        upper = (const char*)(call.x + inside);
        lower = upper + unsigned(call.sizes.width * PIXEL_BYTES);
    }

    CONVKIT_INLINE void load(uint4 (&v)[4], int j) const {
        const unsigned at = j == 0 ? corner.x : j == 1 ? corner.y : j == 2 ? corner.z : corner.w;
        const char *above = upper + (unsigned long long)at * PIXEL_BYTES,
                   *below = lower + (unsigned long long)at * PIXEL_BYTES;
        v[0] = load_global(above);
        v[1] = load_global(above + PIXEL_BYTES);
        v[2] = load_global(below);
        v[3] = load_global(below + PIXEL_BYTES);
    }
};

// A producer: every PRODUCERS-th tile of samples.
CONVKIT_INLINE void produce(const Call& call, const Block& block, int producer) {
    constexpr int TILES = PART * PATCHES;  // of samples, per turn
    const int total = block.turns * TILES, piece = block.lane % 8;
    const int first_row = block.in_group / 32 * 16 + block.lane / 8 * ROWS_EACH;
    // Row r of a tile has its 16-byte piece i at i ^ (r % 8).
    const Shared to = block.samples + first_row * 128 + (piece & 4 ^ first_row & 4) * 16;
    uint4 v[PREFETCH][4];
    Source source;
    int next = producer, next_turn = 0, used_turn = 0;  // the tile to load, its turn, and the turn of the last one
    Pipeline<SAMPLE_STAGES> ring = {producer, 1};

    auto advance = [&] {
        next += PRODUCERS;
        if (next >= TILES) {
            if (next_turn + 1 == block.turns) {
                next -= PRODUCERS;  // nothing is left; what is loaded once more is not used
            } else {
                next -= TILES;
                ++next_turn;
                wait(block.full_tables + next_turn % 2 * 8, ((next_turn - 1) / 2) & 1);
            }
        }
        source.seek(call, block, next, next_turn, first_row, piece);
    };

    if (producer < total) {
        source.seek(call, block, next, next_turn, first_row, piece);
#pragma unroll
        for (int j = 0; j < PREFETCH; ++j) source.load(v[j], j);
    }
    for (int n = producer; n < total; n += PRODUCERS) {
        const Shared weights = source.weights, row = to + ring.slot * SAMPLE_BYTES;
        RowWeights read;
#pragma unroll
        for (int j = 0; j < ROWS_EACH; ++j) {
            unsigned word[4];
            blend(word, v[j % PREFETCH], read.of(weights, j));
            if (j + PREFETCH == ROWS_EACH) advance();
            source.load(v[j % PREFETCH], (j + PREFETCH) % ROWS_EACH);
            if (j == 0) wait(block.empty_samples + 8 * ring.slot, ring.phase);
            store_shared(row + j * 128 + (piece & 3 ^ j) * 16, word[0], word[1], word[2], word[3]);
        }
        __syncwarp();
        if (block.lane == 0) {
            arrive(block.full_samples + 8 * ring.slot);
            if (used_turn < next_turn) arrive(block.empty_tables + used_turn % 2 * 8);
        }
        used_turn = next_turn;
        ring.advance<PRODUCERS>();
    }
}

// Write COUNT outputs of a thread from o on, all of one pixel, where that pixel and its channels exist.
template <int COUNT>
CONVKIT_INLINE void epilogue(const Call& call, const Patch& patch, unsigned thread, int o, const float* sums,
                             const float* bias) {
    const int r = row_of(thread, o), y = patch.y + r / TILE_W, x = patch.x + r % TILE_W;
    const int channel = blockIdx.y * TILE_N + column_of(thread, o);
    if (channel >= N || y >= call.sizes.out_height || x >= call.sizes.out_width)
        return;
    const long long plane = (long long)call.sizes.out_height * call.sizes.out_width;
    const long long pixel = patch.image * (OUT_PLANES ? N : 1) * plane + (long long)y * call.sizes.out_width + x;
    store<COUNT, true>(call.out + (OUT_PLANES ? pixel : pixel * N), channel, plane, sums, bias);
}

constexpr int SLICE_COUNT = SHARE < 4 ? 2 : 4;  // outputs that a slice sends, and finishes, at a time

// Where the sums for outputs o and following of a patch are, from one slice: [CLUSTER_K][PATCHES][SHARE][128].
CONVKIT_INLINE int slice_sums(int slice, int m, int o, int thread) {
    return ((slice * PATCHES + m) * SHARE + o % SHARE) * 128 + thread * SLICE_COUNT;
}

// The accumulators of a consumer's thread, for all patches of a turn.
struct Accumulators {
    float values[PATCHES][PRODUCTS][COLUMNS / 2];

    CONVKIT_INLINE float& at(int m, int i) { return values[m][i / (COLUMNS / 2)][i % (COLUMNS / 2)]; }
};

// The consumer: multiply tiles of samples by tiles of weights.
CONVKIT_INLINE void consume(const Call& call, const Block& block) {
    Accumulators acc;
    Pipeline<RESIDENT ? PART : WEIGHT_STAGES> weights = {0, 0};
    Pipeline<SAMPLE_STAGES> samples = {0, 0};
    for (int turn = 0; turn < block.turns; ++turn) {
#pragma unroll
        for (int m = 0; m < PATCHES; ++m)
#pragma unroll
            for (int i = 0; i < ACC; ++i) acc.at(m, i) = 0.f;
        int last_weights = -1, last_samples = 0;
        auto release = [&](bool weights_too) {
            if (block.in_group != 0) return;
            arrive(block.empty_samples + 8 * last_samples);
            if (RESIDENT || !weights_too) return;
            const Shared empty = block.empty_weights + 8 * last_weights;
            if (CLUSTER_M == 1) arrive(empty);
#pragma unroll
            for (int rank = 0; CLUSTER_M > 1 && rank < CLUSTER_M; ++rank)
                arrive_remote(empty, rank + CLUSTER_M * block.rank_k);
        };
        for (int i = 0; i < PART; ++i) {
            if (!RESIDENT || turn == 0) wait(block.full_weights + 8 * weights.slot, weights.phase);
            const Shared columns = block.weights + weights.slot * WEIGHT_BYTES;
#pragma unroll
            for (int m = 0; m < PATCHES; ++m) {
                wait(block.full_samples + 8 * samples.slot, samples.phase);
                const Shared rows = block.samples + samples.slot * SAMPLE_BYTES;
                fence_async_proxy();
                wgmma_begin();
#pragma unroll
                for (int step = 0; step < 4; ++step)
#pragma unroll
                    for (int part = 0; part < PRODUCTS; ++part)
                        wgmma(acc.values[m][part], descriptor(rows, step * 32),
                              descriptor(columns + part * COLUMNS * 128, step * 32));
                wgmma_end();
                wgmma_wait<1>();
                if (i > 0 || m > 0) release(m == 0);
                last_samples = samples.slot;
                samples.advance<1>();
            }
            last_weights = weights.slot;
            weights.advance<1>();
        }
        wgmma_wait<0>();
#pragma unroll
        for (int m = 0; m < PATCHES; ++m)
#pragma unroll
            for (int i = 0; i < ACC; ++i) change(acc.at(m, i));
        release(true);
        if (CLUSTER_K > 1) {  // each slice finishes its share of the outputs, for which the others send it their sums
            if (CLUSTER_M == 1) cluster_wait();
#pragma unroll
            for (int m = 0; m < PATCHES; ++m)
#pragma unroll
                for (int o = 0; o < ACC; o += SLICE_COUNT) {
                    float values[SLICE_COUNT];
#pragma unroll
                    for (int i = 0; i < SLICE_COUNT; ++i) values[i] = acc.at(m, sum_of(o + i));
                    store_remote(block.sums + slice_sums(block.rank_k, m, o, block.in_group) * 4,
                                 block.rank_m + CLUSTER_M * (o / SHARE), values);
                }
            continue;
        }
#pragma unroll
        for (int m = 0; m < PATCHES; ++m) {
            const Patch patch = block.patch_of(turn * PATCHES + m);
            if (patch.image >= call.sizes.batch) continue;
#pragma unroll
            for (int first = 0; first < ACC; first += 16) {  // two pixels with the same 8 channels
                float bias[8];
#pragma unroll
                for (int i = 0; i < 8; ++i) bias[i] = block.bias()[column_of(block.in_group, first + i)];
#pragma unroll
                for (int o = first; o < first + 16; o += 8) {
                    float values[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) values[i] = acc.at(m, sum_of(o + i));
                    epilogue<8>(call, patch, block.in_group, o, values, bias);
                }
            }
        }
    }
}

// Add up the sums of all slices for this slice's share of the outputs, and write these.
CONVKIT_INLINE void finish_slices(const Call& call, const Block& block) {
    const float* const sums = (const float*)(block.memory + SharedStorage::sums);
    for (unsigned item = block.thread; item < PATCHES * SHARE / SLICE_COUNT * 128; item += THREADS) {
        const int from = item % 128, part = item / 128 % (SHARE / SLICE_COUNT), m = item / 128 / (SHARE / SLICE_COUNT);
        const int o = block.rank_k * SHARE + part * SLICE_COUNT;
        float values[SLICE_COUNT];
#pragma unroll
        for (int i = 0; i < SLICE_COUNT; ++i) values[i] = 0.f;
#pragma unroll
        for (int slice = 0; slice < CLUSTER_K; ++slice) {
            const int at = slice_sums(slice, m, part * SLICE_COUNT, from);
#pragma unroll
            for (int i = 0; i < SLICE_COUNT; ++i) values[i] += sums[at + i];
        }
        const Patch patch = block.patch_of(m);
        if (patch.image >= call.sizes.batch) continue;
        epilogue<SLICE_COUNT>(call, patch, from, o, values, block.bias() + column_of(from, o));
    }
}

extern "C" __global__ void
#if CLUSTER_M * CLUSTER_K > 1
    __cluster_dims__(CLUSTER_M, 1, CLUSTER_K)
#endif
    __launch_bounds__(THREADS, BLOCKS_PER_SM)
    convkit_dcnv2_hopper(const T* x, const T* offset, const T* mask, const T* weight, const T* bias, T* out, int batch,
                 int height, int width, int out_height, int out_width, int offset_image, int offset_channel,
                 int offset_pixel, int mask_image, int mask_channel, int mask_pixel) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Call call = {x,
                       offset,
                       mask,
                       weight,
                       bias,
                       out,
                       {batch, height, width, out_height, out_width},
                       {offset_image, offset_channel, offset_pixel},
                       {mask_image, mask_channel, mask_pixel}};
    const Block block(call.sizes, memory);
    const unsigned thread = block.thread, group = __shfl_sync(0xffffffffu, thread / 128, 0);
    const int total_weights = RESIDENT ? min(block.turns, 1) * PART : block.turns * PART;

    // All threads prepare the first turn.
    const Walk<THREADS> walk(thread, offset_pixel == 1);
    const Raw raw = load_raw(call, block.patch_of(0), walk.row, walk.tap);
    if (thread == 0) init_barriers(block);
    // A block may write to another's memory once that one has begun. With CLUSTER_M == 1 there is time to find out
    // until the end; the barriers of the others matter from now on.
    if (CLUSTER_M * CLUSTER_K > 1) cluster_arrive<false>();
    if (CLUSTER_M > 1) cluster_wait();
    else __syncthreads();
    int copied = 0;
    if (thread == 128)
        for (; copied < WEIGHT_STAGES && copied < total_weights; ++copied) copy_weights(call, block, copied);
    for (int i = thread; i < TILE_N; i += THREADS) {
        const int channel = blockIdx.y * TILE_N + i;
        block.bias()[i] = channel < N ? to_float(bias[channel]) : 0.f;
    }
#pragma unroll
    for (int m = 0; m < PATCHES && block.turns > 0; ++m) {
        const Patch patch = block.patch_of(m);
        if (m == 0) store_sample(call, block, 0, patch, walk.row, walk.tap, raw);
        for (int e = m == 0; e < walk.passes; ++e) {
            const int r = walk.row + e * walk.rows, t = walk.tap + e * walk.taps;
            store_sample(call, block, m, patch, r, t, load_raw(call, patch, r, t));
        }
    }
    __syncthreads();

    if (group == 0) {
        set_registers<CONSUMER_REGISTERS, LAUNCH_REGISTERS>();
        consume(call, block);
    } else if (group == 1) {
        set_registers<HELPER_REGISTERS, LAUNCH_REGISTERS>();
        help(call, block, copied, total_weights);
    } else {
        set_registers<PRODUCER_REGISTERS, LAUNCH_REGISTERS>();
        produce(call, block, group - 2);
    }

    if (CLUSTER_K > 1) {
        if (CLUSTER_M == 1 && group != 0) cluster_wait();
        cluster_arrive<true>();
        cluster_wait();
        finish_slices(call, block);
    }
    if (CLUSTER_M > 1) {  // no block ends while others may still write to its memory
        cluster_arrive<false>();
        cluster_wait();
    }
}
