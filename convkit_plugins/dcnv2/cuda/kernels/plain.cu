// Modulated deformable convolution in one launch without tensor cores, for float32 and for sm_75.
//
// A block computes PIXELS output pixels x FILTERS filters as an implicit matrix product over (group, tap, channel). In
// each step its threads sample CHUNK channels at one tap into a tile of shared memory, while they multiply the tile of
// the step before; samples and weights travel through registers, so that their loads overlap with the product.
//
// Constants: T, the type of all tensors; SIGMOID, whether the mask is a logit; RELU; VECTOR, whether four channels of a
// pixel may be loaded at once: the channel stride of x is 1, and its other strides, its address (in elements) and
// channels / groups are multiples of 4; PIXELS and FILTERS of a block; ROWS and COLUMNS, those of a thread; PARTS,
// groups of threads that divide the steps of a block, for small problems. Strides count elements; the pixels of offset,
// mask and out are numbered row by row. `weight` is packed as [filter tile] [group][tap][channel of the group, padded
// to CHUNK][filter of the tile], zeros in the gaps; `bias` may be null. See also arguments.cuh.
#define FULL_PRECISION 1
#include "activation.cuh"
#include "arguments.cuh"
#include "bilinear.cuh"

constexpr int CHUNK = 16;
constexpr int THREADS = PIXELS / ROWS * (FILTERS / COLUMNS);  // of one part
constexpr int SHARERS = THREADS / PIXELS;              // threads that sample one pixel
constexpr int QUADS = CHUNK / 4 / SHARERS;             // times four channels that a thread samples
constexpr int PIECES = CHUNK * FILTERS / 4 / THREADS;  // times four weights that a thread copies
constexpr int ROW_GROUPS = ROWS / 4, COLUMN_GROUPS = COLUMNS / 4;
static_assert(SHARERS * PIXELS == THREADS && QUADS * SHARERS * 4 == CHUNK, "the threads divide the samples evenly");
static_assert(PIECES * THREADS * 4 == CHUNK * FILTERS, "the threads divide the weights evenly");
static_assert((PARTS - 1) * PIXELS * FILTERS <= PARTS * 2 * CHUNK * (PIXELS + 4 + FILTERS), "the sums fit the tiles");
#ifndef PACKED
#define PACKED FILTERS
#endif
static_assert(FILTERS % PACKED == 0, "a block's tile of weights consists of whole packed ones");
static_assert(ROW_GROUPS * 4 == ROWS && COLUMN_GROUPS * 4 == COLUMNS, "a thread holds multiples of 4 x 4");

// Four neighbouring values in memory.
template <int BYTES>
struct Word {
    typedef uint2 type;
};

template <>
struct Word<4> {
    typedef float4 type;
};

typedef Word<sizeof(T)>::type Four;

__device__ __forceinline__ void split(float4 four, float (&values)[4]) {
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
}

template <typename Halves>
__device__ __forceinline__ void split(Halves four, float (&values)[4]) {
    const float2 low = unpack2<T>(four.x), high = unpack2<T>(four.y);
    values[0] = low.x, values[1] = low.y, values[2] = high.x, values[3] = high.y;
}

__device__ __forceinline__ void join(const float (&values)[4], float4& four) {
    four = make_float4(values[0], values[1], values[2], values[3]);
}

template <typename Halves>
__device__ __forceinline__ void join(const float (&values)[4], Halves& four) {
    four = make_uint2(pack2<T>(values[0], values[1]), pack2<T>(values[2], values[3]));
}

extern "C" __global__ void __launch_bounds__(THREADS* PARTS) convkit_dcnv2_plain(
    const T* __restrict__ x, const T* __restrict__ offset, const T* __restrict__ mask, const T* __restrict__ weight,
    const T* __restrict__ bias, OUTPUT_FIRST(T* __restrict__ out) int batch, int channels, int height, int width, int filters,
    int out_height, int out_width, int kernel_height, int kernel_width, int stride_y, int stride_x, int pad_top,
    int pad_left, int dilation_y, int dilation_x, int groups, int x_image, int x_channel, int x_row, int x_pixel,
    int offset_image, int offset_channel, int offset_pixel, int mask_image, int mask_channel, int mask_pixel,
    int out_image, int out_channel, int out_pixel OUTPUT_BEHIND(T* __restrict__ out)) {
    // Two buffers for each part; a row holds the samples and the weights of one channel.
    __shared__ __align__(16) float memory[PARTS][2][CHUNK][PIXELS + 4 + FILTERS];

    const int thread = PARTS == 1 ? threadIdx.x : threadIdx.x % THREADS, part = PARTS == 1 ? 0 : threadIdx.x / THREADS;
    const int tiles = (filters + FILTERS - 1) / FILTERS;
    const int tile = blockIdx.x % tiles, first_pixel = blockIdx.x / tiles * PIXELS;
    const int plane = out_height * out_width, total = batch * plane;

    // The pixel that this thread samples. Neighbouring lanes read neighbours in memory: channels or pixels.
    const int slot = VECTOR ? thread / SHARERS : thread % PIXELS, sharer = VECTOR ? thread % SHARERS : thread / PIXELS;
    const int sampled = first_pixel + slot, image = sampled / plane, position = sampled % plane;
    const bool exists = sampled < total;
    const int origin_y = position / out_width * stride_y - pad_top;
    const int origin_x = position % out_width * stride_x - pad_left;
    const int offset_start = image * offset_image + position * offset_pixel;
    const int mask_start = image * mask_image + position * mask_pixel;
    const T* const pixels = x + image * x_image;

    const int taps = kernel_height * kernel_width, members = channels / groups;
    const int chunks = (members + CHUNK - 1) / CHUNK, all = groups * taps * chunks;
    const int most = (all + PARTS - 1) / PARTS, first = min(part * most, all), steps = min(most, all - first);
    const T* next_weights = weight + (tile * (FILTERS / PACKED) * all + first) * (CHUNK * PACKED);

    // Where four weights are, counted in fours from those of this step: packed tiles are `all` steps apart.
    auto place = [&](int four) {
        if (PACKED == FILTERS) return four;
        const int row = four / (FILTERS / 4), column = four % (FILTERS / 4), width = PACKED / 4;
        return column / width * (all * CHUNK * width) + row * width + column % width;
    };

    struct {
        T y, x, mask;
    } ahead = {};  // of the next tap, on its way from memory
    auto read_tap = [&](int number) {
        if (!exists || number >= groups * taps) return;
        ahead.y = offset[offset_start + 2 * number * offset_channel];
        ahead.x = offset[offset_start + (2 * number + 1) * offset_channel];
        ahead.mask = mask[mask_start + number * mask_channel];
    };

    // Loads in flight for the next step.
#if VECTOR
    Four values[QUADS][4];
#else
    T values[QUADS][4][4];
#endif
    Four pieces[PIECES];
    Sample sample;
    int chunk = first % chunks, number = first / chunks, group = number / taps;
    int tap_y = number % taps / kernel_width, tap_x = number % taps % kernel_width;

    auto read_sample = [&]() {
        const int y = origin_y + tap_y * dilation_y, x = origin_x + tap_x * dilation_x;
        const Raw raw = {to_float(ahead.y), to_float(ahead.x), to_float(ahead.mask)};
        sample = sample_at(raw, y, x, height, width);
        if (!exists) sample.touched = 0u;
        read_tap(++number);
    };

    auto fetch = [&]() {
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
            const int channel = chunk * CHUNK + (sharer + q * SHARERS) * 4;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const int start = (sample.row + c / 2) * x_row + (sample.column + c % 2) * x_pixel;
                const bool touched = sample.touched >> c & 1u;
#if VECTOR
                values[q][c] = Four();
                if (touched && channel < members)
                    values[q][c] = *reinterpret_cast<const Four*>(pixels + start + group * members + channel);
#else
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    values[q][c][i] = T();
                    if (touched && channel + i < members)
                        values[q][c][i] = pixels[start + (group * members + channel + i) * x_channel];
                }
#endif
            }
        }
#pragma unroll
        for (int p = 0; p < PIECES; ++p)
            pieces[p] = reinterpret_cast<const Four*>(next_weights)[place(p * THREADS + thread)];
        next_weights += CHUNK * PACKED;
    };

    auto store = [&](int buffer) {
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
            float sums[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                float corner[4];
#if VECTOR
                split(values[q][c], corner);
#else
#pragma unroll
                for (int i = 0; i < 4; ++i) corner[i] = to_float(values[q][c][i]);
#endif
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[i] = fmaf(sample.weight[c], corner[i], sums[i]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) memory[part][buffer][(sharer + q * SHARERS) * 4 + i][slot] = sums[i];
        }
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
            const int at = (p * THREADS + thread) * 4;
            float four[4];
            split(pieces[p], four);
            *reinterpret_cast<float4*>(&memory[part][buffer][at / FILTERS][PIXELS + 4 + at % FILTERS]) =
                make_float4(four[0], four[1], four[2], four[3]);
        }
    };

    // The outputs of this thread. Neighbouring lanes write neighbours in memory: filters or pixels.
    constexpr int ACROSS = FILTERS / COLUMNS, DOWN = PIXELS / ROWS;
    const bool last = out_channel == 1;
    const int across = last ? thread % ACROSS : thread / DOWN, down = last ? thread / ACROSS : thread % DOWN;
    float sums[ROWS][COLUMNS] = {};

    if (steps > 0) {
        read_tap(number);
        read_sample();
        fetch();
        store(0);
    }
    __syncthreads();
    for (int step = 0; step < most; ++step) {
        const int buffer = step & 1;
        const bool more = step + 1 < steps;
        if (more) {
            if (++chunk == chunks) {
                chunk = 0;
                if (++tap_x == kernel_width) {
                    tap_x = 0;
                    if (++tap_y == kernel_height) tap_y = 0, ++group;
                }
                read_sample();
            }
            fetch();
        }
#pragma unroll
        for (int k = 0; k < CHUNK && (PARTS == 1 || step < steps); ++k) {
            const float* const row = memory[part][buffer][k];
            float rows[ROW_GROUPS][4], many[COLUMN_GROUPS][4];
#pragma unroll
            for (int r = 0; r < ROW_GROUPS; ++r)
                split(*reinterpret_cast<const float4*>(row + (r * DOWN + down) * 4), rows[r]);
#pragma unroll
            for (int c = 0; c < COLUMN_GROUPS; ++c)
                split(*reinterpret_cast<const float4*>(row + PIXELS + 4 + (c * ACROSS + across) * 4), many[c]);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) sums[r][c] = fmaf(rows[r / 4][r % 4], many[c / 4][c % 4], sums[r][c]);
            }
        }
        if (more) store(buffer ^ 1);
        __syncthreads();
    }

    if (PARTS > 1) {  // the first part adds up the sums of all
        float* const shared = &memory[0][0][0][0];
        if (part > 0) {
#pragma unroll
            for (int i = 0; i < ROWS * COLUMNS; ++i)
                shared[((part - 1) * ROWS * COLUMNS + i) * THREADS + thread] = sums[i / COLUMNS][i % COLUMNS];
        }
        __syncthreads();
        if (part > 0) return;
        for (int other = 0; other < PARTS - 1; ++other) {
#pragma unroll
            for (int i = 0; i < ROWS * COLUMNS; ++i)
                sums[i / COLUMNS][i % COLUMNS] += shared[(other * ROWS * COLUMNS + i) * THREADS + thread];
        }
    }

#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        const int filter = tile * FILTERS + (c / 4 * ACROSS + across) * 4 + c % 4;
        const float constant = bias != nullptr && filter < filters ? to_float(bias[filter]) : 0.f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            sums[r][c] = activate(sums[r][c] + constant);
        }
    }
    const bool aligned = reinterpret_cast<unsigned long long>(out) % sizeof(Four) == 0 && out_image % 4 == 0;
    const bool four_filters = aligned && last && out_pixel % 4 == 0 && filters % 4 == 0;
    const bool four_pixels = aligned && out_pixel == 1 && out_channel % 4 == 0 && plane % 4 == 0;
#pragma unroll
    for (int r = 0; r < ROW_GROUPS; ++r) {
        const int pixel = first_pixel + (r * DOWN + down) * 4;
#pragma unroll
        for (int c = 0; c < COLUMN_GROUPS; ++c) {
            const int filter = tile * FILTERS + (c * ACROSS + across) * 4;
            if (pixel >= total || filter >= filters) continue;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float row[4], column[4];  // the filters of one pixel, the pixels of one filter
#pragma unroll
                for (int j = 0; j < 4; ++j) row[j] = sums[r * 4 + i][c * 4 + j], column[j] = sums[r * 4 + j][c * 4 + i];
                if (four_pixels) {
                    if (filter + i >= filters) continue;
                    T* const start = out + pixel / plane * out_image + pixel % plane + (filter + i) * out_channel;
                    join(column, *reinterpret_cast<Four*>(start));
                    continue;
                }
                if (pixel + i >= total) continue;
                T* const start = out + (pixel + i) / plane * out_image + (pixel + i) % plane * out_pixel;
                if (four_filters) {
                    join(row, *reinterpret_cast<Four*>(start + filter));
                    continue;
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    if (filter + j < filters) start[(filter + j) * out_channel] = from_float<T>(row[j]);
                }
            }
        }
    }
}
