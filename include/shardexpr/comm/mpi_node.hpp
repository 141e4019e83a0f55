// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call_on_wire.hpp>
#include <shardexpr/comm/mpi_channel.hpp>
#include <shardexpr/comm/mpi_window.hpp>
#include <shardexpr/comm/spin.hpp>
#include <shardexpr/core/error.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mpi.h>

namespace shardexpr::detail {

/// Memory of a window, as ranks name it to each other.
struct WindowPlace {
  std::uint64_t window = 0;  // 0: of none
  std::uint64_t offset = 0;
  friend bool operator==(const WindowPlace&, const WindowPlace&) = default;
};

/// The ranks of a communicator that share a machine's memory: a place where each says what it calls
/// and where its data lie, a barrier, and windows.
///
/// A collective is: `meet`, read the peers' memory, `sync`. Where data lie in memory of one process
/// alone, they go through the stage, a window of this object, as messages that every rank writes
/// and every other one reads: `pass`.
class MpiNode {
 public:
  /// The most bytes of a message: as fast as any here. Four are under way at a time, so that one
  /// who is held up by the system does not at once hold up the others. Nobody waits for who reads:
  /// who writes message m has read m - 2, peers had written that one by then, and read m - 4
  /// before.
  static constexpr std::size_t message_bytes = std::size_t{256} << 10, messages = 4;

  /// Every rank of `channel` makes one at the same time.
  MpiNode(std::shared_ptr<MpiChannel> channel, const std::string& what)
      : channel_{std::move(channel)}, nodes_{channel_->nodes(what)} {
    if (size() == 1) return;
    static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
    meeting_ = std::make_unique<MpiWindow>(*channel_, nodes_.comm, MpiWindow::Form::one_each,
                                           sizeof(Slot), what);
    stage_ = std::make_unique<MpiWindow>(*channel_, nodes_.comm, MpiWindow::Form::one_each,
                                         messages * message_bytes, what);
    for (std::size_t peer = 0; peer < size(); ++peer)
      slots_.push_back(peer == rank() ? new (meeting_->part(peer)) Slot
                                      : reinterpret_cast<Slot*>(meeting_->part(peer)));
    const MpiChannel::Turn turn{*channel_};
    channel_->check(MPI_Barrier(nodes_.comm), what);  // every slot is there
  }
  MpiNode(const MpiNode&) = delete;
  MpiNode& operator=(const MpiNode&) = delete;
  /// Where an exception unwinds, or the job has failed, peers may not come: windows stay then.
  ~MpiNode() {
    if (nodes_.comm == MPI_COMM_NULL || !channel_->ends_well()) return;
    for (const auto& [id, window] : windows_) window->free();
    if (stage_ != nullptr) stage_->free();
    if (meeting_ != nullptr) meeting_->free();
    const MpiChannel::Turn turn{*channel_};
    MPI_Comm_free(&nodes_.comm);
  }

  /// Among the ranks of this node.
  std::size_t rank() const { return nodes_.rank; }
  std::size_t size() const { return nodes_.members.size(); }
  /// The communicator's rank of this node's rank `peer`, and the other way round.
  std::size_t member(std::size_t peer) const { return nodes_.members[peer]; }
  /// Whether every rank of the communicator is on this node.
  bool is_whole() const { return size() == channel_->size(); }
  const MpiNodes& nodes() const { return nodes_; }

  /// Who wants to give memory back says so by `retire`.
  /// Order:   every rank of the node calls it at the same time, on no stream.
  /// Errors:  CommError as MpiWindow has.
  std::uint64_t allocate(MpiWindow::Form form, std::size_t size_bytes, const std::string& what) {
    free_retired(what);
    auto window = std::make_unique<MpiWindow>(*channel_, nodes_.comm, form, size_bytes, what);
    windows_.emplace_back(++last_id_, std::move(window));
    return last_id_;
  }
  /// It is freed when every rank of the node has retired it and one allocates, or at the end.
  void retire(std::uint64_t id) {
    const std::scoped_lock lock{retiring_};
    retired_.push_back(id);
  }
  /// Of a window of form one: what all have.
  std::byte* own(std::uint64_t id) const { return find(id)->part(rank()); }

  WindowPlace place_of(const void* data, std::size_t count_bytes) const {
    for (const auto& [id, window] : windows_)
      if (window->holds(data, count_bytes)) return {id, window->offset(data)};
    return {};
  }
  std::byte* at(std::size_t peer, const WindowPlace& place) const {
    return find(place.window)->part(peer) + place.offset;
  }

  // Between ranks that make the same calls.

  /// Every rank has come, and what it says is to be had from `said` until the next but one `meet`.
  /// Errors:  CommError in every rank of the node when ranks make different calls.
  void meet(const Call& call, const WindowPlace& place = {}) {
    if (size() == 1) {
      alone_ = place;
      return;
    }
    said_turn_ ^= 1;
    slots_[rank()]->said[said_turn_] = {CallOnWire{call}, place};
    sync();
    for (std::size_t peer = 1; peer < size(); ++peer)
      if (!(said(peer).call == said(0).call))  // the same verdict in every rank
        channel_->throw_different(member(0), said(0).call, member(peer), said(peer).call);
  }
  const WindowPlace& place(std::size_t peer) const {
    return size() == 1 ? alone_ : said(peer).place;
  }
  /// Whether the data of every rank lie where its peers read them.
  bool all_in_windows() const {
    for (std::size_t peer = 0; peer < size(); ++peer)
      if (place(peer).window == 0) return false;
    return true;
  }

  /// No rank goes on before every rank of the node has come.
  void sync() {
    if (size() == 1) return;
    const std::uint64_t mine = slots_[rank()]->arrived.load(std::memory_order_relaxed) + 1;
    slots_[rank()]->arrived.store(mine, std::memory_order_release);
    await(&Slot::arrived, mine);
  }
  /// Passes `count` messages: `write(k, to)` is called for each in turn, and `read(k, from)` when
  /// every peer has written its own, where `from(peer)` is the message of the node's rank `peer`,
  /// not this one. One is written ahead of what is read. Every rank passes as many.
  template <class Write, class Read>
  void pass(std::size_t count, Write write, Read read) {
    for (std::size_t k = 0; k <= count; ++k) {
      if (k < count) {
        write(k, message(rank(), written_));
        slots_[rank()]->written.store(++written_, std::memory_order_release);
      }
      if (k == 0) continue;
      await(&Slot::written, read_ + 1);
      read(k - 1, [this](std::size_t peer) { return message(peer, read_); });
      ++read_;
    }
  }

 private:
  struct Said {
    CallOnWire call;
    WindowPlace place;
  };
  using Count = std::atomic<std::uint64_t>;
  struct Slot {
    alignas(cache_line_bytes) Count arrived{0};
    alignas(cache_line_bytes) Count written{0};
    // In turns: a rank that has met goes on to say its next call while another reads this one.
    alignas(cache_line_bytes) Said said[2];
  };
  using Numbered = std::pair<std::uint64_t, std::unique_ptr<MpiWindow>>;

  /// Until that count of every rank has come to `least`.
  void await(Count Slot::*count, std::uint64_t least) const {
    for (Slot* slot : slots_)
      for (int spin = 0; (slot->*count).load(std::memory_order_acquire) < least; ++spin)
        if (spin < spins_)
          relax();
        else
          channel_->pause();
  }
  std::byte* message(std::size_t peer, std::uint64_t number) const {
    return stage_->part(peer) + number % messages * message_bytes;
  }
  const Said& said(std::size_t peer) const { return slots_[peer]->said[said_turn_]; }
  MpiWindow* find(std::uint64_t id) const {
    const auto is_it = [id](const Numbered& window) { return window.first == id; };
    return std::find_if(windows_.begin(), windows_.end(), is_it)->second.get();
  }
  void free_retired(const std::string& what) {
    if (windows_.empty()) return;
    std::vector<unsigned char> may_go;
    {
      const std::scoped_lock lock{retiring_};
      for (const auto& [id, window] : windows_)
        may_go.push_back(std::find(retired_.begin(), retired_.end(), id) != retired_.end());
    }
    {
      const MpiChannel::Turn turn{*channel_};
      channel_->check(MPI_Allreduce(MPI_IN_PLACE, may_go.data(), static_cast<int>(may_go.size()),
                                    MPI_UNSIGNED_CHAR, MPI_BAND, nodes_.comm),
                      what);
    }
    std::size_t i = 0;
    std::erase_if(windows_, [&](const Numbered& window) {
      if (!may_go[i++]) return false;
      window.second->free();
      const std::scoped_lock lock{retiring_};
      std::erase(retired_, window.first);
      return true;
    });
  }

  std::shared_ptr<MpiChannel> channel_;
  MpiNodes nodes_;
  std::unique_ptr<MpiWindow> meeting_, stage_;
  std::vector<Slot*> slots_;
  std::size_t said_turn_ = 0;
  std::uint64_t written_ = 0, read_ = 0;  // messages of this rank
  WindowPlace alone_;
  // More processes than cores wait for each other: who spins holds up who is waited for.
  int spins_ = nodes_.processes > std::thread::hardware_concurrency() ? 0 : 200;

  std::vector<Numbered> windows_;
  std::uint64_t last_id_ = 0;
  std::mutex retiring_;
  std::vector<std::uint64_t> retired_;
};

}  // namespace shardexpr::detail
