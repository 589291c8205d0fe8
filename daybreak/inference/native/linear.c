/* Linear layers for decoding: y = W x + bias, W in fewer bytes than fp32, from one row of x (a text's next token) to many (a prompt).

A token takes as long as reading every weight once, so that each kernel reads W in one stream, widens it in registers, and multiplies as
many rows of x with what it has just read as registers hold sums for. `panels.py` lays W out as it is read here:

    W is cut into panels of PANEL outputs; in a panel the inputs follow each other, and for each input (fp16), for every four (int8) or
    eight (int4) of them, stand the PANEL outputs side by side. One vector of weights thus meets one input of x, broadcast, and
    nothing has to be summed across a vector at the end.

N rows of x, K inputs, M outputs. */

#include "native.h"

#if LANES == 16
#define ROWS 6 /* of x at once: with four vectors of sums for each, 24 of 32 registers */
#elif LANES == 8
#define ROWS 2 /* 8 of 16 registers */
#else
#define ROWS 4
#endif
#define WIDE 4 /* vectors of outputs in a panel */
#define PANEL (WIDE * LANES)

/* Asks for the weights that are read a page later. Processors look ahead by themselves, but not beyond a page, and one that waits for
   memory at each gets a half of what it could (docs/LOG.md). */
INLINE void ahead(const void *w, int bytes) {
    for (int line = 0; line < bytes; line += 64) __builtin_prefetch((const char *)w + 4096 + line);
}

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

/* --- Intel's AMX: 16 rows of 64 bytes times 16 outputs of as many, in one instruction ---------------------------------------------
   For prompts and batches some three times as fast. Of its eight registers four hold products, 0 to 3, two or one 16 rows each, from 4 on,
   the others 16 outputs each. */

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__) && LANES == 16
#include <sys/syscall.h>
#include <unistd.h>

static int amx_is_there(void) { /* Linux gives the registers to who asks for them, once in a process */
    static int known = -1;
    if (known < 0) known = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
    return known;
}

static void amx_begin(int64_t N) { /* for N rows: fewer than 16 take less time */
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) shape.row_bytes[tile] = 64, shape.rows[tile] = tile <= 4 && N < 16 ? N : 16;
    /* Not _tile_loadconfig, which in older GCCs says to read eight bytes only, so that the rest need not have been written. */
    __asm__ volatile("ldtilecfg %0" ::"m"(shape) : "memory");
}

static void amx_end(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* name(w, rows, bytes, N, fresh, sums): N rows, at most 32, of so many bytes, one behind the other, times a panel: (N, PANEL), rounded up
   to 16 or 32 rows. With `fresh` weights are read for the first time, and memory is asked in pieces for those that come next. */
#define AMX_PANEL(name, multiply) \
    static void name(const uint8_t *w, const uint8_t *rows, int64_t bytes, int64_t N, int fresh, void *to) { \
        int32_t *sums = to; \
        for (int half = 0; half < 2 && N > 16; half++) { \
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); \
            for (int64_t k = 0; k < bytes; k += 64) { \
                const uint8_t *outputs = w + k * PANEL + half * 128; \
                if (fresh && !half) ahead(outputs, 64 * PANEL); \
                _tile_loadd(4, rows + k, bytes); \
                _tile_loadd(5, rows + 16 * bytes + k, bytes); \
                _tile_loadd(6, outputs, 4 * PANEL); \
                _tile_loadd(7, outputs + 64, 4 * PANEL); \
                multiply(0, 4, 6); multiply(1, 4, 7); multiply(2, 5, 6); multiply(3, 5, 7); \
            } \
            _tile_stored(0, sums + half * 32, 4 * PANEL); \
            _tile_stored(1, sums + half * 32 + 16, 4 * PANEL); \
            _tile_stored(2, sums + 16 * PANEL + half * 32, 4 * PANEL); \
            _tile_stored(3, sums + 16 * PANEL + half * 32 + 16, 4 * PANEL); \
        } \
        if (N > 16) return; \
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); \
        for (int64_t k = 0; k < bytes; k += 64) { \
            const uint8_t *outputs = w + k * PANEL; \
            _tile_loadd(4, rows + k, bytes); \
            AMX_QUARTER(0, 5, multiply) AMX_QUARTER(1, 6, multiply) AMX_QUARTER(2, 5, multiply) AMX_QUARTER(3, 6, multiply) \
        } \
        _tile_stored(0, sums, 4 * PANEL); _tile_stored(1, sums + 16, 4 * PANEL); \
        _tile_stored(2, sums + 32, 4 * PANEL); _tile_stored(3, sums + 48, 4 * PANEL); \
    }
#define AMX_QUARTER(number, tile, multiply) \
    if (fresh) ahead(outputs + number * 16 * PANEL, 16 * PANEL); \
    _tile_loadd(tile, outputs + number * 64, 4 * PANEL); \
    multiply(number, 4, tile);
AMX_PANEL(amx_int8, _tile_dpbsud)
AMX_PANEL(amx_bf16, _tile_dpbf16ps)
#define AMX(N, bytes) ((N) >= 2 && (bytes) % 64 == 0 && amx_is_there())
#else
#define AMX(N, bytes) 0
static void amx_begin(int64_t N) {}
static void amx_end(void) {}
#define amx_int8(w, rows, bytes, N, fresh, sums) memset(sums, 0, 0)
#define amx_bf16 amx_int8
#endif

/* --- fp16w: weights in fp16, x and all sums in fp32 -------------------------------------------------------------------------------- */

INLINE void fp16w_panel(const layer *of, int64_t panel, const float *x, float *y, int R) {
    const int64_t K = of->inputs;
    const uint16_t *w = (const uint16_t *)of->weight + panel * K * PANEL;
    floats sums[ROWS][WIDE] = {0};
    for (int64_t k = 0; k < K; k++, w += PANEL) {
        floats wide[WIDE];
        ahead(w, 2 * PANEL);
        for (int v = 0; v < WIDE; v++) wide[v] = from_fp16(w + v * LANES);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < WIDE; v++) sums[r][v] += wide[v] * x[r * K + k];
    }
    for (int r = 0; r < R; r++) put(of, panel, sums[r], y + r * of->outputs);
}

int fp16w_linear(const layer *of, const float *x, int64_t N, float *y, int threads) {
    const int64_t panels = (of->outputs + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(THREADS(N))
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t n = 0; n < N; n += ROWS) {
            const float *rows = x + n * of->inputs;
            float *out = y + n * of->outputs;
#define KERNEL(R) fp16w_panel(of, panel, rows, out, R)
            FOR_ROWS(N - n, KERNEL)
#undef KERNEL
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

/* To the nearest, ties to even. No number stays none. */
INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
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
        if (amx) amx_begin(N);
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
        if (amx) amx_begin(N);
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
   weight = (w - 8) scale + middle, so a group adds  scale_w scale_x (sum of w x - 8 sum of x) + middle_w scale_x (sum of x). */

#define GROUP 32

INLINE void int4_panel(const layer *of, int64_t panel, const quantized *x, int64_t n, float *y, int R) {
    const int64_t groups = x->stride / GROUP;
    const uint8_t *w = (const uint8_t *)of->weight + panel * x->stride * PANEL / 2;
    const uint16_t *affine = of->affine + panel * groups * 2 * PANEL;
    floats sums[ROWS][WIDE] = {0};
    for (int64_t g = 0; g < groups; g++, w += GROUP * PANEL / 2, affine += 2 * PANEL)
        for (int v = 0; v < WIDE; v++) {
            ints whole[ROWS] = {0};
            for (int k = 0; k < GROUP; k += 8) { /* in each byte an input of the first four below one of the second four */
                ahead(w + k * PANEL / 2 + v * 4 * LANES, 4 * LANES);
                halves both = *(const halves *)(w + k * PANEL / 2 + v * 4 * LANES);
                words first = (words)(both & 0x0f0f), second = (words)(both >> 4 & 0x0f0f);
                for (int r = 0; r < R; r++) {
                    const int8_t *eight = x->bytes + (n + r) * x->stride + g * GROUP + k;
                    whole[r] = four_more(four_more(whole[r], first, four_of(eight)), second, four_of(eight + 4));
                }
            }
            floats scale = from_bf16(affine + v * LANES), middle = from_bf16(affine + PANEL + v * LANES);
            for (int r = 0; r < R; r++) {
                int64_t at = (n + r) * groups + g;
                floats difference = __builtin_convertvector(whole[r] - 8 * x->sums[at], floats);
                sums[r][v] += difference * (scale * x->scales[at]) + middle * (x->scales[at] * x->sums[at]);
            }
        }
    for (int r = 0; r < R; r++) put(of, panel, sums[r], y + (n + r) * of->outputs);
}

int int4_linear(const layer *of, const float *from, int64_t N, float *y, int threads) {
    const int64_t panels = (of->outputs + PANEL - 1) / PANEL, K = of->inputs, groups = K / GROUP;
    quantized x = {.stride = K, .bytes = malloc(N * (K + 8 * groups))};
    if (!x.bytes) return 1;
    x.scales = (float *)(x.bytes + N * K), x.sums = (int32_t *)(x.scales + N * groups);
#pragma omp parallel num_threads(THREADS(N))
    {
#pragma omp for schedule(static)
        for (int64_t g = 0; g < N * groups; g++) x.scales[g] = rounded(from + g * GROUP, GROUP, x.bytes + g * GROUP, x.sums + g);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; panel++)
            for (int64_t n = 0; n < N; n += ROWS) {
#define KERNEL(R) int4_panel(of, panel, &x, n, y, R)
                FOR_ROWS(N - n, KERNEL)
#undef KERNEL
            }
    }
    free(x.bytes);
    return 0;
}
