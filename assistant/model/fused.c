/* Fused loops for training on a CPU, for operations that torch runs slowly there. `fused.py` calls them.

   A bfloat16 number is the upper half of a float32 number. All arithmetic is in float32. Each result is rounded once,
   at the end, to the nearest bfloat16 number, ties to even. No result depends on the number of threads. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "exponential.h"

/* One build serves every CPU: the loader picks the widest instruction set that the CPU supports. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define CPU_DISPATCH __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define CPU_DISPATCH
#endif
#define INLINE static inline __attribute__((always_inline))

#define BLOCK 16384 /* elements that one thread processes at a time */
const int64_t block_size = BLOCK;
#define ROW_BLOCK 32 /* rows whose gradients of a norm's weight are added up together */
const int64_t row_block = ROW_BLOCK;

/* Increase this here and in `fused.py` whenever an exported function or struct changes. A library that was compiled
   from an earlier version of this file would otherwise read and write outside its arguments. */
const int64_t interface_version = 3;

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

INLINE float upcast(bfloat16 number) { return from_bits((uint32_t)number << 16); }

/* Round to nearest, ties to even. Every NaN becomes the same NaN. */
INLINE bfloat16 downcast(float number)
{
    uint32_t bits = to_bits(number);
    return number == number ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

#define TWICE_ROOT 1.5957691216f /* 2 * sqrt(2 / pi) */
#define CUBIC 0.044715f

/* GPT-2's GELU is x * sigmoid(TWICE_ROOT * (x + CUBIC * x^3)), because tanh(y) = 2 * sigmoid(2 * y) - 1. This is the
   sigmoid. */
INLINE float gelu_sigmoid(float x) { return 1.0f / (1.0f + exponential(-TWICE_ROOT * x * (1.0f + CUBIC * x * x))); }

CPU_DISPATCH static void gelu_row(const bfloat16 *x, bfloat16 *out, int64_t width)
{
    for (int64_t i = 0; i < width; i++) {
        float value = upcast(x[i]);
        out[i] = downcast(value * gelu_sigmoid(value));
    }
}

CPU_DISPATCH static void gelu_backward_row(const bfloat16 *x, const bfloat16 *gradient, bfloat16 *out, int64_t width)
{
    for (int64_t i = 0; i < width; i++) {
        float value = upcast(x[i]), sigmoid = gelu_sigmoid(value);
        float slope = TWICE_ROOT * (1.0f + 3.0f * CUBIC * value * value);
        out[i] = downcast(upcast(gradient[i]) * (sigmoid + value * sigmoid * (1.0f - sigmoid) * slope));
    }
}

/* SwiGLU of a row of `width` gates and `width` inner values: silu(gate) * inner. */
CPU_DISPATCH static void swiglu_row(const bfloat16 *x, bfloat16 *out, int64_t width)
{
    for (int64_t i = 0; i < width; i++) {
        float gate = upcast(x[i]);
        out[i] = downcast(gate / (1.0f + exponential(-gate)) * upcast(x[width + i]));
    }
}

CPU_DISPATCH static void swiglu_backward_row(const bfloat16 *x, const bfloat16 *gradient, bfloat16 *out, int64_t width)
{
    for (int64_t i = 0; i < width; i++) {
        float gate = upcast(x[i]), sigmoid = 1.0f / (1.0f + exponential(-gate)), slope = upcast(gradient[i]);
        out[i] = downcast(slope * upcast(x[width + i]) * sigmoid * (1.0f + gate * (1.0f - sigmoid)));
        out[width + i] = downcast(slope * gate * sigmoid);
    }
}

CPU_DISPATCH static float rms_factor(const float *x, int64_t width, float epsilon)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++)
        sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / width + epsilon);
}

CPU_DISPATCH static void rms_norm_row(const float *x, const float *weight, bfloat16 *out, int64_t width, float epsilon)
{
    const float factor = rms_factor(x, width, epsilon);
    for (int64_t i = 0; i < width; i++)
        out[i] = downcast(x[i] * factor * weight[i]);
}

/* Adds the row's gradient of the weight to `weight_gradient`. */
CPU_DISPATCH static void rms_norm_backward_row(const float *x, const float *weight, const bfloat16 *gradient, float *out,
                                               float *weight_gradient, int64_t width, float epsilon)
{
    const float factor = rms_factor(x, width, epsilon);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++)
        sum += upcast(gradient[i]) * weight[i] * x[i];
    const float share = sum * factor * factor / width;
    for (int64_t i = 0; i < width; i++) {
        weight_gradient[i] += upcast(gradient[i]) * x[i] * factor;
        out[i] = factor * (upcast(gradient[i]) * weight[i] - x[i] * share);
    }
}

CPU_DISPATCH static void add_row(const float *x, const bfloat16 *update, float *out, int64_t width)
{
    for (int64_t i = 0; i < width; i++)
        out[i] = x[i] + upcast(update[i]);
}

/* Rotary positions: turn the first `turned` of `heads` heads by the angles of a token, or back if `sign` is -1. `out`
   may be `x`. */
CPU_DISPATCH static void rotate_row(const bfloat16 *x, const float *cosines, const float *sines, bfloat16 *out,
                                    int64_t turned, int64_t heads, int64_t size, float sign)
{
    for (int64_t head = 0; head < turned; head++, x += size, out += size)
#pragma omp simd
        for (int64_t i = 0; i < size / 2; i++) {
            float first = upcast(x[i]), second = upcast(x[size / 2 + i]), sine = sign * sines[i];
            out[i] = downcast(first * cosines[i] - second * sine);
            out[size / 2 + i] = downcast(second * cosines[i] + first * sine);
        }
    memmove(out, x, (heads - turned) * size * sizeof *x);
}

struct adamw {
    float factor, new_mean, old_square, new_square, decay, step_size, root_correction, epsilon;
    int32_t is_wide; /* whether the gradient is float32, not bfloat16 */
};

/* The same update as torch's fused AdamW. `copy` receives the new weight. */
INLINE void adamw_update(float *weight, float gradient, float *mean, float *square, bfloat16 *copy, struct adamw args)
{
    gradient *= args.factor;
    *weight -= args.decay * *weight;
    *mean += args.new_mean * (gradient - *mean);
    *square = args.old_square * *square + args.new_square * gradient * gradient;
    *weight -= args.step_size * *mean / (sqrtf(*square) / args.root_correction + args.epsilon);
    *copy = downcast(*weight);
}

CPU_DISPATCH static void adamw_block(float *weight, const void *gradient, float *mean, float *square, bfloat16 *copy,
                                     int64_t start, int64_t end, struct adamw args)
{
    if (args.is_wide)
        for (int64_t i = start; i < end; i++)
            adamw_update(&weight[i], ((const float *)gradient)[i], &mean[i], &square[i], &copy[i], args);
    else
#pragma omp simd /* `copy` may be `gradient`: each number is read before its place is written */
        for (int64_t i = start; i < end; i++)
            adamw_update(&weight[i], upcast(((const bfloat16 *)gradient)[i]), &mean[i], &square[i], &copy[i], args);
}

CPU_DISPATCH static float squares_block(const bfloat16 *x, int64_t size)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++)
        sum += upcast(x[i]) * upcast(x[i]);
    return sum;
}

/* --- attention over a tree of rows ------------------------------------------------------------------------------ */

#define QUERIES_PER_STEP 4
#define TILE 16 /* columns per step; rows of matrices in scratch memory are padded to a multiple of it */

typedef float tile __attribute__((vector_size(TILE * sizeof(float)), aligned(sizeof(float)), may_alias));

/* out (QUERIES_PER_STEP, columns) = left (QUERIES_PER_STEP, inner) @ right (inner, columns). A stride is the distance
   between two rows of a matrix. */
INLINE void matmul(const float *left, int64_t left_stride, const float *right, int64_t right_stride, float *out,
                   int64_t out_stride, int64_t inner, int64_t columns)
{
    for (int64_t column = 0; column < columns; column += TILE) {
        tile sums[QUERIES_PER_STEP] = {{0.0f}};
        for (int64_t i = 0; i < inner; i++) {
            const tile right_tile = *(const tile *)(right + i * right_stride + column);
            for (int query = 0; query < QUERIES_PER_STEP; query++)
                sums[query] += left[query * left_stride + i] * right_tile;
        }
        for (int query = 0; query < QUERIES_PER_STEP; query++)
            *(tile *)(out + query * out_stride + column) = sums[query];
    }
}

/* out (rows, columns) += left (QUERIES_PER_STEP, rows) transposed @ right (QUERIES_PER_STEP, columns). */
INLINE void add_transposed_matmul(const float *left, int64_t left_stride, const float *right, float *out, int64_t rows,
                                  int64_t columns)
{
    for (int64_t column = 0; column < columns; column += TILE) {
        tile right_tiles[QUERIES_PER_STEP];
        for (int query = 0; query < QUERIES_PER_STEP; query++)
            right_tiles[query] = *(const tile *)(right + query * columns + column);
        for (int64_t row = 0; row < rows; row++) {
            tile *sum = (tile *)(out + row * columns + column);
            for (int query = 0; query < QUERIES_PER_STEP; query++)
                *sum += left[query * left_stride + row] * right_tiles[query];
        }
    }
}

/* Softmax in place of the first `n_keys` of `size` scores. The other scores become zeros. */
INLINE void softmax(float *scores, int64_t n_keys, int64_t size)
{
    float largest = scores[0], total = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < n_keys; j++)
        largest = scores[j] > largest ? scores[j] : largest;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n_keys; j++) {
        scores[j] = exponential(scores[j] - largest);
        total += scores[j];
    }
    for (int64_t j = 0; j < n_keys; j++)
        scores[j] /= total;
    for (int64_t j = n_keys; j < size; j++)
        scores[j] = 0.0f;
}

/* Arguments of both passes over N tokens. A row is a path through the tree. It may share its first tokens with earlier
   rows, which compute them. */
struct attention {
    const void *qkv;      /* (N, (heads + 2 * kv_heads) * head_size), float32 if `is_wide`, else bfloat16 */
    const int32_t *paths; /* (rows, longest): the tokens of each row, in order */
    const int32_t *spans; /* (rows, 2): the position of a row's first token that no earlier row has, and its length */
    const void *gradient; /* (N, heads * head_size), of the output, in the dtype of `qkv`; unused in forward */
    void *out;            /* forward: (N, heads * head_size), dtype of `qkv`; backward: shape of `qkv`, float32 zeros */
    float *scratch;       /* (threads, scratch_size) float32 without NaN, since zero weights multiply the padding */
    int64_t scratch_size;
    int32_t rows, longest, heads, kv_heads, head_size, is_wide, threads;
};

/* Copy `size` elements of `tensor` from `offset` on to `out`, upcast to float32 and multiplied by `factor`. */
INLINE void load(const void *tensor, int64_t offset, float *out, int64_t size, float factor, int is_wide)
{
    if (is_wide)
        for (int64_t i = 0; i < size; i++)
            out[i] = ((const float *)tensor)[offset + i] * factor;
    else
        for (int64_t i = 0; i < size; i++)
            out[i] = upcast(((const bfloat16 *)tensor)[offset + i]) * factor;
}

INLINE int64_t round_up(int64_t size) { return (size + TILE - 1) / TILE * TILE; }

/* Copy a contiguous vector into a column of a matrix. */
INLINE void store_column(const float *vector, float *column, int64_t stride, int64_t size)
{
    for (int64_t i = 0; i < size; i++)
        column[i * stride] = vector[i];
}

/* Forward pass of one head. In each row, each query from the span's start on attends to the keys up to its position. */
CPU_DISPATCH static void attend_head(const struct attention *args, int64_t head, float *scratch)
{
    const int64_t size = args->head_size, width = args->heads * size, head_stride = round_up(size);
    const int64_t kv_width = args->kv_heads * size, token_stride = width + 2 * kv_width;
    const int64_t kv_offset = head / (args->heads / args->kv_heads) * size;
    const int64_t key_stride = round_up(args->longest + QUERIES_PER_STEP);
    /* keys (size, key_stride), transposed; values (key_stride, head_stride) */
    float *keys = scratch, *values = keys + size * key_stride, *queries = values + key_stride * head_stride;
    float *weights = queries + QUERIES_PER_STEP * head_stride, *outputs = weights + QUERIES_PER_STEP * key_stride;
    const float factor = 1.0f / sqrtf(size);
    for (int64_t row = 0; row < args->rows; row++) {
        const int32_t *path = args->paths + row * args->longest;
        const int64_t first = args->spans[2 * row], length = args->spans[2 * row + 1];
        for (int64_t position = 0; position < length && first < length; position++) {
            int64_t offset = path[position] * token_stride + width + kv_offset;
            load(args->qkv, offset, outputs, size, 1.0f, args->is_wide);
            store_column(outputs, keys + position, key_stride, size);
            load(args->qkv, offset + kv_width, values + position * head_stride, size, 1.0f, args->is_wide);
        }
        for (int64_t position = first; position < length; position += QUERIES_PER_STEP) {
            const int64_t columns = round_up(position + QUERIES_PER_STEP);
            for (int64_t i = 0; i < QUERIES_PER_STEP && position + i < length; i++)
                load(args->qkv, path[position + i] * token_stride + head * size, queries + i * head_stride, size, factor,
                     args->is_wide);
            matmul(queries, head_stride, keys, key_stride, weights, key_stride, size, columns);
            for (int64_t i = 0; i < QUERIES_PER_STEP; i++)
                softmax(weights + i * key_stride, position + i + 1, columns);
            matmul(weights, key_stride, values, head_stride, outputs, head_stride, position + QUERIES_PER_STEP,
                   head_stride);
            for (int64_t i = 0; i < QUERIES_PER_STEP && position + i < length; i++) {
                const int64_t offset = path[position + i] * width + head * size;
                for (int64_t j = 0; j < size; j++)
                    if (args->is_wide)
                        ((float *)args->out)[offset + j] = outputs[i * head_stride + j];
                    else
                        ((bfloat16 *)args->out)[offset + j] = downcast(outputs[i * head_stride + j]);
            }
        }
    }
}

/* Backward pass of one head. It recomputes the attention weights. */
CPU_DISPATCH static void attend_backward_head(const struct attention *args, int64_t head, float *scratch)
{
    const int64_t size = args->head_size, width = args->heads * size, head_stride = round_up(size);
    const int64_t kv_width = args->kv_heads * size, token_stride = width + 2 * kv_width;
    const int64_t kv_offset = head / (args->heads / args->kv_heads) * size;
    const int64_t key_stride = round_up(args->longest + QUERIES_PER_STEP);
    float *keys_transposed = scratch, *values_transposed = keys_transposed + size * key_stride;
    float *keys = values_transposed + size * key_stride, *key_gradients = keys + key_stride * head_stride;
    float *value_gradients = key_gradients + key_stride * head_stride;
    float *queries = value_gradients + key_stride * head_stride;
    float *output_gradients = queries + QUERIES_PER_STEP * head_stride;
    float *weights = output_gradients + QUERIES_PER_STEP * head_stride;
    float *score_gradients = weights + QUERIES_PER_STEP * key_stride;
    float *query_gradients = score_gradients + QUERIES_PER_STEP * key_stride;
    const float factor = 1.0f / sqrtf(size);
    float *out = args->out;
    for (int64_t row = 0; row < args->rows; row++) {
        const int32_t *path = args->paths + row * args->longest;
        const int64_t first = args->spans[2 * row], length = args->spans[2 * row + 1];
        if (first == length)
            continue;
        for (int64_t position = 0; position < length; position++) {
            int64_t offset = path[position] * token_stride + width + kv_offset;
            load(args->qkv, offset, keys + position * head_stride, size, 1.0f, args->is_wide);
            store_column(keys + position * head_stride, keys_transposed + position, key_stride, size);
            load(args->qkv, offset + kv_width, query_gradients, size, 1.0f, args->is_wide);
            store_column(query_gradients, values_transposed + position, key_stride, size);
        }
        memset(key_gradients, 0, (length + QUERIES_PER_STEP) * head_stride * sizeof *key_gradients);
        memset(value_gradients, 0, (length + QUERIES_PER_STEP) * head_stride * sizeof *value_gradients);
        for (int64_t position = first; position < length; position += QUERIES_PER_STEP) {
            const int64_t n_keys = position + QUERIES_PER_STEP, columns = round_up(n_keys);
            memset(output_gradients, 0, QUERIES_PER_STEP * head_stride * sizeof *output_gradients);
            for (int64_t i = 0; i < QUERIES_PER_STEP && position + i < length; i++) {
                const int64_t offset = path[position + i] * width + head * size;
                load(args->qkv, path[position + i] * token_stride + head * size, queries + i * head_stride, size, factor,
                     args->is_wide);
                load(args->gradient, offset, output_gradients + i * head_stride, size, 1.0f, args->is_wide);
            }
            matmul(queries, head_stride, keys_transposed, key_stride, weights, key_stride, size, columns);
            matmul(output_gradients, head_stride, values_transposed, key_stride, score_gradients, key_stride, size,
                   columns);
            for (int64_t i = 0; i < QUERIES_PER_STEP; i++) {
                float *weight = weights + i * key_stride, *gradient = score_gradients + i * key_stride, mean = 0.0f;
                softmax(weight, position + i + 1, columns);
#pragma omp simd reduction(+ : mean)
                for (int64_t j = 0; j < columns; j++)
                    mean += weight[j] * gradient[j];
                for (int64_t j = 0; j < columns; j++)
                    gradient[j] = weight[j] * (gradient[j] - mean);
            }
            matmul(score_gradients, key_stride, keys, head_stride, query_gradients, head_stride, n_keys, head_stride);
            add_transposed_matmul(score_gradients, key_stride, queries, key_gradients, n_keys, head_stride);
            add_transposed_matmul(weights, key_stride, output_gradients, value_gradients, n_keys, head_stride);
            for (int64_t i = 0; i < QUERIES_PER_STEP && position + i < length; i++)
                for (int64_t j = 0; j < size; j++)
                    out[path[position + i] * token_stride + head * size + j] =
                        query_gradients[i * head_stride + j] * factor;
        }
        for (int64_t position = 0; position < length; position++) {
            float *token_gradient = out + path[position] * token_stride + width + kv_offset;
            for (int64_t j = 0; j < size; j++) {
                token_gradient[j] += key_gradients[position * head_stride + j];
                token_gradient[kv_width + j] += value_gradients[position * head_stride + j];
            }
        }
    }
}

/* --- exported functions: they divide the work among threads ------------------------------------------------------ */

#define FOR_BLOCKS(size)                                                                                               \
    _Pragma("omp parallel for schedule(static) num_threads(threads)") for (int64_t start = 0; start < (size);          \
                                                                           start += BLOCK)
#define BLOCK_LENGTH(size) ((size) - start < BLOCK ? (size) - start : BLOCK)

#define FOR_ROWS(rows)                                                                                                 \
    _Pragma("omp parallel for schedule(static) num_threads(threads)") for (int64_t row = 0; row < (rows); row++)

void gelu(const bfloat16 *x, bfloat16 *out, int64_t rows, int64_t width, int threads)
{
    FOR_ROWS(rows) gelu_row(x + row * width, out + row * width, width);
}

void gelu_backward(const bfloat16 *x, const bfloat16 *gradient, bfloat16 *out, int64_t rows, int64_t width, int threads)
{
    FOR_ROWS(rows) gelu_backward_row(x + row * width, gradient + row * width, out + row * width, width);
}

void swiglu(const bfloat16 *x, bfloat16 *out, int64_t rows, int64_t width, int threads)
{
    FOR_ROWS(rows) swiglu_row(x + row * 2 * width, out + row * width, width);
}

void swiglu_backward(const bfloat16 *x, const bfloat16 *gradient, bfloat16 *out, int64_t rows, int64_t width,
                     int threads)
{
    FOR_ROWS(rows) swiglu_backward_row(x + row * 2 * width, gradient + row * width, out + row * 2 * width, width);
}

void rms_norm(const float *x, const float *weight, bfloat16 *out, int64_t rows, int64_t width, float epsilon,
              int threads)
{
    FOR_ROWS(rows) rms_norm_row(x + row * width, weight, out + row * width, width, epsilon);
}

/* `weight_gradients` (rows / ROW_BLOCK, rounded up, width) are zeros: one sum for each block of rows. */
void rms_norm_backward(const float *x, const float *weight, const bfloat16 *gradient, float *out,
                       float *weight_gradients, int64_t rows, int64_t width, float epsilon, int threads)
{
    FOR_ROWS((rows + ROW_BLOCK - 1) / ROW_BLOCK)
    for (int64_t i = row * ROW_BLOCK; i < rows && i < (row + 1) * ROW_BLOCK; i++)
        rms_norm_backward_row(x + i * width, weight, gradient + i * width, out + i * width,
                              weight_gradients + row * width, width, epsilon);
}

void add(const float *x, const bfloat16 *update, float *out, int64_t rows, int64_t width, int threads)
{
    FOR_ROWS(rows) add_row(x + row * width, update + row * width, out + row * width, width);
}

void rotate(const bfloat16 *x, const float *cosines, const float *sines, bfloat16 *out, int64_t rows, int64_t width,
            int64_t size, int64_t turned, float sign, int threads)
{
    FOR_ROWS(rows) rotate_row(x + row * width, cosines + row * (size / 2), sines + row * (size / 2), out + row * width,
                              turned, width / size, size, sign);
}

void adamw(float *weight, const void *gradient, float *mean, float *square, bfloat16 *copy, int64_t size,
           const struct adamw *args, int threads)
{
    FOR_BLOCKS(size)
    adamw_block(weight, gradient, mean, square, copy, start, start + BLOCK_LENGTH(size), *args);
}

/* The sum of squares of each block. */
void squares(const bfloat16 *x, float *sums, int64_t size, int threads)
{
    FOR_BLOCKS(size) sums[start / BLOCK] = squares_block(x + start, BLOCK_LENGTH(size));
}

/* float32 elements of scratch memory that one thread needs for rows of at most `longest` tokens. */
int64_t attention_scratch(int64_t longest, int64_t head_size)
{
    const int64_t key_stride = round_up(longest + QUERIES_PER_STEP), head_stride = round_up(head_size);
    return 5 * key_stride * head_stride + 2 * QUERIES_PER_STEP * key_stride + 3 * QUERIES_PER_STEP * head_stride;
}

void attention(const struct attention *args)
{
#pragma omp parallel for schedule(static) num_threads(args->threads)
    for (int64_t head = 0; head < args->heads; head++)
        attend_head(args, head, args->scratch + omp_get_thread_num() * args->scratch_size);
}

void attention_backward(const struct attention *args)
{
    /* The heads of a group add to the same keys' and values' gradients, so one thread computes them all. */
    const int64_t group = args->heads / args->kv_heads;
#pragma omp parallel for schedule(static) num_threads(args->threads)
    for (int64_t kv_head = 0; kv_head < args->kv_heads; kv_head++)
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
            attend_backward_head(args, head, args->scratch + omp_get_thread_num() * args->scratch_size);
}
