/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/row_kernels.h"

#include "ingot.h"

#define ROW_SET(bit, name)                                                                                \
    {bit, ingot_attention_f16_f32__##name, ingot_quantize_f32_a8__##name, ingot_rms_norm_f32_f32__##name, \
     ingot_gate_f32_f32__##name}

/* Best first; the reference is the last, so that a search always ends. */
static const ingot_row_kernels SETS[] = {
#if defined(__x86_64__)
    ROW_SET(INGOT_ISA_AVX512VNNI, avx512vnni),
    ROW_SET(INGOT_ISA_AVX2, avx2),
#elif defined(__aarch64__)
    ROW_SET(INGOT_ISA_NEON, neon),
#endif
    ROW_SET(INGOT_ISA_REF, ref),
};

ingot_row_kernels ingot_row_kernels_of(uint32_t isa) {
    uint32_t allowed = (ingot_cpu_mask() | INGOT_ISA_REF) & isa;
    for (size_t index = 0; index < sizeof SETS / sizeof *SETS; index++) {
        if ((SETS[index].isa & allowed) != 0) {
            return SETS[index];
        }
    }
    return (ingot_row_kernels){0};
}

ingot_row_kernels ingot_row_kernels_select(void) { return ingot_row_kernels_of(UINT32_MAX); }
