# SPDX-License-Identifier: Apache-2.0
include_guard()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(SHARDEXPR_INSTALL_CMAKEDIR ${CMAKE_INSTALL_DATADIR}/cmake/shardexpr CACHE STRING
  "Folder below the prefix for the CMake package")
set(SHARDEXPR_INSTALL_TOOLDIR ${CMAKE_INSTALL_BINDIR} CACHE STRING
  "Folder below the prefix for strategy_from_config")
mark_as_advanced(SHARDEXPR_INSTALL_CMAKEDIR SHARDEXPR_INSTALL_TOOLDIR)
set(package_dir ${SHARDEXPR_INSTALL_CMAKEDIR})

install(TARGETS shardexpr EXPORT shardexprTargets
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT shardexprTargets NAMESPACE shardexpr:: DESTINATION ${package_dir})

configure_package_config_file(cmake/shardexprConfig.cmake.in shardexprConfig.cmake
  INSTALL_DESTINATION ${package_dir} PATH_VARS SHARDEXPR_INSTALL_TOOLDIR NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(shardexprConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  ${PROJECT_BINARY_DIR}/shardexprConfig.cmake
  ${PROJECT_BINARY_DIR}/shardexprConfigVersion.cmake
  ${PROJECT_SOURCE_DIR}/cmake/FindOpenBLAS.cmake
  ${PROJECT_SOURCE_DIR}/cmake/FindOneDNN.cmake
  ${PROJECT_SOURCE_DIR}/cmake/FindLiburing.cmake
  ${PROJECT_SOURCE_DIR}/cmake/FindNCCL.cmake
  ${PROJECT_SOURCE_DIR}/cmake/ShardexprStrategy.cmake
  DESTINATION ${package_dir})

# Headers need no build: who did not build the program goes without it, and its component is not found.
if(TARGET strategy_from_config)
  install(TARGETS strategy_from_config RUNTIME DESTINATION ${SHARDEXPR_INSTALL_TOOLDIR} OPTIONAL)
endif()

# pkg-config. What is found or not when a program is built is asked there, as by the CMake package; oneDNN
# has no file of its own on Debian, and its threads are known where it was found.
function(install_pkg_config NAME)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "DESCRIPTION;REQUIRES;CFLAGS;LIBS" "")
  foreach(field IN ITEMS DESCRIPTION REQUIRES CFLAGS LIBS)
    set(${field} ${arg_${field}})
  endforeach()
  set(folder ${CMAKE_INSTALL_DATADIR}/pkgconfig)
  file(RELATIVE_PATH up "/prefix/${folder}" "/prefix")
  cmake_path(APPEND INCLUDE "\${prefix}" ${CMAKE_INSTALL_INCLUDEDIR})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/shardexpr.pc.in ${NAME}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${NAME}.pc DESTINATION ${folder})
endfunction()
install_pkg_config(shardexpr DESCRIPTION "${PROJECT_DESCRIPTION}" REQUIRES "eigen3 >= 3.4"
  CFLAGS "-I\${includedir} -pthread -fno-math-errno" LIBS -pthread)
set(self "shardexpr = ${PROJECT_VERSION}")
install_pkg_config(shardexpr-blas DESCRIPTION "shardexpr with products by OpenBLAS"
  REQUIRES "${self}, openblas" CFLAGS "-DEIGEN_USE_BLAS -DSHARDEXPR_OPENBLAS")
install_pkg_config(shardexpr-liburing DESCRIPTION "shardexpr with state on a disk by io_uring"
  REQUIRES "${self}, liburing >= 2.2" CFLAGS -DSHARDEXPR_LIBURING)
install_pkg_config(shardexpr-mpi REQUIRES "${self}" CFLAGS "-DOMPI_SKIP_MPICXX=1 -DMPICH_SKIP_MPICXX=1"
  DESCRIPTION "shardexpr over MPI, for the compiler of an MPI: mpicxx")
if(SHARDEXPR_HAS_ONEDNN)
  set(libraries -ldnnl)
  if(OneDNN_OPENMP_LIBRARY)
    string(APPEND libraries " -lgomp")
  endif()
  install_pkg_config(shardexpr-onednn DESCRIPTION "shardexpr with products of bf16 by oneDNN"
    REQUIRES "${self}" CFLAGS -DSHARDEXPR_ONEDNN LIBS "${libraries}")
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
