/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels' code, embedded: cuda_code.c is made by compile.py, of a test by hand. */
#ifndef INGOT_CUDA_CODE_H
#define INGOT_CUDA_CODE_H

#include <stddef.h>

typedef struct ingot_cuda_image {
    const char *source;          /* kernels/<source>.cu */
    int target;                  /* compute capability, 87 is 8.7 */
    int ptx;            /* text for this capability and all later ones, else a cubin for it alone */
    int driver;         /* the oldest that takes it, 12050 is CUDA 12.5 */
    const unsigned char *code;
    size_t size;
} ingot_cuda_image;

extern const ingot_cuda_image ingot_cuda_images[];
extern const size_t ingot_cuda_image_count;
extern const char *const ingot_cuda_compiler;

#endif
