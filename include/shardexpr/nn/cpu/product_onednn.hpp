// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products of bf16, and of fp32 where that is the faster, by oneDNN, where SHARDEXPR_ONEDNN is
// defined (CMake: shardexpr::onednn).
#if defined(SHARDEXPR_ONEDNN)
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/nn/cpu/product_tiles.hpp>

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include <oneapi/dnnl/dnnl.hpp>

#if DNNL_VERSION_MAJOR != 2
#error "shardexpr knows oneDNN 2: install that version, or say SHARDEXPR_ONEDNN=OFF"
#endif

#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
// OpenMP's own functions, under names that no <omp.h> declares otherwise.
extern "C" int shardexpr_omp_get_max_threads() __asm__("omp_get_max_threads");
extern "C" void shardexpr_omp_set_num_threads(int count) __asm__("omp_set_num_threads");
#endif

namespace shardexpr::nn::detail {

/// While it lives, oneDNN computes in the thread that made it, as `use_one_blas_thread` lets
/// OpenBLAS do. What the thread's owner had set comes back.
class OneOpenMpThread {
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
 public:
  OneOpenMpThread() { shardexpr_omp_set_num_threads(1); }
  OneOpenMpThread(const OneOpenMpThread&) = delete;
  OneOpenMpThread& operator=(const OneOpenMpThread&) = delete;
  ~OneOpenMpThread() { shardexpr_omp_set_num_threads(before_); }

 private:
  const int before_ = shardexpr_omp_get_max_threads();
#endif
};

/// oneDNN as one thread uses it: the products it has seen, by their sizes, and their scratch.
///
/// Errors:  throws Error if oneDNN fails in what it said it can do.
/// Cost:    the first product of its sizes in the process compiles a kernel, in less than a
///          millisecond; another thread's first finds that kernel. Scratch is what oneDNN asks for,
///          kept at its largest.
class OnednnProducts {
 public:
  static OnednnProducts& of_this_thread() {
    thread_local OnednnProducts products;
    return products;
  }

  /// Whether oneDNN multiplies T at the processor's speed. It imitates bf16 where the processor
  /// does not multiply it, slower than tiles; fp32 is a BLAS's matter but with AVX-512, where
  /// oneDNN's kernels are the faster.
  template <class T>
  bool is_fast() const {
    return std::is_same_v<T, bf16> ? has_bf16_ : has_avx512_;
  }

  /// Computes `p` and returns true, or returns false if oneDNN cannot at the processor's speed.
  template <class T, class C>
  bool multiply(const Product<T, C>& p) {
    static_assert((std::is_same_v<T, bf16> && std::is_same_v<C, bf16>) || std::is_same_v<C, float>);
    if (!is_fast<T>() || p.m == 0 || p.n == 0 || p.k == 0) return false;
    [[maybe_unused]] const OneOpenMpThread one_thread;
    try {
      Primitive& primitive = find(key_of(p));
      if (!primitive.matmul) return false;
      run(primitive, p);
    } catch (const dnnl::error& e) {
      throw Error(std::string("oneDNN failed in a product: ") + e.what());
    }
    return true;
  }

 private:
  using Memory = dnnl::memory;
  using Type = Memory::data_type;

  struct Key {
    std::size_t m, n, k, a_stride, b_stride, c_stride;
    bool a_transposed, b_transposed, is_bf16, c_is_bf16, has_row, has_factor, adds;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Hash {
    std::size_t operator()(const Key& x) const {
      std::size_t h = 0;
      for (const std::size_t v : {x.m, x.n, x.k, x.a_stride, x.b_stride, x.c_stride})
        h = (h ^ v) * 0x9E3779B97F4A7C15u;
      for (const bool v : {x.a_transposed, x.b_transposed, x.is_bf16, x.c_is_bf16, x.has_row,
                           x.has_factor, x.adds})
        h = 2 * h + v;
      return h ^ (h >> 32);
    }
  };
  template <class T, class C>
  static Key key_of(const Product<T, C>& p) {
    return {.m = p.m,
            .n = p.n,
            .k = p.k,
            .a_stride = p.a.stride,
            .b_stride = p.b.stride,
            .c_stride = p.c_stride,
            .a_transposed = p.a.is_transposed,
            .b_transposed = p.b.is_transposed,
            .is_bf16 = std::is_same_v<T, bf16>,
            .c_is_bf16 = std::is_same_v<C, bf16>,
            .has_row = p.row != nullptr,
            .has_factor = p.factor != 1,
            .adds = p.adds};
  }

  // A product of certain sizes, and the places of what it reads and writes.
  struct Primitive {
    dnnl::matmul matmul;  // empty: oneDNN has none
    Memory a, b, c, row, factor, scratch;
    std::size_t scratch_bytes = 0;
    std::array<dnnl_exec_arg_t, 6> arguments{};
    int argument_count = 0;

    void add(int argument, const Memory& memory) {
      arguments[static_cast<std::size_t>(argument_count++)] = {argument, memory.get()};
    }
  };

  static Memory::desc matrix(std::size_t rows, std::size_t columns, std::size_t stride,
                             bool is_transposed, Type type) {
    const auto step = static_cast<Memory::dim>(stride);
    return {{static_cast<Memory::dim>(rows), static_cast<Memory::dim>(columns)},
            type,
            is_transposed ? Memory::dims{1, step} : Memory::dims{step, 1}};
  }

  Primitive& find(const Key& key) {
    const auto found = primitives_.find(key);
    if (found != primitives_.end()) return found->second;
    if (primitives_.size() == most_primitives) primitives_.clear();
    Primitive primitive;
    try {
      make(key, primitive);
    } catch (const dnnl::error& e) {
      if (e.status != dnnl_unimplemented) throw;
    }
    return primitives_.emplace(key, std::move(primitive)).first->second;
  }

  void make(const Key& key, Primitive& to) {
    const Type type = key.is_bf16 ? Type::bf16 : Type::f32;
    const auto a = matrix(key.m, key.k, key.a_stride, key.a_transposed, type);
    const auto b = matrix(key.k, key.n, key.b_stride, key.b_transposed, type);
    const auto c =
        matrix(key.m, key.n, key.c_stride, false, key.c_is_bf16 ? Type::bf16 : Type::f32);
    const auto row = matrix(1, key.n, key.n, false, type);
    const auto factor = matrix(1, 1, 1, false, Type::f32);
    dnnl::post_ops after;
    if (key.has_factor) after.append_binary(dnnl::algorithm::binary_mul, factor);
    if (key.adds) after.append_sum();
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(after);
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto description =
        key.has_row ? dnnl::matmul::desc{a, b, row, c} : dnnl::matmul::desc{a, b, c};
    const dnnl::matmul::primitive_desc chosen{description, attributes, engine_};

    const auto place = [&](const Memory::desc& desc) {
      return Memory{desc, engine_, DNNL_MEMORY_NONE};
    };
    to.a = place(a);
    to.b = place(b);
    to.c = place(c);
    to.add(DNNL_ARG_SRC, to.a);
    to.add(DNNL_ARG_WEIGHTS, to.b);
    to.add(DNNL_ARG_DST, to.c);
    if (key.has_row) to.add(DNNL_ARG_BIAS, to.row = place(row));
    if (key.has_factor) {
      to.factor = Memory{factor, engine_, &factor_};
      to.add(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, to.factor);
    }
    to.scratch_bytes = chosen.scratchpad_desc().get_size();
    to.add(DNNL_ARG_SCRATCHPAD, to.scratch = place(chosen.scratchpad_desc()));
    to.matmul = dnnl::matmul{chosen};
  }

  template <class T, class C>
  void run(Primitive& primitive, const Product<T, C>& p) {
    if (primitive.scratch_bytes > scratch_bytes_) {
      scratch_ =
          std::make_unique_for_overwrite<Line[]>(ceil_div(primitive.scratch_bytes, sizeof(Line)));
      scratch_bytes_ = primitive.scratch_bytes;
    }
    primitive.a.set_data_handle(const_cast<T*>(p.a.data));
    primitive.b.set_data_handle(const_cast<T*>(p.b.data));
    primitive.c.set_data_handle(p.c);
    if (p.row != nullptr) primitive.row.set_data_handle(const_cast<T*>(p.row));
    primitive.scratch.set_data_handle(scratch_.get());
    factor_ = p.factor;
    // The C function: that of C++ would copy the arguments to the heap.
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(primitive.matmul.get(), stream_.get(), primitive.argument_count,
                               primitive.arguments.data()),
        "could not execute a primitive");
    stream_.wait();
  }

  struct alignas(64) Line {
    std::byte bytes[64];
  };
  static constexpr std::size_t most_primitives = 1024;  // a thread keeps; then it begins anew

  static bool has(dnnl::cpu_isa isa) {
    const auto wanted = static_cast<unsigned>(isa);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
  }

  const bool has_bf16_ = has(dnnl::cpu_isa::avx512_core_bf16);
  const bool has_avx512_ = has(dnnl::cpu_isa::avx512_core);
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  float factor_ = 1;
  std::unique_ptr<Line[]> scratch_;
  std::size_t scratch_bytes_ = 0;
  std::unordered_map<Key, Primitive, Hash> primitives_;
};

}  // namespace shardexpr::nn::detail
#endif
