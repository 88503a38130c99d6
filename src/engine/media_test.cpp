#include "engine/media.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "engine/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using testing::random_tokens;
using testing::TestModel;
using testing::TestModelOptions;

constexpr int32_t kPicture = TestModelOptions::kPicture;

std::vector<int32_t> with_placeholders(std::vector<int32_t> tokens, size_t first, size_t count) {
  std::fill_n(tokens.begin() + static_cast<int64_t>(first), count, kPicture);
  return tokens;
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const RequestError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Placement, ChecksMediaAgainstTokens) {
  const TestModel model({.media = true});
  const auto picture = model.picture_of(std::vector<int32_t>{1, 2, 3});
  const std::vector<int32_t> prompt = {5, kPicture, kPicture, kPicture, 6, kPicture};
  const auto place = [&](std::vector<PromptMedia> media) {
    return place_media(model, prompt, media, 100);
  };
  EXPECT_THAT(error_of([&] { place({{1, picture, ""}}); }),
              HasSubstr("expected features for every placeholder, got none for position 5"));
  EXPECT_THAT(error_of([&] { place({{2, picture, ""}}); }),
              HasSubstr("expected 3 placeholders (id 90), got id 6 after 2"));
  EXPECT_THAT(error_of([&] { place({{4, picture, ""}}); }), HasSubstr("got 4 to 6"));
  EXPECT_THAT(error_of([&] { place({{1, picture, ""}, {3, picture, ""}}); }),
              HasSubstr("positions 4 to 5, got 3 to 5"));
  auto sound = std::make_shared<TowerInput>(*picture);
  sound->medium = Medium::kAudio;
  EXPECT_THAT(error_of([&] { place({{1, sound, ""}}); }),
              HasSubstr("audio: expected a model with a tower for it, got test"));
  const auto one = model.picture_of(std::vector<int32_t>{7});
  const Placement placed = place({{1, picture, "a"}, {5, one, "b"}});
  ASSERT_EQ(placed.sources.size(), prompt.size());
  EXPECT_EQ(placed.sources[0].item, -1);
  EXPECT_EQ(placed.sources[3].item, 0);
  EXPECT_EQ(placed.sources[3].row, 2);
  EXPECT_EQ(placed.sources[5].item, 1);
  EXPECT_TRUE(placed.axes.empty());
  EXPECT_TRUE(placed.spans.empty());
}

TEST(Placement, PlaceholdersOfTextOnlyPromptsAreTokens) {
  const TestModel model({.media = true, .both_ways = true});
  const Placement placed = place_media(model, std::vector<int32_t>{kPicture, 4}, {}, 100);
  EXPECT_TRUE(placed.sources.empty() && placed.axes.empty() && placed.last_seen.empty());
}

TEST(Placement, TokensOfATowerComeFromIt) {
  const TestModel model({.media = true});
  const std::vector<int32_t> prompt = {3, 80, 81, 82, 80};
  const Placement placed = place_media(model, prompt, {}, 100);
  ASSERT_EQ(placed.inputs.size(), 1u);
  EXPECT_EQ(placed.inputs[0]->ids, (std::vector<int32_t>{80, 81, 80}));
  EXPECT_EQ(placed.sources[0].item, -1);
  EXPECT_EQ(placed.sources[2].row, 1);
  EXPECT_EQ(placed.sources[3].item, -1);
  EXPECT_EQ(placed.sources[4].row, 2);
}

// Text counts on, a picture's tokens share a time, what follows starts after the larger side.
TEST(Placement, AxesFollowTheGrid) {
  const TestModel model({.media = true, .merge = 2});
  auto picture = model.picture_of(std::vector<int32_t>{1, 2, 3, 4, 5, 6});
  picture->grid = {1, 4, 6};
  const std::vector<int32_t> prompt = with_placeholders(std::vector<int32_t>(10, 1), 2, 6);
  const Placement placed =
      place_media(model, prompt, std::vector<PromptMedia>{{2, picture, ""}}, 100);
  using Axes = std::array<int32_t, 3>;
  EXPECT_EQ(placed.axes, (std::vector<Axes>{{0, 0, 0},
                                            {1, 1, 1},
                                            {2, 2, 2},
                                            {2, 2, 3},
                                            {2, 2, 4},
                                            {2, 3, 2},
                                            {2, 3, 3},
                                            {2, 3, 4},
                                            {5, 5, 5},
                                            {6, 6, 6}}));
  EXPECT_EQ(placed.shift, -3);
}

TEST(Placement, SpansSeeToTheirEnd) {
  const TestModel model({.media = true, .both_ways = true});
  const auto picture = model.picture_of(std::vector<int32_t>{1, 2, 3});
  const std::vector<int32_t> prompt = with_placeholders(std::vector<int32_t>(9, 1), 1, 6);
  const std::vector<PromptMedia> media = {{1, picture, ""}, {4, picture, ""}};
  const Placement placed = place_media(model, prompt, media, 100);
  EXPECT_EQ(placed.last_seen, (std::vector<int32_t>{0, 6, 6, 6, 6, 6, 6, 7, 8}));
  ASSERT_EQ(placed.spans.size(), 1u);
  EXPECT_EQ(placed.spans[0], (std::pair<int64_t, int64_t>{1, 7}));
  EXPECT_THAT(error_of([&] { place_media(model, prompt, media, 5); }),
              HasSubstr("expected at most 5 placeholders in a row (a prefill chunk), got 6"));
}

class EngineMedia : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Backend> backend_ = make_backend(GetParam(), {.threads = 2});
  static EngineOptions options(int chunk) {
    EngineOptions out;
    out.ctx_size = 512;
    out.max_sequences = 4;
    out.prefill_chunk = chunk;
    return out;
  }
  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<float> logits;
    RequestResult result;
  };
  static Request request(std::vector<int32_t> prompt, std::vector<PromptMedia> media, Answer& out) {
    Request request;
    request.prompt = std::move(prompt);
    request.media = std::move(media);
    request.max_tokens = 6;
    request.on_logits = [&out](std::span<const float> logits) {
      out.logits.insert(out.logits.end(), logits.begin(), logits.end());
    };
    request.on_finish = [&out](const RequestResult& result) {
      out.result = result;
      out.tokens = result.tokens;
    };
    return request;
  }
  Answer answer(Engine& engine, std::vector<int32_t> prompt, std::vector<PromptMedia> media) const {
    Answer out;
    engine.submit(request(std::move(prompt), std::move(media), out));
    while (engine.step()) engine.check_integrity();
    return out;
  }
};

// A picture whose rows are the embeddings of some tokens reads as these tokens do, bit for bit,
// whatever the chunks and whoever runs beside it.
TEST_P(EngineMedia, FeaturesTakeThePlaceOfEmbeddings) {
  const auto model = std::make_shared<TestModel>(TestModelOptions{.media = true});
  const std::vector<int32_t> text = random_tokens(150, 70, 3), other = random_tokens(90, 70, 4);
  const std::vector<int32_t> prompt = with_placeholders(text, 20, 70);
  const auto picture = model->picture_of(std::span(text).subspan(20, 70));
  std::optional<Answer> plain;
  for (const int chunk : {256, 64, 7}) {
    Engine engine(model, *backend_, options(chunk));
    const Answer read = answer(engine, text, {});
    const Answer seen = answer(engine, prompt, {{20, picture, "k"}});
    ASSERT_EQ(read.tokens.size(), 6u);
    EXPECT_EQ(seen.tokens, read.tokens) << "chunks of " << chunk;
    EXPECT_EQ(seen.logits, read.logits) << "chunks of " << chunk;
    Answer beside, first;
    engine.submit(request(other, {}, beside));
    engine.submit(request(prompt, {{20, picture, "k"}}, first));
    while (engine.step()) engine.check_integrity();
    EXPECT_EQ(first.logits, read.logits) << "beside a prompt of text";
    EXPECT_EQ(engine.stats().towers_computed, 1);
    EXPECT_EQ(engine.stats().towers_reused, 1);
    if (!plain) plain = read;
    EXPECT_EQ(read.logits, plain->logits);
  }
}

TEST_P(EngineMedia, SpansAreWholeWhateverTheChunks) {
  const auto model =
      std::make_shared<TestModel>(TestModelOptions{.media = true, .both_ways = true});
  const auto causal = std::make_shared<TestModel>(TestModelOptions{.media = true});
  const std::vector<int32_t> text = random_tokens(150, 70, 5);
  const std::vector<int32_t> prompt = with_placeholders(text, 20, 70);
  const std::vector<PromptMedia> media = {
      {20, model->picture_of(std::span(text).subspan(20, 70)), ""}};
  const auto scored = [&](Engine& engine, const std::vector<int32_t>& row, bool with_media) {
    ScoreOptions options;
    if (with_media) options.media = {media};
    std::vector<std::vector<float>> out;
    engine.score({{row}}, options, [&](size_t, int64_t, std::span<const float> logits) {
      out.emplace_back(logits.begin(), logits.end());
    });
    engine.check_integrity();
    return out;
  };
  Engine seeing_back(causal, *backend_, options(64));
  const auto back = scored(seeing_back, prompt, true);
  const auto plain = scored(seeing_back, text, false);
  std::optional<std::vector<std::vector<float>>> whole;
  for (const int chunk : {256, 64, 7}) {
    Engine engine(model, *backend_, options(chunk));
    const auto got = scored(engine, prompt, true);
    if (!whole) whole = got;
    EXPECT_EQ(got, *whole) << "chunks of " << chunk;
    for (size_t i = 0; i < got.size(); ++i)
      // The last of the span sees what it would see anyway.
      EXPECT_EQ(got[i] == back[i], i < 20 || i >= 89) << "position " << i;
    EXPECT_EQ(scored(engine, text, false), plain) << "text has no spans";
    EXPECT_EQ(answer(engine, prompt, media).tokens.size(), 6u);
  }
}

TEST_P(EngineMedia, PositionsGoOnAfterAPicture) {
  const auto model = std::make_shared<TestModel>(TestModelOptions{.media = true, .merge = 1});
  const std::vector<int32_t> text = random_tokens(40, 70, 6);
  auto picture = model->picture_of(std::span(text).subspan(8, 12));
  picture->grid = {1, 3, 4};
  testing::WatchedBackend watched(make_backend(GetParam(), {.threads = 2}));
  std::vector<std::array<int32_t, 3>> decoded;
  watched.before_run = [&](const Capacity&, const Batch& batch) {
    if (batch.phase == Phase::kDecode)
      decoded.insert(decoded.end(), batch.rope_positions.begin(), batch.rope_positions.end());
  };
  Engine engine(model, watched, options(64));
  answer(engine, with_placeholders(text, 8, 12), {{8, picture, ""}});
  // 12 placeholders take 4 positions: the first decoded one is 40 - 8.
  ASSERT_EQ(decoded.size(), 5u);
  for (int32_t i = 0; i < 5; ++i)
    EXPECT_EQ(decoded[static_cast<size_t>(i)], (std::array<int32_t, 3>{32 + i, 32 + i, 32 + i}));
}

TEST_P(EngineMedia, ATowerThatFailsFailsItsRequestOnly) {
  const auto model = std::make_shared<TestModel>(TestModelOptions{.media = true});
  testing::WatchedBackend watched(make_backend(GetParam(), {.threads = 2}));
  bool broken = true;
  watched.before_run = [&](const Capacity&, const Batch& batch) {
    if (broken && batch.sequences.empty()) throw RuntimeError("[tower] expected light, got none");
  };
  Engine engine(model, watched, options(64));
  const std::vector<int32_t> text = random_tokens(30, 70, 7);
  const auto picture = model->picture_of(std::span(text).subspan(3, 4));
  Answer dark, beside;
  engine.submit(request(with_placeholders(text, 3, 4), {{3, picture, "x"}}, dark));
  engine.submit(request(text, {}, beside));
  while (engine.step()) engine.check_integrity();
  EXPECT_EQ(dark.result.reason, FinishReason::kError);
  EXPECT_THAT(dark.result.error, HasSubstr("expected light"));
  EXPECT_EQ(beside.tokens.size(), 6u);
  broken = false;
  EXPECT_EQ(answer(engine, with_placeholders(text, 3, 4), {{3, picture, "x"}}).logits,
            beside.logits);
}

// A token that a tower embeds means the same in an answer as in a prompt.
TEST_P(EngineMedia, GeneratedTowerTokensTakeTheirRows) {
  const auto model = std::make_shared<TestModel>(TestModelOptions{.media = true});
  EngineOptions exact = options(64);
  exact.exact = true;
  Engine engine(model, *backend_, exact);
  const std::vector<int32_t> text = random_tokens(30, 70, 7);
  Answer forced, beside, alone = answer(engine, text, {});
  Request request = this->request(text, {}, forced);
  request.sampling.logit_bias = {{TestModelOptions::kTowerToken, 60},
                                 {TestModelOptions::kTowerToken + 1, 60}};
  engine.submit(std::move(request));
  engine.submit(this->request(text, {}, beside));
  while (engine.step()) engine.check_integrity();
  EXPECT_EQ(beside.logits, alone.logits);
  ASSERT_EQ(forced.tokens.size(), 6u) << forced.result.error;
  EXPECT_EQ(forced.result.stats.prompt_tokens, 30);
  std::vector<int32_t> whole = text;
  for (const int32_t token : forced.tokens) {
    EXPECT_TRUE(is_tower_token(model->spec().media, token)) << token;
    whole.push_back(token);
  }
  whole.pop_back();
  std::vector<float> expected;
  engine.score(std::vector<std::vector<int32_t>>{whole}, {},
               [&](size_t, int64_t position, std::span<const float> logits) {
                 if (position >= 29) expected.insert(expected.end(), logits.begin(), logits.end());
               });
  ASSERT_EQ(forced.logits.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(forced.logits[i], expected[i], 1e-4f) << i;
}

INSTANTIATE_TEST_SUITE_P(Backends, EngineMedia, ::testing::Values("cpu", "reference"));

TEST(EngineMediaRefused, ByModelsAndDevicesWithoutThem) {
  const auto model = std::make_shared<TestModel>(TestModelOptions{.media = true});
  const auto text_only = std::make_shared<TestModel>();
  const auto backend = make_backend("cpu", {.threads = 1});
  EngineOptions options;
  options.ctx_size = 64;
  Engine engine(text_only, *backend, options);
  const auto picture = model->picture_of(std::vector<int32_t>{1});
  Request request;
  request.prompt = {kPicture, 1};
  request.media = {{0, picture, ""}};
  EXPECT_THAT(error_of([&] { engine.submit(request); }),
              HasSubstr("image: expected a model with a tower for it, got test"));
  EXPECT_THAT(error_of([&] { engine.features(*picture); }),
              HasSubstr("image: expected a model and a device that take it"));
}

// What is kept is what was used last, up to the bytes allowed.
TEST(TowerRunner, KeepsWhatWasUsedLast) {
  const TestModel model({.media = true});
  const auto backend = make_backend("cpu", {.threads = 1});
  TowerRunner runner(model, *backend, {.kept_bytes = 2 * 4 * TestModel::kHidden});
  const auto a = model.picture_of(std::vector<int32_t>{1}),
             b = model.picture_of(std::vector<int32_t>{2}),
             c = model.picture_of(std::vector<int32_t>{3});
  const auto first = runner.run(*a, "a");
  runner.run(*b, "b");
  EXPECT_EQ(runner.run(*a, "a"), first);
  runner.run(*c, "c");  // b goes
  EXPECT_EQ(runner.run(*a, "a"), first);
  EXPECT_EQ(runner.stats().computed, 3);
  runner.run(*b, "b");
  EXPECT_EQ(runner.stats().computed, 4);
  EXPECT_EQ(runner.stats().reused, 2);
  // A program goes when another size needs its place, and comes back.
  TowerRunner narrow(model, *backend, {.kept_programs = 1});
  const auto large = model.picture_of(std::vector<int32_t>(100, 4));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(narrow.run(*a, "")->values, first->values);
    EXPECT_EQ(narrow.run(*large, "")->rows, 100);
  }
  EXPECT_THROW(TowerRunner(model, *backend, {.budget = 100}).run(*a, ""), MemoryError);
}

}  // namespace
}  // namespace decant
