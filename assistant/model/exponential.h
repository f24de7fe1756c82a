/* exp(x) for the project's compiled files. Like expf of Cephes, it is 2^n times a polynomial of the remainder. Between
   -87 and 88 the error is at most 1.1 units in the last place. */

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline __attribute__((always_inline)) float exponential(float x)
{
    float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(clamped * 1.44269504f + 0.5f);
    float remainder = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float result = 1.9875691500e-4f;
    result = result * remainder + 1.3981999507e-3f;
    result = result * remainder + 8.3334519073e-3f;
    result = result * remainder + 4.1665795894e-2f;
    result = result * remainder + 1.6666665459e-1f;
    result = result * remainder + 5.0000001201e-1f;
    result = result * remainder * remainder + remainder + 1.0f;
    uint32_t power = (uint32_t)((int32_t)n + 127) << 23;
    float factor;
    memcpy(&factor, &power, sizeof factor);
    result *= factor;
    return x > 88.0f ? INFINITY : result;
}
