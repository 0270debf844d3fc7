// Max pooling in channels-last memory, without the indices that PyTorch's own kernel computes.
//
// x [batch, height, width, channels] and out [batch, out_height, out_width, channels] are dense; a thread has eight
// channels of one output. What lies outside of the image takes no part; a window has at least one pixel inside. NaN wins.
#include "convkit.cuh"

CONVKIT_INLINE float larger(float a, float b) { return a != a || a > b ? a : b; }
CONVKIT_INLINE unsigned larger(unsigned a, unsigned b) {
    const float2 x = unpack2<T>(a), y = unpack2<T>(b);
    return pack2<T>(larger(x.x, y.x), larger(x.y, y.y));
}

extern "C" __global__ void __launch_bounds__(256)
    convkit_max_pool(const T* x, T* out, long long pieces, int height, int width, int channels, int out_height,
                     int out_width) {
    const int parts = channels / 8;
    for (long long i = blockIdx.x * 256ll + threadIdx.x; i < pieces; i += gridDim.x * 256ll) {
        const int part = int(i % parts), px = int(i / parts % out_width);
        const long long line = i / parts / out_width;
        const int y = int(line % out_height) * STRIDE_Y - PAD_Y, column = px * STRIDE_X - PAD_X;
        const uint4* source = (const uint4*)x + line / out_height * height * width * parts + part;
        const unsigned lowest = pack2<T>(-__uint_as_float(0x7f800000u), -__uint_as_float(0x7f800000u));
        uint4 value = make_uint4(lowest, lowest, lowest, lowest);
#pragma unroll
        for (int k = 0; k < KERNEL_Y * KERNEL_X; ++k) {
            const int r = y + k / KERNEL_X * DILATION_Y, c = column + k % KERNEL_X * DILATION_X;
            if (r < 0 || r >= height || c < 0 || c >= width) continue;
            const uint4 other = source[((long long)r * width + c) * parts];
            value.x = larger(value.x, other.x), value.y = larger(value.y, other.y);
            value.z = larger(value.z, other.z), value.w = larger(value.w, other.w);
        }
        ((uint4*)out)[i] = value;
    }
}
