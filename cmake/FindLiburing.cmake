# SPDX-License-Identifier: Apache-2.0
# Finds liburing 2.2 or later and defines Liburing::Liburing. The build and the installed package
# share this file.
find_library(Liburing_LIBRARY uring)
find_path(Liburing_INCLUDE_DIR liburing.h)
mark_as_advanced(Liburing_LIBRARY Liburing_INCLUDE_DIR)

# Its headers tell their version since 2.4 only. What we call came with 2.2.
set(Liburing_IS_RECENT "")
if(Liburing_INCLUDE_DIR)
  file(STRINGS ${Liburing_INCLUDE_DIR}/liburing.h lines REGEX "io_uring_sqe_set_data64" LIMIT_COUNT 1)
  if(lines)
    set(Liburing_IS_RECENT ON)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Liburing
  REQUIRED_VARS Liburing_LIBRARY Liburing_INCLUDE_DIR Liburing_IS_RECENT)

if(Liburing_FOUND AND NOT TARGET Liburing::Liburing)
  add_library(Liburing::Liburing UNKNOWN IMPORTED)
  set_target_properties(Liburing::Liburing PROPERTIES
    IMPORTED_LOCATION "${Liburing_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${Liburing_INCLUDE_DIR}")
endif()
