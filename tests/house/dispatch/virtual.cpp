// SPDX-License-Identifier: Apache-2.0
// A virtual call in the library's name: must be found.
namespace shardexpr {
struct Planted {
  virtual ~Planted() = default;
  virtual int answer() { return 1; }
};
struct Child : Planted {
  int answer() override { return 2; }
};
[[gnu::noinline]] int ask(Planted& planted) { return planted.answer(); }
}  // namespace shardexpr

int main(int argc, char**) {
  shardexpr::Child child;
  shardexpr::Planted base;
  return shardexpr::ask(argc > 1 ? base : child);
}
