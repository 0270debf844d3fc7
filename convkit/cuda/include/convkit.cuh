// What every kernel of convkit includes first: the 16-bit storage types and their conversions, without CUDA's headers.
//
// half_t and bfloat16_t only store. Arithmetic is float: to_float(x), from_float<T>(x); pack2<T>(low, high) and
// unpack2<T>(bits) convert two values that share a 32-bit word, the first one in its lower half. Rounding is to nearest
// even, overflow gives infinity, and a value that is not a number becomes 0x7fff in either type, as the hardware does it.
//
// The constants of a variant are macros that are defined before this text, so no template parameter is called T here.
//
// CONVKIT_DEVICE is 1 where a GPU runs the code, and 0 where host.h lets a C++ compiler build it (CONVKIT_HOST).
#ifndef CONVKIT_CUH
#define CONVKIT_CUH

#ifdef CONVKIT_HOST
#define CONVKIT_DEVICE 0
#define CONVKIT_INLINE inline
#else
#define CONVKIT_DEVICE 1
#define CONVKIT_INLINE __device__ __forceinline__
#endif

#if defined(__CUDA_ARCH__)
#define CONVKIT_ARCH __CUDA_ARCH__
#else
#define CONVKIT_ARCH 0
#endif

struct half_t {
    unsigned short bits;
};

struct bfloat16_t {
    unsigned short bits;
};

static_assert(sizeof(half_t) == 2 && alignof(half_t) == 2, "half_t must be stored in two bytes");
static_assert(sizeof(bfloat16_t) == 2 && alignof(bfloat16_t) == 2, "bfloat16_t must be stored in two bytes");

CONVKIT_INLINE float to_float(float value) { return value; }

CONVKIT_INLINE float to_float(unsigned char value) { return static_cast<float>(value); }

CONVKIT_INLINE float to_float(half_t value) {
#if CONVKIT_DEVICE
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#else
    const unsigned sign = (value.bits & 0x8000u) << 16, exponent = (value.bits >> 10) & 31u, fraction = value.bits & 0x3ffu;
    if (exponent == 31u) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0u) return __uint_as_float(sign | (exponent + 112u) << 23 | fraction << 13);
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(fraction) * 5.9604644775390625e-8f));  // 2^-24
#endif
}

CONVKIT_INLINE float to_float(bfloat16_t value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

// Return the value as a T: float, half_t or bfloat16_t.
template <typename Stored>
CONVKIT_INLINE Stored from_float(float value);

template <>
CONVKIT_INLINE float from_float<float>(float value) {
    return value;
}

template <>
CONVKIT_INLINE half_t from_float<half_t>(float value) {
    half_t result;
#if CONVKIT_DEVICE
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const unsigned bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    unsigned rounded;
    if (size > 0x7f800000u) {
        result.bits = 0x7fff;
        return result;
    }
    if (size >= 0x477ff000u) {  // 65520, half-way between the largest number and the next power of two
        rounded = 0x7c00u;
    } else if (size < 0x38800000u) {  // below 2^-14: the sum's last place is 2^-24, the unit of the smallest numbers
        rounded = __float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u;
    } else {
        rounded = (size + 0xfffu + ((size >> 13) & 1u) - (112u << 23)) >> 13;
    }
    result.bits = static_cast<unsigned short>(sign | rounded);
#endif
    return result;
}

template <>
CONVKIT_INLINE bfloat16_t from_float<bfloat16_t>(float value) {
    bfloat16_t result;
#if CONVKIT_DEVICE && CONVKIT_ARCH >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const unsigned bits = __float_as_uint(value);
    const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
    result.bits = static_cast<unsigned short>(number ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : 0x7fffu);
#endif
    return result;
}

// Return two values as T in one word, `low` in its lower half.
template <typename Stored>
CONVKIT_INLINE unsigned pack2(float low, float high) {
    return from_float<Stored>(low).bits | static_cast<unsigned>(from_float<Stored>(high).bits) << 16;
}

#if CONVKIT_DEVICE && CONVKIT_ARCH >= 800
template <>
CONVKIT_INLINE unsigned pack2<half_t>(float low, float high) {
    unsigned result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

template <>
CONVKIT_INLINE unsigned pack2<bfloat16_t>(float low, float high) {
    unsigned result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}
#endif

// Return the two T of a word as floats, the lower half in `x`.
template <typename Stored>
CONVKIT_INLINE float2 unpack2(unsigned bits) {
    const Stored low = {static_cast<unsigned short>(bits & 0xffffu)}, high = {static_cast<unsigned short>(bits >> 16)};
    return make_float2(to_float(low), to_float(high));
}

#endif
