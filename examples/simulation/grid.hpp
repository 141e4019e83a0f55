// SPDX-License-Identifier: Apache-2.0
// Where cells lie: processes as a periodic grid, the block of cells that each keeps, and the halo
// that neighbours exchange. MPI alone; nothing here knows of a trainer.
#pragma once
#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <thread>
#include <vector>

#include <Eigen/Core>
#include <mpi.h>

/// Cells around a block that neighbours keep: a face's stencil reaches three cells to either side.
inline constexpr int halo = 3;

/// Values of a block's cells, or of the faces on their left or below, with the halo around: row j
/// is y, column i is x.
using Field = Eigen::Array<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The solver's own communicator: processes in a grid that is periodic in x and y.
class Processes {
 public:
  explicit Processes(MPI_Comm of) {
    int size = 0;
    MPI_Comm_size(of, &size);
    MPI_Dims_create(size, 2, count.data());
    const std::array<int, 2> periodic{1, 1};
    MPI_Cart_create(of, 2, count.data(), periodic.data(), /*reorder=*/1, &comm);
    MPI_Comm_rank(comm, &rank);
    MPI_Cart_coords(comm, rank, 2, at.data());
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes() { MPI_Comm_free(&comm); }

  /// Whoever is `rows` above and `columns` to the right; perhaps this process itself.
  int neighbour(int rows, int columns) const {
    const std::array<int, 2> place{at[0] + rows, at[1] + columns};
    int found = 0;
    MPI_Cart_rank(comm, place.data(), &found);  // goes round where the grid ends
    return found;
  }

  /// Waits without keeping the core: there may be more processes than cores, and MPI_Waitall of
  /// some implementations lets the others wait until the scheduler takes it away.
  static void finish(std::span<MPI_Request> requests) {
    for (int done = 0;;) {
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
      if (done) return;
      std::this_thread::yield();
    }
  }
  /// The sums over all processes, in each of them.
  template <std::size_t N>
  std::array<double, N> sum(std::array<double, N> values) const {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Iallreduce(MPI_IN_PLACE, values.data(), N, MPI_DOUBLE, MPI_SUM, comm, &request);
    finish({&request, 1});
    return values;
  }

  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0;
  // Of each axis, y first: how many processes, and where this one is.
  std::array<int, 2> count{0, 0}, at{0, 0};
};

/// This process's block of a grid of `cells` by `cells` cells, each of which was cut into `fine` by
/// `fine`. Blocks are cut along cells before those are cut, so that a block of the fine grid covers
/// the coarse one's, whatever the number of processes divides.
class Block {
 public:
  Block(const Processes& among, int coarse_cells, int fine)
      : processes{among}, cells{coarse_cells * fine}, h{1.0 / cells} {
    const auto first = [&](std::size_t axis, int place) {
      return place * coarse_cells / among.count[axis] * fine;
    };
    y0 = first(0, among.at[0]);
    x0 = first(1, among.at[1]);
    ny = first(0, among.at[0] + 1) - y0;
    nx = first(1, among.at[1] + 1) - x0;
    std::size_t way = 0;
    for (int y : {-1, 0, 1})
      for (int x : {-1, 0, 1}) {
        if (y == 0 && x == 0) continue;
        Swap& swap = swaps_[way++];
        swap.neighbour = among.neighbour(y, x);
        swap.from = first_in(y, ny, /*in_halo=*/true) * stride() + first_in(x, nx, true);
        swap.to = first_in(y, ny, /*in_halo=*/false) * stride() + first_in(x, nx, false);
        MPI_Type_vector(y == 0 ? ny : halo, x == 0 ? nx : halo, stride(), MPI_DOUBLE, &swap.type);
        MPI_Type_commit(&swap.type);
      }
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    for (Swap& swap : swaps_) MPI_Type_free(&swap.type);
  }

  int stride() const { return nx + 2 * halo; }
  Field field() const { return Field::Zero(ny + 2 * halo, stride()); }
  auto inner(Field& f) const { return f.block(halo, halo, ny, nx); }
  auto inner(const Field& f) const { return f.block(halo, halo, ny, nx); }

  /// Fills the halos of fields from the eight neighbours.
  void exchange(std::initializer_list<Field*> fields) const {
    requests_.resize(2 * swaps_.size() * fields.size());
    MPI_Request* next = requests_.data();
    // One neighbour may be several, this process even all of them: the tag tells the way.
    for (Field* f : fields)
      for (std::size_t way = 0; way < swaps_.size(); ++way) {
        const Swap& swap = swaps_[way];
        MPI_Irecv(f->data() + swap.from, 1, swap.type, swap.neighbour,
                  static_cast<int>(swaps_.size() - 1 - way), processes.comm, next++);
      }
    for (Field* f : fields)
      for (std::size_t way = 0; way < swaps_.size(); ++way) {
        const Swap& swap = swaps_[way];
        MPI_Isend(f->data() + swap.to, 1, swap.type, swap.neighbour, static_cast<int>(way),
                  processes.comm, next++);
      }
    Processes::finish(requests_);
  }

  const Processes& processes;
  int cells;  ///< of the whole grid, in x and in y
  double h;   ///< a cell's width
  int nx = 0, ny = 0, x0 = 0, y0 = 0;

 private:
  /// What a neighbour's cells fill, and which of ours fill its halo.
  struct Swap {
    int neighbour = 0, from = 0, to = 0;
    MPI_Datatype type = MPI_DATATYPE_NULL;
  };
  /// Along an axis of `count` cells: where the halo on that side begins, or the cells beside it.
  static int first_in(int side, int count, bool in_halo) {
    if (side == 0) return halo;
    return side < 0 ? (in_halo ? 0 : halo) : (in_halo ? halo + count : count);
  }

  std::array<Swap, 8> swaps_;  // opposite ways have places that add up to 7
  mutable std::vector<MPI_Request> requests_;
};
