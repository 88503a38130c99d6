# Every option of the build in one place, and the flags each of our targets gets: decant_flags is linked by
# decant_module, decant_test and decant_program.
option(DECANT_BUILD_TESTS "Build the unit, parity and golden tests" ON)
option(DECANT_BUILD_BENCH "Build the micro benchmarks under bench/ (needs Google Benchmark)" OFF)
option(DECANT_CUDA "Build the CUDA backend (needs nvcc)" OFF)
option(DECANT_MLX "Build the MLX backend (needs MLX's C++ package: brew, or scripts/mlx-wheel)" OFF)
option(DECANT_FUZZ "Build the libFuzzer targets (clang only)" OFF)
# The program then needs only libc, libm, libpthread and the loader, so it runs on machines without our packages.
option(DECANT_SELF_CONTAINED "Link everything but the C library statically" OFF)
set(DECANT_SANITIZE "" CACHE STRING "Sanitizers for everything built: address,undefined or thread")
set(DECANT_SIMDJSON_SOURCE "${PROJECT_SOURCE_DIR}/build/simdjson-source" CACHE PATH
  "Folder with simdjson.h and simdjson.cpp, compiled in when DECANT_SELF_CONTAINED finds no static simdjson (scripts/simdjson-source fills it)")

if(DECANT_FUZZ AND NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "[cmake] DECANT_FUZZ: expected clang, got ${CMAKE_CXX_COMPILER_ID} (use the preset `fuzz`)")
endif()

add_library(decant_flags INTERFACE)
target_include_directories(decant_flags INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
target_compile_options(decant_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wshadow -Werror -fno-math-errno -ffp-contract=off>)
# GCC warns inside its own headers and inside inlined vectors; these are wrong too often to be errors.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(decant_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-array-bounds -Wno-restrict>)
endif()
# libstdc++ 12's stable_sort names a function that it deprecates itself, and clang blames the caller.
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(decant_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-deprecated-declarations>)
endif()
if(DECANT_SANITIZE)
  # Bounds checks of the standard library come along: they find what a sanitizer cannot see inside one allocation.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DECANT_SANITIZE}>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer> $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>)
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
  add_link_options(-fsanitize=${DECANT_SANITIZE})
endif()
if(DECANT_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(DECANT_SELF_CONTAINED AND NOT APPLE)
  add_link_options(-static-libstdc++ -static-libgcc)
endif()
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # Paths relative to the checkout: a second clone or worktree finds what the first one compiled.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${launcher})
endif()
