// A transposed convolution with one filter a channel in channels-last memory: how feature maps are scaled up.
//
// Each thread computes eight channels of a pixel from the few pixels of the input that reach it; for a kernel of twice
// the stride, bilinear weights for example, they are four. x is [image][height][width][CHANNELS], `weight`
// [KERNEL_Y][KERNEL_X][CHANNELS], `out` [image][out_height][out_width][CHANNELS]; PAD is taken off the result's edges.
// A piece is eight channels of an output. Sums are float; BIAS and RELU come behind them.
#include "convkit.cuh"

static_assert(CHANNELS % 8 == 0, "no such layer");

extern "C" __global__ void __launch_bounds__(256)
    convkit_depthwise_transposed(const T* x, const T* weight, const T* bias, T* out, long long pieces, int height,
                                 int width, int out_height, int out_width) {
    constexpr int GROUPS = CHANNELS / 8;
    const uint4 *source = reinterpret_cast<const uint4 *>(x), *filters = reinterpret_cast<const uint4 *>(weight);
    const long long step = static_cast<long long>(gridDim.x) * 256;
    for (long long piece = blockIdx.x * 256ll + threadIdx.x; piece < pieces; piece += step) {
        const int group = static_cast<int>(piece % GROUPS);
        const long long pixel = piece / GROUPS;
        const int column = static_cast<int>(pixel % out_width) + PAD_X;
        const int row = static_cast<int>(pixel / out_width % out_height) + PAD_Y;
        const uint4 *image = source + pixel / out_width / out_height * height * width * GROUPS + group;
        float sums[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] = 0.f;
#pragma unroll
        for (int v = 0; v < KERNEL_Y; v += STRIDE_Y) {
            const int ky = row % STRIDE_Y + v, y = row / STRIDE_Y - v / STRIDE_Y;
            if (ky >= KERNEL_Y || y < 0 || y >= height) continue;
#pragma unroll
            for (int u = 0; u < KERNEL_X; u += STRIDE_X) {
                const int kx = column % STRIDE_X + u, at = column / STRIDE_X - u / STRIDE_X;
                if (kx >= KERNEL_X || at < 0 || at >= width) continue;
                const uint4 a = __ldg(image + (y * width + at) * GROUPS);
                const uint4 b = __ldg(filters + (ky * KERNEL_X + kx) * GROUPS + group);
                const unsigned values[4] = {a.x, a.y, a.z, a.w}, factors[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float2 value = unpack2<T>(values[i]), factor = unpack2<T>(factors[i]);
                    sums[2 * i] = fmaf(value.x, factor.x, sums[2 * i]);
                    sums[2 * i + 1] = fmaf(value.y, factor.y, sums[2 * i + 1]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (BIAS) sums[i] += to_float(bias[group * 8 + i]);
            if (RELU && sums[i] < 0.f) sums[i] = 0.f;  // NaN stays
        }
        reinterpret_cast<uint4 *>(out)[piece] = make_uint4(pack2<T>(sums[0], sums[1]), pack2<T>(sums[2], sums[3]),
                                                          pack2<T>(sums[4], sums[5]), pack2<T>(sums[6], sums[7]));
    }
}
