/* Loops over many numbers that torch has no fast operation for on a processor: `assistant/fused.py` calls them.

   bfloat16 numbers are the upper halves of float32 ones. All arithmetic is float32, and is rounded once, at the end, to
   the nearest number, ties to the even one. None of the results depends on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* One build for all processors: the loader picks the widest instructions that are there. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define EVERY_PROCESSOR __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define EVERY_PROCESSOR
#endif

#define BLOCK 16384 /* numbers that one thread works on at a time */

typedef uint16_t bfloat16;

static inline float from_bits(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline uint32_t to_bits(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static inline float widen(bfloat16 number) { return from_bits((uint32_t)number << 16); }

static inline bfloat16 narrow(float number)
{
    uint32_t bits = to_bits(number);
    return number == number ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

/* e to the x, within 2 units in the last place: 2 to the n times a polynomial (Cephes' expf) of what is left. */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(x * 1.44269504f + 0.5f);
    float rest = x - n * 0.693359375f + n * 2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    return power * from_bits((uint32_t)((int32_t)n + 127) << 23);
}

#define TWICE_ROOT 1.5957691216f /* 2 * sqrt(2 / pi) */
#define CUBIC 0.044715f

/* GPT-2's GELU is x * sigmoid(TWICE_ROOT * (x + CUBIC * x^3)): tanh is 2 * sigmoid of twice its argument, less 1. */
static inline float gate(float x) { return 1.0f / (1.0f + exponential(-TWICE_ROOT * x * (1.0f + CUBIC * x * x))); }

EVERY_PROCESSOR static void gelu_block(const bfloat16 *x, bfloat16 *out, int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        float number = widen(x[i]);
        out[i] = narrow(number * gate(number));
    }
}

EVERY_PROCESSOR static void gelu_backward_block(const bfloat16 *x, const bfloat16 *gradient, bfloat16 *out, int64_t size)
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
static inline float adamw_one(float weight, float gradient, float *mean, float *square, struct adamw by)
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
