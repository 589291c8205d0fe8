/* A block of a GPT for a few tokens in one call: norm, attention over the cached keys and values, MLP, each added to what came in.

Between its matrix products a block computes next to nothing. But after each product the processor's caches are full of weights, and what
some twenty calls of Python and torch run has to come back from memory for each: with int4 weights that took longer than the products
(docs/LOG.md). Here all of it is one small piece of code. What it computes is what `model/gpt.py` says, part by part.

N tokens of one or more texts, C d_model, H heads of queries, K heads of keys and values, D head size, S tokens of a text so far, W width
of the MLP. C, D and W are multiples of LANES. */

#include "native.h"

#define PAGE 16     /* tokens that lie side by side in the cache */
#define TOGETHER 64 /* tokens of one text whose scores are held at once */
#define LARGEST_HEAD 256 /* blocks.py sees to it */
#define ABREAST 8   /* of these, how many meet a vector of keys or values while it is in a register */

enum { GELU, RELU2, SWIGLU };

typedef struct {
    linear *product;
    const layer *qkv, *out, *up, *gate, *down; /* gate for SwiGLU alone */
    const float *attention_gain, *attention_bias, *mlp_gain, *mlp_bias; /* (C) or none */
    const float *shortcut;                                              /* (2) shares of x and of the embedding, or none */
    const float *value_mix;                                             /* (1) the share of the first layer's values, or none */
    int64_t number;                                  /* which of the layers it is */
    int64_t width, heads, kv_heads, head_size, band; /* band: keys that a query sees, 0 for all */
    float norm_epsilon;
    int32_t rms;        /* RMSNorm in place of LayerNorm */
    int32_t qk_norm;    /* RMSNorm of each query and key */
    int32_t activation; /* of the MLP */
} block;

/* Where the cache keeps token t of a text, for a layer and a head: in its page t / PAGE (Layout in model/kv_cache.py). */
typedef struct {
    char *keys, *values;
    int64_t size;                                   /* bytes of a number: 4 in fp32, 2 in fp16 */
    int64_t layer_stride, text_stride, head_stride; /* numbers from a layer, text or head to the next */
    const int32_t *pages;             /* (texts, page_stride) */
    int64_t page_stride;              /* 0 where all texts number their pages alike */
    const int32_t *texts, *positions; /* (N) whose each token is, and where it stands there */
} cache;

/* What blocks share besides x (model/shared.py); each may be none. */
typedef struct {
    const float *embedding;             /* (N, C) */
    const float *turn_own, *turn_other; /* (turns, D) rotary positions of tokens n, n + turns, ... */
    int64_t turns;
    float *first_values;                /* (N, K, D) of layer 0, which writes them */
} shared;

/* --- vectors ---------------------------------------------------------------------------------------------------------------------- */

INLINE floats at(const float *from) { return *(const floats *)from; }

INLINE float sum_of(floats x) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
#endif
}

INLINE floats where(ints mask, floats yes, floats no) { return (floats)(((ints)yes & mask) | ((ints)no & ~mask)); }

/* e^x to rounding of fp32, as 2^n e^r with |r| <= ln 2 / 2 and Taylor's polynomial for e^r. No number stays none. */
INLINE floats exponential(floats x) {
    x = where(x < -87.0f, (floats){0} - 87.0f, x);
    x = where(x > 88.0f, (floats){0} + 88.0f, x);
    floats shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: its last bits are the nearest integer */
    ints n = (ints)shifted - 0x4b400000;
    floats whole = shifted - 12582912.0f;
    floats r = x - whole * 0.693145752f - whole * 1.42860677e-6f; /* ln 2 in two parts, the first exact in few bits */
    floats y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120, y = y * r + 1.0f / 24, y = y * r + 1.0f / 6, y = y * r + 0.5f, y = y * r + 1.0f, y = y * r + 1.0f;
    return (floats)((ints)y + (n << 23));
}

/* --- the parts -------------------------------------------------------------------------------------------------------------------- */

/* (x - mean) / sqrt(variance + epsilon), or with rms x / sqrt(mean(x²) + epsilon); times a gain, plus a bias. */
static void normalised(const float *x, int64_t C, int rms, float epsilon, const float *gain, const float *bias, float *y) {
    floats sum = {0}, squares = {0};
    if (!rms)
        for (int64_t c = 0; c < C; c += LANES) sum += at(x + c);
    const float mean = sum_of(sum) / C;
    for (int64_t c = 0; c < C; c += LANES) squares += (at(x + c) - mean) * (at(x + c) - mean);
    const float r = 1 / sqrtf(sum_of(squares) / C + epsilon);
    for (int64_t c = 0; c < C; c += LANES) {
        floats n = (at(x + c) - mean) * r;
        if (gain) n *= at(gain + c);
        if (bias) n += at(bias + c);
        *(floats *)(y + c) = n;
    }
}

/* A query or key (D) before they meet: normalised, and turned by its position. */
static void prepared(const block *b, const shared *s, int64_t n, float *head) {
    const int64_t D = b->head_size;
    if (b->qk_norm) normalised(head, D, 1, 1e-5f, NULL, NULL, head);
    if (!s->turn_own) return;
    const float *own = s->turn_own + n % s->turns * D, *other = s->turn_other + n % s->turns * D;
    for (int64_t d = 0; d < D / 2; d++) {
        const float first = head[d], second = head[d + D / 2];
        head[d] = first * own[d] + second * other[d];
        head[d + D / 2] = second * own[d + D / 2] + first * other[d + D / 2];
    }
}

INLINE char *place(const block *b, const cache *c, char *from, int64_t text, int64_t head, int64_t token, int64_t D) {
    const int64_t page = c->pages[text * c->page_stride + token / PAGE], before = b->number * c->layer_stride + text * c->text_stride;
    return from + (before + head * c->head_stride + (page * PAGE + token % PAGE) * D) * c->size;
}

/* LANES numbers of the cache from number i on, as fp32. */
INLINE floats cached(const char *from, int64_t i, const int64_t size) {
    return size == 2 ? from_fp16((const uint16_t *)from + i) : at((const float *)from + i);
}

static void cache_one(const cache *c, const float *from, int64_t D, char *to) { /* a head's key or value */
    if (c->size == 4)
        memcpy(to, from, sizeof(float) * D);
    else
        for (int64_t d = 0; d < D; d += LANES) to_fp16(at(from + d), (uint16_t *)to + d);
}

/* Prepares a token's queries and keys, and puts keys and values where the cache keeps them. */
static void kept(const block *b, const cache *c, const shared *s, int64_t n, float *qkv) {
    const int64_t H = b->heads, K = b->kv_heads, D = b->head_size, text = c->texts[n], token = c->positions[n];
    for (int64_t h = 0; h < H + K; h++) prepared(b, s, n, qkv + h * D);
    for (int64_t k = 0; k < K; k++) {
        float *value = qkv + (H + K + k) * D;
        float *first = s->first_values ? s->first_values + (n * K + k) * D : NULL;
        if (first && b->number == 0) memcpy(first, value, sizeof(float) * D);
        if (b->value_mix)
            for (int64_t d = 0; d < D; d++) value[d] += b->value_mix[0] * (first[d] - value[d]);
        cache_one(c, qkv + (H + k) * D, D, place(b, c, c->keys, text, k, token, D));
        cache_one(c, value, D, place(b, c, c->values, text, k, token, D));
    }
}

/* Scores of `count` keys become weights that sum to one; behind them is room for a vector. */
static void weighed(float *scores, int64_t count) {
    for (int i = 0; i < LANES; i++) scores[count + i] = -INFINITY; /* the last vector's rest counts nothing */
    floats most = at(scores), total = {0};
    for (int64_t t = LANES; t < count; t += LANES) most = where(at(scores + t) > most, at(scores + t), most);
    float largest = -INFINITY;
    for (int i = 0; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    for (int64_t t = 0; t < count; t += LANES) {
        const floats score = at(scores + t), weight = where(score == -INFINITY, (floats){0}, exponential(score - largest));
        *(floats *)(scores + t) = weight;
        total += weight;
    }
    const float share = 1 / sum_of(total);
    for (int64_t t = 0; t < count; t += LANES) *(floats *)(scores + t) *= share;
}

INLINE int64_t first_seen(const block *b, int64_t position) {
    return b->band && position >= b->band ? position + 1 - b->band : 0;
}

/* One query gathers from its text's keys and values: softmax(q K' / sqrt(D)) V. `scores` has room for all of them and a vector more.
   Page by page, as memory is asked for the next page while one is worked on. */
INLINE void alone(
    const block *b, const cache *c, int64_t n, int64_t k, const float *query, float *out, float *scores, int64_t D, int64_t size) {
    const int64_t text = c->texts[n], start = first_seen(b, c->positions[n]), stop = c->positions[n] + 1;
    const float scale = 1 / sqrtf(D);
    for (int64_t page = start / PAGE * PAGE; page < stop; page += PAGE) {
        const char *keys = place(b, c, c->keys, text, k, page, D);
        const char *next = page + PAGE < stop ? place(b, c, c->keys, text, k, page + PAGE, D) : keys;
        for (int64_t t = page < start ? start - page : 0; t < PAGE && page + t < stop; t++) {
            floats sum = {0};
            for (int64_t d = 0; d < D; d += LANES) {
                __builtin_prefetch(next + (t * D + d) * size);
                sum += at(query + d) * cached(keys, t * D + d, size);
            }
            scores[page + t - start] = sum_of(sum) * scale;
        }
    }
    weighed(scores, stop - start);
    floats sums[LARGEST_HEAD / LANES] = {0}; /* not in `out`, which for all that the compiler knows is what is read, too */
    for (int64_t page = start / PAGE * PAGE; page < stop; page += PAGE) {
        const char *values = place(b, c, c->values, text, k, page, D);
        const char *next = page + PAGE < stop ? place(b, c, c->values, text, k, page + PAGE, D) : values;
        for (int64_t t = page < start ? start - page : 0; t < PAGE && page + t < stop; t++) {
            const float weight = scores[page + t - start];
            for (int64_t d = 0; d < D; d += LANES) {
                __builtin_prefetch(next + (t * D + d) * size);
                sums[d / LANES] += cached(values, t * D + d, size) * weight;
            }
        }
    }
    memcpy(out, sums, sizeof(float) * D);
}

/* R rows (stride apart) times a page: for each row and each i of `steps`, sums over j < terms of rows[r, j] page[j, i], added to out.
   Meanwhile memory is asked for what lies at next + i + j apart, if there is a next. */
INLINE void some_times_page(
    const float *rows, int64_t stride, const float *page, int64_t terms, int64_t steps, float *out, int64_t out_stride,
    const float *next, int64_t apart, const int R) {
    const int parts = ABREAST / R; /* sums of fewer rows are taken in parts, so that they need not wait for each other */
    for (int64_t i = 0; i < steps; i += LANES) {
        floats sums[ABREAST] = {0};
        for (int r = 0; r < R; r++) sums[r] = at(out + r * out_stride + i);
        int64_t j = 0;
        for (; j + parts <= terms; j += parts)
            for (int part = 0; part < parts; part++) {
                const floats column = at(page + (j + part) * steps + i);
                if (next) __builtin_prefetch(next + (j + part) * apart + i);
                for (int r = 0; r < R; r++) sums[part * R + r] += column * rows[r * stride + j + part];
            }
        for (; j < terms; j++)
            for (int r = 0; r < R; r++) sums[r] += at(page + j * steps + i) * rows[r * stride + j];
        for (int part = 1; part < parts; part++)
            for (int r = 0; r < R; r++) sums[r] += sums[part * R + r];
        for (int r = 0; r < R; r++) *(floats *)(out + r * out_stride + i) = sums[r];
    }
}

/* The same for any number of rows. */
INLINE void rows_times_page(
    const float *rows, int64_t stride, const float *page, int64_t terms, int64_t steps, float *out, int64_t out_stride,
    const float *next, int64_t apart, int64_t R) {
#define TAKE(some) \
    some_times_page(rows, stride, page, terms, steps, out, out_stride, next, apart, some); \
    next = NULL, R -= some, rows += some * stride, out += some * out_stride
    while (R >= ABREAST) { TAKE(ABREAST); }
    if (R >= 4) { TAKE(4); }
    if (R >= 2) { TAKE(2); }
    if (R) { TAKE(1); }
#undef TAKE
}

/* A page's first `count` keys (count, D), the others taken for zero, as (D, PAGE): then a number of a query meets a vector of keys. Asks
   for the first half of the next page meanwhile. */
INLINE void transposed(const float *page, int64_t count, int64_t D, const float *next, float *to) {
#if LANES == PAGE
    if (count == PAGE) {
        for (int64_t d = 0; d < D; d += 4) { /* quarter g of a vector holds token 4 g + i's four numbers; then each quarter is transposed */
            __m512 four[4];
            for (int i = 0; i < 4; i++) {
                const float *token = page + i * D + d;
                if (i < 2) __builtin_prefetch(next + d * PAGE / 2 + i * 16);
                four[i] = _mm512_castps128_ps512(_mm_loadu_ps(token));
                four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps(token + 4 * D), 1);
                four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps(token + 8 * D), 2);
                four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps(token + 12 * D), 3);
            }
            const __m512d low_a = (__m512d)_mm512_unpacklo_ps(four[0], four[1]), low_b = (__m512d)_mm512_unpacklo_ps(four[2], four[3]);
            const __m512d high_a = (__m512d)_mm512_unpackhi_ps(four[0], four[1]), high_b = (__m512d)_mm512_unpackhi_ps(four[2], four[3]);
            _mm512_storeu_pd(to + d * PAGE, _mm512_unpacklo_pd(low_a, low_b));
            _mm512_storeu_pd(to + (d + 1) * PAGE, _mm512_unpackhi_pd(low_a, low_b));
            _mm512_storeu_pd(to + (d + 2) * PAGE, _mm512_unpacklo_pd(high_a, high_b));
            _mm512_storeu_pd(to + (d + 3) * PAGE, _mm512_unpackhi_pd(high_a, high_b));
        }
        return;
    }
#endif
    for (int64_t d = 0; d < D; d++)
        for (int64_t t = 0; t < PAGE; t++) to[d * PAGE + t] = t < count ? page[t * D + d] : 0;
}

/* A page's first `count` numbers as fp32: where they lie, or from fp16 in `to`. Then asks for the next page, so that no one else need. */
INLINE const float *widened(const cache *c, const char *page, int64_t count, const char *next, float *to) {
    if (c->size == 4) return (const float *)page;
    for (int64_t i = 0; i < count; i += LANES) {
        __builtin_prefetch(next + 2 * i);
        *(floats *)(to + i) = cached(page, i, 2);
    }
    return to;
}

/* R queries of one text, of tokens n, n + 1, ..., for one head: page by page, so that each key and value is read once for all of them.
   A page of keys is transposed, and a vector then holds the scores of LANES keys. Returns 0, or 1 where there is no memory. */
static int together(const block *b, const cache *c, int64_t n, int64_t R, int64_t h, const float *queries, int64_t stride, float *out) {
    const int64_t D = b->head_size, k = h / (b->heads / b->kv_heads), text = c->texts[n], out_stride = b->heads * D;
    const int64_t begin = first_seen(b, c->positions[n]) / PAGE * PAGE, end = c->positions[n + R - 1] + 1;
    const int64_t S = (end - begin + PAGE - 1) / PAGE * PAGE, score_stride = S + LANES;
    float *scores = calloc(R * score_stride + 2 * D * PAGE, sizeof(float)), *turned = scores + R * score_stride, *wide = turned + D * PAGE;
    if (!scores) return 1;
    for (int64_t s = 0; s < S; s += PAGE) {
        const int64_t count = end - begin - s < PAGE ? end - begin - s : PAGE; /* behind the end nothing has been written yet */
        const char *page = place(b, c, c->keys, text, k, begin + s, D);
        const char *behind = s + PAGE < S ? place(b, c, c->keys, text, k, begin + s + PAGE, D) : page;
        const float *keys = widened(c, page, count * D, behind, wide), *next = keys == wide ? wide : (const float *)behind;
        transposed(keys, count, D, next, turned);
        const int64_t r = c->positions[n] < begin + s ? begin + s - c->positions[n] : 0; /* the first that sees any of it */
        float *to = scores + r * score_stride + s;
        rows_times_page(queries + r * stride, stride, turned, D, PAGE, to, score_stride, next + D * PAGE / 2, PAGE / 2, R - r);
    }
    const float scale = 1 / sqrtf(D);
    for (int64_t r = 0; r < R; r++) {
        const int64_t position = c->positions[n] + r, start = first_seen(b, position) - begin, stop = position + 1 - begin;
        float *row = scores + r * score_stride;
        for (int64_t t = 0; t < stop; t++) row[t] = t < start ? -INFINITY : row[t] * scale;
        weighed(row, stop);
        memset(row + stop, 0, sizeof(float) * (score_stride - stop));
        memset(out + r * out_stride, 0, sizeof(float) * D);
    }
    for (int64_t s = 0; s < S; s += PAGE) {
        const int64_t count = end - begin - s < PAGE ? end - begin - s : PAGE;
        const char *page = place(b, c, c->values, text, k, begin + s, D);
        const char *behind = s + PAGE < S ? place(b, c, c->values, text, k, begin + s + PAGE, D) : page;
        const float *values = widened(c, page, count * D, behind, wide), *next = values == wide ? NULL : (const float *)behind;
        const int64_t r = c->positions[n] < begin + s ? begin + s - c->positions[n] : 0;
        const float *from = scores + r * score_stride + s;
        rows_times_page(from, score_stride, values, count, D, out + r * out_stride, out_stride, next, D, R - r);
    }
    free(scores);
    return 0;
}

/* Head h of the R tokens from n on, which are of one text. Returns 0, or 1 where there is no memory. */
static int gathered(const block *b, const cache *c, int64_t n, int64_t R, int64_t h, const float *qkv, float *out) {
    const int64_t D = b->head_size, stride = (b->heads + 2 * b->kv_heads) * D, k = h / (b->heads / b->kv_heads);
    const float *queries = qkv + n * stride + h * D;
    out += (n * b->heads + h) * D;
    if (R >= (LANES == PAGE ? 2 : ABREAST)) /* elsewhere it takes long to transpose a page */
        return together(b, c, n, R, h, queries, stride, out);
    float *scores = malloc(sizeof(float) * (c->positions[n + R - 1] + 1 + LANES));
    if (!scores) return 1;
    for (int64_t r = 0; r < R; r++, queries += stride, out += b->heads * D)
        if (D == 64 && c->size == 4) /* D is 64 nearly always: then the sums stay in registers */
            alone(b, c, n + r, k, queries, out, scores, 64, 4);
        else if (D == 64)
            alone(b, c, n + r, k, queries, out, scores, 64, 2);
        else
            alone(b, c, n + r, k, queries, out, scores, D, c->size);
    free(scores);
    return 0;
}

/* Every token gathers from its own text, head by head. Returns 0, or 1 where there is no memory. */
static int attended(const block *b, const cache *c, const float *qkv, int64_t N, float *out, int threads) {
    int64_t runs = 0, seen = 0, *starts = malloc(sizeof(int64_t) * (N + 1)); /* of stretches of tokens of one text */
    if (!starts) return 1;
    for (int64_t n = 0; n < N; n++) {
        seen += c->positions[n] + 1;
        if (!n || c->texts[n] != c->texts[n - 1] || n - starts[runs - 1] == TOGETHER) starts[runs++] = n;
    }
    starts[runs] = N;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(threads) reduction(| : failed) if (threads > 1 && seen > 1000)
    for (int64_t job = 0; job < runs * b->heads; job++) {
        const int64_t run = job / b->heads, h = job % b->heads;
        failed |= gathered(b, c, starts[run], starts[run + 1] - starts[run], h, qkv, out);
    }
    free(starts);
    return failed;
}

/* What the MLP does between its products; `gate` for SwiGLU alone. */
static void activated(const block *b, float *up, const float *gate, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        floats x = at(up + i);
        if (b->activation == GELU) /* x (1 + tanh z) / 2 = x / (1 + e^-2z), z = sqrt(2/pi) (x + 0.044715 x^3) */
            x = x / (1.0f + exponential(x * (-1.5957691216f - 0.0713548162726f * x * x)));
        else if (b->activation == RELU2)
            x = where(x < 0.0f, (floats){0}, x * x);
        else
            x = x * at(gate + i) / (1.0f + exponential(-at(gate + i)));
        *(floats *)(up + i) = x;
    }
}

/* --- the block -------------------------------------------------------------------------------------------------------------------- */

/* x (N, C) -> y (N, C). Returns 0, or 1 where there is no memory. */
int block_forward(const block *b, const cache *c, const shared *s, const float *x, int64_t N, float *y, int threads) {
    const int64_t C = b->width, D = b->head_size, all = (b->heads + 2 * b->kv_heads) * D, W = b->up->outputs;
    float *room = malloc(sizeof(float) * (N * (C + all + b->heads * D + (b->gate ? 2 : 1) * W)));
    if (!room) return 1;
    float *part = room, *qkv = part + N * C, *heads = qkv + N * all, *up = heads + N * b->heads * D, *gate = b->gate ? up + N * W : NULL;
    int failed = 0;

#define EACH_TOKEN \
    _Pragma("omp parallel for num_threads(threads) if (threads > 1 && N >= 16)") for (int64_t n = 0; n < N; n++)
    EACH_TOKEN {
        for (int64_t i = n * C; i < (n + 1) * C; i++)
            y[i] = b->shortcut ? b->shortcut[0] * x[i] + b->shortcut[1] * s->embedding[i] : x[i];
        normalised(y + n * C, C, b->rms, b->norm_epsilon, b->attention_gain, b->attention_bias, part + n * C);
    }
    failed |= b->product(b->qkv, part, N, qkv, threads);
    EACH_TOKEN kept(b, c, s, n, qkv + n * all);
    failed |= attended(b, c, qkv, N, heads, threads);
    failed |= b->product(b->out, heads, N, part, threads);

    EACH_TOKEN {
        for (int64_t i = n * C; i < (n + 1) * C; i++) y[i] += part[i];
        normalised(y + n * C, C, b->rms, b->norm_epsilon, b->mlp_gain, b->mlp_bias, part + n * C);
    }
    failed |= b->product(b->up, part, N, up, threads);
    if (gate) failed |= b->product(b->gate, part, N, gate, threads);
    EACH_TOKEN activated(b, up + n * W, gate + (gate ? n * W : 0), W);
    failed |= b->product(b->down, up, N, part, threads);
    for (int64_t i = 0; i < N * C; i++) y[i] += part[i];
    free(room);
    return failed;
}
