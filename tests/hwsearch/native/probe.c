/* probe.c: the kernels as functions that ctypes can call. */
#include "hw_kernels.h"

#define PROBE __attribute__((visibility("default"))) void

PROBE probe_pairs(const float *x, float *y, const int32_t *s, int vectors, int stride, const float *bias,
                  const float *residual, int act)
{
    hw_pairs(x, y, s, vectors, stride, (hw_epilogue){bias, residual, act});
}

PROBE probe_groups(const float *x, float *y, const int32_t *s, int vectors, int stride, const float *bias,
                   const float *residual, int act)
{
    hw_groups(x, y, s, vectors, stride, (hw_epilogue){bias, residual, act});
}

PROBE probe_sparse_vector(const float *x, float *y, const int32_t *s, int rows, const float *bias,
                          const float *residual, int act)
{
    hw_sparse_vector(x, y, s, rows, (hw_epilogue){bias, residual, act});
}

PROBE probe_dense_vector(const float *x, float *y, const float *w, int rows, int columns, const float *bias,
                         const float *residual, int act)
{
    hw_dense_vector(x, y, w, rows, columns, (hw_epilogue){bias, residual, act});
}

PROBE probe_depthwise(const float *x, float *y, const float *w, const int *map, float *means, float *scratch,
                      const float *bias, const float *residual, int act)
{
    hw_depthwise(x, y, w, (hw_map){map[0], map[1], map[2], map[3], map[4], map[5], map[6], map[7]}, means, scratch,
                 (hw_epilogue){bias, residual, act});
}

PROBE probe_unary(const float *x, float *y, int count, int act) { hw_unary(x, y, (size_t)count, act); }

PROBE probe_layernorm(const float *x, float *y, const float *w, const float *b, float eps, int channels, int n)
{
    hw_layernorm(x, y, w, b, eps, channels, n);
}

PROBE probe_attention(const float *q, const float *k, const float *v, float *y, int heads, int size, int queries,
                      int keys, float scale, const float *mask, float *scratch)
{
    hw_attention(q, k, v, y, heads, size, queries, keys, scale, mask, scratch);
}
