// SPDX-License-Identifier: Apache-2.0
// Matrices of a subgroup over the shared arrays of linear_matrix.comp: LEFT is ROWS by DEPTH int8, RIGHT is DEPTH by
// TOKENS, SUMS is ROWS by TOKENS int32, of which a lane has some elements. By VK_KHR_cooperative_matrix or, where
// EMULATED, by the lanes of any device: that is for tests, in which a driver runs shapes that it does not have.
#if EMULATED
const uint LENGTH = ROWS * TOKENS / LANES; // arrays of such a length cannot be assigned: hence 32, the most
#define SUBGROUP (gl_LocalInvocationIndex / LANES)
#define LEFT uint
#define RIGHT uint
#define SUMS int[32]

// Elements go round the lanes, down the rows: any order would do.
uint element(uint i) { return gl_LocalInvocationIndex % LANES + i * LANES; }
uint row_of(uint i) { return element(i) % ROWS; }
uint column_of(uint i) { return element(i) / ROWS; }

// What will be read, when it is multiplied.
uint left(uint at) { return at; }
uint right(uint at) { return at; }

SUMS all_of(int value) {
    SUMS made;
    for (uint i = 0u; i < LENGTH; i++) {
        made[i] = value;
    }
    return made;
}

SUMS multiply_add(LEFT a, RIGHT b, SUMS sums) {
    for (uint i = 0u; i < LENGTH; i++) {
        for (uint k = 0u; k < DEPTH / 8u; k++) {
            const uvec2 x = weights[a + row_of(i) * STRIDE + k], y = inputs[b + column_of(i) * STRIDE + k];
            sums[i] += dot4(x.x, y.x) + dot4(x.y, y.y);
        }
    }
    return sums;
}

#define LOAD_OF_ROWS(into, array, at) \
    for (uint i = 0u; i < LENGTH; i++) into[i] = array[(at) + row_of(i) / 4u][row_of(i) % 4u]
#define LOAD_OF_TOKENS(into, array, at) \
    for (uint i = 0u; i < LENGTH; i++) into[i] = array[(at) + column_of(i)]
#define STORE(sums, array, at) \
    for (uint e = 0u; e < LENGTH; e++) array[(at) + column_of(e) * 64u + row_of(e)] = sums[e]
#else
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#define SUBGROUP gl_SubgroupID
#define LEFT coopmat<int8_t, gl_ScopeSubgroup, ROWS, DEPTH, gl_MatrixUseA>
#define RIGHT coopmat<int8_t, gl_ScopeSubgroup, DEPTH, TOKENS, gl_MatrixUseB>
#define SUMS coopmat<int, gl_ScopeSubgroup, ROWS, TOKENS, gl_MatrixUseAccumulator>

LEFT left(uint at) {
    LEFT made;
    coopMatLoad(made, weights, at, STRIDE, gl_CooperativeMatrixLayoutRowMajor);
    return made;
}

RIGHT right(uint at) {
    RIGHT made;
    coopMatLoad(made, inputs, at, STRIDE, gl_CooperativeMatrixLayoutColumnMajor);
    return made;
}

SUMS all_of(int value) { return SUMS(value); }

SUMS multiply_add(LEFT a, RIGHT b, SUMS sums) { return coopMatMulAdd(a, b, sums); }

// A stride of 0: all columns are the same, or all rows.
#define LOAD_OF_ROWS(into, array, at) coopMatLoad(into, array, at, 0u, gl_CooperativeMatrixLayoutColumnMajor)
#define LOAD_OF_TOKENS(into, array, at) coopMatLoad(into, array, at, 0u, gl_CooperativeMatrixLayoutRowMajor)
#define STORE(sums, array, at) coopMatStore(sums, array, at, 64u, gl_CooperativeMatrixLayoutColumnMajor)
#endif
