/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/row_kernels.h"

#include "ingot.h"

/* The kernels of a level, in the order of ingot_row_kernels. */
#define ROW_SET(bit, name)              \
    {bit,                               \
     &ingot_attention_f16_f32__##name,  \
     &ingot_attention_kv8_f32__##name,  \
     &ingot_attention_k8v4_f32__##name, \
     ingot_quantize_f32_a8__##name,     \
     ingot_rms_norm_f32_f32__##name,    \
     ingot_gate_f32_f32__##name}

typedef struct row_set {
    uint32_t isa;
    const ingot_attention_kernels *f16, *kv8, *k8v4;
    ingot_quantize_fn quantize;
    ingot_rms_norm_fn rms_norm;
    ingot_gate_fn gate;
} row_set;

/* Best first; the reference is the last, so that a search always ends. */
static const row_set SETS[] = {
#if defined(__x86_64__) && !defined(INGOT_REF_ONLY)
    ROW_SET(INGOT_ISA_AVX512VNNI, avx512vnni),
    ROW_SET(INGOT_ISA_AVX2, avx2),
#elif defined(__aarch64__) && !defined(INGOT_REF_ONLY)
    ROW_SET(INGOT_ISA_NEON_DOTPROD, neon_dotprod),
    ROW_SET(INGOT_ISA_NEON, neon),
#endif
    ROW_SET(INGOT_ISA_REF, ref),
};

ingot_row_kernels ingot_row_kernels_of(uint32_t isa) {
    uint32_t allowed = (ingot_cpu_mask() | INGOT_ISA_REF) & isa;
    for (size_t index = 0; index < sizeof SETS / sizeof *SETS; index++) {
        if ((SETS[index].isa & allowed) != 0) {
            const row_set *set = &SETS[index];
            return (ingot_row_kernels){
                set->isa, {*set->f16, *set->kv8, *set->k8v4}, set->quantize, set->rms_norm, set->gate};
        }
    }
    return (ingot_row_kernels){0};
}
