// SPDX-License-Identifier: Apache-2.0
// Attention of a GPU, over the emulated runtime, beside that of the CPU in double on the same
// inputs; nn/rounding.hpp says how far they may be apart.
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cuda.cuh>
#include <shardexpr/nn/cuda/attention.cuh>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../nn/attention_error.hpp"
#include "../support/sanitized.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
namespace nn = shardexpr::nn;
using Case = harness::AttentionSizes;
using harness::Owned;
using harness::random;
using sx::shape;
using sx::Tensor;

template <class T>
std::vector<unsigned char> bits_of(Tensor<T> t) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(t.data);
  return {bytes, bytes + t.size_bytes()};
}

/// Memory of the device between two guards of NaN, which nobody may change, and which would show
/// in the results of who reads them.
template <class D, class T>
class Guarded {
 public:
  Guarded(D& device, sx::Shape shape, std::size_t shift)
      : before_{guard + shift},
        buffer_{device.template allocate<T>(shape.count() + 2 * guard + shift, sx::Purpose::other)},
        view{buffer_.data() + before_, shape} {
    std::memset(buffer_.data(), 0xff, buffer_.size_bytes());
  }
  bool is_guarded() const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(buffer_.data());
    const std::size_t first = before_ * sizeof(T), last = first + view.size_bytes();
    for (std::size_t i = 0; i < buffer_.size_bytes(); ++i)
      if ((i < first || i >= last) && bytes[i] != 0xff) return false;
    return true;
  }

 private:
  static constexpr std::size_t guard = 128 * 3 * 128 + 64;
  std::size_t before_;
  typename D::template Buffer<T> buffer_;

 public:
  Tensor<T> view;
};

/// Inputs, and what the GPU makes of them. `shift`: elements by which tensors are out of line.
template <class D, class T>
struct Gpu {
  Case c;
  D device;
  typename D::Stream stream{device, "compute"};
  sx::Shape wide{shape(c.batch, c.length, 3 * c.heads * c.head)},
      narrow{shape(c.batch, c.length, c.heads*c.head)}, rows{shape(c.batch, c.heads, c.length)};
  Guarded<D, T> qkv, out, dout, dqkv;
  Guarded<D, float> lse, sums;

  explicit Gpu(const Case& c_, std::size_t shift = 0)
      : c{c_},
        qkv{device, wide, shift},
        out{device, narrow, shift},
        dout{device, narrow, shift},
        dqkv{device, wide, shift},
        lse{device, rows, 0},
        sums{device, rows, 0} {
    harness::randomize<T>(qkv.view, "qkv");
    harness::randomize<T>(dout.view, "dout");
  }
  nn::LayerContext<D> on() { return {{device, stream}, {.sums = sums.view, .workspace = {}}}; }
  void enqueue_forward() { nn::attention_forward(on(), qkv.view, c.heads, {}, lse.view, out.view); }
  void enqueue_backward() {
    nn::attention_backward(on(), qkv.view, c.heads, lse.view, out.view, dout.view, {}, dqkv.view);
  }
  void forward() {
    enqueue_forward();
    device.synchronize(stream);
  }
  void backward() {
    enqueue_backward();
    device.synchronize(stream);
  }
  bool is_guarded() const {
    return qkv.is_guarded() && out.is_guarded() && dout.is_guarded() && dqkv.is_guarded() &&
           lse.is_guarded() && sums.is_guarded();
  }
};

/// The CPU's, in double.
struct Exact {
  Case c;
  std::size_t embed = c.heads * c.head;
  Owned<double> qkv{shape(c.batch, c.length, 3 * embed)}, out{shape(c.batch, c.length, embed)},
      dout{out.view.shape}, dqkv{qkv.view.shape}, lse{shape(c.batch, c.heads, c.length)};
  nn::AttentionScratch<sx::BufferSpec, double> spec =
      nn::attention_scratch<double, sx::Cpu>(c.length, c.head);
  Owned<double> scores{spec.scores.shape}, none{shape(1)};

  nn::AttentionScratch<Tensor, double> scratch() const { return {scores, none, none}; }
  void forward() {
    nn::attention_forward(harness::context(), qkv, c.heads, scratch(), lse, out.view);
  }
  void backward() {
    nn::attention_backward(harness::context(), qkv, c.heads, lse, out, dout, scratch(), dqkv.view);
  }
};
template <class T>
void widen(const Tensor<T>& from, const Owned<double>& to) {
  for (std::size_t i = 0; i < to.count(); ++i) to[i] = static_cast<double>(from[i]);
}

/// Errors as parts of what is allowed.
struct Ratios {
  double lse, out, dqkv;
};

template <class D, class T>
Ratios compare(Gpu<D, T>& gpu) {
  const Case c = gpu.c;
  Exact exact{c};
  widen(gpu.qkv.view, exact.qkv);
  widen(gpu.dout.view, exact.dout);
  gpu.forward();
  exact.forward();
  const auto exact_out = harness::widened(exact.out), exact_lse = harness::widened(exact.lse);
  widen(gpu.lse.view, exact.lse);
  widen(gpu.out.view, exact.out);
  gpu.backward();
  exact.backward();

  // A row's sums go from tile to tile, of 32 keys or more: at each they are brought to a new
  // largest score, by a power that is off by 2 ulp and 2 roundings of its exponent, and rounded.
  // Lanes sum a fourth of the keys each, or less.
  const std::size_t tiles = (c.length + 31) / 32;
  const std::size_t roundings = 5 * tiles + c.length / 4 + 8;
  const harness::AttentionError<T> error{c, exact, {6, roundings, c.length + roundings}};
  Ratios ratios{0, worst_of(gpu.out.view, exact_out, error.out),
                worst_of(gpu.dqkv.view, exact.dqkv, error.dqkv)};
  for (std::size_t i = 0; i < exact_lse.count(); ++i)
    ratios.lse = std::max(
        ratios.lse, std::abs(static_cast<double>(gpu.lse.view[i]) - exact_lse[i]) / error.lse[i]);
  return ratios;
}

template <class D, class T>
void check(const Case& c, bool on_tensor_cores, std::size_t shift = 0) {
  CAPTURE(c.batch);
  CAPTURE(c.length);
  CAPTURE(c.heads);
  CAPTURE(c.head);
  CAPTURE(shift);
  emulated::fragment_products = emulated::bank_conflicts = 0;
  Gpu<D, T> gpu{c, shift};
  const Ratios ratios = compare(gpu);
  CHECK(ratios.lse <= 1);
  CHECK(ratios.out <= 1);
  CHECK(ratios.dqkv <= 1);
  CHECK(gpu.is_guarded());
  CHECK((emulated::fragment_products > 0) == on_tensor_cores);
  CHECK(emulated::bank_conflicts == 0);
}

TEST_CASE_TEMPLATE("attention on tensor cores", T, sx::bf16, sx::fp16) {
  constexpr bool is_bf16 = std::is_same_v<T, sx::bf16>;
  for (const std::size_t head : {64u, 128u})
    for (const Case c :
         {Case{2, 1, 2, head}, {2, 37, 2, head}, {1, 64, 2, head}, {1, 129, 1, head}})
      check<sx::Cuda, T>(c, true);
  if (is_bf16 && !SANITIZED) {  // where to switch fibers costs a call of the system
    check<sx::Cuda, T>({2, 200, 2, 64}, true);
    check<sx::Cuda, T>({1, 300, 1, 64}, true);
    check<sx::Cuda, T>({1, 200, 2, 128}, true);
  }
}

TEST_CASE("attention without tensor cores") {
  for (const Case c : {Case{2, 1, 2, 5},
                       {2, 37, 3, 8},
                       {1, 70, 2, 33},
                       {2, 129, 1, 64},
                       {1, 40, 1, 128},
                       {1, 35, 1, 256}})
    check<sx::Cuda, float>(c, false);
  for (const Case c : {Case{2, 1, 1, 8}, {2, 65, 2, 40}, {1, 33, 1, 96}}) {
    check<sx::Cuda, sx::bf16>(c, false);
    check<sx::Cuda, sx::fp16>(c, false);
  }
  // Rows of 128 bytes that do not begin at multiples of 16.
  check<sx::Cuda, sx::bf16>({2, 37, 2, 64}, false, 2);
}

// Another stream, which nothing orders behind the layers', may read what they read, and no more.
TEST_CASE_TEMPLATE("attention declares what it touches", T, sx::bf16, float) {
  using D = sx::Checked<sx::Cuda>;
  check<D, T>({2, 37, 2, 64}, sizeof(T) == 2);
  Gpu<D, T> gpu{{1, 3, 1, 64}};
  typename D::Stream other{gpu.device, "other"};
  const sx::Context<D> elsewhere{gpu.device, other};
  const auto read = [&](const auto& t) {
    elsewhere.enqueue(sx::reads(t.view), sx::writes(), [](cudaStream_t) {});
  };
  const auto write = [&](const auto& t) {
    elsewhere.enqueue(sx::reads(), sx::writes(t.view), [](cudaStream_t) {});
  };
  const auto was_read = [&](const auto& t) {
    CHECK_THROWS_AS(write(t), sx::RaceError);
    CHECK_NOTHROW(read(t));
  };
  const auto was_written = [&](const auto& t) { CHECK_THROWS_AS(read(t), sx::RaceError); };
  gpu.enqueue_forward();
  was_read(gpu.qkv);
  was_written(gpu.lse);
  was_written(gpu.out);
  gpu.device.synchronize(gpu.stream);
  gpu.device.synchronize(other);
  gpu.enqueue_backward();
  was_read(gpu.qkv);
  was_read(gpu.lse);
  was_read(gpu.out);
  was_read(gpu.dout);
  was_written(gpu.sums);
  was_written(gpu.dqkv);
  gpu.device.synchronize(gpu.stream);
  gpu.device.synchronize(other);
}

TEST_CASE("attention refuses heads that are too large") {
  Gpu<sx::Cuda, float> large{{1, 2, 1, 257}};
  CHECK_THROWS_WITH_AS(large.forward(),
                       "attention on a GPU takes heads of at most 256 elements; these have 257: "
                       "use more heads",
                       sx::Error);
  CHECK_THROWS_AS(large.backward(), sx::Error);
}

/// q, k, v of one row, of all of them.
template <class T>
void set_rows(Tensor<T> qkv, std::size_t from, std::size_t to, float value) {
  const std::size_t width = qkv.shape[2];
  for (std::size_t i = from * width; i < to * width; ++i) qkv[i] = static_cast<T>(value);
}

TEST_CASE_TEMPLATE("attention: no row sees what comes after it, nor another sequence", T, sx::bf16,
                   float) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const Case c{2, 150, 1, 64};
  Gpu<sx::Cuda, T> gpu{c};
  gpu.forward();
  gpu.backward();
  const auto out = gpu.out.view, dqkv = gpu.dqkv.view;
  const std::vector<T> before(out.span().begin(), out.span().end());
  const std::vector<T> gradient(dqkv.span().begin(), dqkv.span().end());
  set_rows(gpu.qkv.view, c.length, 2 * c.length, nan);  // the other sequence
  gpu.forward();
  gpu.backward();
  CHECK(std::memcmp(out.data, before.data(), out.size_bytes() / 2) == 0);
  CHECK(std::memcmp(dqkv.data, gradient.data(), dqkv.size_bytes() / 2) == 0);
  for (const std::size_t changed : {149u, 128u, 64u, 1u}) {
    CAPTURE(changed);
    set_rows(gpu.qkv.view, changed, c.length, 3);
    gpu.forward();
    const std::size_t width = out.shape[2];
    CHECK(std::memcmp(out.data, before.data(), changed * width * sizeof(T)) == 0);
    CHECK(std::memcmp(out.data + changed * width, before.data() + changed * width,
                      width * sizeof(T)) != 0);
  }
  for (std::size_t i = 70 * 64; i < gpu.dout.view.count(); ++i) gpu.dout.view[i] = T{};
  gpu.backward();
  for (std::size_t i = 70 * 3 * 64; i < dqkv.count() / 2; ++i)
    REQUIRE(static_cast<float>(dqkv[i]) == 0);
}

TEST_CASE_TEMPLATE("attention: large scores do not overflow", T, sx::bf16, float) {
  Gpu<sx::Cuda, T> gpu{{1, 140, 1, 64}};
  for (T& x : gpu.qkv.view.span()) x = static_cast<T>(100 * static_cast<float>(x));
  gpu.forward();
  gpu.backward();
  for (const T x : gpu.out.view.span()) REQUIRE(std::isfinite(static_cast<float>(x)));
  for (const T x : gpu.dqkv.view.span()) REQUIRE(std::isfinite(static_cast<float>(x)));
}

TEST_CASE_TEMPLATE("attention: the same bits again, wherever memory lies", T, sx::bf16, float) {
  const Case c{2, 75, 2, 64};
  Gpu<sx::Cuda, T> first{c}, second{c, 8};
  for (Gpu<sx::Cuda, T>* gpu : {&first, &second, &second}) {
    gpu->forward();
    gpu->backward();
    CHECK(bits_of(gpu->out.view) == bits_of(first.out.view));
    CHECK(bits_of(gpu->lse.view) == bits_of(first.lse.view));
    CHECK(bits_of(gpu->dqkv.view) == bits_of(first.dqkv.view));
  }
}

TEST_CASE("blocks take each tile of each head once, of some heads the heavy ones first") {
  struct Fake {
    std::size_t context, heads;
  };
  for (const Fake f : {Fake{1, 1}, {130, 5}, {1024, 192}, {4096, 50}, {1 << 20, 3}}) {
    const sx::Tensor<const sx::bf16> qkv{nullptr, shape(1, f.context, 3 * f.heads * 64)};
    const nn::detail::TileOrder order{nn::detail::AttentionShape{qkv, f.heads}, 128, 2};
    CAPTURE(f.context);
    std::vector<char> is_taken(order.blocks());
    std::size_t before = 0;
    for (std::size_t block = 0; block < order.blocks(); ++block) {
      const auto place = order.of(block);
      REQUIRE(place.head < f.heads);
      REQUIRE(place.weight < order.tiles);
      REQUIRE(!std::exchange(is_taken[place.head * order.tiles + place.weight], 1));
      if (block % (order.together * order.tiles) != 0) REQUIRE(place.weight >= before);
      before = place.weight;
    }
  }
}

}  // namespace
