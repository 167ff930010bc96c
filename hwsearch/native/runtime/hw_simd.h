/* hw_simd.h: one vector of floats, for AVX-512, AVX2, NEON and plain C99. HW_VL floats per vector. For kernels only. */
#ifndef HW_SIMD_H
#define HW_SIMD_H

#include "hw_kernels.h"

#if defined(__GNUC__)
#define HW_INLINE static inline __attribute__((always_inline, unused))
#define HW_PRAGMA(text) _Pragma(#text)
#else
#define HW_INLINE static inline
#endif
/* Kernels that are written once and compiled for several constants. Not so for plain C: loops over lanes inside of
 * unrolled loops take compilers minutes. */
#if defined(__GNUC__) && !defined(HW_PORTABLE)
#define HW_TEMPLATE HW_INLINE
#define HW_UNROLL HW_PRAGMA(GCC unroll 16)
#elif defined(__GNUC__)
#define HW_TEMPLATE static __attribute__((noinline, noclone, unused))
#define HW_UNROLL
#else
#define HW_TEMPLATE static
#define HW_UNROLL
#endif

#if defined(HW_NEON) && !(defined(__ARM_NEON) && defined(__aarch64__))
#error "neon needs a compiler for 64-bit ARM, set CC"
#endif

#if defined(__AVX512F__) && !defined(HW_PORTABLE)
#include <immintrin.h>
#define HW_VL 16
typedef __m512 hw_vec;
#define HW_X86(name) _mm512_##name
HW_INLINE hw_vec hw_round(hw_vec a) { return _mm512_roundscale_ps(a, 0); }
/* Values 0, 2, 4, ... (1, 3, 5, ...) of a and b, one behind the other. */
HW_INLINE hw_vec hw_even(hw_vec a, hw_vec b)
{
    const __m512i at = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(a, at, b);
}
HW_INLINE hw_vec hw_odd(hw_vec a, hw_vec b)
{
    const __m512i at = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_ps(a, at, b);
}
HW_INLINE float hw_sum(hw_vec a) { return _mm512_reduce_add_ps(a); }
/* 2^a for whole numbers a from -126 to 127. */
HW_INLINE hw_vec hw_power2(hw_vec a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127)), 23));
}

#elif defined(__AVX2__) && defined(__FMA__) && !defined(HW_PORTABLE)
#include <immintrin.h>
#define HW_VL 8
typedef __m256 hw_vec;
#define HW_X86(name) _mm256_##name
HW_INLINE hw_vec hw_round(hw_vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
HW_INLINE hw_vec hw_sorted(__m256 a) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(a), 0xD8)); }
HW_INLINE hw_vec hw_even(hw_vec a, hw_vec b) { return hw_sorted(_mm256_shuffle_ps(a, b, 0x88)); }
HW_INLINE hw_vec hw_odd(hw_vec a, hw_vec b) { return hw_sorted(_mm256_shuffle_ps(a, b, 0xDD)); }
HW_INLINE float hw_sum(hw_vec a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
HW_INLINE hw_vec hw_power2(hw_vec a)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127)), 23));
}

#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(HW_PORTABLE)
#include <arm_neon.h>
#define HW_VL 4
typedef float32x4_t hw_vec;
HW_INLINE hw_vec hw_load(const float *p) { return vld1q_f32(p); }
HW_INLINE void hw_store(float *p, hw_vec a) { vst1q_f32(p, a); }
HW_INLINE hw_vec hw_set(float a) { return vdupq_n_f32(a); }
HW_INLINE hw_vec hw_add(hw_vec a, hw_vec b) { return vaddq_f32(a, b); }
HW_INLINE hw_vec hw_sub(hw_vec a, hw_vec b) { return vsubq_f32(a, b); }
HW_INLINE hw_vec hw_mul(hw_vec a, hw_vec b) { return vmulq_f32(a, b); }
HW_INLINE hw_vec hw_div(hw_vec a, hw_vec b) { return vdivq_f32(a, b); }
HW_INLINE hw_vec hw_max(hw_vec a, hw_vec b) { return vmaxq_f32(a, b); }
HW_INLINE hw_vec hw_min(hw_vec a, hw_vec b) { return vminq_f32(a, b); }
HW_INLINE hw_vec hw_fma(hw_vec a, hw_vec b, hw_vec c) { return vfmaq_f32(c, a, b); }
HW_INLINE hw_vec hw_round(hw_vec a) { return vrndnq_f32(a); }
HW_INLINE hw_vec hw_even(hw_vec a, hw_vec b) { return vuzp1q_f32(a, b); }
HW_INLINE hw_vec hw_odd(hw_vec a, hw_vec b) { return vuzp2q_f32(a, b); }
HW_INLINE float hw_sum(hw_vec a) { return vaddvq_f32(a); }
HW_INLINE hw_vec hw_power2(hw_vec a)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(127)), 23));
}

#else /* C99; compilers turn these loops into whatever vectors there are */
#include <math.h>
#define HW_VL 4
typedef struct {
    float lane[HW_VL];
} hw_vec;
#define HW_LANES(expression)              \
    hw_vec out;                           \
    for (int i = 0; i < HW_VL; i++)       \
        out.lane[i] = (expression);       \
    return out
HW_INLINE hw_vec hw_load(const float *p) { HW_LANES(p[i]); }
HW_INLINE void hw_store(float *p, hw_vec a) { memcpy(p, a.lane, sizeof a.lane); }
HW_INLINE hw_vec hw_set(float a) { HW_LANES(a); }
HW_INLINE hw_vec hw_add(hw_vec a, hw_vec b) { HW_LANES(a.lane[i] + b.lane[i]); }
HW_INLINE hw_vec hw_sub(hw_vec a, hw_vec b) { HW_LANES(a.lane[i] - b.lane[i]); }
HW_INLINE hw_vec hw_mul(hw_vec a, hw_vec b) { HW_LANES(a.lane[i] * b.lane[i]); }
HW_INLINE hw_vec hw_div(hw_vec a, hw_vec b) { HW_LANES(a.lane[i] / b.lane[i]); }
HW_INLINE hw_vec hw_max(hw_vec a, hw_vec b) { HW_LANES(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
HW_INLINE hw_vec hw_min(hw_vec a, hw_vec b) { HW_LANES(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
HW_INLINE hw_vec hw_fma(hw_vec a, hw_vec b, hw_vec c) { HW_LANES(a.lane[i] * b.lane[i] + c.lane[i]); }
HW_INLINE hw_vec hw_round(hw_vec a) { HW_LANES(floorf(a.lane[i] + 0.5f)); }
HW_INLINE hw_vec hw_even(hw_vec a, hw_vec b) { HW_LANES(i < HW_VL / 2 ? a.lane[2 * i] : b.lane[2 * i - HW_VL]); }
HW_INLINE hw_vec hw_odd(hw_vec a, hw_vec b) { HW_LANES(i < HW_VL / 2 ? a.lane[2 * i + 1] : b.lane[2 * i + 1 - HW_VL]); }
HW_INLINE float hw_sum(hw_vec a) { return (a.lane[0] + a.lane[1]) + (a.lane[2] + a.lane[3]); }
HW_INLINE hw_vec hw_power2(hw_vec a)
{
    hw_vec out;
    for (int i = 0; i < HW_VL; i++) {
        int32_t bits = (int32_t)((uint32_t)((int32_t)a.lane[i] + 127) << 23);
        memcpy(&out.lane[i], &bits, sizeof bits);
    }
    return out;
}
#endif

#ifdef HW_X86 /* what differs only in the width of its names */
HW_INLINE hw_vec hw_load(const float *p) { return HW_X86(loadu_ps)(p); }
HW_INLINE void hw_store(float *p, hw_vec a) { HW_X86(storeu_ps)(p, a); }
HW_INLINE hw_vec hw_set(float a) { return HW_X86(set1_ps)(a); }
HW_INLINE hw_vec hw_add(hw_vec a, hw_vec b) { return HW_X86(add_ps)(a, b); }
HW_INLINE hw_vec hw_sub(hw_vec a, hw_vec b) { return HW_X86(sub_ps)(a, b); }
HW_INLINE hw_vec hw_mul(hw_vec a, hw_vec b) { return HW_X86(mul_ps)(a, b); }
HW_INLINE hw_vec hw_div(hw_vec a, hw_vec b) { return HW_X86(div_ps)(a, b); }
HW_INLINE hw_vec hw_max(hw_vec a, hw_vec b) { return HW_X86(max_ps)(a, b); }
HW_INLINE hw_vec hw_min(hw_vec a, hw_vec b) { return HW_X86(min_ps)(a, b); }
HW_INLINE hw_vec hw_fma(hw_vec a, hw_vec b, hw_vec c) { return HW_X86(fmadd_ps)(a, b, c); }
#endif

/* Floats of a row of n values: whole vectors; a single value stands alone. */
#define HW_PAD(n) ((n) == 1 ? 1 : ((n) + HW_VL - 1) / HW_VL * HW_VL)

/* e^a, relative error below 3e-7 (Cephes' expf: 2^n * polynomial on [-ln 2 / 2, ln 2 / 2]). */
HW_INLINE hw_vec hw_exp(hw_vec a)
{
    a = hw_max(hw_min(a, hw_set(88.0f)), hw_set(-87.0f));
    hw_vec n = hw_round(hw_mul(a, hw_set(1.44269504088896341f)));
    hw_vec r = hw_fma(n, hw_set(-0.693359375f), a);
    r = hw_fma(n, hw_set(2.12194440e-4f), r);
    hw_vec p = hw_set(1.9875691500e-4f);
    p = hw_fma(p, r, hw_set(1.3981999507e-3f));
    p = hw_fma(p, r, hw_set(8.3334519073e-3f));
    p = hw_fma(p, r, hw_set(4.1665795894e-2f));
    p = hw_fma(p, r, hw_set(1.6666665459e-1f));
    p = hw_fma(p, r, hw_set(5.0000001201e-1f));
    p = hw_fma(p, hw_mul(r, r), hw_add(r, hw_set(1.0f)));
    return hw_mul(p, hw_power2(n));
}

HW_INLINE hw_vec hw_sigmoid(hw_vec a)
{
    return hw_div(hw_set(1.0f), hw_add(hw_set(1.0f), hw_exp(hw_sub(hw_set(0.0f), a))));
}

/* erf(a), absolute error below 2e-7 (Abramowitz and Stegun 7.1.26). */
HW_INLINE hw_vec hw_erf(hw_vec a)
{
    hw_vec zero = hw_set(0.0f), one = hw_set(1.0f);
    hw_vec size = hw_max(a, hw_sub(zero, a));
    hw_vec t = hw_div(one, hw_fma(size, hw_set(0.3275911f), one));
    hw_vec p = hw_set(1.061405429f);
    p = hw_fma(p, t, hw_set(-1.453152027f));
    p = hw_fma(p, t, hw_set(1.421413741f));
    p = hw_fma(p, t, hw_set(-0.284496736f));
    p = hw_fma(p, t, hw_set(0.254829592f));
    hw_vec tail = hw_mul(hw_mul(p, t), hw_exp(hw_sub(zero, hw_mul(size, size))));
    hw_vec sign = hw_max(hw_min(hw_mul(a, hw_set(1e30f)), one), hw_set(-1.0f));
    return hw_mul(sign, hw_sub(one, tail));
}

HW_INLINE hw_vec hw_activate(hw_vec a, int act)
{
    hw_vec zero = hw_set(0.0f), one = hw_set(1.0f);
    switch (act) {
    case HW_RELU: return hw_max(a, zero);
    case HW_RELU6: return hw_min(hw_max(a, zero), hw_set(6.0f));
    case HW_HSWISH: {
        hw_vec gate = hw_min(hw_max(hw_add(a, hw_set(3.0f)), zero), hw_set(6.0f));
        return hw_mul(hw_mul(a, hw_set(1.0f / 6.0f)), gate);
    }
    case HW_HSIGMOID: {
        hw_vec gate = hw_min(hw_max(hw_add(a, hw_set(3.0f)), zero), hw_set(6.0f));
        return hw_mul(gate, hw_set(1.0f / 6.0f));
    }
    case HW_SIGMOID: return hw_sigmoid(a);
    case HW_TANH: return hw_sub(hw_mul(hw_set(2.0f), hw_sigmoid(hw_add(a, a))), one);
    case HW_SILU: return hw_mul(a, hw_sigmoid(a));
    case HW_GELU: {
        hw_vec half = hw_mul(a, hw_set(0.5f));
        return hw_fma(half, hw_erf(hw_mul(a, hw_set(0.70710678118654752f))), half);
    }
    case HW_GELU_TANH: {
        hw_vec inner = hw_mul(a, hw_fma(hw_mul(a, a), hw_set(0.0356774081f), hw_set(0.7978845608f)));
        return hw_mul(a, hw_sigmoid(hw_add(inner, inner)));
    }
    default: return a;
    }
}

#endif
