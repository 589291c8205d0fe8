/* A block of a GPT for a few tokens in one call: norm, attention over the cached keys and values, MLP, each added to what came in.

Between its matrix products a block computes next to nothing. But after each product the processor's caches are full of weights, and what
some twenty calls of Python and torch run has to come back from memory for each: with int4 weights that took longer than the products
(docs/LOG.md). Here all of it is one small piece of code. What it computes is what `model/gpt.py` says, part by part.

N tokens of one or more texts, C d_model, H heads of queries, K heads of keys and values, D head size, S tokens of a text so far, W width
of the MLP. C, D and W are multiples of LANES. */

#include "native.h"

#define PAGE 16 /* tokens that lie side by side in the cache */

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
    float *keys, *values;
    int64_t layer_stride, text_stride, head_stride; /* floats from a layer, text or head to the next */
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

INLINE float *place(const block *b, const cache *c, float *from, int64_t text, int64_t head, int64_t token, int64_t D) {
    const int64_t page = c->pages[text * c->page_stride + token / PAGE];
    return from + b->number * c->layer_stride + text * c->text_stride + head * c->head_stride + (page * PAGE + token % PAGE) * D;
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
        memcpy(place(b, c, c->keys, text, k, token, D), qkv + (H + k) * D, sizeof(float) * D);
        memcpy(place(b, c, c->values, text, k, token, D), value, sizeof(float) * D);
    }
}

/* One query gathers from its text's keys and values: softmax(q K' / sqrt(D)) V. `scores` has room for all of them and a vector more. */
INLINE void gathered(const block *b, const cache *c, int64_t n, int64_t k, const float *query, float *out, float *scores, const int64_t D) {
    const int64_t text = c->texts[n], S = c->positions[n] + 1, start = b->band && S > b->band ? S - b->band : 0, count = S - start;
    const float scale = 1 / sqrtf(D);
    float largest = -INFINITY;
    for (int64_t t = 0; t < count; t++) {
        const float *key = place(b, c, c->keys, text, k, start + t, D);
        floats sum = {0};
        for (int64_t d = 0; d < D; d += LANES) sum += at(query + d) * at(key + d);
        scores[t] = sum_of(sum) * scale;
        largest = scores[t] > largest ? scores[t] : largest;
    }
    floats total = {0};
    for (int i = 0; i < LANES; i++) scores[count + i] = -INFINITY; /* the last vector's rest counts nothing */
    for (int64_t t = 0; t < count; t += LANES) {
        floats weight = where(at(scores + t) == -INFINITY, (floats){0}, exponential(at(scores + t) - largest));
        *(floats *)(scores + t) = weight;
        total += weight;
    }
    const float share = 1 / sum_of(total);
    memset(out, 0, sizeof(float) * D);
    for (int64_t t = 0; t < count; t++) {
        const float *value = place(b, c, c->values, text, k, start + t, D);
        const float weight = scores[t] * share;
        for (int64_t d = 0; d < D; d += LANES) *(floats *)(out + d) += at(value + d) * weight;
    }
}

static void attended(const block *b, const cache *c, int64_t n, const float *qkv, float *out, float *scores) {
    const int64_t D = b->head_size;
    for (int64_t h = 0; h < b->heads; h++) {
        const int64_t k = h / (b->heads / b->kv_heads);
        if (D == 64) /* as nearly always: then the sums stay in registers */
            gathered(b, c, n, k, qkv + h * D, out + h * D, scores, 64);
        else
            gathered(b, c, n, k, qkv + h * D, out + h * D, scores, D);
    }
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
    int64_t S = 0;
    for (int64_t n = 0; n < N; n++) S = c->positions[n] + 1 > S ? c->positions[n] + 1 : S;
    S += LANES;
    float *room = malloc(sizeof(float) * (N * (C + all + b->heads * D + (b->gate ? 2 : 1) * W) + N * S));
    if (!room) return 1;
    float *part = room, *qkv = part + N * C, *heads = qkv + N * all, *up = heads + N * b->heads * D, *gate = b->gate ? up + N * W : NULL;
    float *scores = up + (b->gate ? 2 : 1) * N * W;
    int failed = 0;

    for (int64_t i = 0; i < N * C; i++) y[i] = b->shortcut ? b->shortcut[0] * x[i] + b->shortcut[1] * s->embedding[i] : x[i];
    for (int64_t n = 0; n < N; n++) normalised(y + n * C, C, b->rms, b->norm_epsilon, b->attention_gain, b->attention_bias, part + n * C);
    failed |= b->product(b->qkv, part, N, qkv, threads);
    for (int64_t n = 0; n < N; n++) kept(b, c, s, n, qkv + n * all);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (N > 1 && N * S > 1000)
    for (int64_t n = 0; n < N; n++) attended(b, c, n, qkv + n * all, heads + n * b->heads * D, scores + n * S);
    failed |= b->product(b->out, heads, N, part, threads);
    for (int64_t i = 0; i < N * C; i++) y[i] += part[i];

    for (int64_t n = 0; n < N; n++) normalised(y + n * C, C, b->rms, b->norm_epsilon, b->mlp_gain, b->mlp_bias, part + n * C);
    failed |= b->product(b->up, part, N, up, threads);
    if (gate) failed |= b->product(b->gate, part, N, gate, threads);
    activated(b, up, gate, N * W);
    failed |= b->product(b->down, up, N, part, threads);
    for (int64_t i = 0; i < N * C; i++) y[i] += part[i];
    free(room);
    return failed;
}
