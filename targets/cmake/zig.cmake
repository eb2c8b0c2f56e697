# SPDX-License-Identifier: Apache-2.0
# Linux of any architecture, glibc or musl, with the compiler of the Python package ziglang.
# INGOT_ZIG_FOLDER holds the wrappers zig-cc, zig-ar and zig-ranlib of one target, which
# targets/cross/zig.py writes; INGOT_PROCESSOR is what `uname -m` says on that device.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES INGOT_ZIG_FOLDER INGOT_PROCESSOR)
if(NOT INGOT_ZIG_FOLDER OR NOT INGOT_PROCESSOR)
    message(FATAL_ERROR "pass -DINGOT_ZIG_FOLDER=<folder of zig-cc, zig-ar, zig-ranlib> and -DINGOT_PROCESSOR=<uname -m>")
endif()
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR "${INGOT_PROCESSOR}")
set(CMAKE_C_COMPILER "${INGOT_ZIG_FOLDER}/zig-cc")
set(CMAKE_AR "${INGOT_ZIG_FOLDER}/zig-ar" CACHE FILEPATH "archiver")
set(CMAKE_RANLIB "${INGOT_ZIG_FOLDER}/zig-ranlib" CACHE FILEPATH "archive index")
# zig links with its own lld, which CMake's dependency files for the linker do not know.
set(CMAKE_C_LINKER_DEPFILE_SUPPORTED FALSE)
