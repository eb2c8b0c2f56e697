# SPDX-License-Identifier: Apache-2.0
# 64-bit ARM Linux, glibc 2.28 and later, with the compiler of the Python package ziglang.
# INGOT_ZIG_FOLDER holds the wrappers zig-cc, zig-ar and zig-ranlib; targets/lab/board.py writes them.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES INGOT_ZIG_FOLDER)
if(NOT INGOT_ZIG_FOLDER)
    message(FATAL_ERROR "pass -DINGOT_ZIG_FOLDER=<folder of zig-cc, zig-ar, zig-ranlib>")
endif()
set(CMAKE_C_COMPILER "${INGOT_ZIG_FOLDER}/zig-cc")
set(CMAKE_AR "${INGOT_ZIG_FOLDER}/zig-ar" CACHE FILEPATH "archiver")
set(CMAKE_RANLIB "${INGOT_ZIG_FOLDER}/zig-ranlib" CACHE FILEPATH "archive index")
# zig links with its own lld, which CMake's dependency files for the linker do not know.
set(CMAKE_C_LINKER_DEPFILE_SUPPORTED FALSE)
