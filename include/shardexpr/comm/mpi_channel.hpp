// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/call_on_wire.hpp>
#include <shardexpr/comm/mpi_lines.hpp>
#include <shardexpr/comm/mpi_options.hpp>
#include <shardexpr/comm/watch.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/error.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mpi.h>

namespace shardexpr {

namespace detail {

class MpiChannel;
using MpiWatch = Watch<MpiChannel>;

// Where MPI was initialized with MPI_THREAD_SERIALIZED, who holds it may call MPI.
inline std::mutex mpi_turn;

/// A communicator of MPI of our own, and how it is called: by which threads, what an error says,
/// and what ends a wait.
class MpiChannel : public Watched {
 public:
  /// To call MPI, for as long as it lives.
  class Turn {
   public:
    explicit Turn(const MpiChannel& channel) {
      if (channel.threads_ == MPI_THREAD_SERIALIZED) lock_ = std::unique_lock{mpi_turn};
    }

   private:
    std::unique_lock<std::mutex> lock_;
  };

  /// A duplicate of the user's communicator, watched. Every rank of it makes one at the same time.
  static std::shared_ptr<MpiChannel> make(MPI_Comm users, const MpiOptions& options) {
    const auto channel = std::make_shared<MpiChannel>(users, options);
    Lines lines = mpi_lines(*channel, channel->comm_, options.to_meet);
    channel->watch(std::make_shared<MpiWatch>(channel->rank(), std::move(lines), options.collective,
                                              options.record),
                   channel);
    return channel;
  }
  MpiChannel(MPI_Comm users, const MpiOptions& options) : Watched{"world"}, options_{options} {
    ask_state();
    if (users == MPI_COMM_NULL) throw ConfigError("Mpi needs a communicator, got MPI_COMM_NULL");
    int is_inter = 0;
    const std::string what = "MPI_Comm_dup";
    const Turn turn{*this};
    check(MPI_Comm_test_inter(users, &is_inter), what);
    if (is_inter)
      throw ConfigError("Mpi needs an intracommunicator; merge the groups by MPI_Intercomm_merge");
    check(MPI_Comm_dup(users, &comm_), what);
    begin_life(what);
    users_ranks_.resize(size_);
    std::iota(users_ranks_.begin(), users_ranks_.end(), 0);
    agree_on_options();
  }
  MpiChannel(const MpiChannel&) = delete;
  MpiChannel& operator=(const MpiChannel&) = delete;
  ~MpiChannel() {
    if (comm_ == MPI_COMM_NULL || !ends_well()) return;
    const Turn turn{*this};
    MPI_Comm_free(&comm_);
  }
  /// False where an exception unwinds: peers may not come to free with us what is ours.
  bool ends_well() const {
    int is_finalized = 0;
    return std::uncaught_exceptions() <= exceptions_ &&
           (watch_ == nullptr || !watch_->failure()->is_set()) && !is_left_ &&
           MPI_Finalized(&is_finalized) == MPI_SUCCESS && !is_finalized;
  }
  /// The end of its owner, who has said nothing to the peers so far.
  void leave(bool is_well) {
    is_left_ = is_left_ || !is_well;
    if (std::uncaught_exceptions() > exceptions_)
      watch_->fail("rank " + std::to_string(watch_->rank()) +
                   " left, by an exception of its own; see its messages");
    watch_->remove(*this);
  }

  /// Errors:  CommError when the job has failed: why, and where this rank was by then.
  void check_failure(const std::string& call) const {
    try {
      watch_->failure()->rethrow();
    } catch (const CommError& error) {
      const std::string why = error.what();
      const bool is_named = why.find(call + " of " + name()) != std::string::npos;
      throw CommError(is_named ? why : why + "; next here was " + call + " of " + name());
    }
  }

  // Between what the stream's thread does and the watch.
  Progress progress() const {
    // The end first: what has ended has begun.
    const std::uint64_t ended = ended_.load(std::memory_order_acquire);
    return {begun_.load(std::memory_order_acquire), ended};
  }
  Error error() const { return {}; }  // MPI tells who calls it
  void abort() noexcept {}            // who waits looks at the failure
  /// A call of this rank is under way, for as long as it lives.
  class UnderWay {
   public:
    UnderWay(MpiChannel& channel, const Call& call) : channel_{channel}, number_{call.sequence} {
      if (channel.watch_->failure()->is_set()) channel.check_failure(call.text());
      channel.begun_.store(number_, std::memory_order_release);
    }
    UnderWay(const UnderWay&) = delete;
    UnderWay& operator=(const UnderWay&) = delete;
    ~UnderWay() { channel_.ended_.store(number_, std::memory_order_release); }

   private:
    MpiChannel& channel_;
    std::uint64_t number_;
  };

  std::size_t rank() const { return rank_; }
  std::size_t size() const { return size_; }
  /// By the user's communicator.
  std::string rank_name(std::size_t rank) const {
    return "rank " + std::to_string(users_ranks_[rank]);
  }
  /// Bytes of each rank that one call of MPI moves.
  std::size_t piece_bytes() const { return options_.bytes_at_once / size_; }
  /// Counts and places of the ranks' parts: sent, received.
  int* counts(std::size_t which) { return vectors_.data() + which * size_; }

  /// What MPI says of an error, on one line.
  static std::string text_of(int result) {
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    MPI_Error_string(result, text.data(), &length);
    std::string line{text.data(), static_cast<std::size_t>(length)};
    std::replace(line.begin(), line.end(), '\n', ' ');
    return "MPI: " + line;
  }
  /// Under a turn.
  /// Errors:  CommError with rank and `what`, unless MPI was successful.
  void check(int result, const std::string& what) const {
    if (result != MPI_SUCCESS)
      throw CommError((users_ranks_.empty() ? "" : rank_name(rank_) + ": ") + what + ": " +
                      text_of(result));
  }

  /// Errors:  CommError in every rank when ranks make different calls.
  void compare(const Call& call) {
    if (!options_.compare_calls || size_ == 1) return;
    mine_ = CallOnWire{call};
    complete(call, [this](MPI_Comm comm, MPI_Request* request) {
      return MPI_Iallgather(&mine_, sizeof mine_, MPI_BYTE, calls_.data(), sizeof mine_, MPI_BYTE,
                            comm, request);
    });
    for (std::size_t peer = 1; peer < size_; ++peer)
      if (!(calls_[peer] == calls_[0]))  // the same verdict in every rank
        throw_different(0, calls_[0], peer, calls_[peer]);
  }
  /// Errors:  ConfigError where MPI does not allow this thread.
  void check_thread(const Call& call) const {
    int is_main = 0;
    if (threads_ < MPI_THREAD_SERIALIZED) {
      check(MPI_Is_thread_main(&is_main), call.text());
      if (!is_main)
        call.refuse(
            "MPI was initialized for the main thread alone, and this is another: say "
            "MPI_Init_thread with MPI_THREAD_MULTIPLE, or use streams of Cpu{}, which have no "
            "threads");
    }
  }
  [[noreturn]] void throw_different(std::size_t a, const CallOnWire& of_a, std::size_t b,
                                    const CallOnWire& of_b) const {
    throw CommError(rank_name(a) + ": " + of_a.call().text() + ", " + rank_name(b) + ": " +
                    of_b.call().text() + ": every rank must make the same calls in the same order");
  }
  /// Between two looks at what peers do.
  /// Errors:  CommError when the job has failed. What MPI was asked for still is under way then.
  void pause() const {
    if (watch_ != nullptr && watch_->failure()->is_set())
      check_failure(log().text(begun_.load(std::memory_order_relaxed)));
    std::this_thread::yield();
  }

  /// Starts a part of a call, `start(communicator, request)`, and waits until it is over. MPI is
  /// asked again and again, and not told to wait, so that others have their turns meanwhile.
  /// Errors:  CommError with rank and call when MPI reports an error.
  template <class Start>
  void complete(const Call& call, Start start) {
    MPI_Request request = MPI_REQUEST_NULL;
    int result = MPI_SUCCESS, is_done = 0;
    {
      const Turn turn{*this};
      result = start(comm_, &request);
    }
    while (result == MPI_SUCCESS) {
      {
        const Turn turn{*this};
        result = MPI_Test(&request, &is_done, MPI_STATUS_IGNORE);
      }
      if (is_done && result == MPI_SUCCESS) return;
      pause();
    }
    const Turn turn{*this};
    check(result, call.text());
  }

  /// One that has no communicator yet.
  MpiChannel(const MpiChannel& parent, std::string name)
      : Watched{std::move(name)},
        options_{parent.options_},
        threads_{parent.threads_},
        node_{parent.node_},
        processes_{parent.processes_} {}

  /// Which ranks share memory: of a communicator that was split off, those that did in the whole
  /// one. Every rank calls it at the same time.
  MpiNodes nodes(const std::string& what) {
    const Turn turn{*this};
    if (node_ == no_node) find_node(what);
    MpiNodes nodes;
    nodes.processes = processes_;
    int place = 0;
    check(MPI_Comm_split(comm_, node_, static_cast<int>(rank_), &nodes.comm), what);
    check(MPI_Comm_rank(nodes.comm, &place), what);
    check(MPI_Comm_set_errhandler(nodes.comm, MPI_ERRORS_RETURN), what);
    nodes.rank = static_cast<std::size_t>(place);
    int first = static_cast<int>(rank_);
    check(MPI_Bcast(&first, 1, MPI_INT, 0, nodes.comm), what);
    std::vector<int> firsts(size_);
    check(MPI_Allgather(&first, 1, MPI_INT, firsts.data(), 1, MPI_INT, comm_), what);
    std::vector<std::size_t> seen(size_);  // of the node that begins with a rank
    for (std::size_t rank = 0; rank < size_; ++rank) {
      nodes.first_of.push_back(static_cast<std::size_t>(firsts[rank]));
      nodes.place_of.push_back(seen[nodes.first_of[rank]]++);
      if (firsts[rank] == first) nodes.members.push_back(rank);
    }
    for (const std::size_t of : nodes.first_of) nodes.size_of.push_back(seen[of]);
    return nodes;
  }

  /// As MPI_Comm_split, but for any color. Every rank calls it at the same time.
  std::shared_ptr<MpiChannel> split(const Call& call, int color, int key) {
    std::vector<int> colors(size_);
    complete(call, [&](MPI_Comm comm, MPI_Request* request) {
      return MPI_Iallgather(&color, 1, MPI_INT, colors.data(), 1, MPI_INT, comm, request);
    });
    // The first rank of a color stands for it: MPI has no negative colors.
    const auto first = std::find(colors.begin(), colors.end(), color) - colors.begin();
    const auto part = std::make_shared<MpiChannel>(
        *this, name() + '/' + std::to_string(call.sequence) + '.' +
                   std::to_string(users_ranks_[static_cast<std::size_t>(first)]));
    const Turn turn{*this};
    check(MPI_Comm_split(comm_, static_cast<int>(first), key, &part->comm_), call.text());
    part->begin_life(call.text());
    part->name_ranks(*this, call.text());
    part->watch(watch_, part);
    return part;
  }

 private:
  struct Group {
    MPI_Group group = MPI_GROUP_NULL;
    Group() = default;
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;
    ~Group() {
      if (group != MPI_GROUP_NULL) MPI_Group_free(&group);
    }
  };

  void watch(std::shared_ptr<MpiWatch> watch, const std::shared_ptr<MpiChannel>& self) {
    watch_ = std::move(watch);
    watch_->add(self);
  }
  /// The node is numbered by the user's first rank on it.
  void find_node(const std::string& what) {
    MPI_Comm machine = MPI_COMM_NULL;
    int place = 0, processes = 0;
    node_ = static_cast<int>(rank_);
    check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, node_, MPI_INFO_NULL, &machine), what);
    check(MPI_Comm_rank(machine, &place), what);
    check(MPI_Comm_size(machine, &processes), what);
    processes_ = static_cast<std::size_t>(processes);
    const int most = static_cast<int>(std::min<std::size_t>(
        options_.node_ranks == 0 ? processes_ : options_.node_ranks, processes_));
    std::vector<int> ranks(processes_);
    check(MPI_Allgather(&node_, 1, MPI_INT, ranks.data(), 1, MPI_INT, machine), what);
    node_ = ranks[static_cast<std::size_t>(place / most * most)];
    MPI_Comm_free(&machine);
  }
  void ask_state() {
    int is_initialized = 0, is_finalized = 0;
    MPI_Initialized(&is_initialized);
    MPI_Finalized(&is_finalized);
    if (!is_initialized || is_finalized)
      throw ConfigError(std::string{"Mpi needs MPI, which is "} +
                        (is_finalized ? "finalized already" : "not initialized") +
                        ": make it between MPI_Init_thread and MPI_Finalize");
    check(MPI_Query_thread(&threads_), "MPI_Query_thread");
  }
  void begin_life(const std::string& what) {
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), what);
    int rank = 0, size = 0;
    check(MPI_Comm_rank(comm_, &rank), what);
    check(MPI_Comm_size(comm_, &size), what);
    constexpr int most = 32767;  // places in a part of a sum are counted in int
    if (size > most)
      throw ConfigError("Mpi joins at most " + std::to_string(most) + " ranks, not " +
                        std::to_string(size));
    rank_ = static_cast<std::size_t>(rank);
    size_ = static_cast<std::size_t>(size);
    calls_.resize(size_);
    vectors_.resize(4 * size_);
  }
  /// By their ranks in the user's communicator.
  void name_ranks(const MpiChannel& parent, const std::string& what) {
    Group mine, whole;
    check(MPI_Comm_group(comm_, &mine.group), what);
    check(MPI_Comm_group(parent.comm_, &whole.group), what);
    std::vector<int> ranks(size_);
    users_ranks_.resize(size_);
    std::iota(ranks.begin(), ranks.end(), 0);
    check(MPI_Group_translate_ranks(mine.group, static_cast<int>(size_), ranks.data(), whole.group,
                                    users_ranks_.data()),
          what);
    for (int& rank : users_ranks_) rank = parent.users_ranks_[static_cast<std::size_t>(rank)];
  }
  void agree_on_options() {
    using Numbers = std::array<std::uint64_t, 5>;
    const Numbers mine{options_.compare_calls, options_.bytes_at_once, options_.node_ranks,
                       static_cast<std::uint64_t>(options_.to_meet.count()),
                       static_cast<std::uint64_t>(options_.collective.count())};
    std::vector<Numbers> all(size_);
    check(MPI_Allgather(mine.data(), 5, MPI_UINT64_T, all.data(), 5, MPI_UINT64_T, comm_),
          "MpiOptions");
    for (std::size_t peer = 1; peer < size_; ++peer)
      if (all[peer] != all[0])
        throw ConfigError("MpiOptions differ between " + rank_name(0) + " and " + rank_name(peer) +
                          ": give every rank the same");
    if (options_.bytes_at_once < size_ || options_.bytes_at_once > 0x7fffffff)
      throw ConfigError("MpiOptions::bytes_at_once is " + std::to_string(options_.bytes_at_once) +
                        ": give a number from " + std::to_string(size_) +
                        ", the number of ranks, to 2147483647");
    for (const auto& [option, time] :
         {std::pair{"to_meet", options_.to_meet}, {"collective", options_.collective}})
      if (time.count() <= 0)
        throw ConfigError(std::string{"MpiOptions::"} + option + " is " +
                          std::to_string(time.count()) + " ms: give a time above 0");
  }

  MpiOptions options_;
  int exceptions_ = std::uncaught_exceptions();
  int threads_ = MPI_THREAD_SINGLE;
  MPI_Comm comm_ = MPI_COMM_NULL;
  static constexpr int no_node = -1;
  int node_ = no_node;
  std::size_t processes_ = 1;
  std::size_t rank_ = 0, size_ = 0;
  std::vector<int> users_ranks_;
  CallOnWire mine_;
  std::vector<CallOnWire> calls_;  // of each rank: what it is about to do
  std::vector<int> vectors_;
  std::shared_ptr<MpiWatch> watch_;
  std::atomic<std::uint64_t> begun_{0}, ended_{0};
  bool is_left_ = false;
};

}  // namespace detail

}  // namespace shardexpr
