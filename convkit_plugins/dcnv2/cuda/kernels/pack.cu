// The weights of a deformable convolution, [filter][channel][tap], in the order in which another kernel reads them.
//
// Constants: T; MMA, the tiles of tensor.cu rather than those of plain.cu (see `pack_for_mma` and `pack_for_plain` in
// _weights.py); COLUMNS, filters of a tile. `count` values are packed, with zeros in the gaps. Behind them follow a one,
// which a launch without a mask reads, and a zero for each filter, which a launch without a bias reads.
#include "convkit.cuh"

extern "C" __global__ void __launch_bounds__(256)
    convkit_dcnv2_pack(const T* __restrict__ weight, T* __restrict__ packed, int filters, int channels, int taps,
                       int groups, int count) {
    const int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place > count + filters) return;
    if (place >= count) {
        packed[place] = from_float<T>(place == count ? 1.f : 0.f);
        return;
    }
    int filter, channel, tap;
    bool inside;
    if (MMA) {
        constexpr int PIECE = 16 / int(sizeof(T)), CHUNK = 8 * PIECE;
        const int q = place / PIECE % 4, n = place / (PIECE * 4) % 8, half = place / (PIECE * 32) % 2;
        const int column = place / (PIECE * 64) % (COLUMNS / 8) * 8 + n;
        const int tile = place / (CHUNK * COLUMNS), inputs = (channels + CHUNK - 1) / CHUNK;
        tap = tile % taps;
        channel = tile / taps % inputs * CHUNK + half * (4 * PIECE) + q * PIECE + place % PIECE;
        // Columns are permuted within 32, as epilogue.cuh reads them.
        filter = tile / (taps * inputs) * COLUMNS + column / 32 * 32 + column % 8 / 2 * 8 + column % 32 / 8 * 2 +
                 column % 2;
        inside = channel < channels;
    } else {
        const int members = channels / groups, padded = (members + 15) / 16 * 16;
        const int member = place / COLUMNS % padded, rest = place / (COLUMNS * padded);
        tap = rest % taps;
        channel = rest / taps % groups * members + member;
        filter = rest / (taps * groups) * COLUMNS + place % COLUMNS;
        inside = member < members;
    }
    packed[place] = inside && filter < filters ? weight[(filter * channels + channel) * taps + tap] : T();
}
