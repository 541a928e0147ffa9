/* GELU in float32, by the rule of metaot/alone/layers.py. */

#ifndef METAOT_GELU_H
#define METAOT_GELU_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x, to two units in the last place, of what is between -87 and 88; of others that of these bounds. */
static inline float exponential(float x)
{
    float bounded = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float k = floorf(bounded * 1.44269504f + 0.5f), r = (bounded - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.0f / 5040, power;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    int32_t bits = ((int32_t)k + 127) * (1 << 23);
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float gelu(float x)
{
    float square = x * x;
    float first = square + 12.477027f, second = square - 9.8450217f, third = square - 39.585156f;
    float y = -3.6112315e-9f * x * (first * first + 76.205937f) * (second * second + 940.40453f) *
              (third * third + 270.10662f);
    return x / (exponential(y) + 1);
}

#endif
