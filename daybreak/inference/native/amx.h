/* Intel's AMX: 16 rows of 64 bytes times 16 outputs of as many, in one instruction.

   For prompts and batches some three times as fast as vectors. Of its eight registers, the tiles, four hold products, 0 to 3; one or two
   hold 16 rows each, from 4 on; the others 16 outputs each. N rows of x, K inputs. */

#pragma once

#include "native.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__) && LANES == 16
#include <sys/syscall.h>
#include <unistd.h>

static int amx_is_there(void) { /* Linux gives the registers to who asks for them, once in a process */
    static int known = -1;
    if (known < 0) known = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
    return known;
}

static void amx_begin(int64_t N, int64_t bytes) { /* for N rows, as fewer than 16 take less time, of which so many bytes meet at once */
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) shape.row_bytes[tile] = 64, shape.rows[tile] = tile > 4 ? bytes / 4 : N < 16 ? N : 16;
    shape.row_bytes[4] = bytes;
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

/* 16 rows, so far apart, of 32 bytes times such a group of a panel: (16, PANEL). */
static void amx_group(const uint8_t *w, const int8_t *rows, int64_t stride, int32_t *sums) {
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_loadd(4, rows, stride);
    _tile_loadd(5, w, 4 * PANEL); _tile_dpbsud(0, 4, 5);
    _tile_loadd(6, w + 64, 4 * PANEL); _tile_dpbsud(1, 4, 6);
    _tile_loadd(7, w + 128, 4 * PANEL); _tile_dpbsud(2, 4, 7);
    _tile_loadd(5, w + 192, 4 * PANEL); _tile_dpbsud(3, 4, 5);
    _tile_stored(0, sums, 4 * PANEL); _tile_stored(1, sums + 16, 4 * PANEL);
    _tile_stored(2, sums + 32, 4 * PANEL); _tile_stored(3, sums + 48, 4 * PANEL);
}

/* sums (16, PANEL) += 16 rows of K, each as x[0] + x[1] + x[2], times some inputs of a panel, w[0] + w[1], all in bf16 and each part some 8
   binary digits below the one before; without w[1] x[2]. Of 16 outputs, tile 0 or 2 sums the large products, 1 or 3 the others. */
static void amx_parts(const uint32_t *const w[2], const uint16_t *const x[3], int64_t K, int64_t some, float *sums) {
    for (int half = 0; half < 2; half++, sums += 32) {
        float small[2][16][16];
        _tile_loadd(0, sums, 4 * PANEL); _tile_zero(1); _tile_loadd(2, sums + 16, 4 * PANEL); _tile_zero(3);
        for (int64_t k = 0; k < some; k += 32) { /* one product in a tile takes as long as three in others: they take turns */
            const int64_t at = k / 2 * PANEL + half * 32;
            _tile_loadd(4, x[0] + k, 2 * K); _tile_loadd(5, x[1] + k, 2 * K);
            _tile_loadd(6, w[0] + at, 4 * PANEL); _tile_loadd(7, w[0] + at + 16, 4 * PANEL);
            _tile_dpbf16ps(1, 5, 6); _tile_dpbf16ps(3, 5, 7); _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, x[2] + k, 2 * K);
            _tile_dpbf16ps(1, 5, 6); _tile_dpbf16ps(3, 5, 7); _tile_dpbf16ps(2, 4, 7);
            _tile_loadd(6, w[1] + at, 4 * PANEL); _tile_loadd(7, w[1] + at + 16, 4 * PANEL); _tile_loadd(5, x[1] + k, 2 * K);
            _tile_dpbf16ps(1, 4, 6); _tile_dpbf16ps(3, 4, 7); _tile_dpbf16ps(1, 5, 6); _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, sums, 4 * PANEL); _tile_stored(2, sums + 16, 4 * PANEL);
        _tile_stored(1, small[0], 64); _tile_stored(3, small[1], 64);
        for (int r = 0; r < 16; r++)
            for (int i = 0; i < 16; i++) sums[r * PANEL + i] += small[0][r][i], sums[r * PANEL + 16 + i] += small[1][r][i];
    }
}

#else
#define amx_parts(w, x, K, some, sums) memset(sums, 0, 0)
#define amx_group(w, rows, stride, sums) memset(sums, 0, 0)
#define AMX(N, bytes) 0
static void amx_begin(int64_t N, int64_t bytes) {}
static void amx_end(void) {}
#define amx_int8(w, rows, bytes, N, fresh, sums) memset(sums, 0, 0)
#define amx_bf16 amx_int8
#endif

