// The first convolution of a network with its bias and ReLU, and the max pooling behind it, in one launch.
//
// An image has few channels, which fill the tensor cores badly where each pixel is padded to 8. Here a row of the kernel
// is one run of KERNEL * PIXEL values, because the pixels of a row follow each other: only the run is padded, to a
// multiple of four words of two values. A block computes the convolution for a patch of the output, from a patch of the
// image in shared memory, and keeps the result there; with POOL, the maximum of 3 x 3 of it with stride 2 is all that is
// written.
//
// x [batch, height, width, C] and out [batch, out_height, out_width, N] are dense; `weight` is packed by
// `pack_first_layer`. The values of x must be finite: a run ends in words that may be of the next pixels, with weights
// of zero.
#include "mma.cuh"

constexpr int ROWS = POOL ? 2 * TILE_H + 1 : TILE_H, COLUMNS = POOL ? 2 * TILE_W + 1 : TILE_W;  // of the convolution
constexpr int PIXELS = ROWS * COLUMNS, TILES = (PIXELS + 15) / 16;
constexpr int WARPS = (TILES + TURNS - 1) / TURNS, THREADS = WARPS * 32;
constexpr int PIXEL = STRIDE * C % 2 ? C + 1 : C;  // values of a pixel in shared memory: two pixels are whole words apart
constexpr int LEAD = PIXEL == C ? ((POOL ? STRIDE : 0) + PAD) * C % 2 : 0;  // a value, so that rows begin at whole words
constexpr int PATCH_H = (ROWS - 1) * STRIDE + KERNEL, PATCH_W = (COLUMNS - 1) * STRIDE + KERNEL;
constexpr int RUN = (LEAD + KERNEL * PIXEL + 7) / 8 * 4;         // words of a row of the kernel
constexpr int PITCH = (COLUMNS - 1) * STRIDE * PIXEL + 2 * RUN;  // values of a row of the patch
constexpr int STEPS = (KERNEL * RUN + 7) / 8;                    // products of 16 values
constexpr int RESULT = FILTERS + 8;  // values of a pixel of the result: neighbours lie in other banks

struct SharedStorage {
    uint4 weight[STEPS][FILTERS / 16][32];
    float2 bias[FILTERS / 2];
    T result[PIXELS * RESULT];
    T patch[PATCH_H * PITCH];
};

static_assert(FILTERS % 16 == 0 && N % FILTERS == 0, "no such tile");
static_assert(THREADS == BLOCK, "BLOCK is not what the tiles need");
static_assert(SHARED == int(sizeof(SharedStorage)), "SHARED is not what the block lays out");

#if CONVKIT_DEVICE
CONVKIT_INLINE unsigned larger(unsigned a, unsigned b) {
    unsigned result;
#if BF16
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
#else
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
#endif
    return result;
}
#else
CONVKIT_INLINE float larger(float a, float b) { return a != a || a > b ? a : b; }
CONVKIT_INLINE unsigned larger(unsigned a, unsigned b) {
    const float2 x = unpack2<T>(a), y = unpack2<T>(b);
    return pack2<T>(larger(x.x, y.x), larger(x.y, y.y));
}
#endif

// Write a row of the patch, from pixel `first` of row `y` of all images on; zero lies outside of the image. With PAIRS,
// rows of images begin at whole words.
CONVKIT_INLINE void load_row(T* to, const T* x, int y, int width, int first, bool inside) {
    const T* row = x + (long long)y * width * C;
    const int lane = threadIdx.x % 32;
    if (PAIRS && PIXEL == C) {
#pragma unroll
        for (int i = lane; i < PITCH / 2; i += 32) {
            const int value = first * C - LEAD + 2 * i;
            ((unsigned*)to)[i] = inside && value >= 0 && value < width * C ? *(const unsigned*)(row + value) : 0;
        }
    } else {
#pragma unroll 4
        for (int i = lane; i < PITCH; i += 32) {
            const int value = i - LEAD, column = first + (value + PIXEL) / PIXEL - 1, channel = (value + PIXEL) % PIXEL;
            const bool read = inside && column >= 0 && column < width && channel < C;
            to[i] = read ? row[column * C + channel] : from_float<T>(0.f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS_PER_SM)
    convkit_first_layer(const T* x, const T* weight, const T* bias, T* out, int batch, int height, int width,
                        int conv_height, int conv_width, int out_height, int out_width) {
    extern __shared__ uint4 memory[];
    SharedStorage& shared = *(SharedStorage*)memory;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, q = lane % 4;
    const int first_filter = blockIdx.y * FILTERS;
    const int tiles_x = (out_width + TILE_W - 1) / TILE_W, tiles_y = (out_height + TILE_H - 1) / TILE_H;
    const int tiles = batch * tiles_y * tiles_x;

    const uint4* packed = (const uint4*)weight + blockIdx.y * (STEPS * FILTERS / 16 * 32);
    for (int i = thread; i < STEPS * FILTERS / 16 * 32; i += THREADS) (&shared.weight[0][0][0])[i] = packed[i];

    for (int i = thread; i < FILTERS / 2; i += THREADS)
        shared.bias[i] = make_float2(to_float(bias[first_filter + 2 * i]), to_float(bias[first_filter + 2 * i + 1]));

    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int image = tile / (tiles_y * tiles_x), place = tile % (tiles_y * tiles_x);
        const int first_y = place / tiles_x * TILE_H, first_x = place % tiles_x * TILE_W;
        const int conv_y = POOL ? 2 * first_y - 1 : first_y, conv_x = POOL ? 2 * first_x - 1 : first_x;
        const int patch_y = conv_y * STRIDE - PAD, patch_x = conv_x * STRIDE - PAD;
        const bool border = conv_y < 0 || conv_x < 0 || conv_y + ROWS > conv_height || conv_x + COLUMNS > conv_width;

        __syncthreads();  // the last tile's patch and result are no longer read
#pragma unroll
        for (int turn = 0; turn < (PATCH_H + WARPS - 1) / WARPS; ++turn) {
            const int row = turn * WARPS + warp, y = patch_y + row;
            if (row < PATCH_H) load_row(shared.patch + row * PITCH, x, image * height + y, width, patch_x, y >= 0 && y < height);
        }
        __syncthreads();

        float acc[TURNS][FILTERS / 8][4];
        const unsigned* const patch = (const unsigned*)shared.patch;
        int rows[TURNS][2];  // where this lane's words of a pixel begin
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
#pragma unroll
            for (int n = 0; n < FILTERS / 8; ++n) {
                const float2 added = shared.bias[n * 4 + q];
                acc[turn][n][0] = acc[turn][n][2] = added.x, acc[turn][n][1] = acc[turn][n][3] = added.y;
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int pixel = min((turn * WARPS + warp) * 16 + half * 8 + g, PIXELS - 1);
                rows[turn][half] = (pixel / COLUMNS * PITCH + pixel % COLUMNS * PIXEL) * STRIDE / 2 + q;
            }
        }
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            unsigned a[TURNS][4];
#pragma unroll
            for (int turn = 0; turn < TURNS; ++turn)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int word = step * 8 + i / 2 * 4;  // of lane 0; those behind the last have weights of zero
                    a[turn][i] = patch[rows[turn][i % 2] + (word < KERNEL * RUN ? word / RUN * (PITCH / 2) + word % RUN : 0)];
                }
#pragma unroll
            for (int n = 0; n < FILTERS / 16; ++n) {
                const uint4 b = shared.weight[step][n][lane];
#pragma unroll
                for (int turn = 0; turn < TURNS; ++turn) {
                    mma(acc[turn][2 * n], a[turn], b.x, b.y);
                    mma(acc[turn][2 * n + 1], a[turn], b.z, b.w);
                }
            }
        }

#pragma unroll
        for (int i = 0; i < 2 * TURNS; ++i) {
            const int pixel = (i / 2 * WARPS + warp) * 16 + i % 2 * 8 + g;
            if (pixel >= PIXELS) continue;
            const int y = conv_y + pixel / COLUMNS, px = conv_x + pixel % COLUMNS;
            // behind the ReLU no maximum is below zero, so that zero stands for what is outside
            const bool inside = !POOL || !border || (y >= 0 && y < conv_height && px >= 0 && px < conv_width);
#pragma unroll
            for (int n = 0; n < FILTERS / 8; ++n) {
                const float first = acc[i / 2][n][i % 2 * 2], second = acc[i / 2][n][i % 2 * 2 + 1];
                *(unsigned*)(shared.result + pixel * RESULT + n * 8 + 2 * q) =
                    inside ? pack2<T>(first < 0.f ? 0.f : first, second < 0.f ? 0.f : second) : 0;
            }
        }
        __syncthreads();

#pragma unroll 1
        for (int i = thread; i < TILE_H * TILE_W * (FILTERS / 8); i += THREADS) {
            const int piece = i % (FILTERS / 8), pixel = i / (FILTERS / 8);
            const int row = pixel / TILE_W, column = pixel % TILE_W, y = first_y + row, px = first_x + column;
            if (y >= out_height || px >= out_width) continue;
            auto read = [&](int r, int c) { return *(const uint4*)(shared.result + (r * COLUMNS + c) * RESULT + piece * 8); };
            uint4 value = read((POOL ? 2 : 1) * row, (POOL ? 2 : 1) * column);
            if (POOL)
#pragma unroll
                for (int k = 1; k < 9; ++k) {
                    const uint4 other = read(2 * row + k / 3, 2 * column + k % 3);
                    value.x = larger(value.x, other.x), value.y = larger(value.y, other.y);
                    value.z = larger(value.z, other.z), value.w = larger(value.w, other.w);
                }
            *(uint4*)(out + (((long long)image * out_height + y) * out_width + px) * N + first_filter + piece * 8) = value;
        }
    }
}
