/* Loops over many numbers that torch has no fast operation for on a processor: `assistant/fused.py` calls them.

   bfloat16 numbers are the upper halves of float32 ones. All arithmetic is float32, and is rounded once, at the end, to
   the nearest number, ties to the even one. None of the results depends on the number of threads. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

/* One build for all processors: the loader picks the widest instructions that are there. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define EVERY_PROCESSOR __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define EVERY_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

#define BLOCK 16384 /* numbers that one thread works on at a time */
const int64_t block_size = BLOCK;

/* One more whenever what is called from outside changes, here and in `fused.py`: a library that an earlier version of
   this file was compiled to would otherwise read and write beside what it is given. */
const int64_t interface_version = 1;

typedef uint16_t bfloat16;

INLINE float from_bits(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

INLINE uint32_t to_bits(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

INLINE float widen(bfloat16 number) { return from_bits((uint32_t)number << 16); }

INLINE bfloat16 narrow(float number)
{
    uint32_t bits = to_bits(number);
    return number == number ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

/* e to the x, between -87 and 88 within 1.1 units in the last place: 2 to the n times a polynomial of the rest, that of
   Cephes' expf. */
INLINE float exponential(float x)
{
    float within = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(within * 1.44269504f + 0.5f);
    float rest = within - n * 0.693359375f + n * 2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    power *= from_bits((uint32_t)((int32_t)n + 127) << 23);
    return x > 88.0f ? INFINITY : power;
}

#define TWICE_ROOT 1.5957691216f /* 2 * sqrt(2 / pi) */
#define CUBIC 0.044715f

/* GPT-2's GELU is x * sigmoid(TWICE_ROOT * (x + CUBIC * x^3)): tanh is 2 * sigmoid of twice its argument, less 1. */
INLINE float gate(float x) { return 1.0f / (1.0f + exponential(-TWICE_ROOT * x * (1.0f + CUBIC * x * x))); }

EVERY_PROCESSOR static void gelu_block(const bfloat16 *x, bfloat16 *out, int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        float number = widen(x[i]);
        out[i] = narrow(number * gate(number));
    }
}

EVERY_PROCESSOR static void gelu_backward_block(const bfloat16 *x, const bfloat16 *gradient, bfloat16 *out,
                                                int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        float number = widen(x[i]), open = gate(number);
        float slope = TWICE_ROOT * (1.0f + 3.0f * CUBIC * number * number);
        out[i] = narrow(widen(gradient[i]) * (open + number * open * (1.0f - open) * slope));
    }
}

struct adamw {
    float factor, new_mean, old_square, new_square, decay, step_size, root_correction, epsilon;
};

/* torch's fused AdamW, and the weights' copy. */
INLINE float adamw_one(float weight, float gradient, float *mean, float *square, struct adamw by)
{
    weight -= by.decay * weight;
    *mean += by.new_mean * (gradient - *mean);
    *square = by.old_square * *square + by.new_square * gradient * gradient;
    return weight - by.step_size * *mean / (sqrtf(*square) / by.root_correction + by.epsilon);
}

EVERY_PROCESSOR static void adamw_block(float *weight, const bfloat16 *gradient, float *mean, float *square,
                                        bfloat16 *copy, int64_t size, struct adamw by)
{
    for (int64_t i = 0; i < size; i++) {
        weight[i] = adamw_one(weight[i], widen(gradient[i]) * by.factor, &mean[i], &square[i], by);
        copy[i] = narrow(weight[i]);
    }
}

EVERY_PROCESSOR static void adamw_wide_block(float *weight, const float *gradient, float *mean, float *square,
                                             bfloat16 *copy, int64_t size, struct adamw by)
{
    for (int64_t i = 0; i < size; i++) {
        weight[i] = adamw_one(weight[i], gradient[i] * by.factor, &mean[i], &square[i], by);
        copy[i] = narrow(weight[i]);
    }
}

EVERY_PROCESSOR static float squares_block(const bfloat16 *x, int64_t size)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++)
        sum += widen(x[i]) * widen(x[i]);
    return sum;
}

/* --- attention over a tree of rows ------------------------------------------------------------------------------ */

#define TOGETHER 4 /* queries at a time */
#define TILE 16    /* columns at a time; all lines of scratch memory are filled up to a multiple of it */

typedef float tile __attribute__((vector_size(TILE * sizeof(float)), aligned(sizeof(float)), may_alias));

/* out (TOGETHER, columns) = left (TOGETHER, inner) times right (inner, columns). */
INLINE void multiply(const float *left, int64_t left_line, const float *right, int64_t right_line, float *out,
                     int64_t out_line, int64_t inner, int64_t columns)
{
    for (int64_t column = 0; column < columns; column += TILE) {
        tile sums[TOGETHER] = {{0.0f}};
        for (int64_t i = 0; i < inner; i++) {
            const tile numbers = *(const tile *)(right + i * right_line + column);
            for (int query = 0; query < TOGETHER; query++)
                sums[query] += left[query * left_line + i] * numbers;
        }
        for (int query = 0; query < TOGETHER; query++)
            *(tile *)(out + query * out_line + column) = sums[query];
    }
}

/* out (rows, columns) += the transpose of left (TOGETHER, rows) times right (TOGETHER, columns). */
INLINE void add_outer(const float *left, int64_t left_line, const float *right, float *out, int64_t rows,
                      int64_t columns)
{
    for (int64_t column = 0; column < columns; column += TILE) {
        tile numbers[TOGETHER];
        for (int query = 0; query < TOGETHER; query++)
            numbers[query] = *(const tile *)(right + query * columns + column);
        for (int64_t row = 0; row < rows; row++) {
            tile *sum = (tile *)(out + row * columns + column);
            for (int query = 0; query < TOGETHER; query++)
                *sum += left[query * left_line + row] * numbers[query];
        }
    }
}

/* Softmax of the first `seen` of a line of scores, in place; zeros behind them up to `size`. */
INLINE void softmax(float *scores, int64_t seen, int64_t size)
{
    float largest = scores[0], total = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < seen; j++)
        largest = scores[j] > largest ? scores[j] : largest;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < seen; j++) {
        scores[j] = exponential(scores[j] - largest);
        total += scores[j];
    }
    for (int64_t j = 0; j < seen; j++)
        scores[j] /= total;
    for (int64_t j = seen; j < size; j++)
        scores[j] = 0.0f;
}

struct attention {
    const void *qkv;        /* (N, 3 * heads * head_size), float32 if `is_wide`, else bfloat16 */
    const int32_t *paths;   /* (rows, longest): the tokens of every row in order */
    const int32_t *spans;   /* (rows, 2): the place of a row's first token that is its own, and its length */
    const void *gradient;   /* (N, heads * head_size), of the result; on the way back alone */
    void *out;              /* (N, heads * head_size); on the way back (N, 3 * heads * head_size) float32, zeros */
    float *scratch;         /* (threads, scratch_size) float32, no NaN in it */
    int64_t scratch_size;
    int32_t rows, longest, heads, head_size, is_wide, threads;
};

/* `size` numbers of a tensor from `at` on as float32, times a factor. */
INLINE void take(const void *from, int64_t at, float *to, int64_t size, float factor, int is_wide)
{
    if (is_wide)
        for (int64_t i = 0; i < size; i++)
            to[i] = ((const float *)from)[at + i] * factor;
    else
        for (int64_t i = 0; i < size; i++)
            to[i] = widen(((const bfloat16 *)from)[at + i]) * factor;
}

INLINE int64_t filled_up(int64_t size) { return (size + TILE - 1) / TILE * TILE; }

INLINE void transpose(const float *line, float *column, int64_t stride, int64_t size)
{
    for (int64_t i = 0; i < size; i++)
        column[i * stride] = line[i];
}

/* One head of the forward pass: in each row the queries that are its own over all of its keys up to them. */
EVERY_PROCESSOR static void attend_head(const struct attention *by, int64_t head, float *scratch)
{
    const int64_t size = by->head_size, width = by->heads * size, line = filled_up(size);
    const int64_t places = filled_up(by->longest + TOGETHER);
    float *keys = scratch, *values = keys + size * places, *queries = values + places * line;
    float *weights = queries + TOGETHER * line, *found = weights + TOGETHER * places;
    const float factor = 1.0f / sqrtf(size);
    for (int64_t row = 0; row < by->rows; row++) {
        const int32_t *path = by->paths + row * by->longest;
        const int64_t first = by->spans[2 * row], length = by->spans[2 * row + 1];
        for (int64_t place = 0; place < length && first < length; place++) {
            int64_t at = path[place] * 3 * width + head * size;
            take(by->qkv, at + width, found, size, 1.0f, by->is_wide);
            transpose(found, keys + place, places, size);
            take(by->qkv, at + 2 * width, values + place * line, size, 1.0f, by->is_wide);
        }
        for (int64_t place = first; place < length; place += TOGETHER) {
            const int64_t columns = filled_up(place + TOGETHER);
            for (int64_t i = 0; i < TOGETHER && place + i < length; i++)
                take(by->qkv, path[place + i] * 3 * width + head * size, queries + i * line, size, factor, by->is_wide);
            multiply(queries, line, keys, places, weights, places, size, columns);
            for (int64_t i = 0; i < TOGETHER; i++)
                softmax(weights + i * places, place + i + 1, columns);
            multiply(weights, places, values, line, found, line, place + TOGETHER, line);
            for (int64_t i = 0; i < TOGETHER && place + i < length; i++) {
                const int64_t at = path[place + i] * width + head * size;
                for (int64_t j = 0; j < size; j++)
                    if (by->is_wide)
                        ((float *)by->out)[at + j] = found[i * line + j];
                    else
                        ((bfloat16 *)by->out)[at + j] = narrow(found[i * line + j]);
            }
        }
    }
}

/* The same head on the way back. The weights are computed anew. */
EVERY_PROCESSOR static void attend_backward_head(const struct attention *by, int64_t head, float *scratch)
{
    const int64_t size = by->head_size, width = by->heads * size, line = filled_up(size);
    const int64_t places = filled_up(by->longest + TOGETHER);
    float *key_columns = scratch, *value_columns = key_columns + size * places;
    float *keys = value_columns + size * places, *of_keys = keys + places * line, *of_values = of_keys + places * line;
    float *queries = of_values + places * line, *gradients = queries + TOGETHER * line;
    float *weights = gradients + TOGETHER * line, *slopes = weights + TOGETHER * places;
    float *of_queries = slopes + TOGETHER * places;
    const float factor = 1.0f / sqrtf(size);
    float *out = by->out;
    for (int64_t row = 0; row < by->rows; row++) {
        const int32_t *path = by->paths + row * by->longest;
        const int64_t first = by->spans[2 * row], length = by->spans[2 * row + 1];
        if (first == length)
            continue;
        for (int64_t place = 0; place < length; place++) {
            int64_t at = path[place] * 3 * width + head * size;
            take(by->qkv, at + width, keys + place * line, size, 1.0f, by->is_wide);
            transpose(keys + place * line, key_columns + place, places, size);
            take(by->qkv, at + 2 * width, of_queries, size, 1.0f, by->is_wide);
            transpose(of_queries, value_columns + place, places, size);
        }
        memset(of_keys, 0, (length + TOGETHER) * line * sizeof *of_keys);
        memset(of_values, 0, (length + TOGETHER) * line * sizeof *of_values);
        for (int64_t place = first; place < length; place += TOGETHER) {
            const int64_t seen = place + TOGETHER, columns = filled_up(seen);
            memset(gradients, 0, TOGETHER * line * sizeof *gradients);
            for (int64_t i = 0; i < TOGETHER && place + i < length; i++) {
                const int64_t at = path[place + i] * width + head * size;
                take(by->qkv, path[place + i] * 3 * width + head * size, queries + i * line, size, factor, by->is_wide);
                take(by->gradient, at, gradients + i * line, size, 1.0f, by->is_wide);
            }
            multiply(queries, line, key_columns, places, weights, places, size, columns);
            multiply(gradients, line, value_columns, places, slopes, places, size, columns);
            for (int64_t i = 0; i < TOGETHER; i++) {
                float *weight = weights + i * places, *slope = slopes + i * places, mean = 0.0f;
                softmax(weight, place + i + 1, columns);
#pragma omp simd reduction(+ : mean)
                for (int64_t j = 0; j < columns; j++)
                    mean += weight[j] * slope[j];
                for (int64_t j = 0; j < columns; j++)
                    slope[j] = weight[j] * (slope[j] - mean);
            }
            multiply(slopes, places, keys, line, of_queries, line, seen, line);
            add_outer(slopes, places, queries, of_keys, seen, line);
            add_outer(weights, places, gradients, of_values, seen, line);
            for (int64_t i = 0; i < TOGETHER && place + i < length; i++)
                for (int64_t j = 0; j < size; j++)
                    out[path[place + i] * 3 * width + head * size + j] = of_queries[i * line + j] * factor;
        }
        for (int64_t place = 0; place < length; place++) {
            float *of_token = out + path[place] * 3 * width + head * size;
            for (int64_t j = 0; j < size; j++) {
                of_token[width + j] += of_keys[place * line + j];
                of_token[2 * width + j] += of_values[place * line + j];
            }
        }
    }
}

/* --- what is called: all blocks, shared out to the threads ------------------------------------------------------- */

#define FOR_BLOCKS(size)                                                                                               \
    _Pragma("omp parallel for schedule(static) num_threads(threads)") for (int64_t at = 0; at < (size); at += BLOCK)
#define LEFT(size) ((size) - at < BLOCK ? (size) - at : BLOCK)

void gelu(const bfloat16 *x, bfloat16 *out, int64_t size, int threads)
{
    FOR_BLOCKS(size) gelu_block(x + at, out + at, LEFT(size));
}

void gelu_backward(const bfloat16 *x, const bfloat16 *gradient, bfloat16 *out, int64_t size, int threads)
{
    FOR_BLOCKS(size) gelu_backward_block(x + at, gradient + at, out + at, LEFT(size));
}

void adamw(float *weight, const bfloat16 *gradient, float *mean, float *square, bfloat16 *copy, int64_t size,
           const struct adamw *by, int threads)
{
    FOR_BLOCKS(size) adamw_block(weight + at, gradient + at, mean + at, square + at, copy + at, LEFT(size), *by);
}

void adamw_wide(float *weight, const float *gradient, float *mean, float *square, bfloat16 *copy, int64_t size,
                const struct adamw *by, int threads)
{
    FOR_BLOCKS(size) adamw_wide_block(weight + at, gradient + at, mean + at, square + at, copy + at, LEFT(size), *by);
}

/* Sums of squares, one for each block. */
void squares(const bfloat16 *x, float *sums, int64_t size, int threads)
{
    FOR_BLOCKS(size) sums[at / BLOCK] = squares_block(x + at, LEFT(size));
}

/* Numbers of scratch memory that a thread needs for rows of some length. */
int64_t attention_scratch(int64_t longest, int64_t head_size)
{
    const int64_t places = filled_up(longest + TOGETHER), line = filled_up(head_size);
    return 5 * places * line + 2 * TOGETHER * places + 3 * TOGETHER * line;
}

void attention(const struct attention *by)
{
#pragma omp parallel for schedule(static) num_threads(by->threads)
    for (int64_t head = 0; head < by->heads; head++)
        attend_head(by, head, by->scratch + omp_get_thread_num() * by->scratch_size);
}

void attention_backward(const struct attention *by)
{
#pragma omp parallel for schedule(static) num_threads(by->threads)
    for (int64_t head = 0; head < by->heads; head++)
        attend_backward_head(by, head, by->scratch + omp_get_thread_num() * by->scratch_size);
}
