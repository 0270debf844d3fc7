// The heads of one image: logits in one of three layouts, their vectors and peaks, and the boxes. Constants used: T,
// LAYOUT, VECTOR.
#ifndef CENTERNET_MAP_CUH
#define CENTERNET_MAP_CUH

#include "convkit.cuh"

#include "bound.cuh"

constexpr int PLANES = 0, PACKED = 2;
#define LOWEST __int_as_float(0xff800000)  // -inf

template <int BYTES> struct Raw;
template <> struct Raw<2> { typedef unsigned short Type; };
template <> struct Raw<4> { typedef unsigned Type; };
template <> struct Raw<8> { typedef uint2 Type; };
template <> struct Raw<16> { typedef uint4 Type; };

typedef Raw<VECTOR * sizeof(T)>::Type Load;

union Piece {
    Load load;
    T values[VECTOR];
};

// Division of numbers below 2^31 by a constant of the launch: a multiplication and a shift.
struct Divider {
    unsigned magic;
    int shift;

    CONVKIT_INLINE int of(int number) const {
        return static_cast<int>(static_cast<unsigned long long>(static_cast<unsigned>(number)) * magic >> shift);
    }
};

// The heat map of one image.
struct Map {
    const T* first;  // the logit of class 0 in cell 0
    int classes, height, width, pitch;
    int per_cell;  // vectors of a cell, where classes are adjacent
    int units;     // vectors of the map
    Divider by_cells, by_width, by_vectors;  // by_vectors: of a cell, where classes are adjacent

    CONVKIT_INLINE int cells() const { return height * width; }

    CONVKIT_INLINE int offset(int label, int cell) const {
        return LAYOUT == PLANES ? label * cells() + cell : cell * pitch + label;
    }

    CONVKIT_INLINE int unit_offset(int unit) const {
        if (LAYOUT == PLANES) return unit * VECTOR;
        const int cell = by_vectors.of(unit);
        return cell * pitch + (unit - cell * per_cell) * VECTOR;
    }

    // Class * cells + cell of the first value of a vector; those of the others are `rank_step` apart.
    CONVKIT_INLINE unsigned rank(int unit) const {
        if (LAYOUT == PLANES) return unit * VECTOR;
        const int cell = by_vectors.of(unit);
        return (unit - cell * per_cell) * VECTOR * cells() + cell;
    }

    CONVKIT_INLINE unsigned rank_step() const { return LAYOUT == PLANES ? 1 : cells(); }

    // No value of the vector, nor of a later one, has a lower rank.
    CONVKIT_INLINE unsigned lowest_rank(int unit) const {
        return LAYOUT == PLANES ? unit * VECTOR : by_vectors.of(unit);
    }

    CONVKIT_INLINE Piece load(int unit) const {
        Piece piece;
        piece.load = __ldg(reinterpret_cast<const Load*>(first + unit_offset(unit)));
        return piece;
    }

    CONVKIT_INLINE float value(int label, int cell) const { return to_float(first[offset(label, cell)]); }

    // Whether a value is as high as all its neighbours; NaN is no peak, nor is a neighbour of NaN.
    CONVKIT_INLINE bool is_peak(float value_here, int label, int cell) const {
        if (LAYOUT == PACKED) return value_here == to_float(first[offset(label, cell) + classes]);
        const int y = by_width.of(cell), x = cell - y * width;
        const int up = y > 0 ? -width : 0, down = y + 1 < height ? width : 0;
        const int left = x > 0 ? -1 : 0, right = x + 1 < width ? 1 : 0;
        const float near[8] = {value(label, cell + up + left),    value(label, cell + up),
                               value(label, cell + up + right),   value(label, cell + left),
                               value(label, cell + right),        value(label, cell + down + left),
                               value(label, cell + down),         value(label, cell + down + right)};
        bool peak = value_here == value_here;
#pragma unroll
        for (int index = 0; index < 8; ++index) peak = peak && value_here >= near[index];
        return peak;
    }
};

// The map of an image whose first value of the tensor is `hm`.
CONVKIT_INLINE Map map_of(const T* hm, int classes, int height, int width, int pitch, Divider by_cells,
                          Divider by_width, Divider by_vectors) {
    Map map;
    map.first = hm + (LAYOUT == PACKED ? 4 : 0);
    map.classes = classes;
    map.height = height;
    map.width = width;
    map.pitch = pitch;
    map.per_cell = classes / VECTOR;
    map.units = classes * (height * width) / VECTOR;
    map.by_cells = by_cells;
    map.by_width = by_width;
    map.by_vectors = by_vectors;
    return map;
}

#if CONVKIT_DEVICE && CONVKIT_ARCH >= 800
CONVKIT_INLINE unsigned max2(unsigned a, unsigned b, half_t) {
    unsigned result;
    asm("max.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

CONVKIT_INLINE unsigned max2(unsigned a, unsigned b, bfloat16_t) {
    unsigned result;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

// The highest of the 16-bit values in a load; NaN is skipped.
template <typename Stored>
CONVKIT_INLINE float highest_of(uint4 load, Stored type) {
    const unsigned both = max2(max2(load.x, load.y, type), max2(load.z, load.w, type), type);
    const float2 pair = unpack2<Stored>(both);
    return fmaxf(fmaxf(pair.x, pair.y), LOWEST);
}

template <typename Stored>
CONVKIT_INLINE float highest_of(uint2 load, Stored type) {
    const float2 pair = unpack2<Stored>(max2(load.x, load.y, type));
    return fmaxf(fmaxf(pair.x, pair.y), LOWEST);
}
#define PACKED_MAXIMUM 1
#else
#define PACKED_MAXIMUM 0
#endif

template <bool PACKED, typename Stored>
struct Highest {
    static CONVKIT_INLINE float of(const Piece& piece) {
        float result = LOWEST;
#pragma unroll
        for (int index = 0; index < VECTOR; ++index) result = fmaxf(result, to_float(piece.values[index]));
        return result;
    }
};

#if PACKED_MAXIMUM
template <typename Stored>
struct Highest<true, Stored> {
    static CONVKIT_INLINE float of(const Piece& piece) { return highest_of(piece.load, Stored{}); }
};
#endif

// The highest value of a vector, or -inf; in packed rows, of those that are equal to their pooled value.
CONVKIT_INLINE float highest(const Map& map, const Piece& piece, int unit) {
    if (LAYOUT == PACKED) {
        Piece pooled;
        pooled.load = __ldg(reinterpret_cast<const Load*>(map.first + map.unit_offset(unit) + map.classes));
        float result = LOWEST;
#pragma unroll
        for (int index = 0; index < VECTOR; ++index) {
            const float here = to_float(piece.values[index]);
            if (here == to_float(pooled.values[index])) result = fmaxf(result, here);
        }
        return result;
    }
    return Highest<PACKED_MAXIMUM != 0 && sizeof(T) == 2 && VECTOR >= 4, T>::of(piece);
}

// Bits that ascend with a value of type `Stored`, as wide as that; 0 is below all of them. NaN has no code.
template <typename Stored>
struct Code {
    typedef unsigned short Bits;

    static CONVKIT_INLINE unsigned of(float value) {
        const unsigned bits = from_float<Stored>(value + 0.0f).bits;
        return bits ^ (bits >> 15 ? 0xffffu : 0x8000u);
    }

    // The same as 32 bits of `ascending`.
    static CONVKIT_INLINE unsigned wide(unsigned code) {
        const Stored value = {static_cast<unsigned short>(code >> 15 ? code ^ 0x8000u : ~code)};
        return code == 0 ? 0 : ascending(to_float(value));
    }
};

template <>
struct Code<float> {
    typedef unsigned Bits;
    static CONVKIT_INLINE unsigned of(float value) { return ascending(value); }
    static CONVKIT_INLINE unsigned wide(unsigned code) { return code; }
};

// Sizes and offsets of the boxes of one image.
struct Heads {
    const T *sizes, *offsets;  // offsets may be null: the middle of the cell
    int width;
    Divider by_width;
    int size_axis, size_cell, size_class, offset_axis, offset_cell;

    // The values of one box.
    struct Read {
        T width, height, right, down;
    };

    CONVKIT_INLINE Read read(int label, int cell) const {
        const T *size = sizes + cell * size_cell + label * size_class, *offset = offsets + cell * offset_cell;
        Read read;
        read.width = size[0];
        read.height = size[size_axis];
        read.right = offsets ? offset[0] : from_float<T>(0.5f);
        read.down = offsets ? offset[offset_axis] : from_float<T>(0.5f);
        return read;
    }

    // The corners (x, y), (z, w) of the box in a cell, in cells.
    CONVKIT_INLINE float4 corners(const Read& read, int cell) const {
        const float half_width = __fmul_rn(to_float(read.width), 0.5f);
        const float half_height = __fmul_rn(to_float(read.height), 0.5f);
        const int row = LAYOUT == PACKED ? cell / width : by_width.of(cell);
        const float x = __fadd_rn(static_cast<float>(cell - row * width), to_float(read.right));
        const float y = __fadd_rn(static_cast<float>(row), to_float(read.down));
        return make_float4(__fadd_rn(x, -half_width), __fadd_rn(y, -half_height), __fadd_rn(x, half_width),
                           __fadd_rn(y, half_height));
    }
};

#endif
