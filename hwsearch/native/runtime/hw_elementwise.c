/* hw_elementwise.c: activations, sums and products, norms. */
#include "hw_simd.h"

/* Runs `expression` of vectors a and b over count floats; the rest, fewer than a vector, through a copy. */
#define HW_OVER(expression)                                       \
    do {                                                          \
        size_t i = 0;                                             \
        for (; i + HW_VL <= count; i += HW_VL) {                  \
            hw_vec a = hw_load(from + i), b = hw_load(with + i);  \
            (void)b;                                              \
            hw_store(y + i, expression);                          \
        }                                                         \
        if (i < count) {                                          \
            float left[HW_VL] = {0}, right[HW_VL] = {0};          \
            memcpy(left, from + i, sizeof(float) * (count - i));  \
            memcpy(right, with + i, sizeof(float) * (count - i)); \
            hw_vec a = hw_load(left), b = hw_load(right);         \
            (void)b;                                              \
            hw_store(left, expression);                           \
            memcpy(y + i, left, sizeof(float) * (count - i));     \
        }                                                         \
    } while (0)

void hw_unary(const float *from, float *y, size_t count, int act)
{
    const float *with = from;
    switch (act) {
    case HW_RELU: HW_OVER(hw_activate(a, HW_RELU)); break;
    case HW_RELU6: HW_OVER(hw_activate(a, HW_RELU6)); break;
    case HW_HSWISH: HW_OVER(hw_activate(a, HW_HSWISH)); break;
    case HW_HSIGMOID: HW_OVER(hw_activate(a, HW_HSIGMOID)); break;
    case HW_SIGMOID: HW_OVER(hw_activate(a, HW_SIGMOID)); break;
    case HW_TANH: HW_OVER(hw_activate(a, HW_TANH)); break;
    case HW_SILU: HW_OVER(hw_activate(a, HW_SILU)); break;
    case HW_GELU: HW_OVER(hw_activate(a, HW_GELU)); break;
    case HW_GELU_TANH: HW_OVER(hw_activate(a, HW_GELU_TANH)); break;
    default:
        if (from != y)
            memcpy(y, from, sizeof(float) * count);
    }
}

void hw_binary(const float *from, const float *with, float *y, int operation, size_t count, int act)
{
    switch (operation) {
    case '+':
        if (act == HW_RELU) {
            HW_OVER(hw_activate(hw_add(a, b), HW_RELU));
            return;
        }
        HW_OVER(hw_add(a, b));
        break;
    case '-': HW_OVER(hw_sub(a, b)); break;
    case '*': HW_OVER(hw_mul(a, b)); break;
    default: HW_OVER(hw_div(a, b));
    }
    if (act != HW_NONE)
        hw_unary(y, y, count, act);
}

void hw_binary_rows(const float *a, const float *b, float *y, int operation, int rows, int stride, int per_row, int act)
{
    for (int row = 0; row < rows; row++) {
        const float *from = a + (size_t)row * stride;
        float *to = y + (size_t)row * stride;
        if (!per_row) {
            hw_binary(from, b, to, operation, (size_t)stride, act);
            continue;
        }
        float value = b[row];
        if (stride < HW_VL) {
            float values[HW_VL];
            for (int i = 0; i < HW_VL; i++)
                values[i] = value;
            hw_binary(from, values, to, operation, (size_t)stride, act);
            continue;
        }
        hw_vec w = hw_set(value);
        switch (operation) { /* stride is a multiple of HW_VL here */
        case '+':
            for (int i = 0; i < stride; i += HW_VL)
                hw_store(to + i, hw_add(hw_load(from + i), w));
            break;
        case '-':
            for (int i = 0; i < stride; i += HW_VL)
                hw_store(to + i, hw_sub(hw_load(from + i), w));
            break;
        case '*':
            for (int i = 0; i < stride; i += HW_VL)
                hw_store(to + i, hw_mul(hw_load(from + i), w));
            break;
        default:
            for (int i = 0; i < stride; i += HW_VL)
                hw_store(to + i, hw_div(hw_load(from + i), w));
        }
        if (act != HW_NONE)
            hw_unary(to, to, (size_t)stride, act);
    }
}

void hw_affine(const float *a, float *y, const float *scale, const float *shift, int rows, int stride, int act)
{
    for (int row = 0; row < rows; row++) {
        const float *from = a + (size_t)row * stride;
        float *to = y + (size_t)row * stride;
        int i = 0;
        for (; i + HW_VL <= stride; i += HW_VL)
            hw_store(to + i, hw_fma(hw_load(from + i), hw_set(scale[row]), hw_set(shift[row])));
        for (; i < stride; i++)
            to[i] = from[i] * scale[row] + shift[row];
        if (act != HW_NONE)
            hw_unary(to, to, (size_t)stride, act);
    }
}

void hw_means(const float *x, float *y, int channels, int n, int stride)
{
    for (int c = 0; c < channels; c++) {
        const float *from = x + (size_t)c * stride;
        hw_vec a = hw_set(0.0f), b = a;
        int i = 0;
        for (; i + 2 * HW_VL <= n; i += 2 * HW_VL) {
            a = hw_add(a, hw_load(from + i));
            b = hw_add(b, hw_load(from + i + HW_VL));
        }
        float sum = hw_sum(hw_add(a, b));
        for (; i < n; i++)
            sum += from[i];
        y[c] = sum / (float)n;
    }
}

/* One position: the vectors go along the channels. */
static void hw_layernorm_vector(const float *x, float *y, const float *weight, const float *bias, float eps,
                                int channels)
{
    double total = 0.0, squares = 0.0;
    for (int c = 0; c < channels; c++)
        total += x[c];
    float mean = (float)(total / channels);
    for (int c = 0; c < channels; c++) {
        y[c] = x[c] - mean;
        squares += (double)y[c] * y[c];
    }
    /* 1 / sqrt by Newton's steps from a start that is right within a few percent: no libm needed. */
    double v = squares / channels + eps, half = 0.5 * v;
    float start = (float)v;
    int32_t bits;
    memcpy(&bits, &start, sizeof bits);
    bits = 0x5f375a86 - (bits >> 1);
    memcpy(&start, &bits, sizeof bits);
    double inverse = start;
    for (int i = 0; i < 4; i++)
        inverse *= 1.5 - half * inverse * inverse;
    for (int c = 0; c < channels; c++)
        y[c] = y[c] * (float)inverse * weight[c] + bias[c];
}

HW_INLINE hw_vec hw_inverse_root(hw_vec v)
{
    float lanes[HW_VL];
    int32_t bits;
    hw_store(lanes, v);
    for (int i = 0; i < HW_VL; i++) {
        memcpy(&bits, &lanes[i], sizeof bits);
        bits = 0x5f375a86 - (bits >> 1);
        memcpy(&lanes[i], &bits, sizeof bits);
    }
    hw_vec r = hw_load(lanes), half = hw_mul(v, hw_set(-0.5f));
    for (int i = 0; i < 4; i++)
        r = hw_mul(r, hw_fma(hw_mul(half, r), r, hw_set(1.5f)));
    return r;
}

void hw_layernorm(const float *x, float *y, const float *weight, const float *bias, float eps, int channels, int n)
{
    int stride = HW_PAD(n);
    if (n == 1) {
        hw_layernorm_vector(x, y, weight, bias, eps, channels);
        return;
    }
    hw_vec share = hw_set(1.0f / (float)channels);
    for (int at = 0; at < stride; at += HW_VL) {
        hw_vec total = hw_set(0.0f), squares = total;
        for (int c = 0; c < channels; c++) {
            hw_vec value = hw_load(x + (size_t)c * stride + at);
            total = hw_add(total, value);
        }
        hw_vec mean = hw_mul(total, share);
        for (int c = 0; c < channels; c++) {
            hw_vec value = hw_sub(hw_load(x + (size_t)c * stride + at), mean);
            squares = hw_fma(value, value, squares);
        }
        hw_vec inverse = hw_inverse_root(hw_add(hw_mul(squares, share), hw_set(eps)));
        for (int c = 0; c < channels; c++) {
            hw_vec value = hw_mul(hw_sub(hw_load(x + (size_t)c * stride + at), mean), inverse);
            hw_store(y + (size_t)c * stride + at, hw_fma(value, hw_set(weight[c]), hw_set(bias[c])));
        }
    }
}
