// SPDX-License-Identifier: Apache-2.0
// An illegal trainer must offer every verb of a legal one, or its one error line cascades.
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

// Every public verb, used as a program would use it.
template <class T>
concept HasEveryVerb = requires(T t, typename T::Options options, sx::Cpu device, sx::Threads* comm,
                                toy::Batch batch) {
  typename T::Model::Config;
  typename T::Strategy::sharding;
  typename T::Strategy::communicator;
  sx::mesh_shape<typename T::Strategy>(8).shards;
  T{device, *comm, typename T::Model::Config{}};
  T{device, *comm, typename T::Model::Config{}, options};
  options.optimizer.learning_rate = 0.1f;
  options.seed = 3;
  options.micro_batches = 2;
  options.groups[1].weight_decay_factor = 0.5f;
  options.schedule = sx::LearningRateSchedule::warmup(3);
  t.step(batch).loss;
  t.step(batch).gradient_norm;
  t.evaluate(batch) < 1.0;
  t.step(std::span<const toy::Batch>{&batch, 1}).loss;
  t.summon([](auto&&...) {});
  t.summon(sx::WriteFrom{1}, [](auto&&...) {});
  t.template gather<toy::Mixer>(1)->weight[0];
  t.template gather<toy::Encoder>();
  t.template open_gradients<toy::Mixer>(1)->weight[0] += 1;
  t.template open_gradients<toy::Mixer>(1).reduce();
  t.apply(0.5).loss;
  t.drop_gradients();
  t.loss_scale() == 1;
  t.for_each_buffer([](auto&&...) {});
  t.template buffers<toy::Encoder>();
  T::check(options);
  t.context().run(sx::reads(), sx::writes(), sx::detail::AnyWork{});
  t.context().for_each(3, sx::reads(), sx::writes(), sx::detail::AnyWork{});
  t.context().stream;
  t.mesh().shards;
  t.config();
  t.traffic().total();
  t.transfers().nvme_read_bytes;
  t.nvme_bytes() == 0;
  t.layout().parameter_count();
  t.options().optimizer;
  t.set_learning_rate(0.1f);
  t.learning_rate() + t.learning_rate(1);
  t.steps() + 1;
};

// With state on a disk there is one option more.
template <class T>
concept HasEveryVerbOnNvme = HasEveryVerb<T> && requires(typename T::Options options) {
  options.nvme.directory = "somewhere";
  options.nvme.queue_depth = 8;
};

using Refused = sx::detail::Refused<sx::BackendRule::none, toy::Autoencoder>;

static_assert(HasEveryVerb<sx::Sharded<toy::Autoencoder>>);
static_assert(HasEveryVerbOnNvme<Refused>);

TEST_CASE("a refused trainer has the verbs of a trainer") {
  CHECK(HasEveryVerbOnNvme<Refused> ==
        HasEveryVerbOnNvme<
            sx::Sharded<toy::Autoencoder, sx::FullShard, sx::Offload<sx::OnDevice, sx::OnNvme>>>);
}

// The page is made from the rules; it must not fall behind them.
TEST_CASE("docs/diagnostics.md says what each rule says") {
  std::ifstream file{SHARDEXPR_FIXTURES_DIR "/../../docs/diagnostics.md"};
  const std::string page{std::istreambuf_iterator<char>{file}, {}};
  REQUIRE(page.size() > 1000);
  std::size_t rules = 0;
  const auto stands = [&](std::string_view code, std::string_view what, std::string_view advice) {
    CAPTURE(code);
    ++rules;
    const std::size_t at = page.find("## " + std::string{code});
    REQUIRE(at != std::string::npos);
    const std::string section = page.substr(at, page.find("## ", at + 3) - at);
    CHECK(section.find(what) != std::string::npos);
    CHECK(section.find(advice) != std::string::npos);
  };
  for (const sx::RuleText& rule : sx::rule_texts) stands(rule.code, rule.what, rule.advice);
  for (const auto& [code, what, advice] : sx::model_rule_texts) stands(code, what, advice);
  for (const auto& [code, what, advice] : sx::backend_rule_texts) stands(code, what, advice);
  CHECK(rules == 45);
}

}  // namespace
