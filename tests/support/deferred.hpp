// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/cpu.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// A device that runs nothing before it must: `synchronize` runs what its stream holds, and first
/// what that waits for. What a wrapper does too early, while it enqueues, shows.
class Deferred : public shardexpr::Cpu {
  using Where = shardexpr::SourceLocation;

 public:
  struct Stream {
    Stream() = default;
    Stream(Deferred&, std::string_view) {}
    Stream(Deferred&, std::string_view, shardexpr::OwnThread) {}
    std::vector<std::function<void()>> work;
    std::size_t done = 0;

    void run_until(std::size_t end) {
      while (done < end) std::exchange(work[done++], nullptr)();
    }
  };
  struct Event {
    Stream* stream = nullptr;
    std::size_t end = 0;
  };

  using Host = Deferred;
  Host& host() {
    if (host_ == nullptr) host_ = std::make_unique<Deferred>();
    return *host_;
  }

  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const shardexpr::Reads<R>&, const shardexpr::Writes<W>&, Work&& work,
           Where = Where::current()) {
    stream.work.emplace_back(std::forward<Work>(work));
  }
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const shardexpr::Reads<R>&,
                const shardexpr::Writes<W>&, Functor functor, Where = Where::current()) {
    stream.work.emplace_back([=] {
      for (std::size_t i = 0; i < count; ++i) functor(i);
    });
  }
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to, Where = Where::current()) {
    stream.work.emplace_back([=, this] { Cpu::copy(now_, from, to); });
  }
  template <class From, class To>
  void cast(Stream& stream, std::span<const From> from, std::span<To> to,
            Where = Where::current()) {
    stream.work.emplace_back([=, this] { Cpu::cast(now_, from, to); });
  }
  template <class T>
  void fill_zero(Stream& stream, std::span<T> to, Where = Where::current()) {
    stream.work.emplace_back([=, this] { Cpu::fill_zero(now_, to); });
  }
  template <class T>
  void sum_squares(Stream& stream, std::span<const T> values, shardexpr::ExactSum* sum,
                   Where = Where::current()) {
    stream.work.emplace_back([=, this] { Cpu::sum_squares(now_, values, sum); });
  }

  void record(Event& event, Stream& stream) { event = {&stream, stream.work.size()}; }
  void wait(Stream& stream, const Event& event) {
    if (event.stream != nullptr)
      stream.work.emplace_back([event] { event.stream->run_until(event.end); });
  }
  void synchronize(Stream& stream) { stream.run_until(stream.work.size()); }
  void drain(Stream& stream) { synchronize(stream); }

  void annotate(Stream&, const shardexpr::Label&) {}
  template <class T>
  void retire(Stream&, std::span<T>) {}
  void note_live(Stream&, shardexpr::Purpose, std::size_t) {}

 private:
  Cpu::Stream now_;
  std::unique_ptr<Deferred> host_;
};

static_assert(shardexpr::HasHost<Deferred>);
