/* What the kernels share: vectors of numbers for any processor, and a layer.

LANES numbers of 32 bits in a vector. Vectors are GCC's and Clang's own types, which know + and *
(gcc.gnu.org/onlinedocs/gcc/Vector-Extensions.html); only what these cannot say is written by processor. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512BW__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#else
#define LANES 4
#endif

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int16_t shorts __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t few_halves __attribute__((vector_size(2 * LANES), aligned(2)));

#if !defined(__AVX512BW__) && !(LANES == 8 && defined(__F16C__))
typedef _Float16 floats16 __attribute__((vector_size(2 * LANES), aligned(2)));
#endif

/* LANES numbers in fp16, as fp32. */
INLINE floats from_fp16(const uint16_t *from) {
#if defined(__AVX512BW__)
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)from));
#elif LANES == 8 && defined(__F16C__)
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const void *)from));
#else
    return __builtin_convertvector(*(const floats16 *)from, floats);
#endif
}

/* LANES numbers in fp32, to the nearest in fp16. */
INLINE void to_fp16(floats from, uint16_t *to) {
#if defined(__AVX512BW__)
    _mm256_storeu_si256((void *)to, _mm512_cvtps_ph((__m512)from, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif LANES == 8 && defined(__F16C__)
    _mm_storeu_si128((void *)to, _mm256_cvtps_ph((__m256)from, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    *(floats16 *)to = __builtin_convertvector(from, floats16);
#endif
}

/* a[2i] b[2i] + a[2i+1] b[2i+1] */
INLINE ints pairs(shorts a, shorts b) {
#if defined(__AVX512BW__)
    return (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return ((ints)a << 16 >> 16) * ((ints)b << 16 >> 16) + ((ints)a >> 16) * ((ints)b >> 16);
#endif
}

/* sum + the four unsigned bytes of each lane of w times the four signed ones of x. */
INLINE ints four_more(ints sum, words w, ints x) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(__AVXVNNI__) && !defined(__AVX512BW__)
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
#else
    shorts even = (shorts)((halves)w & 255), odd = (shorts)((halves)w >> 8);
    return sum + pairs(even, (shorts)x << 8 >> 8) + pairs(odd, (shorts)x >> 8);
#endif
}

INLINE floats from_bf16(const uint16_t *from) {
    return (floats)(__builtin_convertvector(*(const few_halves *)from, words) << 16);
}

INLINE ints four_of(const int8_t *x) { /* the same four bytes in every lane */
    int32_t four;
    memcpy(&four, x, 4);
    return (ints){0} + four;
}

#define WIDE 4 /* vectors of outputs in a panel (linear.c) */
#define PANEL (WIDE * LANES)

/* Asks for the weights that are read soon: for those two pages on into the second cache, for the next into the first. Processors look ahead
   by themselves, but not beyond a page, and one that waits for memory at each gets a half of what it could (docs/LOG.md). */
INLINE void ahead(const void *w, int bytes) {
    for (int line = 0; line < bytes; line += 64) {
        __builtin_prefetch((const char *)w + 8192 + line, 0, 2);
        __builtin_prefetch((const char *)w + 1024 + line);
    }
}

/* A linear layer: its weights as panels of outputs (linear.c), and what else its format needs. */
typedef struct {
    int64_t inputs, outputs;
    const void *weight;
    const float *scales;    /* int8: of each output */
    const uint16_t *affine; /* int4, in bf16: for each panel and group its outputs' scales, then their middles */
    const float *bias;      /* or none; like scales, filled up to whole panels */
} layer;

/* N rows of x through a layer, by so many threads at most. Returns 0, or 1 where there is no memory. */
typedef int linear(const layer *of, const float *x, int64_t N, float *y, int threads);
