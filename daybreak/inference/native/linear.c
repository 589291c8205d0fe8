/* Linear layers for decoding: y = W x + bias, W in fewer bytes than fp32, from one row of x (a text's next token) to many (a prompt).

A token takes as long as reading every weight once, so that each kernel reads W in one stream, widens it in registers, and multiplies as
many rows of x with what it has just read as registers hold sums for. `panels.py` lays W out as it is read here:

    W is cut into panels of PANEL outputs; in a panel the inputs follow each other, and for each input (fp16), for every four (int8) or
    eight (int4) of them, stand the PANEL outputs side by side. One vector of weights thus meets one input of x, broadcast, and
    nothing has to be summed across a vector at the end.

N rows of x, K inputs, M outputs. */

#include "amx.h"
#include "native.h"

#if LANES == 16
#define ROWS 6 /* of x at once: with four vectors of sums for each, 24 of 32 registers */
#elif LANES == 8
#define ROWS 2 /* 8 of 16 registers */
#else
#define ROWS 4
#endif

/* Rounds K numbers to bytes q with x ~ q * scale, and sums the bytes. Returns the scale: a 127th of the largest magnitude, or no number
   where x holds one that is none or infinite, so that the result is none either. */
static float rounded(const float *x, int64_t K, int8_t *q, int32_t *sum) {
    int32_t largest = 0, total = 0; /* the bits of a float without its sign are ordered as the floats are, infinity and NaN last */
    for (int64_t k = 0; k < K; k++) {
        int32_t bits;
        memcpy(&bits, x + k, 4);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float magnitude;
    memcpy(&magnitude, &largest, 4);
    float scale = (magnitude > 1e-30f ? magnitude : 1e-30f) / 127, times = 1 / scale;
    if (largest >= 0x7f800000) scale = NAN, times = 0;
    for (int64_t k = 0; k < K; k++) {
        int32_t nearest = times == 0 ? 0 : (int32_t)rintf(x[k] * times);
        q[k] = (int8_t)nearest;
        total += nearest;
    }
    *sum = total;
    return scale;
}

/* One row's outputs of a panel, with their bias, to where they belong. */
INLINE void put(const layer *of, int64_t panel, const floats *sums, float *y) {
    floats done[WIDE];
    for (int v = 0; v < WIDE; v++)
        done[v] = of->bias ? sums[v] + *(const floats *)(of->bias + panel * PANEL + v * LANES) : sums[v];
    const int64_t left = of->outputs - panel * PANEL;
    if (left >= PANEL)
        memcpy(y + panel * PANEL, done, sizeof(done)); /* of a known size: as many instructions as vectors */
    else
        memcpy(y + panel * PANEL, done, sizeof(float) * left);
}

/* Calls `kernel` with the number of rows as a constant, ROWS at most, so that their sums stay in registers. */
#define AT_MOST(R) ((R) < ROWS ? (R) : ROWS)
#define FOR_ROWS(R, kernel) \
    switch (AT_MOST(R)) { \
        case 1: kernel(1); break; \
        case 2: kernel(AT_MOST(2)); break; \
        case 3: kernel(AT_MOST(3)); break; \
        case 4: kernel(AT_MOST(4)); break; \
        case 5: kernel(AT_MOST(5)); break; \
        default: kernel(ROWS); \
    }

/* Threads pay only where there is enough to share. */
#define THREADS(N) (threads > 1 && (N) * of->inputs * of->outputs > 500000 ? threads : 1)

int64_t lanes(void) { return LANES; }
int64_t panel_width(void) { return PANEL; }

INLINE float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* To the nearest, ties to even. No number stays none. */
INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* --- fp16w: weights in fp16, x and all sums in fp32 -------------------------------------------------------------------------------- */

/* Each of several passes over a panel asks for its share of the next one, lest memory idle while sums are made and they wait then. */
INLINE void fp16w_panel(const layer *of, int64_t panel, int64_t pass, int64_t passes, const float *x, float *y, int R) {
    const int64_t K = of->inputs, share = 2 * PANEL / passes;
    const uint16_t *w = (const uint16_t *)of->weight + panel * K * PANEL;
    const char *next = (const char *)(w + K * PANEL) + pass * K * share;
    floats sums[ROWS][WIDE] = {0};
    for (int64_t k = 0; k < K; k++, w += PANEL) {
        floats wide[WIDE];
        if (pass == 0) ahead(w, 2 * PANEL);
        if (passes > 1) __builtin_prefetch(next + k * share, 0, 2);
        for (int v = 0; v < WIDE; v++) wide[v] = from_fp16(w + v * LANES);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < WIDE; v++) sums[r][v] += wide[v] * x[r * K + k];
    }
    for (int r = 0; r < R; r++) put(of, panel, sums[r], y + r * of->outputs);
}

#define MANY 32   /* rows, for which it pays */
#define BLOCK 128 /* of them, for which a panel is taken apart anew */
#define PIECE 128 /* of its inputs at once, which the first cache holds */

/* A panel of pairs of inputs in bf16, as `bf16` keeps them, twice: what bf16 holds of each weight, and the rest, which it holds, too. */
static void in_parts(const uint16_t *w, int64_t K, uint32_t *high, uint32_t *low) {
    for (int64_t k = 0; k < K; k += 2, w += 2 * PANEL, high += PANEL, low += PANEL) {
        ahead(w, 4 * PANEL);
        for (int v = 0; v < WIDE; v++) {
            const floats even = from_fp16(w + v * LANES), odd = from_fp16(w + PANEL + v * LANES);
            const words even_high = ((words)even + 0x8000) & 0xffff0000, odd_high = ((words)odd + 0x8000) & 0xffff0000; /* the nearest */
            *(words *)(high + v * LANES) = even_high >> 16 | odd_high;
            *(words *)(low + v * LANES) = (words)(even - (floats)even_high) >> 16 | ((words)(odd - (floats)odd_high) & 0xffff0000);
        }
    }
}

/* Many rows, where there is AMX: a weight as the sum of two numbers in bf16, a number of x of three. Nothing of either is lost. */
static int fp16w_by_parts(const layer *of, const float *from, int64_t N, float *y, int threads) {
    const int64_t panels = (of->outputs + PANEL - 1) / PANEL, K = of->inputs, all = (N + 15) / 16 * 16 * K;
    uint16_t *x = calloc(3 * all, 2);
    if (!x) return 1;
#pragma omp parallel num_threads(THREADS(N))
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < N * K; i++) {
            float rest = from[i];
            for (int part = 0; part < 3; part++) {
                x[part * all + i] = to_bf16(rest);
                rest -= as_float((uint32_t)x[part * all + i] << 16);
            }
        }
        amx_begin(16, 64);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; panel++)
            for (int64_t n = 0; n < N; n += BLOCK) {
                const int64_t end = n + BLOCK < N ? n + BLOCK : N;
                uint32_t high[PIECE / 2 * PANEL], low[PIECE / 2 * PANEL];
                float sums[BLOCK][PANEL];
                memset(sums, 0, sizeof(sums[0]) * ((end - n + 15) / 16 * 16));
                for (int64_t k = 0; k < K; k += PIECE) {
                    const int64_t some = K - k < PIECE ? K - k : PIECE;
                    in_parts((const uint16_t *)of->weight + (panel * K + k) * PANEL, some, high, low);
                    for (int64_t r = n; r < end; r += 16) {
                        const uint16_t *const rows[] = {x + r * K + k, x + all + r * K + k, x + 2 * all + r * K + k};
                        amx_parts((const uint32_t *[]){high, low}, rows, K, some, sums[r - n]);
                    }
                }
                for (int64_t r = n; r < end; r++) put(of, panel, (const floats *)sums[r - n], y + r * of->outputs);
            }
        amx_end();
    }
    free(x);
    return 0;
}

int fp16w_linear(const layer *of, const float *x, int64_t N, float *y, int threads) {
    if (N >= MANY && AMX(N, 2 * of->inputs)) return fp16w_by_parts(of, x, N, y, threads);
    const int64_t panels = (of->outputs + PANEL - 1) / PANEL, passes = (N + ROWS - 1) / ROWS;
#pragma omp parallel for schedule(static) num_threads(THREADS(N))
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t n = 0; n < N; n += ROWS) {
            const float *rows = x + n * of->inputs;
            float *out = y + n * of->outputs;
#define KERNEL(R) fp16w_panel(of, panel, n / ROWS, passes, rows, out, R)
#define ONLY(R) fp16w_panel(of, panel, 0, 1, rows, out, R) /* of constants: nothing is asked at each step */
            if (passes > 1) {
                FOR_ROWS(N - n, KERNEL)
            } else {
                FOR_ROWS(N, ONLY)
            }
#undef KERNEL
#undef ONLY
        }
    return 0;
}

/* --- bf16: weights and x in bf16, by pairs of inputs; sums in fp32 -------------------------------------------------------------------- */

/* sum + the two numbers of each lane of w times those of x. */
INLINE floats two_more(floats sum, words w, words x) {
#if defined(__AVX512BF16__) && LANES == 16
    __asm__("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(w), "v"(x)); /* its intrinsic lets Clang 16 crash */
    return sum;
#else
    return sum + (floats)(w << 16) * (floats)(x << 16) + (floats)(w & 0xffff0000) * (floats)(x & 0xffff0000);
#endif
}

INLINE void bf16_panel(const layer *of, int64_t panel, const uint8_t *x, int64_t bytes, float *y, int R) {
    const uint8_t *w = (const uint8_t *)of->weight + panel * bytes * PANEL;
    floats sums[ROWS][WIDE] = {0};
    for (int64_t k = 0; k < bytes; k += 4, w += 4 * PANEL) {
        ahead(w, 4 * PANEL);
        for (int r = 0; r < R; r++) {
            const words two = (words)four_of((const int8_t *)x + r * bytes + k);
            for (int v = 0; v < WIDE; v++) sums[r][v] = two_more(sums[r][v], *(const words *)(w + v * 4 * LANES), two);
        }
    }
    for (int r = 0; r < R; r++) put(of, panel, sums[r], y + r * of->outputs);
}

int bf16_linear(const layer *of, const float *from, int64_t N, float *y, int threads) {
    const int64_t panels = (of->outputs + PANEL - 1) / PANEL, K = of->inputs, pairs = (K + 1) / 2, bytes = 4 * pairs;
    uint16_t *x = calloc((N + 31) / 32 * 32 * pairs, 4);
    if (!x) return 1;
    const int amx = AMX(N, bytes);
#pragma omp parallel num_threads(THREADS(N))
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++) x[n * 2 * pairs + k] = to_bf16(from[n * K + k]);
        if (amx) amx_begin(N, 64);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; panel++)
            if (amx)
                for (int64_t n = 0; n < N; n += 32) {
                    float sums[32][PANEL];
                    const uint8_t *w = (const uint8_t *)of->weight + panel * bytes * PANEL, *rows = (const uint8_t *)x + n * bytes;
                    amx_bf16(w, rows, bytes, N - n, n == 0, sums);
                    for (int64_t r = 0; r < 32 && n + r < N; r++) put(of, panel, (const floats *)sums[r], y + (n + r) * of->outputs);
                }
            else
                for (int64_t n = 0; n < N; n += ROWS) {
#define KERNEL(R) bf16_panel(of, panel, (const uint8_t *)x + n * bytes, bytes, y + n * of->outputs, R)
                    FOR_ROWS(N - n, KERNEL)
#undef KERNEL
                }
        if (amx) amx_end();
    }
    free(x);
    return 0;
}

/* --- int8: weights and x as bytes, a scale for each output and for each row; sums of integers, exact --------------------------------
   Weights are kept with 128 added, as processors multiply unsigned bytes with signed ones; 128 times the sum of x is taken off again. */

typedef struct {
    int64_t stride;       /* bytes of a row */
    int8_t *bytes;        /* (N, stride) */
    float *scales;        /* (N) */
    int32_t *sums;        /* (N) of the bytes */
} quantized;

INLINE void int8_put(const layer *of, int64_t panel, const quantized *x, int64_t n, const ints *sums, float *y) {
    floats done[WIDE];
    for (int v = 0; v < WIDE; v++) {
        floats whole = __builtin_convertvector(sums[v] - 128 * x->sums[n], floats);
        done[v] = whole * (*(const floats *)(of->scales + panel * PANEL + v * LANES) * x->scales[n]);
    }
    put(of, panel, done, y + n * of->outputs);
}

INLINE void int8_panel(const layer *of, int64_t panel, const quantized *x, int64_t n, float *y, int R) {
    const uint8_t *w = (const uint8_t *)of->weight + panel * x->stride * PANEL;
    ints sums[ROWS][WIDE] = {0};
    for (int64_t k = 0; k < x->stride; k += 4, w += 4 * PANEL) {
        ahead(w, 4 * PANEL);
        for (int r = 0; r < R; r++) {
            ints four = four_of(x->bytes + (n + r) * x->stride + k);
            for (int v = 0; v < WIDE; v++) sums[r][v] = four_more(sums[r][v], *(const words *)(w + v * 4 * LANES), four);
        }
    }
    for (int r = 0; r < R; r++) int8_put(of, panel, x, n + r, sums[r], y);
}

int int8_linear(const layer *of, const float *from, int64_t N, float *y, int threads) {
    const int64_t panels = (of->outputs + PANEL - 1) / PANEL, stride = (of->inputs + 3) / 4 * 4, room = (N + 31) / 32 * 32;
    quantized x = {.stride = stride, .bytes = calloc(room * stride + 8 * N, 1)};
    if (!x.bytes) return 1;
    x.scales = (float *)(x.bytes + room * stride), x.sums = (int32_t *)(x.scales + N);
    const int amx = AMX(N, stride);
#pragma omp parallel num_threads(THREADS(N))
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) x.scales[n] = rounded(from + n * of->inputs, of->inputs, x.bytes + n * stride, x.sums + n);
        if (amx) amx_begin(N, 64);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; panel++)
            if (amx)
                for (int64_t n = 0; n < N; n += 32) {
                    int32_t sums[32][PANEL];
                    const uint8_t *w = (const uint8_t *)of->weight + panel * stride * PANEL, *rows = (const uint8_t *)x.bytes + n * stride;
                    amx_int8(w, rows, stride, N - n, n == 0, sums);
                    for (int64_t r = 0; r < 32 && n + r < N; r++) int8_put(of, panel, &x, n + r, (const ints *)sums[r], y);
                }
            else
                for (int64_t n = 0; n < N; n += ROWS) {
#define KERNEL(R) int8_panel(of, panel, &x, n, y, R)
                    FOR_ROWS(N - n, KERNEL)
#undef KERNEL
                }
        if (amx) amx_end();
    }
    free(x.bytes);
    return 0;
}

/* --- int4: weights in groups of GROUP inputs that share a scale and a middle, x as bytes with a scale for each group of a row ---------
   weight = (w - 8) scale + middle = w scale + least, so a group adds  scale_x (scale (sum of w x) + least (sum of x)). */

#define GROUP 32
#define SOME 32 /* rows, for which a group of weights is taken apart anew */

INLINE floats int4_more(floats sum, ints whole, floats scale, floats least, const quantized *x, int64_t group) {
    return sum + x->scales[group] * (__builtin_convertvector(whole, floats) * scale + least * (float)x->sums[group]);
}

/* Of some outputs' group, the scales and what a w of 0 stands for. */
INLINE void int4_affine(const uint16_t *affine, int v, floats *scale, floats *least) {
    *scale = from_bf16(affine + v * LANES);
    *least = from_bf16(affine + PANEL + v * LANES) - 8 * *scale;
}

/* In each byte an input of the first four below one of the second four. */
INLINE void halved(halves w, words *first, words *second) { *first = (words)(w & 0x0f0f), *second = (words)(w >> 4 & 0x0f0f); }

INLINE void int4_panel(const layer *of, int64_t panel, const quantized *x, int64_t n, float *y, int R) {
    const int64_t groups = x->stride / GROUP;
    const uint8_t *w = (const uint8_t *)of->weight + panel * x->stride * PANEL / 2;
    const uint16_t *affine = of->affine + panel * groups * 2 * PANEL;
    floats sums[ROWS][WIDE] = {0};
    for (int64_t g = 0; g < groups; g++, w += GROUP * PANEL / 2, affine += 2 * PANEL)
        for (int v = 0; v < WIDE; v++) {
            ints whole[ROWS] = {0};
            for (int k = 0; k < GROUP; k += 8) {
                words first, second;
                ahead(w + k * PANEL / 2 + v * 4 * LANES, 4 * LANES);
                halved(*(const halves *)(w + k * PANEL / 2 + v * 4 * LANES), &first, &second);
                for (int r = 0; r < R; r++) {
                    const int8_t *eight = x->bytes + (n + r) * x->stride + g * GROUP + k;
                    whole[r] = four_more(four_more(whole[r], first, four_of(eight)), second, four_of(eight + 4));
                }
            }
            floats scale, least;
            int4_affine(affine, v, &scale, &least);
            for (int r = 0; r < R; r++) sums[r][v] = int4_more(sums[r][v], whole[r], scale, least, x, (n + r) * groups + g);
        }
    for (int r = 0; r < R; r++) put(of, panel, sums[r], y + (n + r) * of->outputs);
}

/* The same of many rows, R of them from n on, by AMX: a group of weights as bytes, then 16 rows at a time. */
static void int4_by_amx(const layer *of, int64_t panel, const quantized *x, int64_t n, int64_t R, float *y) {
    const int64_t groups = x->stride / GROUP;
    const uint8_t *w = (const uint8_t *)of->weight + panel * x->stride * PANEL / 2;
    const uint16_t *affine = of->affine + panel * groups * 2 * PANEL;
    _Alignas(64) floats sums[SOME][WIDE];
    memset(sums, 0, sizeof(sums[0]) * R);
    for (int64_t g = 0; g < groups; g++, affine += 2 * PANEL) {
        _Alignas(64) words bytes[GROUP / 4][WIDE];
        _Alignas(64) ints whole[SOME][WIDE];
        floats scale[WIDE], least[WIDE];
        for (int k = 0; k < GROUP / 4; k += 2)
            for (int v = 0; v < WIDE; v++, w += 4 * LANES) {
                ahead(w, 4 * LANES);
                halved(*(const halves *)w, &bytes[k][v], &bytes[k + 1][v]);
            }
        const int8_t *rows = x->bytes + n * x->stride + g * GROUP;
        for (int64_t r = 0; r < R; r += 16) amx_group((uint8_t *)bytes, rows + r * x->stride, x->stride, (int32_t *)whole[r]);
        for (int v = 0; v < WIDE; v++) int4_affine(affine, v, scale + v, least + v);
        for (int64_t r = 0; r < R; r++)
            for (int v = 0; v < WIDE; v++) sums[r][v] = int4_more(sums[r][v], whole[r][v], scale[v], least[v], x, (n + r) * groups + g);
    }
    for (int64_t r = 0; r < R; r++) put(of, panel, sums[r], y + (n + r) * of->outputs);
}

int int4_linear(const layer *of, const float *from, int64_t N, float *y, int threads) {
    const int64_t panels = (of->outputs + PANEL - 1) / PANEL, K = of->inputs, groups = K / GROUP, room = (N + 15) / 16 * 16;
    quantized x = {.stride = K, .bytes = malloc(room * K + 8 * N * groups)};
    if (!x.bytes) return 1;
    x.scales = (float *)(x.bytes + room * K), x.sums = (int32_t *)(x.scales + N * groups);
    const int amx = N > ROWS && AMX(N, 64); /* fewer are as fast without */
#pragma omp parallel num_threads(THREADS(N))
    {
#pragma omp for schedule(static)
        for (int64_t g = 0; g < N * groups; g++) x.scales[g] = rounded(from + g * GROUP, GROUP, x.bytes + g * GROUP, x.sums + g);
        if (amx) amx_begin(N, GROUP);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; panel++)
            if (amx)
                for (int64_t n = 0; n < N; n += SOME) int4_by_amx(of, panel, &x, n, N - n < SOME ? N - n : SOME, y);
            else
                for (int64_t n = 0; n < N; n += ROWS) {
#define KERNEL(R) int4_panel(of, panel, &x, n, y, R)
                    FOR_ROWS(N - n, KERNEL)
#undef KERNEL
                }
        if (amx) amx_end();
    }
    free(x.bytes);
    return 0;
}
