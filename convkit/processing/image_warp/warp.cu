// A batch of 8-bit images of any sizes into one normalised tensor: affine map, bilinear, constant or replicated edge.
//
// Every output pixel (x, y) samples its image at m * (x, y, 1). Coordinates, weights and rounding follow OpenCV 5's
// warpAffine step by step in float, so the 8-bit levels are the same.
//
// Constants of a variant:
//   T         type of the output
//   CHANNELS  bytes of an image's pixel: 1, 3 or 4
//   SLOTS     channels of the output, zero beyond those of the image
//   LAST      output is [image][y][x][slot], else [image][slot][y][x]
//   SWAP      the first three channels are written in reverse order
//   ROUND     to an 8-bit level before normalisation: 0 not at all, 1 to nearest even (OpenCV), 2 half up
//   EDGE      neighbours outside the image: 0 the border pixel; 1 the nearest pixel of the image, for output pixels
//             within the image's rectangle, while those outside of the rectangle are the border pixel
//   LINES     `levels` is float [channel][4] = {a, b, c, d} and the output is v * a + b where this is 1,
//             (v * a + b) + (v * c + d) where it is 2; with 0 it is float [channel][256], the output of each level
//   STEPS     pixels of a thread, 32 columns apart
//   WARPS     rows of a block, a warp each
#include "convkit.cuh"

// One image: the dtype IMAGE_RECORD or FRAMED_RECORD of the host.
struct alignas(16) Record {
    long long offset;               // of its first pixel from `pixels`, in bytes
    unsigned height, width, pitch;  // pitch: bytes from a row to the next
    unsigned unused;
    float m[6];
#if EDGE == 1
    int left, top, right, bottom;  // the rectangle in pixels of the output, right and bottom excluded
#endif
};

// The upper left of the four neighbours of a sampled point, and the distances from it. Numbers below zero wrap around,
// so that one comparison tells whether a pixel lies inside the image.
struct Spot {
    unsigned column, row;
    float across, down;
};

// Two neighbouring pixels of a row: the first of their bytes is the lowest byte of `low`.
struct Pair {
    unsigned low, high;
};

CONVKIT_INLINE Spot sampled(const Record &image, int x, int y) {
    const float *m = image.m, column = static_cast<float>(x), row = static_cast<float>(y);
    const float across = __fmaf_rn(m[0], column, __fadd_rn(__fmul_rn(m[1], row), m[2]));
    const float down = __fmaf_rn(m[3], column, __fadd_rn(__fmul_rn(m[4], row), m[5]));
    const int left = __float2int_rd(across), top = __float2int_rd(down);
    return {static_cast<unsigned>(left), static_cast<unsigned>(top), across - static_cast<float>(left),
            down - static_cast<float>(top)};
}

// Return the pixels at a distance in bytes from the first word. Only words are read that hold a byte of theirs.
CONVKIT_INLINE Pair load(const unsigned char *words, unsigned byte) {
    const unsigned *word = reinterpret_cast<const unsigned *>(words + (byte & ~3u));
    const unsigned beyond = (byte & 3u) + 2u * CHANNELS - 1u, shift = byte * 8u;  // shifts count modulo 32
    Pair pair = {__ldg(word), 0u};
    if (CHANNELS == 1) {
        pair.low = __funnelshift_r(pair.low, beyond > 3u ? __ldg(word + 1) : 0u, shift);
    } else {
        const unsigned middle = __ldg(word + 1), last = beyond > 7u ? __ldg(word + 2) : 0u;
        pair.low = __funnelshift_r(pair.low, middle, shift);
        pair.high = __funnelshift_r(middle, last, shift);
    }
    return pair;
}

// Return a byte of a pair as a float, plus 2^23, which is exact.
CONVKIT_INLINE float biased(const Pair &pair, int byte) {
    return __uint_as_float(__byte_perm(byte < 4 ? pair.low : pair.high, 0x4b000000u, 0x7440u | (byte & 3)));
}

CONVKIT_INLINE float mix(float left, float right, float weight) { return __fmaf_rn(weight, right - left, left); }

CONVKIT_INLINE float mix_biased(const Pair &pair, int channel, float weight) {
    const float left = biased(pair, channel), right = biased(pair, channel + CHANNELS);
    return __fmaf_rn(weight, right - left, left - 8388608.0f);
}

CONVKIT_INLINE unsigned char border_of(unsigned border, int channel) { return (border >> (8 * channel)) & 255u; }

CONVKIT_INLINE float tap(const Record &image, const unsigned char *first, unsigned border, unsigned column,
                         unsigned row, int channel) {
    const bool inside = column < image.width && row < image.height;
    return inside ? __ldg(first + row * image.pitch + column * CHANNELS + channel) : border_of(border, channel);
}

// The columns and rows of a point's four neighbours.
struct Corners {
    unsigned left, right, above, below;
};

CONVKIT_INLINE Corners corners_of(const Record &image, const Spot &at) {
#if EDGE == 1
    // Columns -1 to width - 1 have their neighbours at most one pixel outside; further out, all four are equal.
    const int column = max(-1, min(static_cast<int>(at.column), static_cast<int>(image.width) - 1));
    const int row = max(-1, min(static_cast<int>(at.row), static_cast<int>(image.height) - 1));
    return {static_cast<unsigned>(max(column, 0)), min(column + 1u, image.width - 1u),
            static_cast<unsigned>(max(row, 0)), min(row + 1u, image.height - 1u)};
#else
    return {at.column, at.column + 1u, at.row, at.row + 1u};
#endif
}

// Whether an output pixel is within the image's rectangle; all are where the edge is the border.
CONVKIT_INLINE bool framed(const Record &image, int x, int y) {
#if EDGE == 1
    return x >= image.left && x < image.right && y >= image.top && y < image.bottom;
#else
    return true;
#endif
}

// What makes outputs of values: the lines of all channels in registers, or where their tables are.
struct Levels {
    float4 line[LINES ? CHANNELS : 1];
    const float *table;
};

// Return the output of a value that is nearly or exactly an 8-bit level.
CONVKIT_INLINE float normalised(float value, const Levels &levels, int channel) {
    if (ROUND == 1) value = __fadd_rn(value, 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: the sum has no fraction left
    if (ROUND == 2) value = floorf(value + 0.5f);
    if (!LINES) return __ldg(levels.table + channel * 256 + static_cast<int>(value));
    const float4 line = levels.line[LINES ? channel : 0];
    const float output = __fmaf_rn(value, line.x, line.y);
    return LINES == 1 ? output : __fadd_rn(output, __fmaf_rn(value, line.z, line.w));
}

struct alignas(SLOTS * sizeof(T) % 16 == 0 ? 16 : SLOTS * sizeof(T) % 8 == 0 ? 8 : sizeof(T)) Pixel {
    T slot[SLOTS];
};

CONVKIT_INLINE void write(T *output, const float *values, const Levels &levels, int x, int y, int height, int width) {
    Pixel pixel;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const int channel = SWAP && slot < 3 ? 2 - slot : slot;
        pixel.slot[slot] = from_float<T>(slot < CHANNELS ? normalised(values[channel], levels, slot) : 0.0f);
    }
    const int at = y * width + x;
    if (LAST) {
        reinterpret_cast<Pixel *>(output)[at] = pixel;
    } else {
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) output[slot * height * width + at] = pixel.slot[slot];
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    convkit_warp(const unsigned char *table, const unsigned char *pixels, const float *levels, T *output,
                 unsigned border, int height, int width) {
    const int left = blockIdx.x * (32 * STEPS) + threadIdx.x, y = blockIdx.y * WARPS + threadIdx.y;
    if (left >= width || y >= height) return;
    const Record image = reinterpret_cast<const Record *>(table)[blockIdx.z];
    output += static_cast<long long>(blockIdx.z * SLOTS) * (height * width);
    Levels normal = {{}, levels};
#pragma unroll
    for (int channel = 0; channel < (LINES ? CHANNELS : 0); ++channel) {
        normal.line[channel] = __ldg(reinterpret_cast<const float4 *>(levels) + channel);
    }

    Spot at[STEPS];
    bool outside = true, inside = true;  // all of the pixels, with all of their neighbours
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        at[step] = sampled(image, min(left + 32 * step, width - 1), y);
        const bool shown = framed(image, left + 32 * step, y);
        if (EDGE)
            outside &= !shown;
        else
            outside &= at[step].column + 1u > image.width || at[step].row + 1u > image.height;
        inside &= shown && at[step].column < image.width - 1u && at[step].row < image.height - 1u;
    }
    float values[CHANNELS];
    if (outside) {
#pragma unroll
        for (int channel = 0; channel < CHANNELS; ++channel) values[channel] = border_of(border, channel);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (left + 32 * step < width) write(output, values, normal, left + 32 * step, y, height, width);
        }
    } else if (inside) {
        const unsigned long long first = reinterpret_cast<unsigned long long>(pixels + image.offset);
        const unsigned char *words = reinterpret_cast<const unsigned char *>(first & ~3ull);
        Pair above[STEPS], below[STEPS];
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const unsigned skew = first & 3u, byte = skew + at[step].row * image.pitch + at[step].column * CHANNELS;
            above[step] = load(words, byte);
            below[step] = load(words, byte + image.pitch);
        }
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
#pragma unroll
            for (int channel = 0; channel < CHANNELS; ++channel) {
                values[channel] = mix(mix_biased(above[step], channel, at[step].across),
                                      mix_biased(below[step], channel, at[step].across), at[step].down);
            }
            if (left + 32 * step < width) write(output, values, normal, left + 32 * step, y, height, width);
        }
    } else {
        const unsigned char *first = pixels + image.offset;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const Corners near = corners_of(image, at[step]);
#pragma unroll
            for (int channel = 0; channel < CHANNELS; ++channel) {
                const float upper = mix(tap(image, first, border, near.left, near.above, channel),
                                        tap(image, first, border, near.right, near.above, channel), at[step].across);
                const float lower = mix(tap(image, first, border, near.left, near.below, channel),
                                        tap(image, first, border, near.right, near.below, channel), at[step].across);
                values[channel] = mix(upper, lower, at[step].down);
                if (!framed(image, left + 32 * step, y)) values[channel] = border_of(border, channel);
            }
            if (left + 32 * step < width) write(output, values, normal, left + 32 * step, y, height, width);
        }
    }
}
