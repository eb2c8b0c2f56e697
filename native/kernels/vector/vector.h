/* SPDX-License-Identifier: Apache-2.0 */
/* Sixteen float lanes, the width of every reduction in the engine.
 *
 * vector_<isa>.h defines the type v16 and its operations; an ISA file includes one of them and then the body of its
 * op (<op>_body.h), which is written once. Every operation is IEEE exact with the same lanes, so that the bodies give
 * the same bits on every ISA: no reciprocal estimates, no reassociation, the sum of 16 lanes by one fixed tree.
 * v16_max and v16_min are x > y ? x : y and x < y ? x : y, so y where one is a NaN; v16_largest takes no NaN. Which NaN
 * an operation returns differs between ISAs. */
#ifndef INGOT_VECTOR_H
#define INGOT_VECTOR_H

#ifndef V16_CLAMP
/* x within [low, high]; `high` for a quiet NaN. The limits are numbers other than 0. */
static inline v16 v16_clamp(v16 x, v16 low, v16 high) { return v16_max(v16_min(x, high), low); }
#endif

#ifndef V16_STORE_INT8_PAIR
/* Twice v16_store_int8. */
static inline int32_t v16_store_int8_pair(int8_t *p, v16 low, v16 high) {
    const int32_t sum = v16_store_int8(p, low);
    return sum + v16_store_int8(p + 16, high);
}
#endif

/* e^x for x in about [-86, 88], clamped there; e^0 is exactly 1. Range reduction by ln 2 in two parts, then the Taylor
 * terms of e^r, |r| <= 0.347, to r^7 / 7!: relative error below 2e-7. */
static inline v16 v16_exp(v16 x) {
    const v16 magic = v16_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    x = v16_clamp(x, v16_set(-86.0f), v16_set(88.0f));
    v16 shifted = v16_fma(x, v16_set(1.44269504f), magic);
    v16 n = v16_sub(shifted, magic);
    v16 r = v16_fma(n, v16_set(-0.693359375f), x);
    r = v16_fma(n, v16_set(2.12194440e-4f), r);
    v16 y = v16_set(1.0f / 5040.0f);
    y = v16_fma(y, r, v16_set(1.0f / 720.0f));
    y = v16_fma(y, r, v16_set(1.0f / 120.0f));
    y = v16_fma(y, r, v16_set(1.0f / 24.0f));
    y = v16_fma(y, r, v16_set(1.0f / 6.0f));
    y = v16_fma(y, r, v16_set(0.5f));
    y = v16_fma(y, r, v16_set(1.0f));
    y = v16_fma(y, r, v16_set(1.0f));
    return v16_scale_by_power(y, shifted);
}

/* x / (1 + e^-x) */
static inline v16 v16_silu(v16 x) {
    v16 negative = v16_sub(v16_zero(), x);
    return v16_div(x, v16_add(v16_set(1.0f), v16_exp(negative)));
}

/* x / (1 + e^-2z), z = sqrt(2 / pi) (x + 0.044715 x^3): the tanh form of GELU, rearranged */
static inline v16 v16_gelu_tanh(v16 x) {
    v16 cube = v16_mul(v16_mul(x, x), x);
    v16 z = v16_mul(v16_set(-1.59576912f), v16_fma(v16_set(0.044715f), cube, x));
    return v16_div(x, v16_add(v16_set(1.0f), v16_exp(z)));
}

#endif
