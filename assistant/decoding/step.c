/* A forward pass of a whole model over a few tokens, with a cache of keys and values. `step.py` calls it.

   One parallel region computes everything: torch would run some 300 operations for it, and start its threads as often.
   Weights stay as torch has them, row by row. Arithmetic is in float32, and a token's logits are the same, bit for bit,
   whether it is computed alone or with a few others. The second half of this file is compiled once for each kind of
   processor: it includes itself. Shapes: N tokens, C width, H heads, G heads of keys and values, D head size, V words,
   B rows of the cache, S its slots. */

#ifndef LEVEL

#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>

#include "../model/exponential.h"

/* Increase this here and in `step.py` whenever an exported function or struct changes. */
const int64_t interface_version = 1;

#define INLINE static inline __attribute__((always_inline))
#define SPINS 4000    /* of a thread that waits for the others, before it lets another program run */
#define ROWS 4        /* of a weight that are read together */
#define LINE_BYTES 64 /* of the processor's caches */
#define MOST_FETCHED 16384 /* bytes of keys that are fetched ahead at once */
#define AHEAD 4096    /* bytes of weights that are fetched before they are needed, at least */
#define PAD 16        /* every row of a buffer has a multiple of this many floats; the rest are zeros */
#define LINE 8        /* int64 numbers in such a line */
#define PHASES 12     /* at most, of a layer: each is followed by a barrier, and has a counter of its own */
#define FEW_TOKENS 8  /* at most as many are multiplied without matrix units, where they exist */
#define FEW_FLOAT32 16 /* the same in float32 */
#define TILE 16       /* rows and columns of a result in a matrix unit, and pairs of inputs */
#define STRIP 32      /* rows of a weight that are brought into the layout of a matrix unit together */

enum storage { FLOAT32, BFLOAT16, FLOAT16, INT8 };
enum activation { GELU_TANH, GELU_ERF, SWIGLU };
enum after { STORE, ADD, ACTIVATE };

struct matrix { /* (rows, columns) in the model's storage */
    const void *weight;
    const float *scales, *bias; /* (rows,) or NULL; scales of int8 */
    int64_t rows, columns;
};

struct norm { /* (C,) */
    const float *weight, *bias; /* without a bias, or with a NULL weight, RMSNorm */
};

struct layer {
    struct norm before_attention, before_mlp, of_queries, of_keys; /* the last two (D,) or NULL */
    struct matrix qkv, attended, inner, outer;
    double query_factor;
};

struct model {
    const struct layer *layers;
    struct matrix embedding, head;
    const float *positions;   /* (positions, C) or NULL */
    const float *frequencies; /* (D / 2,) of rotary positions, or NULL */
    struct norm last;
    double epsilon;
    int64_t n_layer, width, heads, kv_heads, head_size, storage, activation;
};

struct call {
    const int32_t *ids, *rows, *positions; /* (N,); tokens of one row follow each other */
    const int32_t *chosen;                 /* (K,), rising: the tokens that get logits */
    void *const *cache;                    /* for each layer (2, B, G, S, D), float32 or float16 */
    float *logits;                         /* (K, V) */
    char *scratch;                         /* `scratch_bytes`; zeros before the first call */
    int64_t tokens, n_chosen, capacity, cache_rows, slots, threads, level, cache_storage;
};

/* Consecutive tokens of one row, whose attention is computed together. */
struct block {
    int32_t first, count, token; /* `first` among the tokens with a result; `token` among all */
};

struct job {
    const struct model *model;
    const struct call *call;
    float *x, *normed, *qkv, *attended, *inner, *turns; /* turns (N, 2, D / 2): cosines and sines */
    uint16_t *packed;
    char *of_thread;
    struct block *blocks, *chosen_blocks;
    int64_t *counters;
    int64_t x_stride, qkv_stride, attended_stride, inner_stride, thread_bytes, n_blocks, n_chosen_blocks, threads;
    int64_t arrived, generation;
};

INLINE int64_t padded(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }
/* Numbers from one row of a strip to the next: an odd number of cache lines, which spreads rows over the cache. */
INLINE int64_t strip_stride(int64_t columns) { return (padded(columns, 2 * TILE) / (2 * TILE) | 1) * 2 * TILE; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Wait for all threads. */
static void wait_for_all(struct job *job)
{
    if (job->threads == 1)
        return;
    const int64_t generation = __atomic_load_n(&job->generation, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&job->arrived, 1, __ATOMIC_ACQ_REL) == job->threads) {
        job->arrived = 0;
        __atomic_store_n(&job->generation, generation + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int64_t spins = 0; __atomic_load_n(&job->generation, __ATOMIC_ACQUIRE) == generation; spins++)
        if (spins >= SPINS)
            sched_yield();
#if defined(__x86_64__)
        else
            __builtin_ia32_pause();
#endif
}

/* Take some of `size` items that no other thread has: a share of what is left, in multiples of `unit`. Returns the
   first, and sets `end`. Nothing is left if the first is not below `end`. */
INLINE int64_t take(struct job *job, int64_t phase, int64_t size, int64_t unit, int64_t *end)
{
    int64_t *counter = job->counters + phase * LINE, start = __atomic_load_n(counter, __ATOMIC_RELAXED);
    do {
        if (start >= size)
            return *end = size;
        const int64_t share = job->threads == 1 ? size : (size - start) / (2 * job->threads);
        *end = least(size, start + (share > unit ? padded(share, unit) : unit));
    } while (!__atomic_compare_exchange_n(counter, &start, *end, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return start;
}

#define FOR_TAKEN(phase, size, unit)                                                                                   \
    for (int64_t end, start = take(job, phase, size, unit, &end); start < end;                                         \
         start = take(job, phase, size, unit, &end))

INLINE int64_t element_bytes(int64_t storage) { return storage == FLOAT32 ? 4 : storage == INT8 ? 1 : 2; }

/* Into how many bfloat16 numbers a weight and an input are split for a matrix unit, so that their sum is exact enough:
   the error of a product is about 2^-16, and in float32 2^-24. */
INLINE int64_t weight_parts(int64_t storage) { return storage == FLOAT32 ? 3 : storage == FLOAT16 ? 2 : 1; }
INLINE int64_t input_parts(int64_t storage) { return storage == FLOAT32 ? 3 : 2; }

#define LEVEL plain
#define WIDTH 4
#define TOKENS 2
#include "step.c"

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define X86_LEVELS

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define LEVEL v3
#define WIDTH 8
#define TOKENS 2
#include "step.c"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define LEVEL v4
#define WIDTH 16
#define TOKENS 4
#include "step.c"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512,avx512bf16,amx-tile,amx-bf16")
#define LEVEL amx
#define WIDTH 16
#define TOKENS 4
#define HAS_TILES
#include "step.c"
#pragma GCC pop_options

/* Whether the processor has matrix units and Linux lets this process use them. */
static int has_tiles(void)
{
    unsigned a, b, c, d;
    const int bf16 = 1 << 22, tile = 1 << 24;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & bf16) || !(d & tile) || !__builtin_cpu_supports("avx512bf16"))
        return 0;
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0;
}
#endif

/* The best level here: 0 plain, 1 x86-64-v3, 2 x86-64-v4, 3 with matrix units. */
int64_t best_level(void)
{
#ifdef X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return has_tiles() ? 3 : 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 1;
#endif
    return 0;
}

/* Give a job its buffers in `scratch`, one after the other; returns the bytes that they take. */
static int64_t lay_out(struct job *job, const struct model *model, int64_t capacity, int64_t slots, int64_t threads,
                       char *scratch)
{
    const int64_t size = model->head_size, inner = model->layers[0].outer.columns;
    char *next = scratch;
#define PLACE(field, bytes) job->field = (void *)next, next += padded(bytes, 64)
    job->threads = threads;
    job->x_stride = padded(model->width, PAD);
    job->qkv_stride = padded((model->heads + 2 * model->kv_heads) * size, PAD) + PAD;
    job->attended_stride = padded(model->heads * size, PAD);
    job->inner_stride = padded(inner, PAD) * (model->activation == SWIGLU ? 2 : 1);
    PLACE(x, capacity * job->x_stride * 4);
    PLACE(normed, capacity * job->x_stride * 4);
    PLACE(qkv, capacity * job->qkv_stride * 4);
    PLACE(attended, capacity * job->attended_stride * 4);
    PLACE(inner, capacity * job->inner_stride * 4);
    PLACE(turns, capacity * padded(size, PAD) * 4);
    const int64_t widest = model->width > inner ? model->width : inner;
    const int64_t columns = padded(widest > model->heads * size ? widest : model->heads * size, 2 * TILE);
    PLACE(packed, input_parts(model->storage) * padded(capacity, TILE) * columns * 2);
    PLACE(blocks, capacity * sizeof *job->blocks);
    PLACE(chosen_blocks, capacity * sizeof *job->blocks);
    PLACE(counters, (model->n_layer * PHASES + PHASES) * LINE * 8);
    const int64_t scores = 4 * padded(slots + ROWS, PAD) * 4, queries = 4 * padded(size, PAD) * 4;
    const int64_t strip = weight_parts(model->storage) * STRIP * strip_stride(columns) * 2 + 4 * TILE * TILE * 4;
    job->thread_bytes = padded(scores + queries > strip ? scores + queries : strip, 64);
    PLACE(of_thread, threads * job->thread_bytes);
    return next - scratch;
}

int64_t scratch_bytes(const struct model *model, int64_t capacity, int64_t slots, int64_t threads)
{
    struct job job;
    return lay_out(&job, model, capacity, slots, threads, 0);
}

/* Divide tokens into blocks of consecutive positions in one row; `chosen` NULL means all tokens. */
static int64_t divide(const struct call *call, const int32_t *chosen, int64_t count, struct block *blocks, int most)
{
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t token = chosen ? chosen[i] : i;
        struct block *last = blocks + n - 1;
        if (n && last->count < most && last->token + last->count == token && call->rows[token] == call->rows[token - 1])
            last->count++;
        else
            blocks[n++] = (struct block){.first = i, .count = 1, .token = token};
    }
    return n;
}

/* Compute a call. Returns 0; or 1 if an id, row or position is outside the model or the cache, with nothing done. */
int64_t run(const struct model *model, const struct call *call)
{
    for (int64_t i = 0; i < call->tokens; i++)
        if (call->ids[i] < 0 || call->ids[i] >= model->embedding.rows || call->rows[i] < 0 ||
            call->rows[i] >= call->cache_rows || call->positions[i] < 0 || call->positions[i] >= call->slots ||
            call->tokens > call->capacity)
            return 1;
    struct job job = {.model = model, .call = call};
    lay_out(&job, model, call->capacity, call->slots, call->threads, call->scratch);
    memset(job.counters, 0, (model->n_layer * PHASES + PHASES) * LINE * 8);
    const int most = call->level >= 2 ? 4 : 2;
    job.n_blocks = divide(call, NULL, call->tokens, job.blocks, most);
    job.n_chosen_blocks = divide(call, call->chosen, call->n_chosen, job.chosen_blocks, most);
    void (*work)(struct job *, int64_t) = work_plain;
#ifdef X86_LEVELS
    work = call->level == 3 ? work_amx : call->level == 2 ? work_v4 : call->level == 1 ? work_v3 : work;
#endif
    if (job.threads == 1)
        work(&job, 0);
    else
#pragma omp parallel num_threads(job.threads)
        if (omp_get_num_threads() == job.threads)
            work(&job, omp_get_thread_num());
        else /* fewer threads than asked for */
#pragma omp single
        {
            job.threads = 1;
            work(&job, 0);
        }
    return 0;
}

#else /* --- once for each level -------------------------------------------------------------------------------------- */

#define GLUE_AGAIN(name, level) name##_##level
#define GLUE(name, level) GLUE_AGAIN(name, level)
#define NAME(name) GLUE(name, LEVEL)
#define V NAME(vector)
#define VALUE_VECTORS (WIDTH == 16 ? 4 : 2)

typedef float V __attribute__((vector_size(4 * WIDTH)));

INLINE V NAME(load)(const float *from)
{
    V vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

/* Written out, because a compiler that contracts a * b + c on its own does so in one copy of a loop and not in another,
   and then a sum would depend on what is computed beside it. So this file is compiled with -ffp-contract=off. */
INLINE V NAME(multiply_add)(V a, V b, V c)
{
#if WIDTH == 16
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif WIDTH == 8
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* The sums of `ROWS` vectors. */
INLINE void NAME(sum)(const V *vectors, float out[ROWS])
{
#if WIDTH == 16
    const __m512 a = (__m512)vectors[0], b = (__m512)vectors[1], c = (__m512)vectors[2], d = (__m512)vectors[3];
    const __m512d ab = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512d cd = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 all = _mm512_add_ps((__m512)_mm512_unpacklo_pd(ab, cd), (__m512)_mm512_unpackhi_pd(ab, cd));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif WIDTH == 8
    const __m256 ab = _mm256_hadd_ps((__m256)vectors[0], (__m256)vectors[1]);
    const __m256 all = _mm256_hadd_ps(ab, _mm256_hadd_ps((__m256)vectors[2], (__m256)vectors[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
    for (int row = 0; row < ROWS; row++)
        out[row] = (vectors[row][0] + vectors[row][2]) + (vectors[row][1] + vectors[row][3]);
#endif
}

/* `WIDTH` numbers of a storage in float32. */
INLINE V NAME(load_stored)(const void *from, int64_t storage)
{
    if (storage == FLOAT32)
        return NAME(load)(from);
#if WIDTH == 16
    if (storage == FLOAT16)
        return (V)_mm512_cvtph_ps(_mm256_loadu_si256(from));
    if (storage == BFLOAT16)
        return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from)), 16);
    return (V)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from)));
#elif WIDTH == 8
    if (storage == FLOAT16)
        return (V)_mm256_cvtph_ps(_mm_loadu_si128(from));
    if (storage == BFLOAT16)
        return (V)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(from)), 16);
    return (V)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from)));
#else
    V vector;
    for (int i = 0; i < WIDTH; i++)
        if (storage == INT8)
            vector[i] = ((const int8_t *)from)[i];
        else {
            /* A float16 number has 5 bits of exponent and 10 of fraction: shifted, it is 2^112 times too small. */
            const uint32_t half = ((const uint16_t *)from)[i];
            const uint32_t bits = storage == BFLOAT16 ? half << 16 : (half & 0x7fff) << 13 | (half & 0x8000) << 16;
            float number;
            memcpy(&number, &bits, sizeof number);
            vector[i] = storage == BFLOAT16 ? number : number * 0x1p112f;
        }
    return vector;
#endif
}

/* Write `count` numbers as float32 or float16. */
INLINE void NAME(store)(const float *from, int64_t count, void *to, int64_t storage)
{
#if WIDTH >= 8
    for (int64_t i = 0; i < count && storage == FLOAT16; i += 8) {
        float eight[8] = {0};
        memcpy(eight, from + i, least(8, count - i) * 4);
        const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(eight), _MM_FROUND_TO_NEAREST_INT);
        memcpy((uint16_t *)to + i, &halves, least(8, count - i) * 2);
    }
#endif
    if (storage == FLOAT32)
        memcpy(to, from, count * 4);
}

/* The first `count` of `WIDTH` numbers; the rest are zeros. */
INLINE V NAME(load_part)(const void *from, int64_t count, int64_t storage)
{
    char buffer[4 * WIDTH] = {0};
    memcpy(buffer, from, count * element_bytes(storage));
    return NAME(load_stored)(buffer, storage);
}

/* Products of `ROWS` rows of a weight with `tokens` inputs, whose padding is zero: out[token][row]. The sum over the
   columns has one order, whatever `tokens` is. */
INLINE void NAME(dots)(const char *const *rows, int64_t columns, int64_t storage, const float *x, int64_t x_stride,
                       int tokens, float out[TOKENS][ROWS])
{
    const int64_t bytes = element_bytes(storage), row_bytes = columns * bytes;
    /* Bytes that the memory should be ahead: in long rows within them, else one or more groups of rows. */
    const int64_t ahead = row_bytes >= AHEAD ? AHEAD : padded(AHEAD, ROWS * row_bytes);
    V sums[TOKENS][ROWS], weights[ROWS];
    for (int token = 0; token < tokens; token++)
        for (int row = 0; row < ROWS; row++)
            sums[token][row] = (V){0};
#define ADD_COLUMNS(load_weight)                                                                                       \
    for (int row = 0; row < ROWS; row++)                                                                               \
        weights[row] = load_weight;                                                                                    \
    for (int token = 0; token < tokens; token++) {                                                                     \
        const V input = NAME(load)(x + token * x_stride + i);                                                          \
        for (int row = 0; row < ROWS; row++)                                                                           \
            sums[token][row] = NAME(multiply_add)(weights[row], input, sums[token][row]);                              \
    }
    int64_t i = 0;
    for (; i + LINE_BYTES / bytes <= columns;) {
        for (int row = 0; row < ROWS; row++)
            __builtin_prefetch(rows[row] + i * bytes + ahead);
        for (int part = 0; part < LINE_BYTES / bytes / WIDTH; part++, i += WIDTH) {
            ADD_COLUMNS(NAME(load_stored)(rows[row] + i * bytes, storage))
        }
    }
    for (; i + WIDTH <= columns; i += WIDTH) {
        ADD_COLUMNS(NAME(load_stored)(rows[row] + i * bytes, storage))
    }
    if (i < columns) {
        ADD_COLUMNS(NAME(load_part)(rows[row] + i * bytes, columns - i, storage))
    }
#undef ADD_COLUMNS
    for (int token = 0; token < tokens; token++)
        NAME(sum)(sums[token], out[token]);
}

/* Write the results of rows of a product, or add them to what is there. */
INLINE void NAME(write_rows)(const struct matrix *m, float *values, float *to, int adds, int64_t row, int64_t count)
{
    if (m->scales)
        for (int64_t i = 0; i < count; i++)
            values[i] *= m->scales[row + i];
    if (m->bias)
        for (int64_t i = 0; i < count; i++)
            values[i] += m->bias[row + i];
    for (int64_t i = 0; i < count; i++)
        to[i] = adds ? to[i] + values[i] : values[i];
}

/* Rows `start` to `end` of a product: out[token][row], or added to what is there. */
INLINE void NAME(product_rows_of)(const struct matrix *m, int64_t storage, const float *x, int64_t x_stride,
                                  int64_t tokens, float *out, int64_t out_stride, int adds, int64_t start, int64_t end)
{
    const int64_t row_bytes = m->columns * element_bytes(storage);
    const char *rows[ROWS];
    float found[TOKENS][ROWS];
    for (int64_t row = start; row < end; row += ROWS) {
        for (int i = 0; i < ROWS; i++)
            rows[i] = (const char *)m->weight + least(row + i, end - 1) * row_bytes;
        for (int64_t token = 0, count; token < tokens; token += count) {
            count = tokens - token >= TOKENS ? TOKENS : 1;
            const float *inputs = x + token * x_stride;
            if (count == 1)
                NAME(dots)(rows, m->columns, storage, inputs, x_stride, 1, found);
            else
                NAME(dots)(rows, m->columns, storage, inputs, x_stride, TOKENS, found);
            for (int64_t t = 0; t < count; t++) {
                float *to = out + (token + t) * out_stride + row;
                if (end - row >= ROWS)
                    NAME(write_rows)(m, found[t], to, adds, row, ROWS);
                else
                    NAME(write_rows)(m, found[t], to, adds, row, end - row);
            }
        }
    }
}

/* One function for each storage, so that the compiler knows it. */
static void NAME(product_rows)(const struct matrix *m, int64_t storage, const float *x, int64_t x_stride,
                               int64_t tokens, float *out, int64_t out_stride, int adds, int64_t start, int64_t end)
{
#define CASE(known)                                                                                                    \
    case known:                                                                                                        \
        NAME(product_rows_of)(m, known, x, x_stride, tokens, out, out_stride, adds, start, end);                       \
        break
    switch (storage) {
        CASE(FLOAT32);
        CASE(BFLOAT16);
        CASE(FLOAT16);
        CASE(INT8);
    }
#undef CASE
}

#ifdef HAS_TILES
/* Split 32 numbers into bfloat16 parts: the nearest, then the nearest to the rest, and so on. */
INLINE void NAME(split)(V first, V second, int64_t parts, uint16_t *out, int64_t stride)
{
    for (int64_t part = 0; part < parts; part++) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
        _mm512_storeu_si512(out + part * stride, both);
        first -= (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(both)), 16);
        second -= (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1)), 16);
    }
}

/* Bring inputs (tokens, columns) into the layout of a matrix unit: for each part, `TILE` tokens and 32 columns, pairs of
   columns (16, TILE, 2). Threads share these tiles. */
static void NAME(pack)(struct job *job, int64_t phase, const float *x, int64_t x_stride, int64_t tokens, int64_t columns)
{
    const int64_t parts = input_parts(job->model->storage), of_row = padded(columns, 2 * TILE) / (2 * TILE);
    const int64_t size = 2 * TILE * TILE, n_tiles = padded(tokens, TILE) / TILE * of_row;
    const __m512i token_at = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                                _mm512_set1_epi32(TILE));
    FOR_TAKEN(phase, n_tiles, 1)
    for (int64_t tile = start; tile < end; tile++) {
        const int64_t token = tile / of_row * TILE, column = tile % of_row * 2 * TILE;
        uint16_t rows[3][TILE][2 * TILE];
        for (int64_t i = 0; i < TILE; i++) {
            const float *from = x + (token + i) * x_stride + column;
            V first = {0}, second = {0};
            if (token + i < tokens) {
                first = NAME(load)(from);
                if (column + TILE < columns)
                    second = NAME(load)(from + TILE);
            }
            NAME(split)(first, second, parts, rows[0][i], size);
        }
        for (int64_t part = 0; part < parts; part++)
            for (int pair = 0; pair < TILE; pair++)
                _mm512_storeu_si512(job->packed + (part * n_tiles + tile) * size + pair * 2 * TILE,
                                    _mm512_i32gather_epi32(token_at, rows[part][0] + 2 * pair, 4));
    }
}

/* Split `STRIP` rows of a weight into bfloat16 parts. */
INLINE void NAME(fill_strip)(const struct matrix *m, int64_t storage, int64_t row, int64_t end, uint16_t *strip)
{
    const int64_t parts = weight_parts(storage), stride = strip_stride(m->columns), bytes = element_bytes(storage);
    for (int64_t i = 0; i < STRIP; i++) {
        const char *from = (const char *)m->weight + least(row + i, end - 1) * m->columns * bytes;
        uint16_t *to = strip + i * stride;
        int64_t column = 0;
        for (; column + 2 * TILE <= m->columns; column += 2 * TILE) {
            const char *at = from + column * bytes;
            for (int64_t line = 0; line < 2 * TILE * bytes; line += LINE_BYTES)
                __builtin_prefetch(at + AHEAD + line);
            if (storage == BFLOAT16)
                memcpy(to + column, at, 4 * TILE);
            else
                NAME(split)(NAME(load_stored)(at, storage), NAME(load_stored)(at + WIDTH * bytes, storage), parts,
                            to + column, STRIP * stride);
        }
        const int64_t left = m->columns - column;
        if (left) {
            const char *at = from + column * bytes;
            const V second = left > WIDTH ? NAME(load_part)(at + WIDTH * bytes, left - WIDTH, storage) : (V){0};
            NAME(split)(NAME(load_part)(at, least(left, WIDTH), storage), second, parts, to + column,
                        STRIP * stride);
        }
    }
}

struct NAME(tile_config) {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
};

static void NAME(configure_tiles)(void)
{
    struct NAME(tile_config) config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++)
        config.rows[tile] = TILE, config.column_bytes[tile] = 4 * TILE;
    _tile_loadconfig(&config);
}

/* Write a result of the matrix unit (TILE rows, TILE tokens) to out[token][row]. */
INLINE void NAME(write_tile)(const struct matrix *m, const float *tile, int64_t tokens, float *out, int64_t out_stride,
                             int adds, int64_t row, int64_t end)
{
    const __mmask16 mask = end - row >= TILE ? 0xffff : end > row ? (1 << (end - row)) - 1 : 0;
    const __m512i column = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(TILE));
    const __m512 scale = m->scales ? _mm512_maskz_loadu_ps(mask, m->scales + row) : _mm512_set1_ps(1.0f);
    const __m512 bias = m->bias ? _mm512_maskz_loadu_ps(mask, m->bias + row) : _mm512_setzero_ps();
    for (int64_t token = 0; token < tokens; token++) {
        float *to = out + token * out_stride + row;
        __m512 value = _mm512_fmadd_ps(_mm512_i32gather_ps(column, tile + token, 4), scale, bias);
        if (adds)
            value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, to));
        _mm512_mask_storeu_ps(to, mask, value);
    }
}

/* Rows `start` to `end` of a product with the inputs that `pack` has packed. `strip` is memory of this thread. */
static void NAME(tile_rows)(struct job *job, const struct matrix *m, int64_t tokens, float *out, int64_t out_stride,
                            int adds, int64_t start, int64_t end, uint16_t *strip)
{
    const int64_t storage = job->model->storage, wide = padded(m->columns, 2 * TILE);
    const int64_t stride = strip_stride(m->columns);
    const int64_t w_parts = weight_parts(storage), x_parts = input_parts(storage);
    const int64_t part_size = padded(tokens, TILE) * wide; /* of packed inputs */
    float *results = (float *)(strip + w_parts * STRIP * stride);
    for (int64_t row = start; row < end; row += STRIP) {
        switch (storage) {
        case FLOAT32: NAME(fill_strip)(m, FLOAT32, row, end, strip); break;
        case BFLOAT16: NAME(fill_strip)(m, BFLOAT16, row, end, strip); break;
        case FLOAT16: NAME(fill_strip)(m, FLOAT16, row, end, strip); break;
        default: NAME(fill_strip)(m, INT8, row, end, strip);
        }
        for (int64_t token = 0; token < tokens; token += 2 * TILE) {
            const int has_second = token + TILE < tokens;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t i = 0; i < wide; i += 2 * TILE)
                for (int64_t w = 0; w < w_parts; w++) {
                    const uint16_t *weights = strip + w * STRIP * stride + i;
                    _tile_loadd(4, weights, 2 * stride);
                    _tile_loadd(5, weights + TILE * stride, 2 * stride);
                    for (int64_t part = 0; part + w < x_parts; part++) {
                        const uint16_t *inputs = job->packed + part * part_size + token * wide + i * TILE;
                        _tile_loadd(6, inputs, 4 * TILE);
                        _tile_dpbf16ps(0, 4, 6);
                        _tile_dpbf16ps(1, 5, 6);
                        if (has_second) {
                            _tile_loadd(7, inputs + TILE * wide, 4 * TILE);
                            _tile_dpbf16ps(2, 4, 7);
                            _tile_dpbf16ps(3, 5, 7);
                        }
                    }
                }
            _tile_stored(0, results, 4 * TILE);
            _tile_stored(1, results + TILE * TILE, 4 * TILE);
            _tile_stored(2, results + 2 * TILE * TILE, 4 * TILE);
            _tile_stored(3, results + 3 * TILE * TILE, 4 * TILE);
            for (int tile = 0; tile < (has_second ? 4 : 2); tile++) {
                const int64_t first = token + tile / 2 * TILE;
                NAME(write_tile)(m, results + tile * TILE * TILE, least(TILE, tokens - first), out + first * out_stride,
                                 out_stride, adds, row + tile % 2 * TILE, end);
            }
        }
    }
}
#endif

/* The activation of rows `start` to `end` of the MLP's inner values, in place. */
static void NAME(activate)(const struct job *job, int64_t tokens, int64_t start, int64_t end)
{
    for (int64_t token = 0; token < tokens; token++) {
        float *inner = job->inner + token * job->inner_stride;
        if (job->model->activation == SWIGLU) {
            const float *other = inner + job->inner_stride / 2;
            for (int64_t i = start; i < end; i++)
                inner[i] = inner[i] / (1.0f + exponential(-inner[i])) * other[i];
        } else if (job->model->activation == GELU_TANH) {
            /* tanh(y) = 2 * sigmoid(2 * y) - 1, so GPT-2's GELU is x times a sigmoid. */
            for (int64_t i = start; i < end; i++) {
                const float x = inner[i], y = 1.5957691216f * x * (1.0f + 0.044715f * x * x);
                inner[i] = x / (1.0f + exponential(-y));
            }
        } else
            for (int64_t i = start; i < end; i++)
                inner[i] = 0.5f * inner[i] * (1.0f + erff(inner[i] * 0.70710678f));
    }
}

/* A product with all inputs (tokens, columns). Threads share its rows. */
static void NAME(product)(struct job *job, int64_t thread, int64_t *phase, const struct matrix *m, const float *x,
                          int64_t x_stride, int64_t tokens, float *out, int64_t out_stride, enum after after)
{
    const int64_t storage = job->model->storage;
    const int is_gated = after == ACTIVATE && job->model->activation == SWIGLU;
    const int64_t size = is_gated ? m->rows / 2 : m->rows;
    int64_t unit = ROWS;
    (void)thread;
#ifdef HAS_TILES
    const int uses_tiles = tokens > (storage == FLOAT32 ? FEW_FLOAT32 : FEW_TOKENS);
    if (uses_tiles) {
        unit = STRIP;
        NAME(pack)(job, (*phase)++, x, x_stride, tokens, m->columns);
        wait_for_all(job);
    }
    uint16_t *strip = (uint16_t *)(job->of_thread + thread * job->thread_bytes);
#define PRODUCT_ROWS(to, from, until)                                                                                  \
    if (uses_tiles)                                                                                                    \
        NAME(tile_rows)(job, m, tokens, to, out_stride, after == ADD, from, until, strip);                             \
    else                                                                                                               \
        NAME(product_rows)(m, storage, x, x_stride, tokens, to, out_stride, after == ADD, from, until)
#else
#define PRODUCT_ROWS(to, from, until)                                                                                  \
    NAME(product_rows)(m, storage, x, x_stride, tokens, to, out_stride, after == ADD, from, until)
#endif
    const int64_t rows_phase = (*phase)++;
    FOR_TAKEN(rows_phase, size, unit)
    {
        PRODUCT_ROWS(out, start, end);
        if (is_gated) {
            PRODUCT_ROWS(out + out_stride / 2 - size, size + start, size + end);
        }
        if (after == ACTIVATE)
            NAME(activate)(job, tokens, start, end);
    }
    wait_for_all(job);
#undef PRODUCT_ROWS
}

/* Norm of `size` numbers. */
INLINE void NAME(normalise)(const float *x, const struct norm *norm, float epsilon, int64_t size, float *out)
{
    float mean = 0.0f, square = 0.0f;
    if (norm->bias) {
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < size; i++)
            mean += x[i];
        mean /= size;
    }
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < size; i++)
        square += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / sqrtf(square / size + epsilon);
    if (norm->bias)
        for (int64_t i = 0; i < size; i++)
            out[i] = (x[i] - mean) * factor * norm->weight[i] + norm->bias[i];
    else
        for (int64_t i = 0; i < size; i++)
            out[i] = x[i] * factor * norm->weight[i];
}

static void NAME(normalise_all)(struct job *job, int64_t phase, const struct norm *norm, int64_t tokens)
{
    const struct model *model = job->model;
    FOR_TAKEN(phase, tokens, 1)
    for (int64_t token = start; token < end; token++)
        NAME(normalise)(job->x + token * job->x_stride, norm, model->epsilon, model->width,
                        job->normed + token * job->x_stride);
    wait_for_all(job);
}

/* Embed the tokens, and compute the angles of their positions. */
static void NAME(embed)(struct job *job, int64_t phase)
{
    const struct model *model = job->model;
    const int64_t width = model->width, half = model->head_size / 2;
    FOR_TAKEN(phase, job->call->tokens, 1)
    for (int64_t token = start; token < end; token++) {
        const int64_t id = job->call->ids[token], position = job->call->positions[token];
        const char *row = (const char *)model->embedding.weight + id * width * element_bytes(model->storage);
        float *x = job->x + token * job->x_stride, *turns = job->turns + token * padded(2 * half, PAD);
        for (int64_t i = 0; i < width; i += WIDTH) {
            const V part = NAME(load_part)(row + i * element_bytes(model->storage), least(WIDTH, width - i),
                                           model->storage);
            memcpy(x + i, &part, least(WIDTH, width - i) * 4);
        }
        for (int64_t i = 0; i < width; i++) {
            if (model->embedding.scales)
                x[i] *= model->embedding.scales[id];
            if (model->positions)
                x[i] += model->positions[position * width + i];
        }
        for (int64_t i = 0; i < half && model->frequencies; i++) {
            const float angle = position * model->frequencies[i];
            turns[i] = cosf(angle);
            turns[half + i] = sinf(angle);
        }
    }
    wait_for_all(job);
}

/* Norm and turn the queries and keys of all tokens, and store keys and values in a layer's cache. */
static void NAME(place)(struct job *job, int64_t phase, int64_t index)
{
    const struct model *model = job->model;
    const struct call *call = job->call;
    const struct layer *layer = model->layers + index;
    const int64_t size = model->head_size, half = size / 2, kv_heads = model->kv_heads;
    char *cache = call->cache[index];
    FOR_TAKEN(phase, call->tokens, 1)
    for (int64_t token = start; token < end; token++) {
        float *heads = job->qkv + token * job->qkv_stride;
        const float *cosines = job->turns + token * padded(2 * half, PAD), *sines = cosines + half;
        for (int64_t head = 0; head < model->heads + kv_heads; head++) {
            float *values = heads + head * size;
            const int is_query = head < model->heads;
            const struct norm *norm = is_query ? &layer->of_queries : &layer->of_keys;
            if (norm->weight)
                NAME(normalise)(values, norm, model->epsilon, size, values);
            for (int64_t i = 0; i < half && model->frequencies; i++) {
                const float first = values[i], second = values[half + i];
                values[i] = first * cosines[i] - second * sines[i];
                values[half + i] = second * cosines[i] + first * sines[i];
            }
            for (int64_t i = 0; i < size && is_query; i++)
                values[i] *= (float)layer->query_factor;
        }
        const int64_t row = call->rows[token], position = call->positions[token];
        for (int64_t head = 0; head < 2 * kv_heads; head++) {
            const int64_t of_row = (head / kv_heads * call->cache_rows + row) * kv_heads + head % kv_heads;
            NAME(store)(heads + (model->heads + head) * size, size,
                        cache + (of_row * call->slots + position) * size * element_bytes(call->cache_storage),
                        call->cache_storage);
        }
    }
    wait_for_all(job);
}

/* Turn scores of `count` keys into weights that add up to 1; the rest of `all` become zeros. */
INLINE void NAME(softmax)(float *scores, int64_t count, int64_t all)
{
    float largest = scores[0], total = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < count; i++)
        largest = scores[i] > largest ? scores[i] : largest;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) {
        scores[i] = exponential(scores[i] - largest);
        total += scores[i];
    }
    const float factor = 1.0f / total;
    for (int64_t i = 0; i < count; i++)
        scores[i] *= factor;
    for (int64_t i = count; i < all; i++)
        scores[i] = 0.0f;
}

/* Sums of values (keys, size) with the weights of `tokens` queries, in `vectors` vectors from `at` on: out[token]. The
   last one may have fewer than `WIDTH` numbers. */
INLINE void NAME(weigh_part)(const float *weights, int64_t stride, const char *values, int64_t storage, int64_t keys,
                             int64_t size, int tokens, float *out, int64_t out_stride, int64_t at, int vectors)
{
    V sums[TOKENS][VALUE_VECTORS];
    const int64_t count = least(size - at, vectors * WIDTH);
    for (int token = 0; token < tokens; token++)
        for (int i = 0; i < vectors; i++)
            sums[token][i] = (V){0};
    for (int64_t key = 0; key < keys; key++)
#pragma GCC unroll 4
        for (int i = 0; i < vectors; i++) {
            const char *from = values + (key * size + at + i * WIDTH) * element_bytes(storage);
            const V value = count < WIDTH ? NAME(load_part)(from, count, storage) : NAME(load_stored)(from, storage);
#pragma GCC unroll 4
            for (int token = 0; token < tokens; token++)
                sums[token][i] = NAME(multiply_add)((V){0} + weights[token * stride + key], value, sums[token][i]);
        }
    for (int token = 0; token < tokens; token++)
        memcpy(out + token * out_stride + at, sums[token], count * 4);
}

INLINE void NAME(weigh)(const float *weights, int64_t stride, const char *values, int64_t storage, int64_t keys,
                        int64_t size, int tokens, float *out, int64_t out_stride)
{
    int64_t at = 0;
    for (; at + VALUE_VECTORS * WIDTH <= size; at += VALUE_VECTORS * WIDTH)
        NAME(weigh_part)(weights, stride, values, storage, keys, size, tokens, out, out_stride, at, VALUE_VECTORS);
    for (; at < size; at += WIDTH)
        NAME(weigh_part)(weights, stride, values, storage, keys, size, tokens, out, out_stride, at, 1);
}

/* Attention of blocks of tokens over a layer's cache. Threads share blocks and heads. */
INLINE void NAME(attend_to)(struct job *job, int64_t thread, int64_t phase, const char *cache, int64_t storage,
                            const struct block *blocks, int64_t n_blocks)
{
    const struct model *model = job->model;
    const struct call *call = job->call;
    const int64_t size = model->head_size, stride = padded(call->slots + ROWS, PAD), wide = padded(size, PAD);
    const int64_t row_bytes = call->slots * size * element_bytes(storage);
    const int64_t values_offset = call->cache_rows * model->kv_heads * row_bytes;
    float *scores = (float *)(job->of_thread + thread * job->thread_bytes), *queries = scores + 4 * stride;
    const float factor = 1.0f / sqrtf(size);
    const int tokens_are_few = n_blocks == call->tokens; /* one of each row */
    FOR_TAKEN(phase, n_blocks * model->heads, 1)
    for (int64_t item = start; item < end; item++) {
        const struct block block = blocks[item / model->heads];
        const int64_t head = item % model->heads, kv_head = head / (model->heads / model->kv_heads);
        const int64_t row = call->rows[block.token], position = call->positions[block.token];
        const int64_t n_keys = position + block.count;
        const char *keys = cache + (row * model->kv_heads + kv_head) * row_bytes;
        for (int64_t token = 0; token < block.count; token++)
            for (int64_t i = 0; i < wide; i++)
                queries[token * wide + i] =
                    i < size ? job->qkv[(block.token + token) * job->qkv_stride + head * size + i] * factor : 0.0f;
        /* The values, and the keys of the next head: short rows end before the processor fetches ahead by itself. */
        const int64_t bytes = least(n_keys * size * element_bytes(storage), MOST_FETCHED);
        for (int64_t at = 0; at < bytes && tokens_are_few; at += LINE_BYTES) {
            __builtin_prefetch(keys + values_offset + at);
            __builtin_prefetch(keys + row_bytes + at);
        }
        const struct matrix matrix = {.weight = keys, .rows = n_keys, .columns = size};
        NAME(product_rows)(&matrix, storage, queries, wide, block.count, scores, stride, 0, 0, n_keys);
        for (int64_t token = 0; token < block.count; token++)
            NAME(softmax)(scores + token * stride, position + token + 1, n_keys);
        float *out = job->attended + block.first * job->attended_stride + head * size;
        const char *values = keys + values_offset;
        if (block.count == TOKENS)
            NAME(weigh)(scores, stride, values, storage, n_keys, size, TOKENS, out, job->attended_stride);
        else
            for (int64_t token = 0; token < block.count; token++)
                NAME(weigh)(scores + token * stride, stride, values, storage, n_keys, size, 1,
                            out + token * job->attended_stride, job->attended_stride);
    }
    wait_for_all(job);
}

static void NAME(attend)(struct job *job, int64_t thread, int64_t phase, const char *cache, const struct block *blocks,
                         int64_t n_blocks)
{
    if (job->call->cache_storage == FLOAT16)
        NAME(attend_to)(job, thread, phase, cache, FLOAT16, blocks, n_blocks);
    else
        NAME(attend_to)(job, thread, phase, cache, FLOAT32, blocks, n_blocks);
}

/* What one thread does. All threads pass the same phases. */
static void NAME(work)(struct job *job, int64_t thread)
{
    const struct model *model = job->model;
    const struct call *call = job->call;
    int64_t phase = 0, tokens = call->tokens;
#ifdef HAS_TILES
    NAME(configure_tiles)();
#endif
    NAME(embed)(job, phase++);
    for (int64_t index = 0; index < model->n_layer && tokens; index++) {
        const struct layer *layer = model->layers + index;
        NAME(normalise_all)(job, phase++, &layer->before_attention, tokens);
        NAME(product)(job, thread, &phase, &layer->qkv, job->normed, job->x_stride, tokens, job->qkv, job->qkv_stride,
                      STORE);
        NAME(place)(job, phase++, index);
        const int is_last = index == model->n_layer - 1;
        if (is_last) { /* after the last layer's attention, only the tokens with logits matter */
            tokens = call->n_chosen;
            for (int64_t i = 0; i < tokens && thread == 0; i++)
                memmove(job->x + i * job->x_stride, job->x + call->chosen[i] * job->x_stride, model->width * 4);
        }
        NAME(attend)(job, thread, phase++, call->cache[index], is_last ? job->chosen_blocks : job->blocks,
                     is_last ? job->n_chosen_blocks : job->n_blocks);
        NAME(product)(job, thread, &phase, &layer->attended, job->attended, job->attended_stride, tokens, job->x,
                      job->x_stride, ADD);
        NAME(normalise_all)(job, phase++, &layer->before_mlp, tokens);
        NAME(product)(job, thread, &phase, &layer->inner, job->normed, job->x_stride, tokens, job->inner,
                      job->inner_stride, ACTIVATE);
        NAME(product)(job, thread, &phase, &layer->outer, job->inner, job->inner_stride, tokens, job->x, job->x_stride,
                      ADD);
    }
    NAME(normalise_all)(job, phase++, &model->last, tokens);
    NAME(product)(job, thread, &phase, &model->head, job->normed, job->x_stride, tokens, call->logits, model->head.rows,
                  STORE);
#ifdef HAS_TILES
    _tile_release();
#endif
}

#undef V
#undef VALUE_VECTORS
#undef NAME
#undef GLUE
#undef GLUE_AGAIN
#undef LEVEL
#undef WIDTH
#undef TOKENS
#undef HAS_TILES

#endif
