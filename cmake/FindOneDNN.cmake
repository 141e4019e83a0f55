# SPDX-License-Identifier: Apache-2.0
# Finds oneDNN 2 for the CPU and defines OneDNN::OneDNN. The build and the installed package share
# this file. oneDNN's own package also wants OpenCL's development files, which a CPU does not need.
find_library(OneDNN_LIBRARY dnnl)
find_path(OneDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
mark_as_advanced(OneDNN_LIBRARY OneDNN_INCLUDE_DIR)

set(OneDNN_THREADING_KNOWN "")
if(OneDNN_INCLUDE_DIR)
  file(STRINGS ${OneDNN_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h lines REGEX "define DNNL_VERSION_")
  string(REGEX REPLACE
    ".*VERSION_MAJOR ([0-9]+).*VERSION_MINOR ([0-9]+).*VERSION_PATCH ([0-9]+).*" "\\1.\\2.\\3"
    OneDNN_VERSION "${lines}")
  # Of its threads, those of OpenMP can be held to the calling one, and so can none at all.
  file(STRINGS ${OneDNN_INCLUDE_DIR}/oneapi/dnnl/dnnl_config.h line
    REGEX "define DNNL_CPU_THREADING_RUNTIME ")
  if(line MATCHES "RUNTIME_OMP")
    find_library(OneDNN_OPENMP_LIBRARY NAMES gomp libgomp.so.1)
    mark_as_advanced(OneDNN_OPENMP_LIBRARY)
    set(OneDNN_THREADING_KNOWN ${OneDNN_OPENMP_LIBRARY})
  elseif(line MATCHES "RUNTIME_SEQ")
    set(OneDNN_THREADING_KNOWN ON)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OneDNN
  REQUIRED_VARS OneDNN_LIBRARY OneDNN_INCLUDE_DIR OneDNN_THREADING_KNOWN
  VERSION_VAR OneDNN_VERSION HANDLE_VERSION_RANGE)

if(OneDNN_FOUND AND NOT TARGET OneDNN::OneDNN)
  add_library(OneDNN::OneDNN UNKNOWN IMPORTED)
  set_target_properties(OneDNN::OneDNN PROPERTIES
    IMPORTED_LOCATION "${OneDNN_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${OneDNN_INCLUDE_DIR}")
  if(OneDNN_OPENMP_LIBRARY)
    set_target_properties(OneDNN::OneDNN PROPERTIES
      INTERFACE_LINK_LIBRARIES "${OneDNN_OPENMP_LIBRARY}")
  endif()
endif()
