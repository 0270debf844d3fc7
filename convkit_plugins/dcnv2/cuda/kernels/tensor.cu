// Modulated deformable convolution on the tensor cores of sm_80 and newer: float16, bfloat16, and float as TF32.
//
// x is channels-last and dense, its channels a multiple of 16 bytes. A warp computes 16 pixels times TILE_N output
// channels; the pixels of a block are a patch TILE_W wide. Samples go from global memory to registers and are blended
// there. The weights are copied ahead into shared memory, in tiles of 128 bytes of channels (`pack_for_mma` in
// _weights.py) in the order of their use: taps innermost. At most 48 KiB of shared memory are needed.
//
// Further macros: TF32 and BF16, the type; N (output channels); the fields of a division (`Division` in _tensor.py);
// TILE_W; RELU; OUT_PLANES (NCHW); SHARED, the dynamic shared memory of the launch in bytes. Those of arguments.cuh.
#include "arguments.cuh"
#include "epilogue.cuh"
#include "gather.cuh"
#include "mma.cuh"

constexpr int ROWS = 16 * WARPS_M;  // pixels of a block
constexpr int TILE_H = ROWS / TILE_W;
constexpr int CHUNKS = (C + CHUNK - 1) / CHUNK * TAPS;
constexpr int TURNS = (CHUNKS + WARPS_K - 1) / WARPS_K;
constexpr int TILE = TILE_N * 8;  // 16-byte pieces of a tile of weights
constexpr int THREADS = WARPS_M * WARPS_K * 32;
constexpr int SAMPLES = G * TAPS * ROWS;
constexpr int COLUMNS = TILE_N / 8;  // products of a warp side by side
#ifndef PACKED
#define PACKED TILE_N
#endif
static_assert(TILE_N % PACKED == 0, "a block's tile of weights consists of whole packed ones");

struct SharedStorage {
    uint4 weight_tiles[STAGES][WARPS_K][TILE];
    Weights weights[G * TAPS][ROWS];  // bilinear weights
    unsigned corners[G * TAPS][ROWS];
};
// The sums of one of the warps that share pixels, in the memory of the above: [WARPS_M][COLUMNS * 4][32].
constexpr int SUM_BYTES = WARPS_K > 1 ? WARPS_M * COLUMNS * 4 * 32 * int(sizeof(float)) : 0;

static_assert(ROWS % TILE_W == 0 && TILE_N % 32 == 0 && STAGES >= 2, "no such tile");
static_assert(SHARED == (int(sizeof(SharedStorage)) > SUM_BYTES ? int(sizeof(SharedStorage)) : SUM_BYTES),
              "SHARED is not what the block lays out");
static_assert(SHARED <= 48 * 1024, "too much shared memory");

extern "C" __global__ void __launch_bounds__(THREADS)
    convkit_dcnv2_tensor(const T* x, const T* offset, const T* mask, const T* weight, const T* bias,
                         OUTPUT_FIRST(T* out) int batch, int height, int width, int out_height, int out_width,
                         int offset_image, int offset_channel, int offset_pixel, int mask_image, int mask_channel,
                         int mask_pixel OUTPUT_BEHIND(T* out)) {
    extern __shared__ uint4 memory[];
    SharedStorage& shared = *(SharedStorage*)memory;
    uint4* const tiles = &shared.weight_tiles[0][0][0];
    Weights* const weights = &shared.weights[0][0];
    unsigned* const corners = &shared.corners[0][0];

    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int wm = warp % WARPS_M, wk = warp / WARPS_M, piece = lane % 8;
    const int tiles_x = (out_width + TILE_W - 1) / TILE_W, tiles_y = (out_height + TILE_H - 1) / TILE_H;
    const int image = blockIdx.x / (tiles_x * tiles_y), place_in = blockIdx.x % (tiles_x * tiles_y);
    const int first_x = place_in % tiles_x * TILE_W, first_y = place_in / tiles_x * TILE_H;
    const Sizes sizes = {batch, height, width, out_height, out_width};
    const unsigned down = width * PIXEL_BYTES;

    const uint4* source = (const uint4*)weight + (long long)blockIdx.y * CHUNKS * TILE;
    auto copy = [&](int turn) {
        if (turn < TURNS) {
            uint4* to = tiles + turn % STAGES * (WARPS_K * TILE);
            for (int i = thread; i < WARPS_K * TILE; i += THREADS)
                if (CHUNKS % WARPS_K == 0 || turn * WARPS_K + i / TILE < CHUNKS)
#if PACKED == TILE_N
                    copy16(to + i, source + (long long)turn * WARPS_K * TILE + i);
#else  // packed tiles of the same channels and tap are CHUNKS tiles apart
                {
                    constexpr int PART = PACKED * 8;
                    const int part = i % TILE / PART, chunk = turn * WARPS_K + i / TILE;
                    copy16(to + i, source + ((long long)part * CHUNKS + chunk) * PART + i % PART);
                }
#endif
        }
        commit_copies();
    };
#pragma unroll
    for (int turn = 0; turn < STAGES - 1; ++turn) copy(turn);

    // Offsets are read along pixels where these are neighbours in memory, else along taps.
    for (int item = thread; item < SAMPLES; item += THREADS) {
        const int r = offset_pixel == 1 ? item % ROWS : item / (G * TAPS);
        const int t = offset_pixel == 1 ? item / ROWS : item % (G * TAPS);
        const int y = first_y + r / TILE_W, px = first_x + r % TILE_W;
        Raw raw = {0.f, 0.f, 0.f};
        if (y < out_height && px < out_width)
            raw = read(offset, {offset_image, offset_channel, offset_pixel}, mask,
                       {mask_image, mask_channel, mask_pixel}, image, t, y * out_width + px);
        const Sample sample = sample_of(raw, t % TAPS, y, px, sizes);
        corners[t * ROWS + r] = corner_of(sample, image, sizes);
        weights[t * ROWS + r] = weights_of(sample);
    }
    __syncthreads();

    float acc[COLUMNS][4];
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[n][i] = 0.f;

    auto channel_of = [&](int chunk) {
        const int channel = chunk / TAPS * CHUNK + piece * PIECE;
        return C % CHUNK ? min(channel, C - PIECE) : channel;  // beyond C the weights are zero
    };
    auto index = [&](int chunk, int eight) {  // of this thread's first row among eight, in the tables
        const int group = G > 1 ? channel_of(chunk) / (C / G) : 0;
        return (group * TAPS + chunk % TAPS) * ROWS + wm * 16 + eight * 8 + lane / 8 * 2;
    };
    uint4 v[2][2][4];
    auto load = [&](int chunk, int eight) {
        const int k = index(chunk, eight);
        const char* base = (const char*)x + channel_of(chunk) * int(sizeof(T));
        fetch(v[eight][0], base + (unsigned long long)corners[k] * PIXEL_BYTES, down);
        fetch(v[eight][1], base + (unsigned long long)corners[k + 1] * PIXEL_BYTES, down);
    };
    if (wk < CHUNKS) {
        load(wk, 0);
        load(wk, 1);
    }

    for (int turn = 0; turn < TURNS; ++turn) {
        const int chunk = turn * WARPS_K + wk;
        wait_copies<STAGES - 2>();
        __syncthreads();  // the tiles of this turn are complete, and those of the last one are no longer read
        copy(turn + STAGES - 1);
        if (CHUNKS % WARPS_K == 0 || chunk < CHUNKS) {
            unsigned a[2][2][4];
#pragma unroll
            for (int eight = 0; eight < 2; ++eight) {
                const int k = index(chunk, eight);
                unsigned first[4], second[4];
                blend(first, v[eight][0], weights[k]);
                blend(second, v[eight][1], weights[k + 1]);
                if (chunk + WARPS_K < CHUNKS) load(chunk + WARPS_K, eight);
                exchange(a, eight, first, second, piece >= 4);
            }
            const uint4* tile = tiles + (turn % STAGES * WARPS_K + wk) * TILE;
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const uint4 b = tile[(n * 2 + half) * 32 + lane];
                    mma(acc[n], a[half][0], b.x, b.y);
                    mma(acc[n], a[half][1], b.z, b.w);
                }
        }
    }

    // Add up the sums of warps that share pixels, one warp after another, through shared memory.
    if (WARPS_K > 1) {
        float* sums = (float*)memory;  // [WARPS_M][COLUMNS * 4][32]
#pragma unroll
        for (int from = 1; from < WARPS_K; ++from) {
            __syncthreads();
            if (wk == from)
#pragma unroll
                for (int i = 0; i < COLUMNS * 4; ++i) sums[(wm * COLUMNS * 4 + i) * 32 + lane] = acc[i / 4][i % 4];
            __syncthreads();
            if (wk == 0)
#pragma unroll
                for (int i = 0; i < COLUMNS * 4; ++i) acc[i / 4][i % 4] += sums[(wm * COLUMNS * 4 + i) * 32 + lane];
        }
        if (wk > 0) return;
    }

    const long long plane = (long long)out_height * out_width;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int r = row_of(thread, half * 8), y = first_y + r / TILE_W, px = first_x + r % TILE_W;
        if (y >= out_height || px >= out_width) continue;
        const long long pixel = (long long)y * out_width + px;
        T* to = OUT_PLANES ? out + (long long)image * N * plane + pixel : out + (image * plane + pixel) * N;
#pragma unroll
        for (int block = 0; block < TILE_N / 32; ++block) {
            const int o = block * 16 + half * 8, channel = blockIdx.y * TILE_N + column_of(lane, o);
            if (channel >= N) continue;
            float values[8], added[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                values[i] = acc[sum_of(o + i) / 4][sum_of(o + i) % 4];
                added[i] = N % 8 == 0 || channel + i < N ? to_float(bias[channel + i]) : 0.f;
            }
            store<8, false>(to, channel, plane, values, added);
        }
    }
}
