// Modulated deformable convolution for Hopper (sm_90a): samples go from global memory to registers, are blended there
// and multiplied by the tensor cores (wgmma) with weights that one thread has copied into shared memory.
//
// x is channels-last and dense, its channels a multiple of 8. A warpgroup computes 64 pixels, a patch TILE_W wide,
// times TILE_N output channels; a block goes on to further patches until all are done. The weights are packed in tiles
// of 128 bytes of channels (`pack_for_wgmma` in _weights.py) that lie in the order of their use: taps innermost.
//
// Further macros: N (output channels), TILE_N (32, 64, 128 or 256), TILE_W, WM (warpgroups with patches of their own),
// WK (warpgroups that divide the sum of a patch), CM (blocks of a cluster that share copies of the weights), CK (blocks
// of a cluster that divide the sum), STAGES (tiles of weights in shared memory; all of them stay there if they fit),
// DEPTH (1 or 2: halves of a tile's rows on their way), BUFFERS (1 or 2: tiles whose operands are in registers),
// BLOCKS (a multiprocessor), BF16, RELU, OUT_PLANES (NCHW).
// With WK * CK > 1 the grid holds a block for every patch.
#define TF32 0
#include "gather.cuh"

#if BF16
#define ELEMENT "bf16"
#else
#define ELEMENT "f16"
#endif
#include "hopper.cuh"
#include "wgmma.cuh"

constexpr int ROWS = 64;  // pixels of a warpgroup
constexpr int TILE_H = ROWS / TILE_W;
constexpr int CHUNKS = (C + CHUNK - 1) / CHUNK * TAPS;
constexpr int PART = CHUNKS / CK;  // tiles of weights that a block goes through for a patch
constexpr int TILE_BYTES = TILE_N * CHUNK * int(sizeof(T));
constexpr int CONSUMERS = WM * WK;
constexpr int THREADS = CONSUMERS * 128;
constexpr int ACC = TILE_N / 2;  // sums of a thread
constexpr int SLICES = WK * CK;
constexpr int SHARE = ACC / SLICES;
constexpr bool RESIDENT = STAGES >= PART;
constexpr int BARRIERS = 1024;  // bytes in front of the tiles
constexpr int SAMPLES = G * TAPS * ROWS;
// The copying thread asks for the place of a tile only this many tiles after its own warpgroup has come to it, so that
// the other warpgroups will mostly be done with it. Its own has left the tile WK steps before.
constexpr int LAG = STAGES - WK < WK + 2 ? STAGES - WK : WK + 2;

static_assert(CHUNKS % CK == 0, "CK must divide the tiles of weights");
static_assert(SHARE * SLICES == ACC && SHARE >= 2, "too many slices for so few columns");
static_assert(2 * STAGES * 8 <= BARRIERS, "too many stages");
static_assert(RESIDENT || LAG >= WK, "too few stages");

// A tile of weights: its tap, and its block of CHUNK channels. Warpgroups that divide a sum take every WK-th.
struct Position {
    int tap, block;

    CONVKIT_INLINE void advance() {
        tap += WK;
        if (TAPS < WK) {
            block += tap / TAPS;
            tap %= TAPS;
        } else if (tap >= TAPS) {
            tap -= TAPS;
            ++block;
        }
    }
};

// Add the bias and write COUNT neighbouring channels of a pixel.
template <int COUNT>
CONVKIT_INLINE void store(T* pixel, int channel, long long plane, const float* sums, const T* bias) {
    float value[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        value[i] = sums[i] + (N % COUNT == 0 || channel + i < N ? to_float(bias[channel + i]) : 0.f);
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
    Barrier* full = (Barrier*)memory;         // [STAGES]
    Barrier* empty = full + STAGES;           // [STAGES]
    unsigned char* tiles = memory + BARRIERS;  // STAGES * TILE_BYTES
    Weights* all_weights = (Weights*)(tiles + STAGES * TILE_BYTES);  // [WM][G * TAPS][ROWS]
    unsigned* all_corners = (unsigned*)(all_weights + WM * SAMPLES);  // [WM][G * TAPS][ROWS]

    const int thread = threadIdx.x;
    const int rank_m = CM > 1 ? blockIdx.x % CM : 0, rank_k = blockIdx.z;
    const int tiles_x = (out_width + TILE_W - 1) / TILE_W, tiles_y = (out_height + TILE_H - 1) / TILE_H;
    const int patches = batch * tiles_x * tiles_y;
    const int turns = (patches + int(gridDim.x) * WM - 1) / (int(gridDim.x) * WM);
    const Sizes sizes = {batch, height, width, out_height, out_width};
    const int begin = rank_k * PART;

    if (thread == 0) {
        for (int s = 0; s < STAGES; ++s) {
            init_barrier(full + s, 1);
            init_barrier(empty + s, CM * WM);
        }
        publish_barriers();
    }
    if (CM * CK > 1) cluster_sync<false>();
    else __syncthreads();

    float acc[ACC];
    const int group = thread / 128, in_group = thread % 128, lane = thread % 32;
    const int wm = group % WM, wk = group / WM;
    const int row = in_group / 32 * 16 + lane / 4, quarter = lane % 4;

    const int total = RESIDENT ? PART : turns * PART;
    int copied = 0;
    auto copy = [&](int n) {  // the n-th tile that this block needs, counted over all turns
        const int s = n % STAGES;
        if (n >= STAGES) wait_empty(empty + s, (n / STAGES - 1) & 1);
        const unsigned char* from = (const unsigned char*)weight + rank_m * (TILE_BYTES / CM) +
                                    ((size_t)blockIdx.y * CHUNKS + begin + n % PART) * TILE_BYTES;
        copy_tile<CM>(tiles + s * TILE_BYTES + rank_m * (TILE_BYTES / CM), from, TILE_BYTES, full + s,
                      ((1u << CM) - 1) << (CM * rank_k));
    };
    if (thread == 0)
        for (; copied < STAGES && copied < total; ++copied) copy(copied);

    Weights* weights = all_weights + wm * SAMPLES;
    unsigned* corners = all_corners + wm * SAMPLES;
    const unsigned down = width * PIXEL_BYTES;
    const int piece = lane % 8;                                     // of a pixel's 128 bytes
    const int sampled = in_group / 32 * 16 + lane / 8 * 2;          // first of this thread's two rows among each eight

    int slot = wk, phase = 0;

    for (int turn = 0; turn < turns; ++turn) {
        const int patch = (turn * int(gridDim.x) + int(blockIdx.x)) * WM + wm;
        const int image = patch / (tiles_x * tiles_y), place_in = patch % (tiles_x * tiles_y);
        const int first_x = place_in % tiles_x * TILE_W, first_y = place_in / tiles_x * TILE_H;

        // Offsets are read along pixels where these are neighbours in memory, else along taps; all before their use.
        if (turn > 0) set_sync<WK * 128>(wm + 1);
        {
            constexpr int EACH = (SAMPLES + WK * 128 - 1) / (WK * 128), GROUP = EACH < 6 ? EACH : 6;
            auto row_of = [&](int item) { return offset_pixel == 1 ? item % ROWS : item / (G * TAPS); };
            auto tap_of = [&](int item) { return offset_pixel == 1 ? item / ROWS : item % (G * TAPS); };
            for (int first = wk * 128 + in_group; first < SAMPLES; first += GROUP * WK * 128) {
                Raw raw[GROUP];
#pragma unroll
                for (int e = 0; e < GROUP; ++e) {
                    const int item = first + e * WK * 128, r = row_of(item);
                    const int y = first_y + r / TILE_W, px = first_x + r % TILE_W;
                    raw[e] = {0.f, 0.f, 0.f};
                    if (item < SAMPLES && image < batch && y < out_height && px < out_width)
                        raw[e] = read(offset, {offset_image, offset_channel, offset_pixel}, mask,
                                      {mask_image, mask_channel, mask_pixel}, image, tap_of(item), y * out_width + px);
                }
#pragma unroll
                for (int e = 0; e < GROUP; ++e) {
                    const int item = first + e * WK * 128, r = row_of(item), t = tap_of(item);
                    if (item >= SAMPLES) break;
                    const Sample sample =
                        sample_of(raw[e], image < batch ? image : 0, t % TAPS, first_y + r / TILE_W,
                                  first_x + r % TILE_W, sizes);
                    corners[t * ROWS + r] = sample.corner;
                    weights[t * ROWS + r] = weights_of(sample);
                }
            }
        }
        set_sync<WK * 128>(wm + 1);

#pragma unroll
        for (int i = 0; i < ACC; ++i) acc[i] = 0.f;
        uint4 v[DEPTH][2][4];
        unsigned a[BUFFERS][2][2][4] = {};  // operands of tiles in turn, [half][step]
        int previous = -1;            // slot of the tile that the tensor cores may still read
        Position used = {(begin + wk) % TAPS, (begin + wk) / TAPS}, next = used;
        if (RESIDENT) slot = wk;

        auto channel_of = [&](const Position& at) {
            const int channel = at.block * CHUNK + piece * PIECE;
            return C % CHUNK ? min(channel, C - PIECE) : channel;  // beyond C the weights are zero
        };
        auto index = [&](const Position& at, int eight) {  // of this thread's first row among eight, in the tables
            return ((G > 1 ? channel_of(at) / (C / G) * TAPS : 0) + at.tap) * ROWS + sampled + eight * 8;
        };
        auto load = [&](int eight) {
            const int k = index(next, eight);
            const char* base = (const char*)x + channel_of(next) * int(sizeof(T));
            const uint2 corner = *(const uint2*)(corners + k);
            fetch(v[eight % DEPTH][0], base + (unsigned long long)corner.x * PIXEL_BYTES, down);
            fetch(v[eight % DEPTH][1], base + (unsigned long long)corner.y * PIXEL_BYTES, down);
        };
        auto release = [&](int s) {
            if (!RESIDENT && in_group == 0) {
                if (CM == 1) arrive(empty + s);
#pragma unroll
                for (int block = 0; CM > 1 && block < CM; ++block)
                    arrive_remote(in_block(shared_address(empty + s), block + CM * rank_k));
            }
        };
        // Wait until the tensor cores are done. Until then the registers of their operands must not be used again, which
        // the compiler does not know: it has to keep the values.
        auto finish = [&](const unsigned (&operands)[2][2][4]) {
            wgmma_wait();
#pragma unroll
            for (int i = 0; i < 16; ++i) keep(operands[i / 8][i / 4 % 2][i % 4]);
        };
        auto multiply = [&](unsigned (&operands)[2][2][4], const unsigned (&busy)[2][2][4], int i) {
            const bool more = i + WK < PART;
            if (BUFFERS == 1) finish(busy);
#pragma unroll
            for (int eight = 0; eight < 2; ++eight) {
                const int k = index(used, eight);
                unsigned first[4], second[4];
                blend(first, v[eight % DEPTH][0], weights[k]);
                blend(second, v[eight % DEPTH][1], weights[k + 1]);
                if (DEPTH == 2) {
                    if (more) load(eight);
                } else if (eight == 0) {
                    load(1);
                    next.advance();
                } else if (more) {
                    load(0);
                }
                exchange(operands, eight, first, second, piece >= 4);
            }
            if (DEPTH == 2) next.advance();
            used.advance();
            if (BUFFERS == 2) finish(busy);
            if (previous >= 0) release(previous);
            previous = slot;
            if (!RESIDENT && thread == 0) {
                const int reached = turn * PART + i + STAGES - LAG;
                for (; copied < total && copied <= reached; ++copied) copy(copied);
            }
            const unsigned char* tile = tiles + slot * TILE_BYTES;
            wait_full(full + slot, phase);
            wgmma_begin();
#pragma unroll
            for (int step = 0; step < 4; ++step) wgmma(acc, operands[step / 2][step % 2], descriptor(tile, step * 32));
            wgmma_end();
            slot += WK;
            if (!RESIDENT && slot >= STAGES) {
                slot -= STAGES;
                phase ^= 1;
            }
        };

        if (wk < PART) {
            load(0);
            if (DEPTH == 2) {
                load(1);
                next.advance();
            }
        }
        for (int i = wk; i < PART;) {
            multiply(a[0], a[BUFFERS - 1], i);
            i += WK;
            if (BUFFERS == 1) continue;
            if (i >= PART) break;
            multiply(a[BUFFERS - 1], a[0], i);
            i += WK;
        }
        finish(a[0]);
        finish(a[BUFFERS - 1]);
#pragma unroll
        for (int i = 0; i < ACC; ++i) change(acc[i]);
        if (previous >= 0) release(previous);

        if (SLICES == 1 && image < batch) {
            const long long plane = (long long)out_height * out_width;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int r = row + half * 8, y = first_y + r / TILE_W, px = first_x + r % TILE_W;
                if (y >= out_height || px >= out_width) continue;
                const long long pixel = (long long)y * out_width + px;
                T* to = OUT_PLANES ? out + image * N * plane + pixel : out + (image * plane + pixel) * N;
#pragma unroll
                for (int block = 0; block < TILE_N / 32; ++block) {
                    const int channel = blockIdx.y * TILE_N + block * 32 + quarter * 8;
                    float values[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) values[i] = acc[(block * 4 + i / 2) * 4 + half * 2 + i % 2];
                    if (channel < N) store<8>(to, channel, plane, values, bias);
                }
            }
        }
    }

    if (SLICES > 1) {
        // The sums of the slices meet in shared memory, and each slice finishes its share of them. A thread's sums are
        // taken in the order of blocks of 32 columns, two rows, and 8 neighbouring columns of its own.
        float* sums = (float*)tiles;  // [WK][WM][ACC][128]
        __syncthreads();
#pragma unroll
            for (int o = 0; o < ACC; ++o)
                sums[((wk * WM + wm) * ACC + o) * 128 + in_group] =
                    acc[(o / 16 * 4 + o % 8 / 2) * 4 + o / 8 % 2 * 2 + o % 2];
        if (CK > 1) cluster_sync<true>();
        else __syncthreads();
        {
            constexpr int COUNT = SHARE < 8 ? SHARE : 8;
            const int share = rank_k * WK + wk;
            const int patch = int(blockIdx.x) * WM + wm, image = patch / (tiles_x * tiles_y);
            const int place_in = patch % (tiles_x * tiles_y);
            const int first_x = place_in % tiles_x * TILE_W, first_y = place_in / tiles_x * TILE_H;
            const long long plane = (long long)out_height * out_width;
            for (int first = share * SHARE; first < (share + 1) * SHARE; first += COUNT) {
                float values[COUNT];
#pragma unroll
                for (int i = 0; i < COUNT; ++i) values[i] = 0.f;
#pragma unroll
                for (int slice = 0; slice < SLICES; ++slice) {
                    const float* part = sums + ((slice % WK * WM + wm) * ACC + first) * 128 + in_group;
                    const unsigned address = CK > 1 ? in_block(shared_address(part), rank_m + CM * (slice / WK)) : 0;
#pragma unroll
                    for (int i = 0; i < COUNT; ++i) {
                        values[i] += CK > 1 ? read_remote(address + i * 512) : part[i * 128];
                    }
                }
                const int r = row + first / 8 % 2 * 8, y = first_y + r / TILE_W, px = first_x + r % TILE_W;
                const int channel = blockIdx.y * TILE_N + first / 16 * 32 + quarter * 8 + first % 8;
                if (image >= batch || y >= out_height || px >= out_width || channel >= N) continue;
                const long long pixel = (long long)y * out_width + px;
                T* to = OUT_PLANES ? out + image * N * plane + pixel : out + (image * plane + pixel) * N;
                store<COUNT>(to, channel, plane, values, bias);
            }
        }
    }
    if (CM * CK > 1) cluster_sync<false>();  // nobody leaves while others may still write to or read from its memory
}
