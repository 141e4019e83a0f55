// SPDX-License-Identifier: Apache-2.0
// docs/howto/own_communicator.md: a communicator that wraps another and counts what goes through.
#include <array>
#include <cstddef>
#include <cstdio>
#include <span>
#include <type_traits>
#include <utility>

#include "../tutorial/perceptron.hpp"

// [communicator]
/// Counts the calls of each collective, and the bytes that a rank's own arrays have there.
template <class C>
class Counted {
 public:
  enum Collective { all_gather_, gather_, reduce_scatter_, all_reduce_, broadcast_, all_to_all_ };
  struct Count {
    std::size_t calls = 0, bytes = 0;
  };

  // Ranks of C read one buffer of gathered parameters: the plan charges each its part.
  static constexpr bool gather_is_shared = C::gather_is_shared;

  explicit Counted(C&& inner) : inner_{std::move(inner)} {}
  std::size_t rank() const { return inner_.rank(); }
  std::size_t size() const { return inner_.size(); }
  const sx::Traffic& traffic() const { return inner_.traffic(); }
  const Count& count(Collective collective) const { return counts_[collective]; }

  template <class T, class D>
  void all_gather(const sx::Context<D>& on, std::span<const std::type_identity_t<T>> shard,
                  std::span<T> full) {
    add(all_gather_, full);
    inner_.all_gather(on, shard, full);
  }
  template <class T, class D>
  auto gather_buffer(D& device, std::size_t count) {
    return inner_.template gather_buffer<T>(device, count);
  }
  template <class T, class D>
  void gather(const sx::Context<D>& on, std::span<const std::type_identity_t<T>> shard,
              std::span<T> full) {
    add(gather_, full);
    inner_.gather(on, shard, full);
  }
  template <class T, class D>
  void reduce_scatter(const sx::Context<D>& on, std::span<const std::type_identity_t<T>> full,
                      std::span<T> shard, sx::Reduction reduction) {
    add(reduce_scatter_, full);
    inner_.reduce_scatter(on, full, shard, reduction);
  }
  template <class T, class D>
  void all_reduce(const sx::Context<D>& on, std::span<T> values, sx::Reduction reduction) {
    add(all_reduce_, values);
    inner_.all_reduce(on, values, reduction);
  }
  template <class T, class D>
  void broadcast(const sx::Context<D>& on, std::span<T> values, std::size_t root) {
    add(broadcast_, values);
    inner_.broadcast(on, values, root);
  }
  template <class T, class D>
  void all_to_all(const sx::Context<D>& on, std::span<const std::type_identity_t<T>> from,
                  std::span<T> to) {
    add(all_to_all_, to);
    inner_.all_to_all(on, from, to);
  }
  template <class D>
  void barrier(const sx::Context<D>& on) {
    inner_.barrier(on);
  }
  Counted split(int color, int key) { return Counted{inner_.split(color, key)}; }

 private:
  template <class Values>
  void add(Collective collective, const Values& values) {
    ++counts_[collective].calls;
    counts_[collective].bytes += values.size_bytes();
  }

  C inner_;
  std::array<Count, 6> counts_{};
};
static_assert(sx::Communicator<Counted<sx::Threads>, sx::Cpu>);
// [communicator end]

using Comm = Counted<sx::Threads>;
using Trainer = sx::Sharded<perceptron::Model, sx::FullShard, sx::Over<Comm>>;

int main() {
  const perceptron::Config config;
  const sx::Plan plan = sx::plan<Trainer>(config, 2);
  bool is_right = false;
  sx::launch(2, [&](sx::Threads& threads) {
    // [use]
    Comm comm{std::move(threads)};
    sx::Cpu device;
    Trainer trainer{device, comm, config};
    // [use end]
    const Comm::Count before = comm.count(Comm::gather_);
    const sx::Traffic sent_before = comm.traffic();
    const perceptron::Points points{config, comm.rank()};
    (void)trainer.step(points.batch());
    // Each unit is gathered for forward and for backward; the last stays from one to the other.
    const std::size_t gathers = comm.count(Comm::gather_).calls - before.calls;
    const std::size_t units = 2 + config.depth;
    const sx::Traffic sent = comm.traffic() - sent_before;
    if (comm.rank() != 0) return;
    is_right = gathers == 2 * units - 1 && comm.count(Comm::reduce_scatter_).calls == units &&
               sent.total() == plan.sent_bytes;
    std::printf(
        "%zu gathers and %zu reduce-scatters in a step of %zu units; sent %zu bytes, planned %zu\n",
        gathers, comm.count(Comm::reduce_scatter_).calls, units, sent.total(), plan.sent_bytes);
  });
  return is_right ? 0 : 1;
}
