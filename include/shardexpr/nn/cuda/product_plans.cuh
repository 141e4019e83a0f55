// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/nn/cuda/launch.cuh>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include <cublasLt.h>

// What cuBLASLt needs to know of a product before it is called, kept for the next one of its kind.
namespace shardexpr::nn::detail {

/// What happens to a sum before it is rounded.
enum class Epilogue {
  none,
  bias,       // a row is added
  gelu,       // a row is added, what that gives is kept, and gelu of it is put out
  gelu_slope  // it is multiplied by gelu's slope
};

/// All that the choice of an algorithm depends on. Never on an address: of operands it is known
/// that they begin at multiples of 16 bytes.
struct ProductKey {
  static constexpr std::size_t alignment_bytes = 16;

  int gpu = 0;
  cudaDataType_t in{}, out{};
  bool left_is_transposed = false, right_is_transposed = false;
  bool has_scalars_on_device = false;
  Epilogue epilogue = Epilogue::none;
  std::size_t rows = 0, columns = 0, inner = 0;  // (rows, inner) x (inner, columns)
  std::size_t left_stride = 0, right_stride = 0, out_stride = 0;
  std::size_t workspace_bytes = 0;

  friend bool operator==(const ProductKey&, const ProductKey&) = default;

  struct Hash {
    std::size_t operator()(const ProductKey& k) const {
      std::size_t h = static_cast<std::size_t>(k.gpu);
      const auto mix = [&h](std::size_t value) {  // FNV's step, a word at a time
        h = (h ^ value) * 0x100000001b3u;
        h ^= h >> 29;
      };
      mix(static_cast<std::size_t>(k.in) | static_cast<std::size_t>(k.out) << 8 |
          static_cast<std::size_t>(k.epilogue) << 16 | std::size_t{k.left_is_transposed} << 24 |
          std::size_t{k.right_is_transposed} << 25 | std::size_t{k.has_scalars_on_device} << 26);
      for (const std::size_t value : {k.rows, k.columns, k.inner, k.left_stride, k.right_stride,
                                      k.out_stride, k.workspace_bytes})
        mix(value);
      return h;
    }
  };
};

template <KernelDtype T>
inline constexpr cudaDataType_t product_dtype = std::same_as<T, float>  ? CUDA_R_32F
                                                : std::same_as<T, bf16> ? CUDA_R_16BF
                                                                        : CUDA_R_16F;

/// "bf16 (8, 768) x (3072, 768)^T into fp32, with a bias"
inline std::string product_text(const ProductKey& k) {
  const auto dtype = [](cudaDataType_t type) {
    return std::string{type == CUDA_R_32F    ? dtype_name<float>
                       : type == CUDA_R_16BF ? dtype_name<bf16>
                                             : dtype_name<fp16>};
  };
  const auto factor = [](std::size_t rows, std::size_t columns, bool is_transposed) {
    return "(" + std::to_string(is_transposed ? columns : rows) + ", " +
           std::to_string(is_transposed ? rows : columns) + (is_transposed ? ")^T" : ")");
  };
  return dtype(k.in) + " " + factor(k.rows, k.inner, k.left_is_transposed) + " x " +
         factor(k.inner, k.columns, k.right_is_transposed) + " into " + dtype(k.out) +
         (k.epilogue == Epilogue::bias         ? ", with a bias"
          : k.epilogue == Epilogue::gelu       ? ", with a bias and gelu"
          : k.epilogue == Epilogue::gelu_slope ? ", with gelu's slope"
                                               : "");
}

/// Errors:  throws DeviceError.
inline void product_check(cublasStatus_t status, const char* what, const ProductKey& key) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw DeviceError("cuBLASLt: " + std::string{what} + ", a product of " + product_text(key) +
                      ": " + cublasLtGetStatusString(status) + " (" +
                      cublasLtGetStatusName(status) + ")");
}

/// How one kind of product is computed. cuBLAS's matrices are column-major, so that ours are their
/// transposes there: it computes out^T = right^T left^T.
struct ProductPlan {
  std::mutex mutex;  // while an operation's pointers are in `operation`
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t left{}, right{}, out{};
  cublasLtMatmulAlgo_t algorithm{};
  bool exists = false;  // some GPUs, dtypes or shapes have no algorithm with some epilogue

  ProductPlan(cublasLtHandle_t handle, const ProductKey& key) {
    describe(key);
    // Before Hopper the epilogue costs more than the pass that it saves.
    // Source: github.com/karpathy/llm.c, pull request 338; its default since.
    constexpr int hopper = 9;
    if (key.epilogue == Epilogue::gelu || key.epilogue == Epilogue::gelu_slope) {
      int generation = 0;
      shardexpr::detail::cuda_check(
          cudaDeviceGetAttribute(&generation, cudaDevAttrComputeCapabilityMajor, key.gpu),
          "ask for the compute capability");
      if (generation < hopper) return;
    }
    choose(handle, key);
  }

 private:
  void describe(const ProductKey& key) {
    const auto check = [&](cublasStatus_t status) {
      product_check(status, "describe a product", key);
    };
    const auto layout = [&](cublasLtMatrixLayoutOpaque_t& to, cudaDataType_t type, std::size_t rows,
                            std::size_t columns, bool is_transposed, std::size_t stride) {
      check(cublasLtMatrixLayoutInit(&to, type, is_transposed ? rows : columns,
                                     is_transposed ? columns : rows,
                                     static_cast<std::int64_t>(stride)));
    };
    layout(left, key.in, key.rows, key.inner, key.left_is_transposed, key.left_stride);
    layout(right, key.in, key.inner, key.columns, key.right_is_transposed, key.right_stride);
    layout(out, key.out, key.rows, key.columns, false, key.out_stride);

    check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
      check(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value));
    };
    const auto operation_of = [](bool is_transposed) -> std::int32_t {
      return is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, operation_of(key.right_is_transposed));
    set(CUBLASLT_MATMUL_DESC_TRANSB, operation_of(key.left_is_transposed));
    if (key.has_scalars_on_device)
      set(CUBLASLT_MATMUL_DESC_POINTER_MODE, std::int32_t{CUBLASLT_POINTER_MODE_DEVICE});
    // Of a pointer the heuristic takes the alignment; it reads nothing there.
    void* const aligned = reinterpret_cast<void*>(ProductKey::alignment_bytes);
    if (key.epilogue == Epilogue::bias || key.epilogue == Epilogue::gelu)
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, aligned);
    if (key.epilogue == Epilogue::gelu || key.epilogue == Epilogue::gelu_slope) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aligned);
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, static_cast<std::int64_t>(key.columns));
    }
    set(CUBLASLT_MATMUL_DESC_EPILOGUE,
        static_cast<std::uint32_t>(
            key.epilogue == Epilogue::bias         ? CUBLASLT_EPILOGUE_BIAS
            : key.epilogue == Epilogue::gelu       ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS
            : key.epilogue == Epilogue::gelu_slope ? CUBLASLT_EPILOGUE_DGELU
                                                   : CUBLASLT_EPILOGUE_DEFAULT));
  }
  void choose(cublasLtHandle_t handle, const ProductKey& key) {
    constexpr const char* what = "look for an algorithm";
    cublasLtMatmulPreferenceOpaque_t preference{};
    product_check(cublasLtMatmulPreferenceInit(&preference), what, key);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      product_check(
          cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value), what,
          key);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{key.workspace_bytes});
    // Parts of a long sum are added in fp32 and in one order: not in the order in which blocks end
    // (INPLACE), nor rounded to 16 bits before (OUTPUT_TYPE).
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(attribute, std::uint32_t{ProductKey::alignment_bytes});

    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, &operation, &right, &left, &out, &out, &preference, 1, &best, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
        (status == CUBLAS_STATUS_SUCCESS &&
         (found == 0 || best.state == CUBLAS_STATUS_NOT_SUPPORTED)))
      return;
    product_check(status, what, key);
    product_check(best.state, what, key);
    algorithm = best.algo;
    exists = true;
  }
};

/// The plans of this process, and a handle of cuBLASLt for each GPU. They stay until the process
/// ends, when the driver may be gone before them.
class ProductPlans {
 public:
  static ProductPlans& instance() {
    static auto* const plans = new ProductPlans;
    return *plans;
  }

  struct Found {
    cublasLtHandle_t handle;
    ProductPlan& plan;
  };
  /// For the calling thread's current GPU, `key.gpu`.
  /// Errors:  DeviceError.
  /// Cost:    asks cuBLASLt once for each key; after that a search, without an allocation.
  Found find(const ProductKey& key) {
    const std::scoped_lock lock{mutex_};
    cublasLtHandle_t& handle = handles_[key.gpu];
    const auto found = plans_.find(key);
    if (found != plans_.end()) return {handle, found->second};
    if (handle == nullptr) product_check(cublasLtCreate(&handle), "make a handle", key);
    return {handle, plans_.try_emplace(key, handle, key).first->second};
  }

 private:
  ProductPlans() = default;

  std::mutex mutex_;
  std::map<int, cublasLtHandle_t> handles_;
  std::unordered_map<ProductKey, ProductPlan, ProductKey::Hash> plans_;
};

}  // namespace shardexpr::nn::detail
