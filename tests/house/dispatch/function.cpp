// SPDX-License-Identifier: Apache-2.0
// A std::function that holds a type of the library: must be found.
#include <functional>

namespace shardexpr {
struct Functor {
  int operator()(int x) const { return x + 1; }
};
[[gnu::noinline]] int call(const std::function<int(int)>& f, int x) { return f(x); }
}  // namespace shardexpr

int main(int argc, char**) { return shardexpr::call(shardexpr::Functor{}, argc); }
