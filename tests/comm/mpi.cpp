// SPDX-License-Identifier: Apache-2.0
// A program for mpirun: each process is a rank, and every rank runs every case.
// SHARDEXPR_MPI_RUN=single|serialized says what MPI is asked for; else it is multiple.
#include <shardexpr/comm/mpi.hpp>
#include <shardexpr/comm/threads.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "../support/error_of.hpp"
#include "../support/mpi_session.hpp"
#include "conformance.hpp"
#include "watchdog.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {

namespace {

std::size_t ranks() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return static_cast<std::size_t>(size);
}

/// By `options`, on a stream without a thread, or on one with a thread where it may have one.
struct MpiWorld {
  inline static MpiOptions options{};
  inline static bool has_thread = false;

  /// Of a rank's node: neighbours share memory.
  static std::size_t sharers(const auto& comm) {
    const std::size_t node = options.node_ranks == 0 ? comm.size() : options.node_ranks;
    return std::min(node, comm.size() - comm.rank() / node * node);
  }
  template <class Body>
  static void run(Body body) {
    Mpi comm{MPI_COMM_WORLD, options};
    Cpu device{has_thread && streams_may_have_threads() ? Execution::asynchronous
                                                        : Execution::immediate};
    Cpu::Stream stream{device, "comm"};
    body(comm, Context<Cpu>{device, stream});
  }
};

struct Gpu : Cpu {
  static constexpr bool runs_on_host = false;
};
static_assert(Device<Gpu> && !Communicator<Mpi, Gpu>, "MPI would be given a GPU's memory");

/// What every rank of `comm` ends up with.
template <class T, class C>
std::vector<T> both_reductions(C& comm, std::size_t n, Reduction reduction, std::uint64_t seed) {
  Cpu device;
  Cpu::Stream stream;
  const Context<Cpu> ctx{device, stream};
  auto values = input<T>(seed, comm.rank(), comm.size() * n + 1);
  const std::span<T> all{values};
  const auto whole = all.first(comm.size() * n);
  comm.reduce_scatter(ctx, std::span<const T>{whole}, whole.subspan(comm.rank() * n, n), reduction);
  comm.all_reduce(ctx, all, reduction);
  return values;
}

/// Of this process, memory that processes share.
std::size_t shared_resident_bytes() {
  std::ifstream status{"/proc/self/status"};
  std::string word;
  std::size_t kib = 0;
  while (status >> word)
    if (word == "RssShmem:") status >> kib;
  return kib * 1024;
}

template <class T>
void check_equals_threads(std::size_t n, Reduction reduction, std::size_t node_ranks = 0) {
  Mpi comm{MPI_COMM_WORLD, {.node_ranks = node_ranks}};
  const auto over_mpi = both_reductions<T>(comm, n, reduction, n);
  launch(comm.size(), [&](Threads& ranks) {
    const auto over_threads = both_reductions<T>(ranks, n, reduction, n);
    if (ranks.rank() == comm.rank()) CHECK(same_bits(over_mpi, over_threads));
  });
}

}  // namespace

REGISTER_LISTENER("mpi", 1, MpiSession);

TEST_CASE("conformance, ranks of one node") {
  Watchdog watchdog{"conformance, one node", std::chrono::seconds{300}};
  MpiWorld::options = {};
  MpiWorld::has_thread = false;
  conformance<MpiWorld>();
}

TEST_CASE("conformance, a node for each rank, in pieces of some elements") {
  Watchdog watchdog{"conformance, in pieces", std::chrono::seconds{300}};
  MpiWorld::options = {.compare_calls = false, .bytes_at_once = 16'000, .node_ranks = 1};
  MpiWorld::has_thread = true;
  conformance<MpiWorld>();
}

TEST_CASE("conformance, nodes of two ranks, and of one that is left") {
  if (ranks() <= 2) return;  // which is one node
  Watchdog watchdog{"conformance, nodes", std::chrono::seconds{300}};
  MpiWorld::options = {.bytes_at_once = 16'000, .node_ranks = 2};
  MpiWorld::has_thread = true;
  conformance<MpiWorld>();
}

TEST_CASE("sums have the bits of Threads") {
  Watchdog watchdog{"bits", std::chrono::seconds{300}};
  for (const std::size_t node_ranks : {0, 1, 2}) {
    for (const Reduction reduction : reductions)
      for (const std::size_t n : {1, 7, 1001}) {
        check_equals_threads<float>(n, reduction, node_ranks);
        check_equals_threads<double>(n, reduction, node_ranks);
        check_equals_threads<bf16>(n, reduction, node_ranks);
        check_equals_threads<fp16>(n, reduction, node_ranks);
      }
    // In several steps: more than a stage, and than 16 MiB.
    check_equals_threads<float>((node_ranks == 1 ? 4'400'000 : 440'000) / ranks() + 1,
                                Reduction::mean, node_ranks);
  }
}

TEST_CASE("memory that peers read in place gives the same bits, and stays as it was") {
  Watchdog watchdog{"reduction_buffer", std::chrono::seconds{300}};
  for (const std::size_t node_ranks : {0, 1, 2})
    for (const std::size_t n : {1, 640, 70'001}) {
      // Across nodes, in several steps.
      Mpi comm{MPI_COMM_WORLD,
               {.bytes_at_once = node_ranks == 2 ? 16'000 : 1_GiB, .node_ranks = node_ranks}};
      Cpu device;
      Cpu::Stream stream;
      const Context<Cpu> ctx{device, stream};
      const std::size_t world = comm.size(), rank = comm.rank();
      auto memory = comm.reduction_buffer<float>(device, world * n + 3);
      CHECK(device.account().live_bytes(Purpose::full_gradients) == memory.size_bytes());
      CHECK(memory.span()[world * n] == 0);
      const auto full = memory.span().first(world * n);
      const auto mine = input<float>(1, rank, full.size());
      std::vector<float> sum(n);
      std::copy(mine.begin(), mine.end(), full.begin());
      comm.reduce_scatter(ctx, std::span<const float>{full}, std::span{sum}, Reduction::mean);
      CHECK(same_bits(sum, reduced<float>(1, world, rank * n, n, Reduction::mean)));
      CHECK(same_bits({full.begin(), full.end()}, mine));
      comm.reduce_scatter(ctx, std::span<const float>{full}, full.subspan(rank * n, n),
                          Reduction::sum);
      const auto slice = full.subspan(rank * n, n);
      CHECK(same_bits({slice.begin(), slice.end()},
                      reduced<float>(1, world, rank * n, n, Reduction::sum)));
      std::copy(mine.begin(), mine.end(), full.begin());
      comm.all_reduce(ctx, full, Reduction::mean);
      CHECK(same_bits({full.begin(), full.end()},
                      reduced<float>(1, world, 0, world * n, Reduction::mean)));
      // One rank's lie elsewhere: nobody reads in place, and all get the same.
      std::copy(mine.begin(), mine.end(), full.begin());
      std::vector<float> elsewhere = mine;
      comm.all_reduce(ctx, rank == world - 1 ? std::span{elsewhere} : full, Reduction::mean);
      const auto got = rank == world - 1 ? std::span{elsewhere} : full;
      CHECK(same_bits({got.begin(), got.end()},
                      reduced<float>(1, world, 0, world * n, Reduction::mean)));
    }
}

TEST_CASE("who goes on from a sum in place may write there at once") {
  Watchdog watchdog{"written at once", std::chrono::seconds{300}};
  Mpi comm{MPI_COMM_WORLD};
  Cpu device;
  Cpu::Stream stream;
  const std::size_t n = 200'000, world = comm.size();
  auto memory = comm.reduction_buffer<std::int64_t>(device, world * n);
  const std::span<std::int64_t> full = memory.span();
  std::vector<std::int64_t> sum(n);
  std::size_t right = 0;
  for (std::int64_t i = 1; i <= 40; ++i) {
    std::fill(full.begin(), full.end(), i);
    comm.reduce_scatter(Context<Cpu>{device, stream}, std::span<const std::int64_t>{full},
                        std::span{sum}, Reduction::sum);
    std::fill(full.begin(), full.end(), -1);
    right += static_cast<std::size_t>(
        std::count(sum.begin(), sum.end(), i * static_cast<std::int64_t>(world)));
  }
  CHECK(right == 40 * n);
}

TEST_CASE("a buffer's memory is used for another when every rank has let go of it") {
  Watchdog watchdog{"buffers come and go", std::chrono::seconds{300}};
  Mpi comm{MPI_COMM_WORLD};
  Cpu device;
  Cpu::Stream stream;
  const Context<Cpu> ctx{device, stream};
  const std::size_t count = comm.size() * 1_MiB;
  std::size_t shared_before = 0;
  for (std::size_t i = 0; i < 20; ++i) {
    if (i == 4) shared_before = shared_resident_bytes();
    auto memory = comm.gather_buffer<std::byte>(device, count);
    REQUIRE(memory.data()[i] == std::byte{0});
    std::vector<std::byte> shard(i + 1, static_cast<std::byte>(comm.rank() + 1));
    comm.barrier(ctx);
    comm.gather(ctx, std::span<const std::byte>{shard},
                memory.span().first(comm.size() * shard.size()));
    CHECK(memory.data()[comm.size() * shard.size() - 1] == static_cast<std::byte>(comm.size()));
  }
  CHECK(shared_resident_bytes() < shared_before + 2 * count);
}

TEST_CASE("a gather into memory that is not one for all is refused in every rank") {
  Watchdog watchdog{"gather elsewhere", std::chrono::seconds{300}};
  Mpi comm{MPI_COMM_WORLD};
  if (comm.size() == 1) return;
  Cpu device;
  Cpu::Stream stream;
  const Context<Cpu> ctx{device, stream};
  auto a = comm.gather_buffer<float>(device, comm.size());
  auto b = comm.gather_buffer<float>(device, comm.size());
  const std::vector<float> shard(1);
  const auto error = error_of<CommError>([&] {
    comm.gather(ctx, std::span<const float>{shard}, comm.rank() == 1 ? b.span() : a.span());
  });
  CHECK(error ==
        "gather #3 of 1 fp32: full in rank 1 is not the memory of a buffer of "
        "gather_buffer that rank 0 gathers into: name the same everywhere");
  std::vector<float> own(comm.size());
  CHECK(error_of<CommError>([&] {
          comm.gather(ctx, std::span<const float>{shard}, std::span{own});
        }).starts_with("gather #4 of 1 fp32: full in rank 0 is not the memory of a buffer"));
  comm.barrier(ctx);
}

TEST_CASE("calls that differ are an error in every rank, which names two") {
  Watchdog watchdog{"different calls", std::chrono::seconds{300}};
  for (const std::size_t node_ranks : {0, 2}) {
    MpiWorld::options = {.node_ranks = node_ranks};
    MpiWorld::has_thread = false;
    MpiWorld::run([](auto& world, auto ctx) {
      if (world.size() == 1) return;
      auto comm = world.split(-7, -static_cast<int>(world.rank()));
      const std::size_t last = comm.size() - 1;  // rank 0 of `world`
      std::vector<float> values(4), all(4 * comm.size());
      const auto expected = [&](const std::string& first, const std::string& second) {
        return "rank " + std::to_string(last) + ": " + first + ", rank " +
               std::to_string(last - 1) + ": " + second +
               ": every rank must make the same calls in the same order";
      };
      const auto call = [&](auto first, auto others) {
        return error_of<CommError>([&] { comm.rank() == 0 ? first() : others(); });
      };
      CHECK(call([&] { comm.all_gather(ctx, std::span<const float>{values}, std::span{all}); },
                 [&] { comm.all_reduce(ctx, std::span{values}, Reduction::mean); }) ==
            expected("all_gather #1 of 4 fp32", "all_reduce #1 of 4 fp32 (mean)"));
      CHECK(call([&] { comm.broadcast(ctx, std::span{values}, 1); },
                 [&] { comm.broadcast(ctx, std::span{values}.first(3), 1); }) ==
            expected("broadcast #2 of 4 fp32 from root 1", "broadcast #2 of 3 fp32 from root 1"));
      const Context<Cpu> of_three{ctx.device, ctx.stream, 3}, of_four{ctx.device, ctx.stream, 4};
      CHECK(call([&] { comm.all_reduce(of_three, std::span{values}, Reduction::sum); },
                 [&] { comm.all_reduce(of_four, std::span{values}, Reduction::sum); }) ==
            expected("all_reduce #3 of 4 fp32 (sum) for unit 3",
                     "all_reduce #3 of 4 fp32 (sum) for unit 4"));
      CHECK(call([&] { (void)comm.split(0, 0); }, [&] { comm.barrier(ctx); }) ==
            expected("split #4", "barrier #4"));
      comm.barrier(ctx);  // nothing of those calls is left under way
    });
  }
}

TEST_CASE("what MPI reports is an error with rank, collective and number") {
  Watchdog watchdog{"MPI's error", std::chrono::seconds{300}};
  Mpi comm{MPI_COMM_WORLD, {.compare_calls = false, .node_ranks = 1}};
  if (comm.size() != 2) return;
  Cpu device;
  Cpu::Stream stream;
  const Context<Cpu> ctx{device, stream};
  std::vector<float> values(100);
  // Open MPI 4.1 tells MPI_COMM_WORLD of what goes wrong in a non-blocking collective of any.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  comm.barrier(ctx);
  if (comm.rank() == 0) {
    comm.broadcast(ctx, std::span{values}, 0);
  } else {
    const std::string error =
        error_of<CommError>([&] { comm.broadcast(ctx, std::span{values}.first(50), 0); });
    CHECK(error.starts_with("rank 1: broadcast #2 of 50 fp32 from root 0: MPI: "));
    CHECK(error.find('\n') == std::string::npos);
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
}

TEST_CASE("the user's communicator stays the user's") {
  Watchdog watchdog{"user's", std::chrono::seconds{300}};
  MPI_Comm users = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &users);
  int rank = 0, size = 0, received = -1, is_done = 0;
  MPI_Comm_rank(users, &rank);
  MPI_Comm_size(users, &size);
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Irecv(&received, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, users, &request);
  {
    Mpi comm{users};
    Cpu device;
    Cpu::Stream stream;
    for (std::uint64_t seed = 0; seed < 5; ++seed)
      check_all_reduce<float>(comm, Context<Cpu>{device, stream}, 1000, Reduction::sum, seed);
  }
  MPI_Test(&request, &is_done, MPI_STATUS_IGNORE);
  CHECK(!is_done);
  MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
  MPI_Comm_get_errhandler(users, &handler);
  CHECK(handler == MPI_ERRORS_ARE_FATAL);
  MPI_Barrier(users);
  MPI_Send(&rank, 1, MPI_INT, (rank + 1) % size, 3, users);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  CHECK(received == (rank + size - 1) % size);
  MPI_Comm_free(&users);
}

TEST_CASE("two communicators on two streams may meet in any order") {
  if (!streams_may_have_threads()) return;
  Watchdog watchdog{"two streams", std::chrono::seconds{300}};
  Mpi world{MPI_COMM_WORLD};
  Mpi other = world.split(0, -static_cast<int>(world.rank()));
  Cpu device{Execution::asynchronous};
  std::vector<std::int64_t> a(50, 1), b(50, 1);
  Cpu::Stream of_world{device, "world"}, of_other{device, "other"};
  std::int64_t expected = 1;
  for (std::size_t i = 0; i < 20; ++i) {
    const auto in_world = [&] {
      world.all_reduce(Context<Cpu>{device, of_world}, std::span{a}, Reduction::sum);
    };
    const auto in_other = [&] {
      other.broadcast(Context<Cpu>{device, of_other}, std::span{b}, i % other.size());
    };
    if ((world.rank() + i / 5) % 2 == 0) {  // some ranks come to one first, others to the other
      in_world();
      in_other();
    } else {
      in_other();
      in_world();
    }
    expected *= static_cast<std::int64_t>(world.size());
  }
  device.synchronize(of_world);
  device.synchronize(of_other);
  CHECK(a == std::vector<std::int64_t>(50, expected));
  CHECK(b == std::vector<std::int64_t>(50, 1));
}

TEST_CASE("only what is under way counts against the time that a collective may take") {
  Watchdog watchdog{"idle", std::chrono::seconds{300}};
  using std::chrono::milliseconds;
  Mpi comm{MPI_COMM_WORLD, {.collective = milliseconds{2000}}};
  Cpu device;
  Cpu::Stream stream;
  Mpi part = comm.split(0, 0);
  comm.barrier(Context<Cpu>{device, stream});
  part.barrier(Context<Cpu>{device, stream});
  std::this_thread::sleep_for(milliseconds{2500});
  comm.barrier(Context<Cpu>{device, stream});
  part.barrier(Context<Cpu>{device, stream});
}

TEST_CASE("where MPI allows the main thread alone, other threads are refused") {
  if (streams_may_have_threads()) return;
  Watchdog watchdog{"main thread", std::chrono::seconds{300}};
  Mpi comm{MPI_COMM_WORLD};
  Cpu device{Execution::asynchronous};
  Cpu::Stream stream{device, "comm"};
  comm.barrier(Context<Cpu>{device, stream});
  CHECK(error_of<ConfigError>([&] { device.synchronize(stream); }) ==
        "barrier #1: MPI was initialized for the main thread alone, and this is another: say "
        "MPI_Init_thread with MPI_THREAD_MULTIPLE, or use streams of Cpu{}, which have no threads");
}

TEST_CASE("what cannot be a communicator is refused, in every rank") {
  Watchdog watchdog{"refused", std::chrono::seconds{300}};
  int rank = 0, size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const auto refused = [](MPI_Comm comm, const MpiOptions& options = {}) {
    return error_of<ConfigError>([&] { Mpi{comm, options}; });
  };
  CHECK(refused(MPI_COMM_NULL) == "Mpi needs a communicator, got MPI_COMM_NULL");
  CHECK(refused(MPI_COMM_WORLD, {.bytes_at_once = 0}) ==
        "MpiOptions::bytes_at_once is 0: give a number from " + std::to_string(size) +
            ", the number of ranks, to 2147483647");
  CHECK(refused(MPI_COMM_WORLD, {.bytes_at_once = std::size_t{1} << 31})
            .starts_with("MpiOptions::bytes_at_once is 2147483648: "));
  CHECK(refused(MPI_COMM_WORLD, {.collective = std::chrono::milliseconds{0}}) ==
        "MpiOptions::collective is 0 ms: give a time above 0");
  if (size == 1) return;
  CHECK(refused(MPI_COMM_WORLD, {.compare_calls = rank != 1}) ==
        "MpiOptions differ between rank 0 and rank 1: give every rank the same");
  MPI_Comm half = MPI_COMM_NULL, inter = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, rank == 0, 0, &half);
  MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, rank == 0, 5, &inter);
  CHECK(refused(inter) ==
        "Mpi needs an intracommunicator; merge the groups by MPI_Intercomm_merge");
  MPI_Comm_free(&inter);
  MPI_Comm_free(&half);
}

TEST_CASE("a reduction lives in the room that was reserved for it") {
  Watchdog watchdog{"room", std::chrono::seconds{300}};
  CHECK(Mpi::room_bytes<float>(4, 1000, 4) == 0);
  Mpi comm{MPI_COMM_WORLD, {.node_ranks = 1}};
  Cpu device;
  Cpu::Stream stream;
  const std::size_t n = 1000, room = Mpi::room_bytes<float>(comm.size(), n, 1);
  CHECK(room == (comm.size() == 1 ? 0 : comm.size() * n * sizeof(float)));
  {
    const auto reserved = comm.reserve<float>(device, n);
    CHECK(device.account().live_bytes(Purpose::full_gradients) == room);
    std::vector<float> full(comm.size() * n);
    comm.reduce_scatter(Context<Cpu>{device, stream}, std::span<const float>{full},
                        std::span{full}.subspan(comm.rank() * n, n), Reduction::sum);
    CHECK(device.account().live_bytes() == room);
  }
  CHECK(device.account().live_bytes() == 0);
}

// Some 5 GiB a machine: by hand, mpirun -n 2 ... -ns -tc="more than *".
TEST_CASE("more than 2^31 bytes" * doctest::skip()) {
  for (const std::size_t node_ranks : {0, 1}) {
    Mpi comm{MPI_COMM_WORLD, {.node_ranks = node_ranks}};
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    const std::size_t marks = 2200, apart = 1_MiB / sizeof(std::int64_t), rank = comm.rank();
    const std::size_t shard = marks * apart / comm.size();
    auto memory = comm.gather_buffer<std::int64_t>(device, shard * comm.size());
    const auto full = memory.span(), mine = full.subspan(rank * shard, shard);
    const auto mark = [&](std::span<std::int64_t> values, std::size_t from, std::int64_t plus) {
      for (std::size_t i = 0; i < values.size(); i += apart)
        values[i] = static_cast<std::int64_t>(from + i) + plus;
    };
    const auto is_marked = [&](std::span<const std::int64_t> values, std::size_t from,
                               std::int64_t times, std::int64_t plus) {
      std::size_t right = 0;
      for (std::size_t i = 0; i < values.size(); i += apart)
        right += values[i] == times * static_cast<std::int64_t>(from + i) + plus;
      return right == values.size() / apart;
    };
    mark(mine, rank * shard, 1);
    comm.gather(ctx, std::span<const std::int64_t>{mine}, full);
    CHECK(is_marked(full, 0, 1, 1));
    comm.barrier(ctx);
    if (rank == 0) mark(full, 0, 2);
    comm.broadcast(ctx, full, 0);
    CHECK(is_marked(full, 0, 1, 2));
    std::vector<std::int64_t> sum(shard);
    comm.reduce_scatter(ctx, std::span<const std::int64_t>{full}, std::span{sum}, Reduction::sum);
    const auto world = static_cast<std::int64_t>(comm.size());
    CHECK(is_marked(sum, rank * shard, world, 2 * world));
  }
}

}  // namespace shardexpr::testing
