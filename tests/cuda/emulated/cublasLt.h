// SPDX-License-Identifier: Apache-2.0
#pragma once
// The part of cuBLASLt that the library uses, done by the emulated streams. It refuses what
// cuBLASLt's documentation does not allow, and makes use of what it does allow: it writes all over
// its workspace, adds up parts in any order where it may, and takes the alignment that it is told.
#include <shardexpr/core/bf16.hpp>
#include <shardexpr/core/fp16.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_NOT_INITIALIZED = 1,
  CUBLAS_STATUS_ALLOC_FAILED = 3,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_EXECUTION_FAILED = 13,
  CUBLAS_STATUS_INTERNAL_ERROR = 14,
  CUBLAS_STATUS_NOT_SUPPORTED = 15,
};
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_32F_FAST_TF32 = 77 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasLtPointerMode_t { CUBLASLT_POINTER_MODE_HOST = 0, CUBLASLT_POINTER_MODE_DEVICE = 1 };
enum cublasLtEpilogue_t {
  CUBLASLT_EPILOGUE_DEFAULT = 1,
  CUBLASLT_EPILOGUE_BIAS = 4,
  CUBLASLT_EPILOGUE_GELU_AUX_BIAS = 32 | 128 | 4,
  CUBLASLT_EPILOGUE_DGELU = 64 | 128,
};
enum cublasLtReductionScheme_t {
  CUBLASLT_REDUCTION_SCHEME_NONE = 0,
  CUBLASLT_REDUCTION_SCHEME_INPLACE = 1,
  CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2,
  CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE = 4,
  CUBLASLT_REDUCTION_SCHEME_MASK = 7,
};
enum cublasLtMatmulDescAttributes_t {
  CUBLASLT_MATMUL_DESC_POINTER_MODE = 2,
  CUBLASLT_MATMUL_DESC_TRANSA = 3,
  CUBLASLT_MATMUL_DESC_TRANSB = 4,
  CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER = 11,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD = 12,
};
enum cublasLtMatmulPreferenceAttributes_t {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
  CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8,
};

inline const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown";
}
inline const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
    default:
      return "emulated failure";
  }
}

namespace emulated {

/// How cuBLASLt behaves, as a test wants it, and what was asked of it.
struct CublasMachine {
  std::atomic<bool> has_algorithms{true}, has_gelu{true};
  std::atomic<bool> dawdles{false};  // when an operation has been told a pointer
  std::atomic<std::size_t> heuristics{0}, products{0}, gelus{0}, handles{0};
};
inline CublasMachine cublas;

/// What a descriptor is once it is initialized.
inline constexpr std::uint64_t cublas_mark = 0x6c7462616c627563u;

inline cublasStatus_t cublas_fault(const char* call) {
  switch (Faults::instance().meet(call)) {
    case cudaSuccess:
      return CUBLAS_STATUS_SUCCESS;
    case cudaErrorMemoryAllocation:
      return CUBLAS_STATUS_ALLOC_FAILED;
    case cudaErrorNotSupported:
      return CUBLAS_STATUS_NOT_SUPPORTED;
    case cudaErrorInvalidValue:
      return CUBLAS_STATUS_INVALID_VALUE;
    default:
      return CUBLAS_STATUS_EXECUTION_FAILED;
  }
}
/// Sets a field, whose size the caller must know.
template <class T>
cublasStatus_t cublas_set(T& to, const void* from, std::size_t size_bytes) {
  if (from == nullptr || size_bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, size_bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace emulated

#define EMULATED_CUBLAS_CALL(name)                                                           \
  if (const cublasStatus_t met = emulated::cublas_fault(name); met != CUBLAS_STATUS_SUCCESS) \
  return met

// Descriptors -------------------------------------------------------------------------------------

struct cublasLtContext {
  int device;
};
using cublasLtHandle_t = cublasLtContext*;

inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  EMULATED_CUBLAS_CALL("cublasLtCreate");
  *handle = new cublasLtContext{emulated::current_device()};
  ++emulated::cublas.handles;
  return CUBLAS_STATUS_SUCCESS;
}

struct cublasLtMatrixLayoutOpaque_t {
  std::uint64_t mark;
  cudaDataType_t type;
  std::uint64_t rows, columns;
  std::int64_t stride;  // between columns

  friend bool operator==(const cublasLtMatrixLayoutOpaque_t&,
                         const cublasLtMatrixLayoutOpaque_t&) = default;
};
using cublasLtMatrixLayout_t = cublasLtMatrixLayoutOpaque_t*;

inline cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type,
                                               std::uint64_t rows, std::uint64_t columns,
                                               std::int64_t stride) {
  EMULATED_CUBLAS_CALL("cublasLtMatrixLayoutInit");
  *layout = {emulated::cublas_mark, type, rows, columns, stride};
  return CUBLAS_STATUS_SUCCESS;
}

struct cublasLtMatmulDescOpaque_t {
  std::uint64_t mark;
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::int32_t pointer_mode, transposes_a, transposes_b;
  std::uint32_t epilogue;
  const void* bias;
  void* aux;
  std::int64_t aux_stride;
};
using cublasLtMatmulDesc_t = cublasLtMatmulDescOpaque_t*;

inline cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t operation,
                                             cublasComputeType_t compute, cudaDataType_t scale) {
  EMULATED_CUBLAS_CALL("cublasLtMatmulDescInit");
  *operation = {.mark = emulated::cublas_mark,
                .compute = compute,
                .scale = scale,
                .pointer_mode = CUBLASLT_POINTER_MODE_HOST,
                .transposes_a = CUBLAS_OP_N,
                .transposes_b = CUBLAS_OP_N,
                .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                .bias = nullptr,
                .aux = nullptr,
                .aux_stride = 0};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                                     cublasLtMatmulDescAttributes_t attribute,
                                                     const void* value, std::size_t size_bytes) {
  EMULATED_CUBLAS_CALL("cublasLtMatmulDescSetAttribute");
  using emulated::cublas_set;
  if (operation->mark != emulated::cublas_mark) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return cublas_set(operation->pointer_mode, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return cublas_set(operation->transposes_a, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return cublas_set(operation->transposes_b, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return cublas_set(operation->epilogue, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: {
      const cublasStatus_t status = cublas_set(operation->bias, value, size_bytes);
      if (emulated::cublas.dawdles) std::this_thread::sleep_for(std::chrono::microseconds{50});
      return status;
    }
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return cublas_set(operation->aux, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return cublas_set(operation->aux_stride, value, size_bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

struct cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t mark, workspace_bytes;
  std::uint32_t reductions, alignment[4];
};
using cublasLtMatmulPreference_t = cublasLtMatmulPreferenceOpaque_t*;

inline cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
  EMULATED_CUBLAS_CALL("cublasLtMatmulPreferenceInit");
  *preference = {emulated::cublas_mark, 0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
    const void* value, std::size_t size_bytes) {
  EMULATED_CUBLAS_CALL("cublasLtMatmulPreferenceSetAttribute");
  using emulated::cublas_set;
  if (preference->mark != emulated::cublas_mark) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return cublas_set(preference->workspace_bytes, value, size_bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return cublas_set(preference->reductions, value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return cublas_set(preference->alignment[0], value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return cublas_set(preference->alignment[1], value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return cublas_set(preference->alignment[2], value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return cublas_set(preference->alignment[3], value, size_bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

// What is allowed ---------------------------------------------------------------------------------

namespace emulated {

inline bool takes_bias(std::uint32_t epilogue) { return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
inline bool takes_aux(std::uint32_t epilogue) { return (epilogue & 128u) != 0; }

/// The largest power of two, up to 256, that an address is a multiple of.
inline std::uint32_t alignment_of(const void* memory) {
  const auto at = reinterpret_cast<std::uintptr_t>(memory) | 256u;
  return static_cast<std::uint32_t>(at & (~at + 1));
}

/// What an algorithm was chosen for; it multiplies nothing else.
struct CublasChoice {
  std::uint64_t mark;
  cublasLtMatmulDescOpaque_t operation;  // but for its pointers
  cublasLtMatrixLayoutOpaque_t a, b, c, d;
  std::uint64_t workspace_bytes;
  std::uint32_t reductions, alignment[6];  // of a, b, c, d, bias, aux
};

/// By the documentation of cublasLtMatmul: what does not fit together, and what it does not have.
inline cublasStatus_t judge(const cublasLtMatmulDescOpaque_t& operation,
                            const cublasLtMatrixLayoutOpaque_t& a,
                            const cublasLtMatrixLayoutOpaque_t& b,
                            const cublasLtMatrixLayoutOpaque_t& c,
                            const cublasLtMatrixLayoutOpaque_t& d) {
  for (const std::uint64_t mark : {operation.mark, a.mark, b.mark, c.mark, d.mark})
    if (mark != cublas_mark) return CUBLAS_STATUS_INVALID_VALUE;
  for (const auto* matrix : {&a, &b, &c, &d})
    if (matrix->rows == 0 || matrix->columns == 0 ||
        matrix->stride < static_cast<std::int64_t>(matrix->rows))
      return CUBLAS_STATUS_INVALID_VALUE;
  const bool ta = operation.transposes_a == CUBLAS_OP_T, tb = operation.transposes_b == CUBLAS_OP_T;
  if ((ta ? a.columns : a.rows) != d.rows || (tb ? b.rows : b.columns) != d.columns ||
      (ta ? a.rows : a.columns) != (tb ? b.columns : b.rows) || c.rows != d.rows ||
      c.columns != d.columns)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (operation.compute != CUBLAS_COMPUTE_32F || operation.scale != CUDA_R_32F ||
      a.type != b.type || c.type != d.type)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool is_float = a.type == CUDA_R_32F && d.type == CUDA_R_32F;
  const bool is_short =
      (a.type == CUDA_R_16BF || a.type == CUDA_R_16F) && (d.type == a.type || d.type == CUDA_R_32F);
  if (!is_float && !is_short) return CUBLAS_STATUS_NOT_SUPPORTED;
  switch (operation.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_BIAS:
      break;
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DGELU:
      if (operation.aux_stride % 8 != 0 || operation.aux_stride < static_cast<std::int64_t>(d.rows))
        return CUBLAS_STATUS_INVALID_VALUE;
      if (!cublas.has_gelu) return CUBLAS_STATUS_NOT_SUPPORTED;
      break;
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace emulated

struct cublasLtMatmulAlgo_t {
  emulated::CublasChoice choice;
};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
  std::size_t workspaceSize;
  cublasStatus_t state;
  float wavesCount;
  int reserved[4];
};

inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int requested, cublasLtMatmulHeuristicResult_t results[],
    int* returned) {
  EMULATED_CUBLAS_CALL("cublasLtMatmulAlgoGetHeuristic");
  ++emulated::cublas.heuristics;
  *returned = 0;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (requested <= 0 || preference->mark != emulated::cublas_mark)
    return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t status = emulated::judge(*operation, *a, *b, *c, *d);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (!emulated::cublas.has_algorithms) return CUBLAS_STATUS_SUCCESS;  // but none is returned
  emulated::CublasChoice& choice = results[0].algo.choice;
  choice = {emulated::cublas_mark,
            *operation,
            *a,
            *b,
            *c,
            *d,
            std::min<std::uint64_t>(preference->workspace_bytes, std::uint64_t{4} << 20),
            preference->reductions,
            {}};
  std::copy_n(preference->alignment, 4, choice.alignment);
  choice.alignment[4] = emulated::alignment_of(operation->bias);
  choice.alignment[5] = emulated::alignment_of(operation->aux);
  results[0].workspaceSize = choice.workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

// The product -------------------------------------------------------------------------------------

namespace emulated {

#if defined(__GNUC__) && !defined(__clang__)
#define EMULATED_FAST [[gnu::optimize("O3")]]  // tests are compiled without
#else
#define EMULATED_FAST
#endif
EMULATED_FAST inline void add_scaled(const float* from, float by, std::size_t count, float* to) {
  for (std::size_t i = 0; i < count; ++i) to[i] += by * from[i];
}

/// A column-major matrix in fp32, transposed or not.
template <class T>
std::vector<float> widened(const cublasLtMatrixLayoutOpaque_t& layout, const void* memory,
                           bool is_transposed) {
  const std::size_t rows = layout.rows, columns = layout.columns;
  std::vector<float> wide(rows * columns);
  for (std::size_t c = 0; c < columns; ++c) {
    const T* const from =
        static_cast<const T*>(memory) + c * static_cast<std::size_t>(layout.stride);
    for (std::size_t r = 0; r < rows; ++r)
      wide[is_transposed ? r * columns + c : c * rows + r] = static_cast<float>(from[r]);
  }
  return wide;
}
template <class Work>
auto with_dtype(cudaDataType_t type, Work work) {
  return type == CUDA_R_32F    ? work(float{})
         : type == CUDA_R_16BF ? work(shardexpr::bf16{})
                               : work(shardexpr::fp16{});
}

/// 2 u, of which (1 + tanh u) / 2 is the logistic function.
inline double gelu_logistic(double x) {
  return 1 / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
inline double gelu(double x) { return x * gelu_logistic(x); }
inline double gelu_slope(double x) {
  const double s = gelu_logistic(x);
  return s + x * s * (1 - s) * 2 * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

struct CublasProduct {
  CublasChoice choice;
  cublasLtMatmulDescOpaque_t operation;
  const void *a, *b, *c;
  void *d, *workspace;
  float alpha, beta;                        // of the host
  const float *device_alpha, *device_beta;  // or null

  template <class In, class Out>
  void multiply() const {
    // All of a workspace may be written; its ends are enough to see who else uses it.
    if (const std::size_t size = choice.workspace_bytes; size > 0) {
      const std::size_t part = std::min<std::size_t>(size, 4096);
      std::memset(workspace, 0xC7, part);
      std::memset(static_cast<char*>(workspace) + size - part, 0xC7, part);
    }
    const float scale = device_alpha != nullptr ? *device_alpha : alpha;
    const float add = device_beta != nullptr ? *device_beta : beta;
    const bool ta = operation.transposes_a == CUBLAS_OP_T;
    const bool tb = operation.transposes_b == CUBLAS_OP_T;
    const std::size_t m = choice.d.rows, n = choice.d.columns;
    const std::size_t k = ta ? choice.a.rows : choice.a.columns;
    const std::vector<float> left = widened<In>(choice.a, a, ta);   // m together
    const std::vector<float> right = widened<In>(choice.b, b, tb);  // k together
    // In two parts where sums may be split, which may be added as they end, or rounded first.
    const std::size_t cut =
        choice.reductions == CUBLASLT_REDUCTION_SCHEME_NONE || workspace == nullptr ? k : k / 2;
    static thread_local std::minstd_rand random{std::random_device{}()};
    std::vector<float> sum(m), part(m);
    for (std::size_t j = 0; j < n; ++j) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      std::fill(part.begin(), part.end(), 0.0f);
      const auto add_up = [&](std::size_t first, std::size_t end, std::vector<float>& to) {
        for (std::size_t l = first; l < end; ++l)
          add_scaled(&left[l * m], right[j * k + l], m, to.data());
      };
      const std::size_t middle =
          (choice.reductions & CUBLASLT_REDUCTION_SCHEME_INPLACE) != 0 ? random() % (k + 1) : cut;
      add_up(0, middle, sum);
      add_up(middle, k, part);
      for (std::size_t i = 0; i < m; ++i)
        sum[i] += (choice.reductions & CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE) != 0
                      ? static_cast<float>(static_cast<Out>(part[i]))
                      : part[i];
      put_out<Out>(j, sum, scale, add);
    }
  }

  void run() const {
    with_dtype(choice.a.type, [&](auto in) {
      with_dtype(choice.d.type, [&](auto out) { multiply<decltype(in), decltype(out)>(); });
    });
  }

 private:
  template <class Out>
  void put_out(std::size_t column, const std::vector<float>& sum, float scale, float add) const {
    const auto at = [&](const cublasLtMatrixLayoutOpaque_t& layout) {
      return column * static_cast<std::size_t>(layout.stride);
    };
    const Out* const before = static_cast<const Out*>(c) + at(choice.c);
    Out* const to = static_cast<Out*>(d) + at(choice.d);
    Out* const aux =
        static_cast<Out*>(operation.aux) + column * static_cast<std::size_t>(operation.aux_stride);
    for (std::size_t i = 0; i < sum.size(); ++i) {
      float value = scale * sum[i];
      if (add != 0) value += add * static_cast<float>(before[i]);
      if (takes_bias(operation.epilogue))
        value += static_cast<float>(static_cast<const Out*>(operation.bias)[i]);
      if (operation.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
        aux[i] = static_cast<Out>(value);
        value = static_cast<float>(gelu(static_cast<double>(value)));
      } else if (operation.epilogue == CUBLASLT_EPILOGUE_DGELU) {
        value *= static_cast<float>(gelu_slope(static_cast<double>(static_cast<float>(aux[i]))));
      }
      to[i] = static_cast<Out>(value);
    }
  }
};

}  // namespace emulated

inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                     const void* alpha, const void* a,
                                     cublasLtMatrixLayout_t a_layout, const void* b,
                                     cublasLtMatrixLayout_t b_layout, const void* beta,
                                     const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                                     cublasLtMatrixLayout_t d_layout,
                                     const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                                     std::size_t workspace_bytes, cudaStream_t stream) {
  EMULATED_CUBLAS_CALL("cublasLtMatmul");
  if (handle == nullptr || handle->device != emulated::current_device() ||
      handle->device != stream->device)
    return CUBLAS_STATUS_NOT_INITIALIZED;
  const cublasStatus_t status =
      emulated::judge(*operation, *a_layout, *b_layout, *c_layout, *d_layout);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (algorithm == nullptr) return CUBLAS_STATUS_NOT_SUPPORTED;  // cuBLASLt would ask by itself
  const emulated::CublasChoice& choice = algorithm->choice;
  const cublasLtMatmulDescOpaque_t& wanted = choice.operation;
  if (choice.mark != emulated::cublas_mark || !(choice.a == *a_layout) ||
      !(choice.b == *b_layout) || !(choice.c == *c_layout) || !(choice.d == *d_layout) ||
      wanted.epilogue != operation->epilogue || wanted.aux_stride != operation->aux_stride ||
      wanted.pointer_mode != operation->pointer_mode ||
      wanted.transposes_a != operation->transposes_a ||
      wanted.transposes_b != operation->transposes_b)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_bytes < choice.workspace_bytes ||
      (workspace == nullptr && choice.workspace_bytes > 0) ||
      reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0)
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool has_bias = emulated::takes_bias(operation->epilogue);
  const bool has_aux = emulated::takes_aux(operation->epilogue);
  const void* const operands[] = {
      a, b, c, d, has_bias ? operation->bias : a, has_aux ? operation->aux : a};
  for (std::size_t i = 0; i < 6; ++i) {
    if (operands[i] == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    const bool is_used = i < 4 || (i == 4 ? has_bias : has_aux);
    if (is_used && emulated::alignment_of(operands[i]) < choice.alignment[i])
      return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (c == d && !(*c_layout == *d_layout)) return CUBLAS_STATUS_INVALID_VALUE;
  if (alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const auto* const scale = static_cast<const float*>(alpha);
  const auto* const add = static_cast<const float*>(beta);
  const bool is_on_device = operation->pointer_mode == CUBLASLT_POINTER_MODE_DEVICE;
  const emulated::CublasProduct product{choice,
                                        *operation,
                                        a,
                                        b,
                                        c,
                                        d,
                                        workspace,
                                        is_on_device ? 0.0f : *scale,
                                        is_on_device ? 0.0f : *add,
                                        is_on_device ? scale : nullptr,
                                        is_on_device ? add : nullptr};
  ++emulated::cublas.products;
  if (has_aux) ++emulated::cublas.gelus;
  emulated::enqueue(stream, [product] { product.run(); });
  return CUBLAS_STATUS_SUCCESS;
}
