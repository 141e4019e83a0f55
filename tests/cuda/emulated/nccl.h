// SPDX-License-Identifier: Apache-2.0
#pragma once
// The part of NCCL that the library uses, among threads of one process, over the emulated runtime.
// A call that says ncclInProgress is done when somebody has asked often enough how it goes, and not
// before, as with a communicator that does not block. Ranks are added up as a ring does, not in
// their order.
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

#define NCCL_VERSION(X, Y, Z) ((X)*10000 + (Y)*100 + (Z))
#define NCCL_VERSION_CODE NCCL_VERSION(2, 28, 9)

enum ncclResult_t {
  ncclSuccess,
  ncclUnhandledCudaError,
  ncclSystemError,
  ncclInternalError,
  ncclInvalidArgument,
  ncclInvalidUsage,
  ncclRemoteError,
  ncclInProgress
};
enum ncclDataType_t {
  ncclUint8 = 1,
  ncclInt64 = 4,
  ncclFloat16 = 6,
  ncclFloat32 = 7,
  ncclFloat64 = 8,
  ncclBfloat16 = 9
};
enum ncclRedOp_t { ncclSum };
struct ncclUniqueId {
  char internal[128];
};
struct ncclConfig_t {
  int blocking;
};
#define NCCL_CONFIG_INITIALIZER \
  { 1 }

namespace emulated {

/// How NCCL behaves, as a test wants it.
struct NcclMachine {
  std::atomic<int> version{NCCL_VERSION_CODE};
  int polls = 2;  // questions until what is in progress is done
  bool registers = true;
  std::atomic<int> registered{0};      // buffers
  std::atomic<int> alive{0};           // communicators
  std::atomic<bool> is_silent{false};  // nobody is told that a peer is gone
};
inline NcclMachine nccl;

/// What the ranks of a communicator share.
struct NcclWorld {
  explicit NcclWorld(int ranks) : size{ranks}, aborted(static_cast<std::size_t>(ranks)) {}
  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  struct Meeting {
    std::map<int, std::vector<std::pair<const void*, std::size_t>>> given;  // by rank
    std::map<int, std::pair<int, int>> choices;                             // of a split
    std::map<int, std::shared_ptr<NcclWorld>> worlds;
    int done = 0;
  };
  std::map<std::uint64_t, Meeting> meetings;  // by number
  std::vector<bool> aborted;
  bool is_broken() const {
    for (const bool one : aborted)
      if (one) return true;
    return false;
  }
};

struct NcclComm {
  std::shared_ptr<NcclWorld> world;
  int rank = 0, device = 0;
  bool is_blocking = false;
  std::atomic<bool> is_aborted{false};
  std::atomic<ncclResult_t> error{ncclSuccess};
  std::atomic<int> polls_left{0};
  std::mutex mutex;
  std::deque<std::function<void()>> waiting;  // until it is asked how it goes
  std::uint64_t next = 0;                     // number of its next operation
  std::set<void*> registered;
  std::vector<std::shared_ptr<std::atomic<bool>>> running;

  /// Runs `work` now, or when somebody has asked.
  ncclResult_t take(std::function<void()> work) {
    const std::scoped_lock lock{mutex};
    if (is_blocking || nccl.polls == 0) {
      work();
      return ncclSuccess;
    }
    waiting.push_back(std::move(work));
    polls_left = nccl.polls;
    return ncclInProgress;
  }
  ncclResult_t ask() {
    const std::scoped_lock lock{mutex};
    if (error != ncclSuccess) return error;
    if (!nccl.is_silent && world != nullptr) {
      const std::scoped_lock other{world->mutex};
      if (world->is_broken()) return ncclRemoteError;
    }
    if (waiting.empty()) return ncclSuccess;
    if (polls_left-- > 0) return ncclInProgress;
    for (const auto& work : waiting) work();
    waiting.clear();
    return ncclSuccess;
  }
  /// False where the communicator is aborted meanwhile.
  template <class Ready>
  bool await(std::unique_lock<std::mutex>& lock, Ready ready) {
    while (!ready()) {
      if (is_aborted) return false;
      world->changed.wait_for(lock, std::chrono::microseconds{200});
    }
    return true;
  }
};

}  // namespace emulated

using ncclComm_t = emulated::NcclComm*;

namespace emulated {

inline std::map<std::string, std::shared_ptr<NcclWorld>>& nccl_worlds() {
  static std::map<std::string, std::shared_ptr<NcclWorld>> worlds;
  return worlds;
}
inline std::mutex& nccl_mutex() {
  static std::mutex mutex;
  return mutex;
}

template <class T>
void ring_sum(const std::vector<const T*>& rows, std::size_t first_rank, std::size_t count, T* to) {
  const std::size_t world = rows.size();
  std::vector<T> sum(count);
  for (std::size_t i = 0; i < count; ++i) {
    T value = rows[first_rank % world][i];
    for (std::size_t r = 1; r < world; ++r)
      value = static_cast<T>(value + rows[(first_rank + r) % world][i]);
    sum[i] = value;
  }
  if (count > 0) std::memcpy(to, sum.data(), count * sizeof(T));
}

/// An operation of all ranks on a stream: each gives pieces of memory, and when all have, does its
/// own part: `work(given by rank)` -> what to write, at the end.
using Given = std::map<int, std::vector<std::pair<const void*, std::size_t>>>;
inline ncclResult_t nccl_operation(const char* name, NcclComm* comm, Stream* stream,
                                   std::vector<std::pair<const void*, std::size_t>> mine,
                                   std::function<std::function<void()>(const Given&)> work) {
  if (Faults::instance().meet(name) != cudaSuccess) return ncclUnhandledCudaError;
  if (comm->is_aborted) return ncclInvalidUsage;
  return comm->take([=] {
    const std::uint64_t number = comm->next++;
    const auto is_running = std::make_shared<std::atomic<bool>>(true);
    comm->running.push_back(is_running);
    // As a kernel, what is aborted ends, and what comes behind it runs.
    stream->enqueue([=] {
      struct End {
        std::atomic<bool>& running;
        ~End() { running = false; }
      } const end{*is_running};
      NcclWorld& world = *comm->world;
      std::unique_lock lock{world.mutex};
      world.meetings[number].given[comm->rank] = mine;
      world.changed.notify_all();
      const auto all = static_cast<std::size_t>(world.size);
      if (!comm->await(lock, [&] {
            // What a rank that aborted gave is no longer there.
            return world.meetings[number].given.size() == all && !world.is_broken();
          }))
        return;
      const std::function<void()> write = work(world.meetings[number].given);
      // Nobody writes before everybody has read.
      const auto pass = [&](int count) {
        ++world.meetings[number].done;
        world.changed.notify_all();
        return comm->await(lock, [&] { return world.meetings[number].done >= count; });
      };
      if (!pass(world.size)) return;
      write();
      if (!pass(2 * world.size)) return;
      if (++world.meetings[number].done == 3 * world.size) world.meetings.erase(number);
    });
  });
}

struct Group {
  struct Transfer {
    bool sends;
    void* memory;
    std::size_t bytes;
    int peer;
  };
  int depth = 0;
  NcclComm* comm = nullptr;
  Stream* stream = nullptr;
  std::vector<Transfer> transfers;
};
inline Group& nccl_group() {
  static thread_local Group group;
  return group;
}

}  // namespace emulated

inline const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "emulated failure";
  }
}
inline const char* ncclGetLastError(ncclComm_t) { return ""; }
inline ncclResult_t ncclGetVersion(int* version) {
  *version = emulated::nccl.version;
  return ncclSuccess;
}
inline ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<int> count{0};
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->internal, sizeof id->internal, "job %d", count++);
  return ncclSuccess;
}

inline ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                           ncclConfig_t* config) {
  if (emulated::Faults::instance().meet("ncclCommInitRankConfig") != cudaSuccess)
    return ncclSystemError;
  auto* made = new emulated::NcclComm;
  ++emulated::nccl.alive;
  made->rank = rank;
  made->device = emulated::current_device();
  made->is_blocking = config->blocking != 0;
  {
    const std::scoped_lock lock{emulated::nccl_mutex()};
    auto& world = emulated::nccl_worlds()[id.internal];
    if (world == nullptr) world = std::make_shared<emulated::NcclWorld>(size);
    made->world = world;
  }
  // It has started when all have come; number 0 is the start's.
  {
    const std::scoped_lock lock{made->world->mutex};
    made->world->meetings[made->next].given[rank] = {};
  }
  *comm = made;
  return ncclInProgress;
}
inline ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  if (comm->next == 0) {
    const std::scoped_lock lock{comm->world->mutex};
    const auto& start = comm->world->meetings[0];
    *result =
        static_cast<int>(start.given.size()) == comm->world->size ? ncclSuccess : ncclInProgress;
    if (*result == ncclSuccess) comm->next = 1;
    return ncclSuccess;
  }
  *result = comm->ask();
  return ncclSuccess;
}
inline ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  --emulated::nccl.alive;
  return ncclSuccess;
}
inline ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return comm->take([] {});
}
inline ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->is_aborted = true;
  {
    const std::scoped_lock lock{comm->world->mutex};
    comm->world->aborted[static_cast<std::size_t>(comm->rank)] = true;
  }
  comm->world->changed.notify_all();
  // What it has on streams uses it until then.
  for (const auto& running : comm->running)
    while (*running) std::this_thread::sleep_for(std::chrono::microseconds{50});
  return ncclCommDestroy(comm);
}
inline ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* made,
                                  ncclConfig_t* config) {
  if (color < 0) return ncclInvalidArgument;
  // All ranks come here, and the result is there at once: what is in progress is only said.
  const std::uint64_t number = comm->next++;
  emulated::NcclWorld& world = *comm->world;
  std::unique_lock lock{world.mutex};
  world.meetings[number].choices[comm->rank] = {color, key};
  world.changed.notify_all();
  const auto all = static_cast<std::size_t>(world.size);
  if (!comm->await(lock, [&] { return world.meetings[number].choices.size() == all; }))
    return ncclRemoteError;
  auto& meeting = world.meetings[number];
  std::vector<std::pair<int, int>> members;  // key, rank
  for (const auto& [rank, choice] : meeting.choices)
    if (choice.first == color) members.emplace_back(choice.second, rank);
  std::sort(members.begin(), members.end());
  auto& part = meeting.worlds[color];
  if (part == nullptr)
    part = std::make_shared<emulated::NcclWorld>(static_cast<int>(members.size()));
  auto* one = new emulated::NcclComm;
  ++emulated::nccl.alive;
  one->world = part;
  one->device = comm->device;
  one->is_blocking = config->blocking != 0;
  one->next = 1;
  for (std::size_t i = 0; i < members.size(); ++i)
    if (members[i].second == comm->rank) one->rank = static_cast<int>(i);
  *made = one;
  if (++meeting.done == world.size) world.meetings.erase(number);
  lock.unlock();
  return comm->take([] {});
}
inline ncclResult_t ncclCommCount(ncclComm_t comm, int* count) {
  *count = comm->world->size;
  return ncclSuccess;
}
inline ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  *rank = comm->rank;
  return ncclSuccess;
}
inline ncclResult_t ncclCommCuDevice(ncclComm_t comm, int* device) {
  *device = comm->device;
  return ncclSuccess;
}

inline ncclResult_t ncclMemAlloc(void** memory, std::size_t size_bytes) {
  return cudaMalloc(memory, size_bytes) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}
inline ncclResult_t ncclMemFree(void* memory) {
  return emulated::Memory::instance().give(memory) ? ncclSuccess : ncclInvalidArgument;
}
inline ncclResult_t ncclCommRegister(ncclComm_t comm, void* memory, std::size_t, void** handle) {
  if (!emulated::nccl.registers) return ncclInvalidUsage;
  comm->registered.insert(memory);
  ++emulated::nccl.registered;
  *handle = memory;
  return ncclSuccess;
}
inline ncclResult_t ncclCommDeregister(ncclComm_t comm, void* handle) {
  if (comm->registered.erase(handle) == 0) return ncclInvalidArgument;
  --emulated::nccl.registered;
  return ncclSuccess;
}

inline ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count,
                                  ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclUint8) return ncclInvalidArgument;
  return emulated::nccl_operation("ncclAllGather", comm, stream, {{from, count}},
                                  [=](const emulated::Given& given) {
                                    std::vector<char> all;
                                    for (const auto& [rank, pieces] : given) {
                                      const auto* data = static_cast<const char*>(pieces[0].first);
                                      all.insert(all.end(), data, data + count);
                                    }
                                    return [to, all] {
                                      if (!all.empty()) std::memcpy(to, all.data(), all.size());
                                    };
                                  });
}
inline ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count,
                                  ncclDataType_t type, int root, ncclComm_t comm,
                                  cudaStream_t stream) {
  if (type != ncclUint8) return ncclInvalidArgument;
  return emulated::nccl_operation(
      "ncclBroadcast", comm, stream, {{from, count}}, [=](const emulated::Given& given) {
        const auto* data = static_cast<const char*>(given.at(root)[0].first);
        const std::vector<char> all(data, data + count);
        return [to, all] {
          if (!all.empty()) std::memcpy(to, all.data(), all.size());
        };
      });
}

namespace emulated {
/// The sum of `count` elements from `offset(rank)` on; a ring ends at the rank that gets it.
template <class T>
std::function<void()> ring(const Given& given, std::size_t offset, std::size_t count,
                           std::size_t owner, T* to) {
  std::vector<const T*> rows;
  for (const auto& [rank, pieces] : given)
    rows.push_back(static_cast<const T*>(pieces[0].first) + offset);
  const auto sum = std::make_shared<std::vector<T>>(count);
  ring_sum<T>(rows, owner + 1, count, sum->data());
  return [to, sum] {
    if (!sum->empty()) std::memcpy(to, sum->data(), sum->size() * sizeof(T));
  };
}
template <class Work>
ncclResult_t with_type(ncclDataType_t type, Work work) {
  if (type == ncclFloat32) return work(float{});
  if (type == ncclFloat64) return work(double{});
  if (type == ncclInt64) return work(std::int64_t{});
  return ncclInvalidArgument;  // the library adds up no others here
}
}  // namespace emulated

inline ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count,
                                      ncclDataType_t type, ncclRedOp_t, ncclComm_t comm,
                                      cudaStream_t stream) {
  return emulated::with_type(type, [&]<class T>(T) {
    return emulated::nccl_operation(
        "ncclReduceScatter", comm, stream, {{from, count}}, [=](const emulated::Given& given) {
          const auto rank = static_cast<std::size_t>(comm->rank);
          return emulated::ring<T>(given, rank * count, count, rank, static_cast<T*>(to));
        });
  });
}
inline ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count,
                                  ncclDataType_t type, ncclRedOp_t, ncclComm_t comm,
                                  cudaStream_t stream) {
  return emulated::with_type(type, [&]<class T>(T) {
    return emulated::nccl_operation(
        "ncclAllReduce", comm, stream, {{from, count}}, [=](const emulated::Given& given) {
          const auto world = static_cast<std::size_t>(comm->world->size);
          const std::size_t slice = (count + world - 1) / world;
          std::vector<std::function<void()>> writes;
          for (std::size_t owner = 0; owner < world; ++owner) {
            const std::size_t begin = std::min(count, owner * slice);
            writes.push_back(emulated::ring<T>(given, begin, std::min(slice, count - begin), owner,
                                               static_cast<T*>(to) + begin));
          }
          return [writes] {
            for (const auto& write : writes) write();
          };
        });
  });
}

inline ncclResult_t ncclGroupStart() {
  ++emulated::nccl_group().depth;
  return ncclSuccess;
}
inline ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t, int peer,
                             ncclComm_t comm, cudaStream_t stream) {
  emulated::Group& group = emulated::nccl_group();
  if (group.depth == 0) return ncclInvalidUsage;
  group.comm = comm;
  group.stream = stream;
  group.transfers.push_back({true, const_cast<void*>(from), count, peer});
  return comm->is_blocking ? ncclSuccess : ncclInProgress;
}
inline ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                             cudaStream_t stream) {
  emulated::Group& group = emulated::nccl_group();
  if (group.depth == 0) return ncclInvalidUsage;
  group.comm = comm;
  group.stream = stream;
  group.transfers.push_back({false, to, count, peer});
  return comm->is_blocking ? ncclSuccess : ncclInProgress;
}
inline ncclResult_t ncclGroupEnd() {
  emulated::Group group = std::exchange(emulated::nccl_group(), {});
  if (group.comm == nullptr) return ncclSuccess;
  // All ranks of the communicator take part, which NCCL does not ask for.
  const auto size = static_cast<std::size_t>(group.comm->world->size);
  std::vector<std::pair<const void*, std::size_t>> sent(size);
  for (const auto& transfer : group.transfers)
    if (transfer.sends)
      sent[static_cast<std::size_t>(transfer.peer)] = {transfer.memory, transfer.bytes};
  ncclComm_t comm = group.comm;
  return emulated::nccl_operation(
      "ncclGroupEnd", comm, group.stream, sent,
      [comm, transfers = group.transfers](const emulated::Given& given) {
        std::vector<std::pair<void*, std::vector<char>>> received;
        for (const auto& transfer : transfers) {
          if (transfer.sends) continue;
          const auto [from, bytes] = given.at(transfer.peer)[static_cast<std::size_t>(comm->rank)];
          if (bytes != transfer.bytes) comm->error = ncclInvalidUsage;  // NCCL would hang
          const auto* data = static_cast<const char*>(from);
          received.emplace_back(transfer.memory, std::vector<char>(data, data + bytes));
        }
        return [received] {
          for (const auto& [to, bytes] : received) std::memcpy(to, bytes.data(), bytes.size());
        };
      });
}
