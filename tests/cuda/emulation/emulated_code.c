/* SPDX-License-Identifier: Apache-2.0 */
/* The backend's code for a test: the emulated driver has the kernels itself and takes any image. */
#include "cuda_code.h"

static const unsigned char nothing[] = "emulated";
const ingot_cuda_image ingot_cuda_images[] = {{"emulated", 87, 0, 12000, nothing, sizeof nothing},
                                              {"emulated", 90, 0, 12000, nothing, sizeof nothing},
                                              {"emulated", 80, 1, 12050, nothing, sizeof nothing}};
const size_t ingot_cuda_image_count = sizeof ingot_cuda_images / sizeof *ingot_cuda_images;
const char *const ingot_cuda_compiler = "none";
