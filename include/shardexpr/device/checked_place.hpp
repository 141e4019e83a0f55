// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/label.hpp>
#include <shardexpr/device/vector_clock.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <span>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

namespace shardexpr {

template <class D>
class Checked;

namespace detail {

template <class D, class Inner>
class CheckedPlace;

/// A stream of `D`, and what it knows of the others.
template <class D>
class CheckedStream {
 public:
  CheckedStream() = default;
  CheckedStream(Checked<D>& device, std::string_view name)
      : owned_{device.device_, name}, has_thread_{device.is_asynchronous()} {
    device.enter(*this, name);
  }
  CheckedStream(Checked<D>& device, std::string_view name, OwnThread own) requires
      std::constructible_from<typename D::Stream, D&, std::string_view, OwnThread>
      : owned_{device.device_, name, own}, has_thread_{true} {
    device.enter(*this, name);
  }
  CheckedStream(const CheckedStream&) = delete;
  CheckedStream& operator=(const CheckedStream&) = delete;
  ~CheckedStream() {
    if (device_ != nullptr) device_->leave(*this);
  }

 private:
  friend class Checked<D>;
  template <class, class>
  friend class CheckedPlace;
  typename D::Stream owned_;
  Checked<D>* device_ = nullptr;  // null: not used yet
  bool has_thread_ = false;
  std::size_t component_ = 0;
  std::string_view name_;
  VectorClock clock_;
  Label label_;
  std::minstd_rand random_;
};

/// Memory of `Checked<D>` and the operations on it: on the device itself, where `Inner` is `D`, or
/// on the host beside it, where it is `D::Host&`. All places of a device have one log, one set of
/// clocks and the same streams.
template <class D, class Inner>
class CheckedPlace {
  using Place = std::remove_reference_t<Inner>;
  using Bytes = typename Place::template Buffer<std::byte>;
  static constexpr bool is_host = std::is_reference_v<Inner>;

 public:
  using Stream = CheckedStream<D>;
  static constexpr bool runs_on_host = requires { requires Place::runs_on_host; };
  static constexpr bool shares_memory = Place::shares_memory;
  static constexpr std::size_t held_bytes = std::size_t{16} << 20;

  /// Memory as the inner device gives it.
  template <class T>
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : place_{std::exchange(other.place_, nullptr)},
          bytes_{std::move(other.bytes_)},
          purpose_{other.purpose_} {}
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(place_, other.place_);
      std::swap(bytes_, other.bytes_);
      std::swap(purpose_, other.purpose_);
      return *this;
    }
    ~Buffer() {
      if (place_ != nullptr) place_->free(std::move(bytes_), purpose_);
    }

    T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
    std::size_t count() const { return bytes_.count() / sizeof(T); }
    std::size_t size_bytes() const { return bytes_.count(); }
    std::span<T> span() const { return {data(), count()}; }

   private:
    friend class CheckedPlace;
    Buffer(CheckedPlace* place, Bytes&& bytes, Purpose purpose)
        : place_{place}, bytes_{std::move(bytes)}, purpose_{purpose} {}

    CheckedPlace* place_ = nullptr;
    Bytes bytes_;
    Purpose purpose_ = Purpose::other;
  };

  template <class... Args>
  explicit CheckedPlace(Checked<D>& checked, Args&&... args)
      : checked_{&checked}, device_(std::forward<Args>(args)...) {}
  CheckedPlace(const CheckedPlace&) = delete;
  CheckedPlace& operator=(const CheckedPlace&) = delete;

  template <class T>
  Buffer<T> allocate(std::size_t count, Purpose purpose) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count == 0) return {};
    Bytes bytes = device_.template allocate<std::byte>(count * sizeof(T), purpose);
    checked_->log_.allocate(bytes.data(), bytes.count(), purpose, is_host);
    account_.add(purpose, bytes.count());
    return {this, std::move(bytes), purpose};
  }

  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, Work&& work,
           SourceLocation where = SourceLocation::current()) {
    admit(stream, reads, writes, where);
    device_.run(stream.owned_, reads, writes, std::forward<Work>(work), where);
  }
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const Reads<R>& reads, const Writes<W>& writes,
                Functor functor, SourceLocation where = SourceLocation::current()) {
    admit(stream, reads, writes, where);
    device_.for_each(stream.owned_, count, reads, writes, functor, where);
  }
  /// What a library enqueues by itself, where the device lets it.
  template <std::size_t R, std::size_t W, class Launch, class Danger>
  void enqueue(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, Launch&& launch,
               const Danger& danger, SourceLocation where = SourceLocation::current()) {
    admit(stream, reads, writes, where);
    device_.enqueue(stream.owned_, reads, writes, std::forward<Launch>(launch), danger, where);
  }
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to,
            SourceLocation where = SourceLocation::current()) {
    admit(stream, reads(from), writes(to), where);
    device_.copy(stream.owned_, from, to, where);
  }
  template <class From, class To>
  void cast(Stream& stream, std::span<const From> from, std::span<To> to,
            SourceLocation where = SourceLocation::current()) {
    admit(stream, reads(from), writes(to), where);
    device_.cast(stream.owned_, from, to, where);
  }
  template <class T>
  void fill_zero(Stream& stream, std::span<T> to,
                 SourceLocation where = SourceLocation::current()) {
    admit(stream, reads(), writes(to), where);
    device_.fill_zero(stream.owned_, to, where);
  }
  template <class T>
  void sum_squares(Stream& stream, std::span<const T> values, ExactSum* sum,
                   SourceLocation where = SourceLocation::current()) {
    const std::span<ExactSum> total{sum, 1};
    admit(stream, reads(values, total), writes(total), where);
    device_.sum_squares(stream.owned_, values, sum, where);
  }
  template <class T>
  void retire(Stream& stream, std::span<T> span, SourceLocation where = SourceLocation::current()) {
    checked_->judge_retirement(stream, detail::access(span), where);
    device_.retire(stream.owned_, span);
  }
  void note_live(Stream& stream, Purpose purpose, std::size_t size_bytes) {
    device_.note_live(stream.owned_, purpose, size_bytes);
  }

  const MemoryAccount& account() const { return account_; }
  MemoryAccount& account() { return account_; }
  std::size_t available_bytes() const requires requires(const Place& place) {
    place.available_bytes();
  }
  { return device_.available_bytes(); }

 private:
  friend class Checked<D>;
  friend class CheckedStream<D>;

  template <std::size_t R, std::size_t W>
  void admit(Stream& stream, const Reads<R>& reads, const Writes<W>& writes, SourceLocation where) {
    checked_->judge(stream, reads, writes, where);
    delay(stream);
  }

  void free(Bytes&& bytes, Purpose purpose) noexcept {
    account_.remove(purpose, bytes.count());
    checked_->judge_free({bytes.data(), bytes.count()});
    held_size_ += bytes.count();
    held_.push_back(std::move(bytes));
    while (held_size_ > held_bytes) {
      held_size_ -= held_.front().count();
      checked_->log_.forget(held_.front().data(), held_.front().count());
      held_.pop_front();
    }
  }

  void delay([[maybe_unused]] Stream& stream) {
    if constexpr (runs_on_host) {
      const auto longest = static_cast<std::uint64_t>(checked_->options_.longest_delay.count());
      if (checked_->options_.longest_delay.count() <= 0 || !stream.has_thread_ ||
          stream.random_() / 7 % 4 != 0)  // a system's sleep is long: some suffice
        return;
      device_.run(stream.owned_, shardexpr::reads(), shardexpr::writes(),
                  [time = std::chrono::microseconds{stream.random_() % longest}] {
                    if (time.count() == 0)
                      std::this_thread::yield();
                    else
                      std::this_thread::sleep_for(time);
                  });
    }
  }

  Checked<D>* checked_;
  Inner device_;
  MemoryAccount account_;  // `device_` counts what is held back too
  std::deque<Bytes> held_;
  std::size_t held_size_ = 0;
};

/// The host beside `D`, where it has one. It is made when it is first asked for.
template <class D>
class CheckedHost {};
template <HasHost D>
class CheckedHost<D> {
 public:
  using Host = CheckedPlace<D, typename D::Host&>;

 protected:
  std::optional<Host> host_place_;
};

}  // namespace detail

}  // namespace shardexpr
