// Modulated deformable convolution for Hopper (sm_90a), its warpgroups divided by their work. Producers read samples,
// blend them and put them into a ring of tiles in shared memory; one consumer has the tensor cores (wgmma) multiply
// these by tiles of weights; of the helpers, one warp copies the weights, the others prepare where to sample next.
//
// x is channels-last and dense, its channels a multiple of 8. A block computes patches of 64 pixels, TILE_W wide, times
// TILE_N output channels; PATCHES of them at a time, which is a turn, and one turn after the other. The weights are
// packed in tiles of 128 bytes of channels (`pack_for_wgmma` in _weights.py) that lie in the order of their use: taps
// innermost.
//
// Further macros: N (output channels), TILE_N (32, 64, 128 or 256), TILE_W, PATCHES, PRODUCERS (warpgroups), CM (blocks
// of a cluster that share copies of the weights), CK (blocks of a cluster that divide the sum of a patch), STAGES (tiles
// of weights in shared memory; all of them stay there if they fit), RING (tiles of samples), DEPTH (1, 2 or 4: samples
// of a thread on their way), BLOCKS (a multiprocessor), BF16, RELU, OUT_PLANES (NCHW). With CK > 1 there is one turn.
#define TF32 0
#include "gather.cuh"

#if BF16
#define ELEMENT "bf16"
#else
#define ELEMENT "f16"
#endif
#include "hopper.cuh"
#include "tables.cuh"
#include "wgmma.cuh"

constexpr int TILE_H = ROWS / TILE_W;
constexpr int CHUNKS = (C + CHUNK - 1) / CHUNK * TAPS;
constexpr int PART = CHUNKS / CK;  // tiles that a block goes through for a patch
constexpr int WEIGHT_BYTES = TILE_N * CHUNK * int(sizeof(T)), SAMPLE_BYTES = ROWS * CHUNK * int(sizeof(T));
constexpr int WARPGROUPS = PRODUCERS + 2, THREADS = WARPGROUPS * 128;
constexpr int ACC = TILE_N / 2;  // sums of a consumer's thread, of a patch
constexpr int SHARE = ACC / CK, COUNT = SHARE < 4 ? 2 : 4;  // sums that a slice finishes, and that go together
constexpr bool RESIDENT = STAGES >= PART;
constexpr int TABLES = (CK > 1 ? 1 : 2) * PATCHES;
constexpr int PREPARERS = RESIDENT ? 128 : 96;  // threads that prepare the tables; a warp may have weights to copy
constexpr int ROWS_EACH = 4;                    // of a tile, of a producer's thread

// Where shared memory holds the bias, behind the barriers; tiles of weights, and of samples; tables; sums of slices.
constexpr int BIAS = 1024, FRONT = 2048;
constexpr int TABLES_AT = FRONT + STAGES * WEIGHT_BYTES + RING * SAMPLE_BYTES, SUMS = TABLES_AT + TABLES * TABLE_BYTES;

// Registers of a thread: what all have at the launch, and what the roles divide among them.
constexpr int LAUNCHED = 65536 / (THREADS * BLOCKS) / 8 * 8;
constexpr int CONSUMER_REGISTERS = ACC * PATCHES + (ACC * PATCHES > 64 ? 40 : 32), HELPER_REGISTERS = 64;
constexpr int LEFT = (LAUNCHED * WARPGROUPS - CONSUMER_REGISTERS - HELPER_REGISTERS) / PRODUCERS / 8 * 8;
constexpr int PRODUCER_REGISTERS = LEFT < 240 ? LEFT : 240;
// The compiler wants the registers of a product within those of the launch, so one of many columns is cut into several.
constexpr int MOST_COLUMNS = LAUNCHED >= 160 ? 256 : LAUNCHED >= 96 ? 128 : 64;
constexpr int COLUMNS = TILE_N < MOST_COLUMNS ? TILE_N : MOST_COLUMNS, PRODUCTS = TILE_N / COLUMNS;

static_assert(CHUNKS % CK == 0, "CK must divide the tiles of weights");
static_assert(SHARE * CK == ACC && (SHARE == 2 || SHARE == 4 || SHARE % 8 == 0), "too many slices for so few columns");
static_assert((2 * STAGES + 2 * RING + 4) * 8 <= BIAS, "too many stages");
// A tile is given back when the products of the next one have started.
static_assert(STAGES >= (PART > 1 ? 2 : 1) && RING >= 2, "too few tiles");
static_assert(RING >= PRODUCERS && ROWS_EACH % DEPTH == 0, "no such ring or depth");
static_assert(PRODUCERS <= PART * PATCHES, "a producer must have a tile of every patch, or it would keep back a table");

// Add the bias and write COUNT neighbouring channels of a pixel.
template <int COUNT>
CONVKIT_INLINE void store(T* pixel, int channel, long long plane, const float* sums, const float* bias) {
    float value[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        value[i] = sums[i] + bias[i];
        if (RELU) value[i] = value[i] < 0.f ? 0.f : value[i];  // keeps what is not a number
    }
    if (!OUT_PLANES && N % 8 == 0) {
        unsigned word[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) word[i] = pack2<T>(value[2 * i], value[2 * i + 1]);
        if (COUNT == 8)
            *(uint4*)(pixel + channel) =
                make_uint4(word[0], word[1 % (COUNT / 2)], word[2 % (COUNT / 2)], word[3 % (COUNT / 2)]);
        else
#pragma unroll
            for (int i = 0; i < COUNT / 2; ++i) *(unsigned*)(pixel + channel + 2 * i) = word[i];
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (N % COUNT == 0 || channel + i < N)
                pixel[(OUT_PLANES ? plane : 1ll) * (channel + i)] = from_float<T>(value[i]);
    }
}

extern "C" __global__ void
#if CM * CK > 1
    __cluster_dims__(CM, 1, CK)
#endif
    __launch_bounds__(THREADS, BLOCKS)
    convkit_dcnv2_hopper(const T* x, const T* offset, const T* mask, const T* weight, const T* bias, T* out, int batch,
                 int height, int width, int out_height, int out_width, int offset_image, int offset_channel,
                 int offset_pixel, int mask_image, int mask_channel, int mask_pixel) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const Shared full_weights = shared_address(memory);        // [STAGES]
    const Shared empty_weights = full_weights + 8 * STAGES;    // [STAGES]
    const Shared full_samples = empty_weights + 8 * STAGES;    // [RING]
    const Shared empty_samples = full_samples + 8 * RING;      // [RING]
    const Shared full_tables = empty_samples + 8 * RING;       // [2]
    const Shared empty_tables = full_tables + 16;              // [2]
    const Shared weight_tiles = full_weights + FRONT;
    const Shared sample_tiles = weight_tiles + STAGES * WEIGHT_BYTES;
    const Shared tables = full_weights + TABLES_AT;            // [TABLES]
    const Shared sums = full_weights + SUMS;                   // [CK][PATCHES][SHARE / COUNT][128][COUNT], if CK > 1

    const unsigned thread = threadIdx.x, in_group = thread % 128, lane = thread % 32;
    const unsigned group = __shfl_sync(0xffffffffu, thread / 128, 0);
    const int rank_m = CM > 1 ? blockIdx.x % CM : 0, rank_k = blockIdx.z;
    const unsigned tiles_x = (out_width + TILE_W - 1) / TILE_W, tiles_y = (out_height + TILE_H - 1) / TILE_H;
    const unsigned sets = (batch * tiles_x * tiles_y + PATCHES - 1) / PATCHES;  // of patches that are computed together
    const int most = CK > 1 ? 1 : (sets + gridDim.x - 1) / gridDim.x, first_set = int(blockIdx.x) * most;
    // Blocks that share weights have equally many turns; what they compute beyond the last patch is not written.
    const int turns = CM > 1 ? most : min(most, max(0, int(sets) - first_set));
    const Sizes sizes = {batch, height, width, out_height, out_width};
    const int begin = rank_k * PART;

    auto patch_of = [&](int number) -> Patch {  // of this block
        const unsigned patch = first_set * PATCHES + number, line = patch / tiles_x, image = line / tiles_y;
        return {int(image), int(line - image * tiles_y) * TILE_H, int(patch - line * tiles_x) * TILE_W};
    };
    auto look = [&](const Patch& patch, int r, int t) -> Raw {  // somewhere if there is no such sample
        const int y = patch.y + r / TILE_W, px = patch.x + r % TILE_W;
        const bool there = r < ROWS && t < ALL_TAPS && patch.image < batch && y < out_height && px < out_width;
        return read(offset, {offset_image, offset_channel, offset_pixel}, mask, {mask_image, mask_channel, mask_pixel},
                    there ? patch.image : 0, there ? t : 0, there ? y * out_width + px : 0);
    };
    auto note = [&](const Patch& patch, int r, int t, const Raw& raw, int table) {
        if (r >= ROWS || t >= ALL_TAPS) return;
        const Sample sample = sample_of(raw, patch.image < batch ? patch.image : 0, t % TAPS, patch.y + r / TILE_W,
                                        patch.x + r % TILE_W, sizes);
        unsigned char* const to = memory + TABLES_AT + table * TABLE_BYTES;
        write_weights(to + t * WEIGHT_PITCH + r * WEIGHT_SIZE, sample);
        *(unsigned*)(to + CORNERS + t * CORNER_PITCH + r * 4) = sample.corner;
    };

    const int total_weights = RESIDENT ? min(turns, 1) * PART : turns * PART;
    auto copy = [&](int n) {  // the n-th tile of weights that this block needs
        const int s = n % STAGES;
        if (n >= STAGES) wait(empty_weights + 8 * s, (n / STAGES - 1) & 1);
        const unsigned char* from = (const unsigned char*)weight + rank_m * (WEIGHT_BYTES / CM) +
                                    ((size_t)blockIdx.y * CHUNKS + begin + n % PART) * WEIGHT_BYTES;
        copy_tile<CM>(weight_tiles + s * WEIGHT_BYTES + rank_m * (WEIGHT_BYTES / CM), from, WEIGHT_BYTES,
                      full_weights + 8 * s, ((1u << CM) - 1) << (CM * rank_k));
    };

    // All threads prepare the first turn.
    const Walk<THREADS> all(thread, offset_pixel == 1);
    const Raw raw = look(patch_of(0), all.row, all.tap);
    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            init_barrier(full_weights + 8 * s, 1);
            init_barrier(empty_weights + 8 * s, CM);
        }
        for (int s = 0; s < RING; ++s) {
            init_barrier(full_samples + 8 * s, 4);
            init_barrier(empty_samples + 8 * s, 1);
        }
        for (int s = 0; s < 2; ++s) {
            init_barrier(full_tables + 8 * s, PREPARERS / 32);
            init_barrier(empty_tables + 8 * s, PRODUCERS * 4);
        }
        publish_barriers();
    }
    // A block may write to another's memory once that one has begun. With CM == 1 there is time to find out until the
    // end; the barriers of the others matter from now on.
    if (CM * CK > 1) cluster_arrive<false>();
    if (CM > 1) cluster_wait();
    else __syncthreads();
    int copied = 0;
    if (thread == 128)
        for (; copied < STAGES && copied < total_weights; ++copied) copy(copied);
    float* const biases = (float*)(memory + BIAS);
    for (int i = thread; i < TILE_N; i += THREADS) {
        const int channel = blockIdx.y * TILE_N + i;
        biases[i] = channel < N ? to_float(bias[channel]) : 0.f;
    }
#pragma unroll
    for (int m = 0; m < PATCHES && turns > 0; ++m) {
        const Patch patch = patch_of(m);
        if (m == 0) note(patch, all.row, all.tap, raw, 0);
        for (int e = m == 0; e < all.passes; ++e) {
            const int r = all.row + e * all.rows, t = all.tap + e * all.taps;
            note(patch, r, t, look(patch, r, t), m);
        }
    }
    __syncthreads();

    const int row = in_group / 32 * 16 + lane / 4, quarter = lane % 4;  // of a consumer's sums

    if (group == 0) {
        set_registers<CONSUMER_REGISTERS, LAUNCHED>();
        float acc[PATCHES][PRODUCTS][COLUMNS / 2];
        auto sum = [&](int m, int i) -> float& { return acc[m][i / (COLUMNS / 2)][i % (COLUMNS / 2)]; };
        int weights_slot = 0, weights_phase = 0, samples_slot = 0, samples_phase = 0;
        for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
            for (int m = 0; m < PATCHES; ++m)
#pragma unroll
                for (int i = 0; i < ACC; ++i) sum(m, i) = 0.f;
            int last_weights = -1, last_samples = 0;
            auto release = [&](bool weights_too) {
                if (in_group != 0) return;
                arrive(empty_samples + 8 * last_samples);
                if (RESIDENT || !weights_too) return;
                if (CM == 1) arrive(empty_weights + 8 * last_weights);
#pragma unroll
                for (int block = 0; CM > 1 && block < CM; ++block)
                    arrive_remote(empty_weights + 8 * last_weights, block + CM * rank_k);
            };
            for (int i = 0; i < PART; ++i) {
                if (!RESIDENT || turn == 0) wait(full_weights + 8 * weights_slot, weights_phase);
                const Shared columns = weight_tiles + weights_slot * WEIGHT_BYTES;
#pragma unroll
                for (int m = 0; m < PATCHES; ++m) {
                    wait(full_samples + 8 * samples_slot, samples_phase);
                    const Shared rows = sample_tiles + samples_slot * SAMPLE_BYTES;
                    see_shared();
                    wgmma_begin();
#pragma unroll
                    for (int step = 0; step < 4; ++step)
#pragma unroll
                        for (int part = 0; part < PRODUCTS; ++part)
                            wgmma(acc[m][part], descriptor(rows, step * 32),
                                  descriptor(columns + part * COLUMNS * 128, step * 32));
                    wgmma_end();
                    wgmma_wait<1>();
                    if (i > 0 || m > 0) release(m == 0);
                    last_samples = samples_slot;
                    if (++samples_slot == RING) {
                        samples_slot = 0;
                        samples_phase ^= 1;
                    }
                }
                last_weights = weights_slot;
                if (++weights_slot == (RESIDENT ? PART : STAGES)) {
                    weights_slot = 0;
                    weights_phase ^= 1;
                }
            }
            wgmma_wait<0>();
#pragma unroll
            for (int m = 0; m < PATCHES; ++m)
#pragma unroll
                for (int i = 0; i < ACC; ++i) change(sum(m, i));
            release(true);
            if (CK > 1) {
                // Each slice finishes its share of the sums, which the others send to it. A thread's sums are taken in
                // the order of blocks of 32 columns, two rows, and 8 neighbouring columns of its own.
                if (CM == 1) cluster_wait();
#pragma unroll
                for (int m = 0; m < PATCHES; ++m)
#pragma unroll
                    for (int first = 0; first < ACC; first += COUNT) {
                        float values[COUNT];
#pragma unroll
                        for (int i = 0; i < COUNT; ++i) {
                            const int o = first + i;
                            values[i] = sum(m, (o / 16 * 4 + o % 8 / 2) * 4 + o / 8 % 2 * 2 + o % 2);
                        }
                        const int at = ((rank_k * PATCHES + m) * SHARE + first % SHARE) * 128 + in_group * COUNT;
                        store_remote(sums + at * 4, rank_m + CM * (first / SHARE), values);
                    }
                continue;
            }
            const long long plane = (long long)out_height * out_width;
#pragma unroll
            for (int m = 0; m < PATCHES; ++m) {
                const Patch patch = patch_of(turn * PATCHES + m);
                if (patch.image >= batch) continue;
#pragma unroll
                for (int block = 0; block < TILE_N / 32; ++block) {
                    const int first = block * 32 + quarter * 8, channel = blockIdx.y * TILE_N + first;
                    float added[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) added[i] = biases[first + i];
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const int r = row + half * 8, y = patch.y + r / TILE_W, px = patch.x + r % TILE_W;
                        if (channel >= N || y >= out_height || px >= out_width) continue;
                        const long long before = patch.image * (OUT_PLANES ? N : 1) * plane;  // pixels
                        const long long pixel = before + (long long)y * out_width + px;
                        float values[8];
#pragma unroll
                        for (int i = 0; i < 8; ++i) values[i] = sum(m, (block * 4 + i / 2) * 4 + half * 2 + i % 2);
                        store<8>(out + (OUT_PLANES ? pixel : pixel * N), channel, plane, values, added);
                    }
                }
            }
        }
    } else if (group == 1) {
        set_registers<HELPER_REGISTERS, LAUNCHED>();
        if (!RESIDENT && thread == 128)
            for (; copied < total_weights; ++copied) copy(copied);
        if (in_group >= 128 - PREPARERS) {
            constexpr int BATCH = 5;  // offsets are read that many passes before their use
            const Walk<PREPARERS> walk(in_group - (128 - PREPARERS), offset_pixel == 1);
            Raw raws[BATCH];
            auto look_ahead = [&](const Patch& patch, int pass) {
#pragma unroll
                for (int e = 0; e < BATCH; ++e)
                    raws[e] = look(patch, walk.row + (pass + e) * walk.rows, walk.tap + (pass + e) * walk.taps);
            };
            if (turns > 1) look_ahead(patch_of(PATCHES), 0);
            for (int number = PATCHES; number < turns * PATCHES; ++number) {
                const int turn = number / PATCHES;
                const Patch patch = patch_of(number);
                if (number % PATCHES == 0 && turn >= 2) wait(empty_tables + turn % 2 * 8, (turn / 2 - 1) & 1);
                for (int pass = 0; pass < walk.passes; pass += BATCH) {
                    if (pass > 0) look_ahead(patch, pass);
#pragma unroll
                    for (int e = 0; e < BATCH; ++e)
                        note(patch, walk.row + (pass + e) * walk.rows, walk.tap + (pass + e) * walk.taps, raws[e],
                             number % (2 * PATCHES));
                }
                if (number % PATCHES == PATCHES - 1) {
                    __syncwarp();
                    if (lane == 0) arrive(full_tables + turn % 2 * 8);
                }
                if (number + 1 < turns * PATCHES) look_ahead(patch_of(number + 1), 0);
            }
        }
    } else {
        set_registers<PRODUCER_REGISTERS, LAUNCHED>();
        constexpr int TILES = PART * PATCHES;  // of samples, of a turn
        const int total = turns * TILES, producer = group - 2, piece = lane % 8;
        const int first_row = in_group / 32 * 16 + lane / 8 * ROWS_EACH;
        const unsigned down = width * PIXEL_BYTES;
        // Row r of a tile has its piece i at i ^ (r % 8).
        const Shared to = sample_tiles + first_row * 128 + (piece & 4 ^ first_row & 4) * 16;
        uint4 v[DEPTH][4], corner;
        const char *upper, *lower;
        Shared weights;
        int next = producer, next_turn = 0, used_turn = 0, slot = producer, phase = 1;

        // Come to the tile `next` of turn `next_turn`.
        auto seek = [&] {
            const int at = begin + next / PATCHES, channel = at / TAPS * CHUNK + piece * PIECE;
            const int inside = C % CHUNK ? min(channel, C - PIECE) : channel;  // beyond C the weights are zero
            const int tap = (G > 1 ? inside / (C / G) * TAPS : 0) + at % TAPS;
            const int number = (TABLES > PATCHES ? next_turn % 2 * PATCHES : 0) + next % PATCHES;
            const Shared table = tables + number * TABLE_BYTES;
            weights = table + tap * WEIGHT_PITCH + first_row * WEIGHT_SIZE;
            corner = load_shared(table + CORNERS + tap * CORNER_PITCH + first_row * 4);
            upper = (const char*)(x + inside);
            lower = upper + down;
        };
        auto advance = [&] {
            next += PRODUCERS;
            if (next >= TILES) {
                if (next_turn + 1 == turns) {
                    next -= PRODUCERS;  // nothing is left; what is loaded once more is not used
                } else {
                    next -= TILES;
                    ++next_turn;
                    wait(full_tables + next_turn % 2 * 8, ((next_turn - 1) / 2) & 1);
                }
            }
            seek();
        };
        auto load = [&](int j) {
            const unsigned at = j == 0 ? corner.x : j == 1 ? corner.y : j == 2 ? corner.z : corner.w;
            const char *above = upper + (unsigned long long)at * PIXEL_BYTES,
                       *below = lower + (unsigned long long)at * PIXEL_BYTES;
            v[j % DEPTH][0] = load_global(above);
            v[j % DEPTH][1] = load_global(above + PIXEL_BYTES);
            v[j % DEPTH][2] = load_global(below);
            v[j % DEPTH][3] = load_global(below + PIXEL_BYTES);
        };

        if (producer < total) {
            seek();
#pragma unroll
            for (int j = 0; j < DEPTH; ++j) load(j);
        }
        for (int n = producer; n < total; n += PRODUCERS) {
            const Shared those = weights, row = to + slot * SAMPLE_BYTES;
            RowWeights read;
#pragma unroll
            for (int j = 0; j < ROWS_EACH; ++j) {
                unsigned word[4];
                blend(word, v[j % DEPTH], read.of(those, j));
                if (j + DEPTH == ROWS_EACH) advance();
                load((j + DEPTH) % ROWS_EACH);
                if (j == 0) wait(empty_samples + 8 * slot, phase);
                store_shared(row + j * 128 + (piece & 3 ^ j) * 16, word[0], word[1], word[2], word[3]);
            }
            __syncwarp();
            if (lane == 0) {
                arrive(full_samples + 8 * slot);
                if (used_turn < next_turn) arrive(empty_tables + used_turn % 2 * 8);
            }
            used_turn = next_turn;
            slot += PRODUCERS;
            if (slot >= RING) {
                slot -= RING;
                phase ^= 1;
            }
        }
    }

    if (CK > 1) {
        if (CM == 1 && group != 0) cluster_wait();
        cluster_arrive<true>();
        cluster_wait();
        const long long plane = (long long)out_height * out_width;
        for (unsigned item = thread; item < PATCHES * SHARE / COUNT * 128; item += THREADS) {
            const int from = item % 128, part = item / 128 % (SHARE / COUNT), m = item / 128 / (SHARE / COUNT);
            const int o = rank_k * SHARE + part * COUNT;
            float values[COUNT];
#pragma unroll
            for (int i = 0; i < COUNT; ++i) values[i] = 0.f;
#pragma unroll
            for (int slice = 0; slice < CK; ++slice) {
                const int at = ((slice * PATCHES + m) * SHARE + part * COUNT) * 128 + from * COUNT;
#pragma unroll
                for (int i = 0; i < COUNT; ++i) values[i] += ((const float*)(memory + SUMS))[at + i];
            }
            const Patch patch = patch_of(m);
            const int r = from / 32 * 16 + from % 32 / 4 + o / 8 % 2 * 8;
            const int y = patch.y + r / TILE_W, px = patch.x + r % TILE_W;
            const int channel = blockIdx.y * TILE_N + o / 16 * 32 + from % 4 * 8 + o % 8;
            if (patch.image >= batch || y >= out_height || px >= out_width || channel >= N) continue;
            const long long pixel = (long long)y * out_width + px;
            T* to = OUT_PLANES ? out + patch.image * N * plane + pixel : out + (patch.image * plane + pixel) * N;
            store<COUNT>(to, channel, plane, values, biases + o / 16 * 32 + from % 4 * 8 + o % 8);
        }
    }
    if (CM > 1) {  // nobody leaves while others may still write to its memory
        cluster_arrive<false>();
        cluster_wait();
    }
}
