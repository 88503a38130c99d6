// Encoding and decoding speed of one thread, on the tokenizers of the fixtures and on those of
// DECANT_BENCH_TOKENIZERS (a folder of folders with tokenizer.json;
// scripts/differential/tokenizers.py trains some of real size). The text is the repository's own:
// prose, C++ and Python; "wide" is the fixtures' list of hard texts in many scripts. Every text
// must come back from its ids first.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

namespace {

namespace fs = std::filesystem;
using decant::Tokenizer;

std::string ordinary_text() {
  const fs::path root = DECANT_SOURCE;
  std::vector<fs::path> files = {root / "README.md", root / "ARCHITECTURE.md"};
  for (const char* folder : {"src", "scripts", "docs"})
    if (fs::is_directory(root / folder))
      for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
        const fs::path& path = entry.path();
        if (path.extension() == ".cpp" || path.extension() == ".h" || path.extension() == ".py" ||
            path.extension() == ".md")
          files.push_back(path);
      }
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& path : files) text += decant::read_text_file(path);
  return text;
}

std::string wide_text() {
  std::string text;
  const fs::path file = fs::path(DECANT_SOURCE) / "tests/fixtures/tokenizers/texts.json";
  for (const decant::Json& item : decant::read_json_file(file))
    text += item.get<std::string>() + " ";
  return text;
}

void encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  size_t tokens = 0;
  for (auto _ : state) {
    const auto ids = tokenizer.encode(text);
    tokens += ids.size();
    benchmark::DoNotOptimize(ids.data());
  }
  const auto bytes = static_cast<double>(text.size()) * static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
  state.counters["bytes/token"] = tokens == 0 ? 0 : bytes / static_cast<double>(tokens);
}

void decode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.encode(text, {.add_special_tokens = false});
  const std::string back = tokenizer.decode(ids);
  if (decant::utf8_first_error(back) != std::string::npos || back.size() < text.size() / 2)
    state.SkipWithError("the text does not come back");
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
  state.SetBytesProcessed(static_cast<int64_t>(back.size()) *
                          static_cast<int64_t>(state.iterations()));
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  try {
    std::vector<fs::path> folders;
    for (const char* name : {"demo_qwen", "demo_gemma"})
      folders.push_back(fs::path(DECANT_SOURCE) / "tests/fixtures/tokenizers" / name);
    if (const char* more = std::getenv("DECANT_BENCH_TOKENIZERS"))
      for (const auto& entry : fs::directory_iterator(more))
        if (fs::exists(entry.path() / "tokenizer.json")) folders.push_back(entry.path());
    std::sort(folders.begin(), folders.end());
    const std::string ordinary = ordinary_text();
    const std::string wide = wide_text();
    std::vector<std::shared_ptr<const Tokenizer>> loaded;
    for (const fs::path& folder : folders) {
      loaded.push_back(Tokenizer::load(folder));
      const Tokenizer& tokenizer = *loaded.back();
      const std::string name = folder.filename().string();
      benchmark::RegisterBenchmark((name + "/encode").c_str(), [&](benchmark::State& state) {
        encode(state, tokenizer, ordinary);
      });
      benchmark::RegisterBenchmark((name + "/encode_wide").c_str(), [&](benchmark::State& state) {
        encode(state, tokenizer, wide);
      });
      benchmark::RegisterBenchmark((name + "/decode").c_str(), [&](benchmark::State& state) {
        decode(state, tokenizer, ordinary);
      });
    }
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
