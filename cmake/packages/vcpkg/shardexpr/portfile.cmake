# SPDX-License-Identifier: Apache-2.0
# An overlay port of the checkout that it is in: docs/installing.md.
set(VCPKG_BUILD_TYPE release)  # headers, and a program that is a tool
get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../../.." ABSOLUTE)

vcpkg_check_features(OUT_FEATURE_OPTIONS feature_options
  FEATURES
    blas SHARDEXPR_BLAS
    config SHARDEXPR_CONFIG
    liburing SHARDEXPR_LIBURING
    mpi SHARDEXPR_MPI)

# vcpkg has oneDNN 3, the library takes 2.
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DSHARDEXPR_TESTS=OFF
    -DSHARDEXPR_BENCHMARKS=OFF
    -DSHARDEXPR_EXAMPLES=OFF
    -DSHARDEXPR_NATIVE=OFF
    -DSHARDEXPR_INSTALL=ON
    -DSHARDEXPR_ONEDNN=OFF
    -DSHARDEXPR_INSTALL_CMAKEDIR=share/${PORT}
    -DSHARDEXPR_INSTALL_TOOLDIR=tools/${PORT}
    ${feature_options})
vcpkg_cmake_install()
vcpkg_cmake_config_fixup()
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/share/doc")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CURRENT_PORT_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
