// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call_log.hpp>
#include <shardexpr/comm/flight_record.hpp>
#include <shardexpr/comm/meeting_point.hpp>
#include <shardexpr/comm/watch_line.hpp>
#include <shardexpr/device/outside_failure.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace shardexpr::detail {

/// One rank's thread beside communicators between processes. It finds out that a collective does
/// not end, that the transport failed or that a peer is gone, learns from rank 0 what its peers
/// found out, says in every rank the same reason, and aborts what is under way.
///
/// Order:   communicators are added and removed by any thread. This object's end tells the others
///          that the rank has left.
/// Errors:  none of its own; `failure()` holds what happened.
/// Cost:    a thread that wakes ten times a second; to rank 0, a connection of each other rank.
template <class Channel>  // a Watched
class Watch {
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::milliseconds;

 public:
  /// `lines` connect the ranks (`meet`); without them each rank finds out for itself. A collective
  /// may take as long as `patience` once it has begun. When the job fails the last calls are
  /// written to a file in the directory `record`, if it has a name.
  Watch(std::size_t rank, Lines lines, Milliseconds patience, std::string record = "")
      : rank_{rank},
        patience_{patience},
        pause_{std::clamp(patience / 8, Milliseconds{1}, Milliseconds{100})},
        record_{std::move(record)},
        wake_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)},
        failure_{std::make_shared<OutsideFailure>()} {
    if (!wake_)
      throw std::system_error{errno, std::generic_category(), "a watch over collectives: eventfd"};
    for (std::size_t i = 0; i < lines.size(); ++i)
      peers_.push_back({WatchLine{rank == 0 ? i + 1 : 0, std::move(lines[i])}, {}});
    thread_ = std::thread{&Watch::work, this};
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() {
    {
      const std::scoped_lock lock{mutex_};
      ends_ = true;
    }
    wake();
    thread_.join();
  }

  std::size_t rank() const { return rank_; }
  Milliseconds patience() const { return patience_; }
  const std::shared_ptr<OutsideFailure>& failure() const { return failure_; }

  void add(std::shared_ptr<Channel> watched) {
    const std::scoped_lock lock{mutex_};
    watched_.push_back({std::move(watched), 0, {}, false});
  }
  /// It is not aborted afterwards.
  void remove(const Channel& watched) {
    {
      const std::scoped_lock lock{mutex_};
      std::erase_if(watched_, [&](const Entry& entry) { return entry.watched.get() == &watched; });
    }
    const std::scoped_lock lock{aborting_};
  }
  /// This rank cannot go on: the others learn why.
  void fail(const std::string& why) { complain({Reason::own, "", 0, "", why}); }
  /// The same for what may come of another rank's trouble: waits a while for a better reason, and
  /// throws it.
  [[noreturn]] void fail_by_peer(const std::string& why) {
    complain({Reason::peer, "", 0, "", why});
    const auto until = Clock::now() + to_decide;
    while (!failure_->is_set() && Clock::now() < until) std::this_thread::sleep_for(pause_ / 10);
    failure_->rethrow();
    throw CommError("rank " + std::to_string(rank_) + ": " + why);
  }

 private:
  struct Entry {
    std::shared_ptr<Channel> watched;
    std::uint64_t begun;      // as it was at `since`
    Clock::time_point since;  // when it was first seen so
    bool is_aborted;
  };
  using Reason = Complaint::Reason;
  using Kind = WatchLine::Kind;
  struct Peer {
    WatchLine line;
    std::optional<std::string> answer;  // to what rank 0 asks
    std::size_t rank() const { return line.rank(); }
  };
  /// What rank 0 asks all ranks about.
  struct Inquiry {
    Complaint complaint;
    Clock::time_point until;
  };
  static constexpr Milliseconds to_answer{1000}, to_decide{5000};

  void complain(Complaint complaint) {
    {
      const std::scoped_lock lock{mutex_};
      if (!complaint_) complaint_ = std::move(complaint);
    }
    wake();
  }
  void wake() noexcept {
    const std::uint64_t one = 1;
    (void)!::write(wake_.number(), &one, sizeof one);
  }

  void work() noexcept {
    try {
      while (!is_over()) {
        listen();
        look();
        conclude();
      }
      for (const Peer& peer : peers_) peer.line.send(Kind::leave, "");
    } catch (...) {  // memory is out, say: nobody would look from here on
      failure_->set("the watch over collectives failed; start again from a checkpoint");
      abort_all();
    }
  }
  /// At the end a complaint still goes out.
  bool is_over() {
    const std::scoped_lock lock{mutex_};
    return ends_ && !complaint_;
  }

  // What the others say -------------------------------------------------------------------------

  void listen() {
    std::vector<pollfd> ready;
    ready.push_back({wake_.number(), POLLIN, 0});
    for (const Peer& peer : peers_) ready.push_back({peer.line.number(), POLLIN, 0});
    if (::poll(ready.data(), ready.size(), static_cast<int>(pause_.count())) <= 0) return;
    std::uint64_t count = 0;
    (void)!::read(wake_.number(), &count, sizeof count);
    std::vector<std::size_t> ended, gone;
    for (std::size_t i = 0; i < peers_.size(); ++i) {
      if (ready[i + 1].revents == 0) continue;
      Peer& peer = peers_[i];
      const WatchLine::State state = peer.line.receive(
          [&](Kind kind, const std::string& text) { understand(peer, kind, text); });
      if (state == WatchLine::State::open) continue;
      ended.push_back(peer.rank());
      (state == WatchLine::State::left ? left_ : gone).push_back(peer.rank());
    }
    std::erase_if(peers_, [&](const Peer& peer) {
      return std::find(ended.begin(), ended.end(), peer.rank()) != ended.end();
    });
    for (const std::size_t rank : gone)
      decide("rank " + std::to_string(rank) +
             " has gone: its process ended or its machine is cut off; see its messages, then go on "
             "from a checkpoint with the ranks that are left");
  }
  void understand(Peer& peer, Kind kind, const std::string& text) {
    switch (kind) {
      case Kind::leave:
        break;
      case Kind::complain:
        inquire(Complaint::from(text));
        break;
      case Kind::ask:
        peer.line.send(Kind::answer, position_at(Complaint::from(text)));
        break;
      case Kind::answer:
        peer.answer = text;
        break;
      case Kind::verdict:
        accept(text);
        break;
    }
  }

  // What this rank sees -------------------------------------------------------------------------

  void look() {
    std::optional<Complaint> complaint;
    {
      const std::scoped_lock lock{mutex_};
      complaint = std::exchange(complaint_, std::nullopt);
      if (!failure_->is_set())
        for (Entry& entry : watched_)
          if (!complaint) complaint = look_at(entry);
    }
    const bool is_new =
        !said_ || (said_->reason == Reason::peer && complaint && complaint->reason != Reason::peer);
    if (complaint && !failure_->is_set() && is_new) {
      said_ = *complaint;
      said_at_ = Clock::now();
      if (rank_ == 0 || peers_.empty())
        inquire(*complaint);
      else
        peers_.front().line.send(Kind::complain, complaint->text());
    }
    if (failure_->is_set()) abort_all();  // those that were added since
  }
  std::optional<Complaint> look_at(Entry& entry) {
    Channel& watched = *entry.watched;
    const Watched::Progress progress = watched.progress();
    const auto complaint = [&](Reason reason, const std::string& what) {
      const std::string call = watched.log().text(progress.begun);
      return Complaint{reason, watched.name(), progress.begun, call,
                       call + " of " + watched.name() + " in rank " + std::to_string(rank_) + what};
    };
    if (const Watched::Error error = watched.error(); !error.text.empty())
      return complaint(error.is_of_peer ? Reason::peer : Reason::own, ": " + error.text);
    if (progress.begun == progress.ended) {
      entry.begun = 0;
      return std::nullopt;
    }
    if (entry.begun != progress.begun) {
      entry.begun = progress.begun;
      entry.since = Clock::now();
    }
    if (Clock::now() - entry.since < patience_) return std::nullopt;
    return complaint(Reason::stuck, " has not ended within " + seconds_text(patience_));
  }
  /// What is to be said of this rank where another one waits in a call; empty: it has come.
  std::string position_at(const Complaint& complaint) {
    const std::scoped_lock lock{mutex_};
    const auto entry = std::find_if(watched_.begin(), watched_.end(), [&](const Entry& e) {
      return e.watched->name() == complaint.communicator;
    });
    if (entry == watched_.end()) return "";  // not of that communicator
    const Call made = entry->watched->log().find(complaint.sequence);
    const Call last = entry->watched->log().last();
    const std::string me = "rank " + std::to_string(rank_);
    if (made.sequence != 0 && made.text() != complaint.call)
      return me + " calls " + made.text() + " in its place";
    if (entry->watched->progress().begun >= complaint.sequence) return "";
    if (made.sequence != 0) return me + " has enqueued it behind other work, which has not ended";
    return me + " has not come to it" +
           (last.sequence == 0 ? "; it made no call yet" : ": its last call is " + last.text());
  }

  // What it comes to ----------------------------------------------------------------------------

  /// Rank 0 asks the others. Without anybody to ask, or to doubt, what was said is what it comes
  /// to.
  void inquire(const Complaint& complaint) {
    if (failure_->is_set()) return;
    if (inquiry_ &&
        (inquiry_->complaint.reason != Reason::peer || complaint.reason == Reason::peer))
      return;
    if (peers_.empty() || complaint.reason == Reason::own) return decide(complaint.why);
    inquiry_ = Inquiry{complaint, Clock::now() + to_answer};
    for (Peer& peer : peers_) {
      peer.answer.reset();
      peer.line.send(Kind::ask, complaint.text());
    }
  }
  void conclude() {
    if (failure_->is_set()) return;
    if (inquiry_) {
      // Of a peer's trouble somebody may still hear: its line ends, say.
      const bool all = inquiry_->complaint.reason == Reason::stuck &&
                       std::all_of(peers_.begin(), peers_.end(),
                                   [](const Peer& peer) { return peer.answer.has_value(); });
      if (all || Clock::now() >= inquiry_->until) decide(found());
    } else if (said_ && rank_ != 0 && Clock::now() - said_at_ > to_decide) {
      accept(said_->why);  // rank 0 does not answer
    }
  }
  std::string found() {
    std::string text = inquiry_->complaint.why;
    std::size_t said = 0;
    const auto add = [&](const std::string& answer) {
      constexpr std::size_t most = 4;
      if (answer.empty() || ++said > most) return;
      text += "; " + answer;
    };
    if (inquiry_->complaint.sequence != 0) add(position_at(inquiry_->complaint));
    for (const std::size_t rank : left_) add("rank " + std::to_string(rank) + " has left");
    for (const Peer& peer : peers_)
      add(peer.answer ? *peer.answer : "rank " + std::to_string(peer.rank()) + " does not answer");
    if (said == 0 && inquiry_->complaint.reason == Reason::stuck)
      text += "; every rank has come to it: see the network between them";
    return text;
  }
  /// Rank 0 speaks for all; another one that lost rank 0 for itself.
  void decide(const std::string& text) {
    if (failure_->is_set()) return;
    if (rank_ == 0)
      for (const Peer& peer : peers_) peer.line.send(Kind::verdict, text);
    accept(text);
  }
  void accept(const std::string& text) {
    if (failure_->is_set()) return;
    std::string whole = "rank " + std::to_string(rank_) + ": " + text;
    {
      const std::scoped_lock lock{mutex_};
      // Asked once: the message and the record say the same while calls go on.
      std::vector<Watched::Progress> progress;
      for (const Entry& entry : watched_) progress.push_back(entry.watched->progress());
      for (std::size_t i = 0; i < watched_.size(); ++i) {
        if (progress[i].begun == progress[i].ended) continue;
        const Channel& watched = *watched_[i].watched;
        const std::string call = watched.log().text(progress[i].begun) + " of " + watched.name();
        if (text.find(call) == std::string::npos) whole += "; " + call + " was under way here";
      }
      if (!record_.empty()) {
        FlightRecord record{record_, rank_, whole};
        for (std::size_t i = 0; i < watched_.size(); ++i)
          record.add(*watched_[i].watched, progress[i]);
        whole += record.close();
      }
    }
    failure_->set(whole);
    abort_all();
  }
  /// Each in a thread: one that waits for the device would wait for the others.
  void abort_all() noexcept {
    const std::scoped_lock aborting{aborting_};
    std::vector<std::shared_ptr<Channel>> all;
    {
      const std::scoped_lock lock{mutex_};
      for (Entry& entry : watched_)
        if (!std::exchange(entry.is_aborted, true)) all.push_back(entry.watched);
    }
    std::vector<std::thread> threads;
    for (const auto& watched : all) try {
        threads.emplace_back([&watched] { watched->abort(); });
      } catch (...) {  // no thread can start
        watched->abort();
      }
    for (std::thread& thread : threads) thread.join();
  }

  const std::size_t rank_;
  const Milliseconds patience_, pause_;
  const std::string record_;
  Descriptor wake_;
  std::shared_ptr<OutsideFailure> failure_;

  std::mutex aborting_;  // taken before the other
  std::mutex mutex_;
  std::vector<Entry> watched_;
  std::optional<Complaint> complaint_;  // of another thread of this rank
  bool ends_ = false;

  // Of the thread.
  std::vector<Peer> peers_;
  std::vector<std::size_t> left_;
  std::optional<Complaint> said_;
  Clock::time_point said_at_;
  std::optional<Inquiry> inquiry_;

  std::thread thread_;  // last: it uses the others
};

}  // namespace shardexpr::detail
