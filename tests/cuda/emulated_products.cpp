// SPDX-License-Identifier: Apache-2.0
// A GPU's matrix products over an emulated cuBLASLt: what is asked of them everywhere, which way
// they go, what is kept, what is declared, and what they say when something fails.
#include <shardexpr/device/checked.hpp>
#include <shardexpr/nn/cpu/layers.hpp>

#include <cstddef>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "../nn/harness.hpp"
#include "../support/allocations.hpp"
#include "../support/error_of.hpp"
#include "product_cases.hpp"  // these tests run here too
#include "restore.hpp"
#include <doctest/doctest.h>

namespace {

using namespace products;
using emulated::Faults;

/// The emulated machine and its cuBLASLt as it was, when a test ends.
struct Restore {
  emulated::Restore machine{};

  ~Restore() {
    emulated::cublas.has_algorithms = emulated::cublas.has_gelu = true;
    emulated::cublas.dawdles = false;
  }
};

// What the loops in double say is what the CPU's layers compute in double.
TEST_CASE("the layers that a GPU's are compared with are the CPU's") {
  constexpr std::size_t rows = 6, in = 7, out = 16;
  const auto near = [](const harness::Owned<double>& got, const std::vector<double>& exact) {
    for (std::size_t i = 0; i < exact.size(); ++i)
      CHECK(std::abs(got[i] - exact[i]) <= 1e-12 * (1 + std::abs(exact[i])));
  };
  const auto owned = [](const std::vector<double>& values, sx::Shape shape) {
    harness::Owned<double> t{shape};
    std::copy(values.begin(), values.end(), t.view.data);
    return t;
  };
  const auto on = harness::context();
  const auto x = widened(random<float>(rows * in, 1)), w = widened(random<float>(in * out, 2)),
             b = widened(random<float>(out, 3)), around = widened(random<float>(rows * out, 4));
  const auto cx = owned(x, shape(rows, in)), cw = owned(w, shape(in, out)),
             cb = owned(b, shape(out));
  auto y = owned(around, shape(rows, out)), after = owned(around, shape(rows, out));
  nn::linear_residual_forward(on, y, cx, cw, cb, y.view);
  near(y, plus_row(multiply(rows, out, in, {x, in}, {w, out}, 1, around), b).value);
  nn::linear_gelu_forward(on, cx, cw, cb, y.view, after.view);
  const auto before = plus_row(multiply(rows, out, in, {x, in}, {w, out}), b).value;
  near(y, before);
  std::vector<double> exact;
  for (const double value : before) exact.push_back(gelu_of(value));
  near(after, exact);

  auto dw = owned(w, shape(in, out)), db = owned(b, shape(out)), dx = owned(x, shape(rows, in));
  const auto dy = owned(around, shape(rows, out));
  nn::linear_backward_params(on, cx, dy.view, dw.view, db.view);
  near(dw, multiply(in, out, rows, {x, in, true}, {around, out}, 1, w).value);
  near(db, plus_columns(b, around).value);
  nn::gelu_rebuild(on, cx.view, dx.view);  // the slope is in cx
  nn::linear_gelu_backward_input(on, dy, cw, cx, dx.view);
  exact = multiply(rows, in, out, {around, out}, {w, out, true}).value;
  for (std::size_t i = 0; i < exact.size(); ++i) exact[i] *= gelu_slope_of(x[i]);
  near(dx, exact);

  const auto again = owned(x, shape(rows, in)), table = owned(w, shape(out, in));
  const auto dloss = owned({3}, sx::Shape{});
  auto dtable = owned(w, shape(out, in)), logits = owned(around, shape(rows, out));
  nn::classifier_forward(on, again, table, logits.view);
  near(logits, multiply(rows, out, in, {x, in}, {w, in, true}).value);
  nn::classifier_backward(on, dy, dloss, again, table, dtable.view, again.view);
  near(dtable, multiply(out, in, rows, {around, out, true}, {x, in}, 0.5, w).value);
  near(again, multiply(rows, in, out, {around, out}, {w, in}, 0.5).value);
}

TEST_CASE_TEMPLATE("gelu is the product's epilogue where cuBLASLt has it", T, float, sx::bf16,
                   sx::fp16) {
  const Restore restore;
  const auto gelus_of = [](const Sizes& sizes, bool is_fused) {
    const std::size_t before = emulated::cublas.gelus;
    check_linear_gelu<T>(sizes, is_fused);
    return emulated::cublas.gelus - before;
  };
  // Shapes of their own: what was found for one is kept.
  CHECK(gelus_of({40, 24, 32}, true) == 4);  // forward and backward, twice
  CHECK(gelus_of({40, 24, 30}, false) == 0);
  CHECK(gelus_of({40, 24, 20}, false) == 0);
  emulated::cublas.has_gelu = false;
  CHECK(gelus_of({41, 24, 32}, false) == 0);
  emulated::cublas.has_gelu = true;
  CHECK(gelus_of({41, 24, 32}, false) == 0);  // whatever comes later, the bits stay
  emulated::machine.generation = 8;
  CHECK(gelus_of({42, 24, 32}, false) == 0);
}

TEST_CASE("cuBLASLt is asked once for a kind of product, and to find it allocates nothing") {
  using Key = nn::detail::ProductKey;
  Gpu<sx::Cuda> gpu;
  const auto multiply_by = [&](std::size_t rows, bool has_bias) {
    const auto x = gpu.put(1.0f, shape(rows, 10)), w = gpu.put(1.0f, shape(10, 24));
    const auto y = gpu.put(1.0f, shape(rows, 24)), b = gpu.put(1.0f, shape(24));
    const std::size_t before = emulated::cublas.heuristics;
    if (has_bias)
      linear_forward(gpu.on, x, w, b, y);
    else
      linear_backward_input(gpu.on, y, w, x);
    gpu.device.synchronize(gpu.stream);
    return emulated::cublas.heuristics - before;
  };
  CHECK(multiply_by(101, true) == 1);
  CHECK(multiply_by(101, true) == 0);
  CHECK(multiply_by(102, true) == 1);
  CHECK(multiply_by(101, false) == 1);
  CHECK(multiply_by(101, true) == 0);
  gpu.on.scratch.workspace.shape = shape(4096);
  CHECK(multiply_by(101, true) == 1);
  gpu.on.scratch.workspace = {};
  CHECK(multiply_by(101, true) == 1);

  Key key{.in = CUDA_R_32F,
          .out = CUDA_R_32F,
          .rows = 3,
          .columns = 5,
          .inner = 4,
          .left_stride = 4,
          .right_stride = 5,
          .out_stride = 5};
  auto& plans = nn::detail::ProductPlans::instance();
  const auto& plan = plans.find(key).plan;
  const std::size_t before = allocations;
  CHECK(&plans.find(key).plan == &plan);
  CHECK(allocations == before);
  // Whatever differs is another product.
  for (const std::size_t which : {0, 1, 2, 3, 4, 5, 6}) {
    Key other = key;
    std::size_t* const sizes[] = {&other.left_stride, &other.right_stride, &other.out_stride,
                                  &other.workspace_bytes};
    if (which < 4)
      ++*sizes[which];
    else if (which == 4)
      other.in = CUDA_R_16BF;
    else if (which == 5)
      other.has_scalars_on_device = true;
    else
      other.epilogue = nn::detail::Epilogue::bias;
    CHECK(&plans.find(other).plan != &plan);
  }
}

TEST_CASE("products of several threads, on two GPUs, do not mix up what they point to") {
  const Restore restore;
  emulated::cublas.dawdles = true;
  std::vector<std::string> failures(4);
  std::latch ready{4};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([t, &failures, &ready] {
      Gpu<sx::Cuda> gpu{1024, static_cast<int>(t % 2)};
      const auto x = gpu.put(1.0f, shape(2, 16)), w = gpu.put(0.0f, shape(16, 8));
      const float mine = static_cast<float>(t) + 1;
      const auto b = gpu.put(mine, shape(8));
      std::vector<Tensor<float>> all;
      ready.arrive_and_wait();
      for (int i = 0; i < 50; ++i) {
        all.push_back(gpu.take<float>(shape(2, 8)));
        linear_forward(gpu.on, x, w, b, all.back());
      }
      for (const Tensor<float>& y : all)
        for (const float value : gpu.get(y))
          if (value != mine) failures[t] = "another thread's bias";
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) CHECK(failure == "");
}

// What is declared --------------------------------------------------------------------------------

TEST_CASE("products declare all that they touch") {
  using Device = sx::Checked<sx::Cuda>;
  Gpu<Device> gpu{128 * 16};
  auto& on = gpu.on;
  typename Device::Stream other{gpu.device, "other"};
  const std::size_t rows = 8, in = 8, out = 16;
  const auto x = gpu.put(1.0f, shape(rows, in)), w = gpu.put(1.0f, shape(in, out));
  const auto b = gpu.put(1.0f, shape(out)), around = gpu.put(1.0f, shape(rows, out));
  const auto y = gpu.put(1.0f, shape(rows, out)), before = gpu.put(1.0f, shape(rows, out));
  const auto dx = gpu.put(1.0f, shape(rows, in)), dw = gpu.put(1.0f, shape(in, out));
  const auto db = gpu.put(1.0f, shape(out)), dloss = gpu.put(1.0f, sx::Shape{});
  const auto table = gpu.put(1.0f, shape(5, in)), dtable = gpu.put(1.0f, shape(5, in));
  const auto error = gpu.put(1.0f, shape(rows, 64));
  const auto sink = gpu.put(1.0f, shape(rows * 64));
  const auto workspace = on.scratch.workspace;
  const Tensor<float> space{reinterpret_cast<float*>(workspace.data), shape(16)};
  const Tensor<float> sums{on.scratch.sums.data, shape(16)};

  struct Touch {
    const char* name;
    Tensor<float> tensor;
    bool is_written;
  };
  const auto check = [&](const char* what, auto call, std::vector<Touch> touches) {
    CAPTURE(what);
    CHECK_NOTHROW(call());
    gpu.device.synchronize(gpu.stream);
    for (const Touch& touch : touches) {
      CAPTURE(touch.name);
      // Read elsewhere, and in no order with it; or written.
      for (const bool writes : {false, true}) {
        const Tensor<float> part{sink.data, touch.tensor.shape};
        if (writes)
          gpu.device.fill_zero(other, touch.tensor.span());
        else
          gpu.device.copy(other, std::span<const float>{touch.tensor.span()}, part.span());
        if (writes || touch.is_written)
          CHECK_THROWS_AS(call(), sx::RaceError);
        else
          CHECK_NOTHROW(call());
        gpu.device.synchronize(gpu.stream);
        gpu.device.synchronize(other);
      }
    }
  };
  check("linear_forward", [&] { linear_forward(on, x, w, b, y); },
        {{"x", x, false}, {"w", w, false}, {"b", b, false}, {"y", y, true}, {"work", space, true}});
  check("linear_residual_forward", [&] { linear_residual_forward(on, around, x, w, b, y); },
        {{"residual", around, false},
         {"x", x, false},
         {"w", w, false},
         {"b", b, false},
         {"y", y, true},
         {"work", space, true}});
  check("linear_gelu_forward", [&] { linear_gelu_forward(on, x, w, b, before, y); },
        {{"x", x, false},
         {"w", w, false},
         {"b", b, false},
         {"before", before, true},
         {"y", y, true},
         {"work", space, true}});
  check("linear_backward_params", [&] { linear_backward_params(on, x, y, dw, db); },
        {{"x", x, false},
         {"dy", y, false},
         {"dw", dw, true},
         {"db", db, true},
         {"work", space, true},
         {"sums", sums, true}});
  check("linear_backward_input", [&] { linear_backward_input(on, y, w, dx); },
        {{"dy", y, false}, {"w", w, false}, {"dx", dx, true}, {"work", space, true}});
  check("linear_gelu_backward_input", [&] { linear_gelu_backward_input(on, y, w, x, dx); },
        {{"dy", y, false},
         {"w", w, false},
         {"x", x, false},
         {"dx", dx, true},
         {"work", space, true}});
  check("gelu_forward", [&] { gelu_forward(on, x, dx); }, {{"x", x, false}, {"y", dx, true}});
  check("gelu_rebuild", [&] { gelu_rebuild(on, x, dx); }, {{"x", x, false}, {"y", dx, true}});
  check("multiply_in_place", [&] { multiply_in_place(on, x, dx); },
        {{"by", x, false}, {"y", dx, true}});
  check("classifier_forward", [&] { classifier_forward(on, x, table, error); },
        {{"x", x, false}, {"table", table, false}, {"logits", error, true}, {"work", space, true}});
  check("classifier_backward", [&] { classifier_backward(on, error, dloss, x, table, dtable, dx); },
        {{"error", error, false},
         {"dloss", dloss, false},
         {"x", x, false},
         {"table", table, false},
         {"dtable", dtable, true},
         {"dx", dx, true},
         {"work", space, true},
         {"sums", sums, true}});
  // Of frozen ones, where no other operation declares the same.
  const Tensor<float> no_dw{nullptr, dw.shape}, no_dtable{nullptr, dtable.shape};
  check("linear_backward_params, frozen", [&] { linear_backward_params(on, x, y, no_dw, db); },
        {{"dy", y, false}, {"db", db, true}, {"sums", sums, true}});
  check("classifier_backward, frozen",
        [&] { classifier_backward(on, error, dloss, x, table, no_dtable, dx); },
        {{"error", error, false},
         {"dloss", dloss, false},
         {"table", table, false},
         {"dx", dx, true},
         {"work", space, true},
         {"sums", sums, true}});
}

// What is said ------------------------------------------------------------------------------------

TEST_CASE("what cuBLASLt refuses has a name, a shape and a dtype") {
  const Restore restore;
  Gpu<sx::Cuda> gpu;
  const auto x = gpu.put(sx::bf16{1.0f}, shape(3, 9)), w = gpu.put(sx::bf16{1.0f}, shape(9, 15));
  const auto b = gpu.put(sx::bf16{1.0f}, shape(15)), y = gpu.put(sx::bf16{1.0f}, shape(3, 15));
  const auto dw = gpu.put(1.0f, shape(9, 15));
  const auto forward = [&] { linear_forward(gpu.on, x, w, b, y); };

  emulated::cublas.has_algorithms = false;
  CHECK(error_of([&] {
          linear_backward_params(gpu.on, x, y, dw, Tensor<float>{nullptr, shape(15)});
        }) ==
        "cuBLASLt has no algorithm for a product of bf16 (3, 9)^T x (3, 15) into fp32 in a "
        "workspace of 1048576 bytes on this GPU");
  emulated::cublas.has_algorithms = true;

  for (const char* call :
       {"cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmulDescInit", "cublasLtMatrixLayoutInit",
        "cublasLtMatmulPreferenceInit", "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulDescSetAttribute", "cublasLtMatmul"}) {
    CAPTURE(call);
    Faults::instance().fail(call, cudaErrorMemoryAllocation);
    const std::string error = error_of(forward);
    CHECK(error.find("cuBLASLt: ") == 0);
    CHECK(error.find("a product of bf16 (3, 9) x (9, 15) into bf16, with a bias: the resource "
                     "allocation failed (CUBLAS_STATUS_ALLOC_FAILED)") != std::string::npos);
  }
  CHECK(error_of(forward) == "");  // what failed is not kept

  // A GPU whose first product fails.
  {
    emulated::machine.devices = 3;
    Gpu<sx::Cuda> third{1024, 2};
    const auto tx = third.put(1.0f, shape(2, 8)), tw = third.put(1.0f, shape(8, 8));
    Faults::instance().fail("cublasLtCreate", cudaErrorMemoryAllocation);
    CHECK(error_of([&] {
            linear_backward_input(third.on, tx, tw, tx);
          }).find("cuBLASLt: make a handle, a product of fp32 (2, 8) x (8, 8)^T") == 0);
    CHECK(error_of([&] { linear_backward_input(third.on, tx, tw, tx); }) == "");
    third.device.synchronize(third.stream);
  }

  const Tensor<sx::bf16> off{x.data + 1, shape(2, 9)}, two{y.data, shape(2, 15)};
  CHECK(error_of([&] {
          linear_forward(gpu.on, off, w, b, two);
        }).find("an operand does not begin at a multiple of 16 bytes") != std::string::npos);
  CHECK(error_of([&] { linear_forward(gpu.on, x, w, b, two); }) ==
        "a product of bf16 (3, 9) x (9, 15) into bf16 does not fit: the second factor has 9 rows, "
        "the result is (2, 15)");
  auto on = gpu.on;
  on.scratch.workspace.data += 128;
  CHECK(error_of([&] {
          linear_forward(on, x, w, b, y);
        }).find("the workspace does not begin at a multiple of 256 bytes") != std::string::npos);
  on.scratch = gpu.on.scratch;
  on.scratch.sums.shape = shape(14);
  const auto db = gpu.put(1.0f, shape(15));
  CHECK(error_of([&] {
          linear_backward_params(on, x, y, Tensor<float>{nullptr, dw.shape}, db);
        }) ==
        "sums of 15 columns need 15 numbers of scratch, not 14: give layer_scratch the largest "
        "width");
  gpu.device.synchronize(gpu.stream);
}

}  // namespace
