// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/agree.hpp>
#include <shardexpr/checkpoint/durable_files.hpp>
#include <shardexpr/checkpoint/forms.hpp>
#include <shardexpr/checkpoint/new_checkpoint.hpp>
#include <shardexpr/checkpoint/part_board.hpp>
#include <shardexpr/checkpoint/part_to_save.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/checkpoint/trained_state.hpp>
#include <shardexpr/engine/trainer_access.hpp>
#include <shardexpr/io/system.hpp>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace shardexpr {

/// Saves checkpoints while training goes on: `save` copies the state into memory of the host and
/// returns; a thread of each rank then writes its part, and rank 0's, once all parts are on the
/// disk, brings the checkpoint to its place. What is saved is the step at which `save` was called.
///
///   sx::AsyncSaver saver{trainer, "checkpoints"};
///   for (...) {
///     trainer.step(batch);
///     if (...) saver.save({.cursor = ...});
///   }
///   saver.wait();
///
/// What a strategy keeps on a disk is not brought to memory: `save` writes it to the checkpoint at
/// once, and training waits for that.
///
/// Order:   construction, `save` and `wait` are collective. The trainer outlives it. No other save
///          writes to the directory meanwhile.
/// Errors:  as save_checkpoint; what fails behind a `save` is thrown by the next `wait` or `save`,
///          on every rank.
/// Cost:    memory of the host for what a rank keeps in memory, `snapshot_bytes`, from construction
///          on; it is charged to the host's account as transfers. A copy of it for each `save`.
template <class Trainer, class Form = ShardedState, class System = detail::LinuxSystem>
class AsyncSaver {
  using Core =
      std::remove_reference_t<decltype(detail::TrainerAccess::core(std::declval<Trainer&>()))>;
  using Part = detail::PartToSave<System, Trainer>;
  using Memory = typename Core::Host::template Buffer<std::byte>;

 public:
  /// Saves what `trainer` holds below `directory`, in the form that `form` says.
  explicit AsyncSaver(Trainer& trainer, std::string directory, const Form& form = {})
      : trainer_{&trainer},
        directory_{std::move(directory)},
        form_{form},
        shape_{detail::part_shape<Form>(trainer)} {
    detail::check_save(form, {});
    if (Part::is_any(trainer, shape_)) snapshot_bytes_ = Part::memory_bytes(trainer, shape_);
    memory_ = core().host().template allocate<std::byte>(snapshot_bytes_, Purpose::transfers);
  }
  AsyncSaver(const AsyncSaver&) = delete;
  AsyncSaver& operator=(const AsyncSaver&) = delete;
  /// Lets what is being written end. Not collective; what fails now is said on stderr alone: `wait`
  /// throws it.
  ~AsyncSaver() {
    if (!part_written_.valid()) return;
    // Other ranks may be gone.
    if (std::uncaught_exceptions() > exceptions_) board_->give_up();
    try {
      part_written_.get();
      if (committed_.wait_for(std::chrono::minutes{1}) != std::future_status::ready)
        board_->give_up();
      committed_.get();
    } catch (const std::exception& error) {
      board_->give_up();
      std::fprintf(stderr, "shardexpr: an asynchronous save failed: %s\n", error.what());
    }
    thread_.join();
  }

  /// Returns when the state was copied. Waits for the save before, if that is not done.
  void save(const SaveOptions& options = {}) {
    using namespace detail;
    wait();
    TrainerAccess::check_idle(*trainer_, "AsyncSaver::save");
    check_save(form_, options);
    const bool leads = core().mesh.world().rank() == 0;
    NewCheckpoint<System> checkpoint{directory_, trainer_->steps()};
    agree(core(), "AsyncSaver::save", [&] {
      if (leads) checkpoint.begin();
    });
    std::optional<Part> part;
    std::vector<Piece> pieces;
    agree(core(), "AsyncSaver::save", [&] {
      if (!Part::is_any(*trainer_, shape_)) return;
      part.emplace(*trainer_, shape_, checkpoint.folder());
      pieces = copy_state(*part);
    });
    Manifest manifest;
    if (leads) manifest = manifest_of(*trainer_, std::is_same_v<Form, LocalState>, options.cursor);

    board_.emplace(checkpoint.folder(), core().mesh.world().rank());
    std::promise<void> written, committed;
    part_written_ = written.get_future();
    committed_ = committed.get_future();
    thread_ =
        std::thread{[this, leads, options, pieces = std::move(pieces), part = std::move(part),
                     checkpoint = std::move(checkpoint), manifest = std::move(manifest),
                     written = std::move(written), committed = std::move(committed)]() mutable {
          settle(written, [&] {
            if (part) board_->post([&] { return write(*part, pieces); });
          });
          settle(committed, [&] {
            if (!leads) return;
            for (std::size_t rank = 0; rank < shape_.parts; ++rank)
              manifest.files.push_back(board_->await(rank, part_name(rank, shape_.parts)));
            board_->clear(shape_.parts);
            commit_parts(checkpoint, std::move(manifest), form_, options);
          });
        }};
  }
  /// Returns when the last save is on the disk.
  void wait() {
    using namespace detail;
    if (!part_written_.valid()) return;
    const Ended ended{*this};  // whatever is thrown
    // First that each rank has written its part: rank 0 need not wait for one that failed.
    agree(core(), "AsyncSaver", [&] { part_written_.get(); });
    agree(core(), "AsyncSaver", [&] { committed_.get(); });
  }

  /// Whether a save is still being written, as far as this rank knows.
  bool is_saving() const {
    return committed_.valid() &&
           committed_.wait_for(std::chrono::seconds{0}) != std::future_status::ready;
  }
  /// Of this rank's host.
  std::size_t snapshot_bytes() const { return snapshot_bytes_; }

 private:
  /// What lies in the snapshot, in order.
  struct Piece {
    std::size_t tensor, first, bytes;
  };
  struct Ended {
    AsyncSaver& saver;
    int exceptions = std::uncaught_exceptions();
    ~Ended() {
      if (std::uncaught_exceptions() > exceptions) saver.board_->give_up();
      saver.thread_.join();
      saver.part_written_ = {};
      saver.committed_ = {};
    }
  };

  Core& core() const { return detail::TrainerAccess::core(*trainer_); }

  std::vector<Piece> copy_state(Part& part) {
    std::vector<Piece> pieces;
    std::size_t used = 0;
    part.visit([&](std::size_t tensor, std::size_t first, std::span<const std::byte> bytes,
                   bool is_on_disk) {
      if (is_on_disk) return part.file().append(tensor, first, bytes);
      std::memcpy(memory_.data() + used, bytes.data(), bytes.size());
      used += bytes.size();
      pieces.push_back({tensor, first, bytes.size()});
    });
    return pieces;
  }
  detail::FileRecord write(Part& part, const std::vector<Piece>& pieces) const {
    const std::byte* at = memory_.data();
    for (const Piece& piece : pieces) {
      part.file().append(piece.tensor, piece.first, {at, piece.bytes});
      at += piece.bytes;
    }
    return part.file().finish();
  }
  template <class Work>
  static void settle(std::promise<void>& promise, Work work) {
    try {
      work();
      promise.set_value();
    } catch (...) {
      promise.set_exception(std::current_exception());
    }
  }

  Trainer* trainer_;
  std::string directory_;
  Form form_;
  detail::PartShape shape_;
  std::size_t snapshot_bytes_ = 0;
  Memory memory_;
  std::optional<detail::PartBoard<System>> board_;
  std::future<void> part_written_, committed_;
  std::thread thread_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace shardexpr
