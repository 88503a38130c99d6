#include "proof.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "backend/reference/reference_backend.h"
#include "base/checked.h"
#include "sampling/sampler.h"
#include "tiny_model.h"

namespace decant::proof {
namespace {

using Tokens = std::vector<int32_t>;
using Row = std::vector<float>;

constexpr int kDecodeRows = 64;

struct Sequence {
  int32_t slot = -1;
  int64_t past = 0;
  int32_t commit = 0;
  std::vector<std::vector<int32_t>> pages;  // by group

  /// The last step's first `tokens` tokens were true; recurrent state takes them in the next step.
  void accept(int32_t tokens) {
    past += tokens;
    commit = tokens;
  }
};

struct Feed {
  Sequence* sequence;
  Tokens tokens;
  bool all_rows = false;  // logits of every token, else of the last
  SamplingRow sampling = {};
};

struct Result {
  std::vector<Row> logits;                  // by output row
  std::vector<int32_t> ids;                 // by output row
  std::vector<std::vector<Tokens>> routes;  // [layer][token]
};

/// A backend with one decode and one prefill program over the same pools, and the bookkeeping an
/// engine does around them.
class Runner {
 public:
  Runner(Backend& backend, const CompileOptions& options, const TinyModel& model,
         int prefill_tokens = 64, int64_t pages = 200)
      : model_(model), random_(99) {
    pools_ = backend.make_pools(model.pools(pages, kDecodeRows));
    decode_ = backend.compile(model.record({Phase::kDecode, kDecodeRows, kDecodeRows, kDecodeRows}),
                              *pools_, options);
    prefill_ = backend.compile(model.record({Phase::kPrefill, prefill_tokens, 4, prefill_tokens}),
                               *pools_, options);
    free_pages_.resize(static_cast<size_t>(model.groups()));
    for (auto& free : free_pages_) {
      free.resize(static_cast<size_t>(pages));
      std::iota(free.begin(), free.end(), 0);
      std::shuffle(free.begin(), free.end(), random_);
    }
    free_slots_.resize(kDecodeRows);
    std::iota(free_slots_.begin(), free_slots_.end(), 0);
    std::shuffle(free_slots_.begin(), free_slots_.end(), random_);
  }

  Sequence open() {
    Sequence made;
    made.slot = free_slots_.back();
    free_slots_.pop_back();
    made.pages.resize(free_pages_.size());
    pools_->reset_slot(made.slot);
    return made;
  }

  /// Its pages and slot go to whoever comes next, with what is written in them.
  void close(Sequence& sequence) {
    for (size_t g = 0; g < free_pages_.size(); ++g)
      free_pages_[g].insert(free_pages_[g].end(), sequence.pages[g].begin(),
                            sequence.pages[g].end());
    free_slots_.push_back(sequence.slot);
    sequence = {};
  }

  /// One step. Moves no sequence on: the caller knows what was accepted.
  Result step(Phase phase, const std::vector<Feed>& feeds) {
    Batch batch;
    batch.phase = phase;
    std::vector<std::vector<int32_t>> tables;
    for (const Feed& feed : feeds) {
      Sequence& s = *feed.sequence;
      const auto first = static_cast<int32_t>(batch.tokens.size());
      const auto count = static_cast<int32_t>(feed.tokens.size());
      for (int32_t i = 0; i < count; ++i) {
        batch.tokens.push_back(feed.tokens[static_cast<size_t>(i)]);
        batch.positions.push_back(static_cast<int32_t>(s.past) + i);
        batch.sequence_of.push_back(static_cast<int32_t>(batch.sequences.size()));
        if (!feed.all_rows && i != count - 1) continue;
        batch.outputs.push_back(first + i);
        batch.sampling.push_back(feed.sampling);
      }
      batch.sequences.push_back({first, count, s.past, s.slot, s.commit});
      for (size_t g = 0; g < free_pages_.size(); ++g)
        while (static_cast<int64_t>(s.pages[g].size()) * kPageSize < s.past + count) {
          s.pages[g].push_back(free_pages_[g].back());
          free_pages_[g].pop_back();
        }
    }
    for (int g = 0; g < model_.groups(); ++g)
      for (const Feed& feed : feeds) {
        std::vector<int32_t> table = feed.sequence->pages[static_cast<size_t>(g)];
        if (const int window = model_.window(g); window > 0)
          for (int64_t page = 0; (page + 1) * kPageSize <= feed.sequence->past - window + 1; ++page)
            table[static_cast<size_t>(page)] = -1;
        tables.push_back(std::move(table));
      }
    for (const auto& table : tables) batch.page_tables.push_back(table.data());

    Program& program = phase == Phase::kDecode ? *decode_ : *prefill_;
    program.run(batch);
    Result result;
    const auto width = static_cast<size_t>(model_.config().vocab);
    const std::span<const float> logits = program.output(0);
    for (size_t i = 0; i < batch.outputs.size(); ++i)
      result.logits.emplace_back(logits.begin() + static_cast<std::ptrdiff_t>(i * width),
                                 logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
    const std::span<const int32_t> ids = program.int_output(1);
    result.ids.assign(ids.begin(), ids.end());
    const auto top_k = static_cast<size_t>(model_.config().top_k);
    for (int l = 0; model_.config().routed && l < model_.config().layers; ++l) {
      const std::span<const int32_t> flat = program.int_output(2 + l);
      std::vector<Tokens> rows;
      for (size_t n = 0; n < batch.tokens.size(); ++n)
        rows.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(n * top_k),
                          flat.begin() + static_cast<std::ptrdiff_t>((n + 1) * top_k));
      result.routes.push_back(std::move(rows));
    }
    return result;
  }

  /// Prefills in chunks of what the program holds; returns the last token's logits.
  Row prefill(Sequence& sequence, const Tokens& tokens) {
    Row last;
    const auto chunk = static_cast<size_t>(prefill_->capacity().tokens);
    for (size_t at = 0; at < tokens.size(); at += chunk) {
      const size_t end = std::min(tokens.size(), at + chunk);
      const Tokens part(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                        tokens.begin() + static_cast<std::ptrdiff_t>(end));
      last = step(Phase::kPrefill, {{&sequence, part}}).logits.at(0);
      sequence.past += static_cast<int64_t>(part.size());
      sequence.commit = 0;
    }
    return last;
  }

  std::mt19937_64& random() { return random_; }

 private:
  const TinyModel& model_;
  std::mt19937_64 random_;
  std::unique_ptr<Pools> pools_;
  std::unique_ptr<Program> decode_, prefill_;
  std::vector<std::vector<int32_t>> free_pages_;
  std::vector<int32_t> free_slots_;
};

/// All logits (and routes) of a sequence as the reference gives them in one pass from nothing.
Result one_pass(const TinyModel& model, const Tokens& tokens) {
  const std::unique_ptr<Backend> reference = make_reference_backend();
  Runner runner(*reference, {}, model, static_cast<int>(tokens.size()));
  Sequence sequence = runner.open();
  return runner.step(Phase::kPrefill, {{&sequence, tokens, true}});
}

Tokens random_tokens(const TinyModel& model, size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  Tokens tokens(count);
  for (int32_t& token : tokens)
    token = static_cast<int32_t>(random() % static_cast<uint64_t>(model.config().vocab));
  return tokens;
}

/// Counts what it compares, so that a proof that compared nothing fails.
class Judge {
 public:
  Judge(const TinyModel& model, const Promises& promises, int64_t context)
      : promises_(promises), bound_(std::max(promises.bound, model.bound(context))) {}
  ~Judge() { EXPECT_GT(compared_, 0) << "this proof compared nothing"; }
  Judge(const Judge&) = delete;
  Judge& operator=(const Judge&) = delete;

  void close(const Row& got, const Row& want, const std::string& where) {
    ++compared_;
    ASSERT_EQ(got.size(), want.size()) << where;
    float largest = 0;
    for (float x : want) largest = std::max(largest, std::fabs(x));
    EXPECT_GT(largest, 0.0f) << where;
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      const double difference = std::fabs(static_cast<double>(got[i]) - want[i]);
      if (!(difference <= worst)) worst = difference;  // a NaN is the worst
    }
    EXPECT_LE(worst, bound_ * static_cast<double>(largest))
        << where << ": largest logit " << largest;
  }
  void same(const Row& got, const Row& want, const std::string& where) {
    if (!promises_.bitwise_rows) return close(got, want, where);
    ++compared_;
    ASSERT_EQ(got.size(), want.size()) << where;
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0)
        << where << ": the bits of a row depend on its neighbours";
  }

 private:
  const Promises& promises_;
  double bound_;
  int64_t compared_ = 0;
};

void growing_context(Backend& backend, const Promises& promises, const TinyConfig& config,
                     size_t prompt, size_t steps) {
  const TinyModel model(config, 11);
  const Tokens tokens = random_tokens(model, prompt + steps, 5);
  const Result expected = one_pass(model, tokens);
  Judge judge(model, promises, static_cast<int64_t>(tokens.size()));
  Runner runner(backend, promises.compile, model);
  Sequence sequence = runner.open();
  const Row first = runner.prefill(
      sequence, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(prompt)});
  judge.close(first, expected.logits[prompt - 1], "the prompt");
  for (size_t i = prompt; i < tokens.size(); ++i) {
    const Result result = runner.step(Phase::kDecode, {{&sequence, {tokens[i]}}});
    judge.close(result.logits.at(0), expected.logits[i], fmt::format("position {}", i));
    sequence.accept(1);
  }
}

void joining_and_leaving(Backend& backend, const Promises& promises, const TinyConfig& config) {
  struct Client {
    int join, leave;
    size_t prompt;
    Tokens tokens;
    std::vector<Row> alone;  // decode steps, run with nobody beside it
    Sequence sequence;
  };
  const TinyModel model(config, 12);
  std::vector<Client> clients;
  for (const auto& [join, leave, prompt] : {std::tuple{0, 9, size_t{1}},
                                            {0, 4, size_t{5}},
                                            {1, 12, size_t{37}},
                                            {3, 8, size_t{63}},
                                            {5, 12, size_t{64}},
                                            {6, 11, size_t{130}},
                                            {9, 12, size_t{2}}}) {
    const size_t length = prompt + static_cast<size_t>(leave - join);
    clients.push_back({join, leave, prompt, random_tokens(model, length, prompt), {}, {}});
  }
  Judge judge(model, promises, 140);
  const auto prompt_of = [](const Client& c) {
    return Tokens(c.tokens.begin(), c.tokens.begin() + static_cast<std::ptrdiff_t>(c.prompt));
  };
  for (Client& client : clients) {
    const Result expected = one_pass(model, client.tokens);
    Runner runner(backend, promises.compile, model);
    Sequence sequence = runner.open();
    runner.prefill(sequence, prompt_of(client));
    for (size_t i = client.prompt; i < client.tokens.size(); ++i) {
      client.alone.push_back(
          runner.step(Phase::kDecode, {{&sequence, {client.tokens[i]}}}).logits.at(0));
      judge.close(client.alone.back(), expected.logits[i],
                  fmt::format("alone, prompt {}, position {}", client.prompt, i));
      sequence.accept(1);
    }
  }
  Runner runner(backend, promises.compile, model, 64,
                12);  // so few pages that those who leave hand theirs on
  for (int step = 0; step < 12; ++step) {
    std::vector<Client*> rows;
    for (Client& client : clients) {
      if (client.leave == step) runner.close(client.sequence);
      if (client.join == step) {
        client.sequence = runner.open();
        runner.prefill(client.sequence, prompt_of(client));
      }
      if (client.join <= step && step < client.leave) rows.push_back(&client);
    }
    std::shuffle(rows.begin(), rows.end(), runner.random());
    std::vector<Feed> feeds;
    for (Client* client : rows)
      feeds.push_back(
          {&client->sequence,
           {client->tokens[client->prompt + static_cast<size_t>(step - client->join)]}});
    const Result result = runner.step(Phase::kDecode, feeds);
    for (size_t r = 0; r < rows.size(); ++r) {
      judge.same(result.logits.at(r), rows[r]->alone[static_cast<size_t>(step - rows[r]->join)],
                 fmt::format("step {}, prompt {}", step, rows[r]->prompt));
      rows[r]->sequence.accept(1);
    }
  }
}

void row_counts(Backend& backend, const Promises& promises, const TinyConfig& config) {
  const TinyModel model(config, 13);
  Judge judge(model, promises, 80);
  Runner runner(backend, promises.compile, model);
  std::vector<Sequence> sequences;
  std::vector<Tokens> tokens;
  for (size_t i = 0; i < kDecodeRows; ++i) {
    sequences.push_back(runner.open());
    tokens.push_back(random_tokens(model, 2 + i * 7 % 70, 100 + i));
    runner.prefill(sequences.back(), {tokens.back().begin(), tokens.back().end() - 1});
  }
  // No sequence moves on, so each step writes again what it wrote before, and may be repeated.
  std::vector<Row> alone;
  for (size_t i = 0; i < kDecodeRows; ++i) {
    alone.push_back(
        runner.step(Phase::kDecode, {{&sequences[i], {tokens[i].back()}}}).logits.at(0));
    if (i % 9 == 0)
      judge.close(alone[i], one_pass(model, tokens[i]).logits.back(),
                  fmt::format("sequence {}", i));
  }
  for (size_t rows : {2u, 3u, 8u, 17u, 64u})
    for (size_t shift : {0u, 5u}) {
      std::vector<Feed> feeds;
      for (size_t r = 0; r < rows; ++r) {
        const size_t i = (r * 3 + shift) % kDecodeRows;
        feeds.push_back({&sequences[i], {tokens[i].back()}});
      }
      const Result result = runner.step(Phase::kDecode, feeds);
      for (size_t r = 0; r < rows; ++r)
        judge.same(result.logits.at(r), alone[(r * 3 + shift) % kDecodeRows],
                   fmt::format("row {} of {}", r, rows));
    }
}

void unequal_routing(Backend& backend, const Promises& promises, const TinyConfig& config) {
  const TinyModel model(config, 14);
  Judge judge(model, promises, 8);
  Runner runner(backend, promises.compile, model);
  std::vector<Sequence> sequences;
  std::vector<Tokens> tokens;
  std::vector<Feed> feeds;
  sequences.reserve(kDecodeRows);
  for (size_t i = 0; i < kDecodeRows; ++i) {
    sequences.push_back(runner.open());
    tokens.push_back(random_tokens(model, 3, 300 + i));
    runner.prefill(sequences[i], {tokens[i].begin(), tokens[i].end() - 1});
    feeds.push_back({&sequences[i], {tokens[i].back()}});
  }
  const Result result = runner.step(Phase::kDecode, feeds);
  for (size_t layer = 0; layer < result.routes.size(); ++layer) {
    std::set<Tokens> sets;
    std::map<int32_t, int> load;
    for (Tokens route : result.routes[layer]) {
      for (int32_t expert : route) ++load[expert];
      std::sort(route.begin(), route.end());
      EXPECT_EQ(std::set<int32_t>(route.begin(), route.end()).size(), route.size());
      sets.insert(route);
    }
    EXPECT_GT(sets.size(), 4u) << "layer " << layer << ": rows were to route differently";
    EXPECT_GT(load.size(), static_cast<size_t>(config.top_k));
  }
  for (size_t i = 0; i < kDecodeRows; i += 5) {
    const Result expected = one_pass(model, tokens[i]);
    judge.close(result.logits.at(i), expected.logits.back(), fmt::format("row {}", i));
    for (size_t layer = 0; promises.exact_routes && layer < result.routes.size(); ++layer)
      EXPECT_EQ(result.routes[layer][i], expected.routes[layer].back()) << "row " << i;
  }
  // The other extreme: every row wants the same experts.
  for (size_t i = 0; i < kDecodeRows; ++i) {
    sequences[i].past = 0;
    feeds[i].tokens = {7};
  }
  const Result equal = runner.step(Phase::kDecode, feeds);
  judge.close(equal.logits.at(0), one_pass(model, {7}).logits.at(0), "equal rows");
  for (size_t i = 1; i < kDecodeRows; ++i)
    judge.same(equal.logits.at(i), equal.logits.at(0), fmt::format("equal row {}", i));
}

void sampling(Backend& backend, const Promises& promises, const TinyConfig& config) {
  const TinyModel model(config, 15);
  Judge judge(model, promises, 4);
  Runner runner(backend, promises.compile, model);
  std::vector<Sequence> sequences(40);
  std::vector<Feed> feeds;
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i] = runner.open();
    SamplingRow row;
    row.temperature = static_cast<float>(i % 5) * 0.7f;
    row.top_k = i % 3 == 1 ? static_cast<int32_t>(1 + i) : 0;
    row.top_p = i % 4 == 2 ? 0.6f : 1.0f;
    row.min_p = i % 6 == 3 ? 0.05f : 0.0f;
    row.seed = 1234 + i;
    row.counter = i * i;
    feeds.push_back({&sequences[i], {static_cast<int32_t>(i)}, false, row});
  }
  const Result result = runner.step(Phase::kDecode, feeds);
  ASSERT_EQ(result.ids.size(), feeds.size());
  std::set<int32_t> chosen(result.ids.begin(), result.ids.end());
  EXPECT_GT(chosen.size(), 5u);
  for (size_t i = 0; i < feeds.size(); ++i)
    EXPECT_EQ(result.ids[i], sample_token(result.logits.at(i), feeds[i].sampling)) << "row " << i;
  judge.close(result.logits.at(3), one_pass(model, {3}).logits.at(0), "row 3");
}

/// Each step drafts 4 tokens; `accepted` of them turn out true. The state must be as if only those
/// had ever been seen.
void rewind(Backend& backend, const Promises& promises, const TinyConfig& config) {
  const TinyModel model(config, 16);
  const int drafts = config.draft_tokens;
  Judge judge(model, promises, 80);
  Runner runner(backend, promises.compile, model);
  std::vector<Sequence> sequences;
  std::vector<Tokens> known;  // what was accepted so far
  sequences.reserve(5);
  for (size_t i = 0; i < 5; ++i) {
    sequences.push_back(runner.open());
    known.push_back(random_tokens(model, 3 + 29 * i, 500 + i));
    runner.prefill(sequences[i], known[i]);
  }
  for (int step = 0; step < 7; ++step) {
    std::vector<Feed> feeds;
    for (size_t i = 0; i < sequences.size(); ++i)
      feeds.push_back({&sequences[i],
                       random_tokens(model, static_cast<size_t>(drafts),
                                     1000 + static_cast<uint64_t>(step) * 10 + i),
                       true});
    const Result result = runner.step(Phase::kDecode, feeds);
    for (size_t i = 0; i < sequences.size(); ++i) {
      Tokens all = known[i];
      all.insert(all.end(), feeds[i].tokens.begin(), feeds[i].tokens.end());
      const Result expected = one_pass(model, all);
      for (size_t d = 0; d < static_cast<size_t>(drafts); ++d)
        judge.close(result.logits.at(i * static_cast<size_t>(drafts) + d),
                    expected.logits[known[i].size() + d],
                    fmt::format("step {}, sequence {}, draft {}", step, i, d));
      // Every sequence meets every number of accepted tokens, 0 and all of them included.
      const int accepted = (step + static_cast<int>(i)) % (drafts + 1);
      known[i].insert(known[i].end(), feeds[i].tokens.begin(), feeds[i].tokens.begin() + accepted);
      sequences[i].accept(accepted);
    }
  }
  // A prompt's next chunk after drafting commits what was accepted, too.
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Tokens more = random_tokens(model, 9, 2000 + i);
    const Row last = runner.prefill(sequences[i], more);
    known[i].insert(known[i].end(), more.begin(), more.end());
    judge.close(last, one_pass(model, known[i]).logits.back(), fmt::format("prefill of {}", i));
  }
}

std::vector<TinyConfig> models() {
  const Format f32 = Format::dense(DType::kF32), bf16 = Format::dense(DType::kBF16),
               packed = Format::affine(4, 64);
  std::vector<TinyConfig> all;
  all.push_back({.name = "qwen3_f32", .format = f32});
  all.push_back({.name = "qwen3_bf16", .format = bf16, .kv_dtype = DType::kBF16});
  all.push_back({.name = "qwen3_4bit", .format = packed});
  all.push_back({.name = "qwen3_4bit_sliding", .format = packed, .sliding = true});
  all.push_back({.name = "qwen3_moe_f32", .format = f32, .routed = true, .inner = 64});
  all.push_back({.name = "qwen3_moe_bf16", .format = bf16, .routed = true, .inner = 64});
  all.push_back({.name = "qwen3_moe_4bit", .format = packed, .routed = true, .inner = 64});
  return all;
}

}  // namespace

std::vector<Proof> all_proofs() {
  std::vector<Proof> all;
  const auto add = [&](const std::string& what, const TinyConfig& config, auto check) {
    all.push_back({what + "_" + config.name,
                   [check, config](Backend& b, const Promises& p) { check(b, p, config); }});
  };
  for (const TinyConfig& config : models()) {
    add("growing_context", config, [](Backend& b, const Promises& p, const TinyConfig& c) {
      growing_context(b, p, c, 37, 40);
    });
    add("joining_and_leaving", config, joining_and_leaving);
    add("row_counts", config, row_counts);
    if (config.routed) add("unequal_routing", config, unequal_routing);
  }
  TinyConfig one = models()[0];
  add("sampling", one, sampling);
  one.name = "one_layer";
  one.layers = 1;
  add("growing_context_over_a_split", one, [](Backend& b, const Promises& p, const TinyConfig& c) {
    growing_context(b, p, c, 1000, 40);
  });
  for (bool routed : {false, true}) {
    TinyConfig recurrent{.name = routed ? "recurrent_moe" : "recurrent", .recurrent = true};
    recurrent.routed = routed;
    recurrent.inner = 64;
    add("rewind", recurrent, rewind);
    add("row_counts", recurrent, row_counts);
    add("joining_and_leaving", recurrent, joining_and_leaving);
  }
  return all;
}

namespace {

class ProofTest : public ::testing::Test {
 public:
  ProofTest(Proof proof, std::function<std::unique_ptr<Backend>()> make, const Promises& promises,
            std::function<std::string()> unavailable)
      : proof_(std::move(proof)),
        make_(std::move(make)),
        promises_(promises),
        unavailable_(std::move(unavailable)) {}
  void TestBody() override {
    if (const std::string reason = unavailable_ ? unavailable_() : ""; !reason.empty())
      GTEST_SKIP() << reason;
    const std::unique_ptr<Backend> backend = make_();
    proof_.check(*backend, promises_);
  }

 private:
  Proof proof_;
  std::function<std::unique_ptr<Backend>()> make_;
  Promises promises_;
  std::function<std::string()> unavailable_;
};

}  // namespace

bool register_proofs(const std::string& backend, std::function<std::unique_ptr<Backend>()> make,
                     const Promises& promises, std::function<std::string()> unavailable) {
  for (const Proof& proof : all_proofs())
    ::testing::RegisterTest(
        ("proof_" + backend).c_str(), proof.name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
        [=]() -> ProofTest* { return new ProofTest(proof, make, promises, unavailable); });
  return true;
}

}  // namespace decant::proof
