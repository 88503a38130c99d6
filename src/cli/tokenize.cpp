#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "cli/console.h"
#include "cli/json_input.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace decant::cli {
namespace {

struct Flags {
  ModelArgument model;
  std::string text;
  std::string file;
  std::string batch;
  bool no_special = false;
  bool skip_special = false;
  bool decode = false;
  bool json = false;
  CLI::Option* text_option = nullptr;
  CLI::Option* file_option = nullptr;
  CLI::Option* batch_option = nullptr;
};

// Exactly one of the inputs; what comes from the environment gives way to the command line.
const CLI::Option* chosen_input(const Flags& flags) {
  const CLI::Option* chosen = nullptr;
  for (const bool environment : {false, true}) {
    for (const CLI::Option* option : {flags.text_option, flags.file_option, flags.batch_option}) {
      if (option->count() == 0 || from_environment(*option) != environment) continue;
      if (chosen != nullptr)
        throw UsageError("[tokenize] expected one of --text, --file and --batch, got {} and {}",
                         chosen->get_name(), option->get_name());
      chosen = option;
    }
    if (chosen != nullptr) return chosen;
  }
  throw UsageError("[tokenize] expected --text T, --file FILE or --batch FILE.json, got none");
}

void print_ids(const std::vector<int32_t>& ids, bool json) {
  print(json ? fmt::format("[{}]\n", fmt::join(ids, ","))
             : fmt::format("{}\n", fmt::join(ids, " ")));
}

void expect_list(const Json& json, const std::string& file, const char* expected) {
  if (!json.is_array())
    throw RequestError("[tokenize] {}: expected a list of {}, got {}", file, expected,
                       describe(json));
}

void encode_batch(const Flags& flags, const Tokenizer& tokenizer, const EncodeOptions& options) {
  const Json texts = read_json_input(flags.batch);
  expect_list(texts, flags.batch, "strings");
  for (size_t i = 0; i < texts.size(); ++i)
    if (!texts[i].is_string())
      throw RequestError("[tokenize] {}[{}]: expected a string, got {}", flags.batch, i,
                         describe(texts[i]));
  print("[");
  for (size_t i = 0; i < texts.size(); ++i) {
    try {
      const auto ids = tokenizer.encode(texts[i].get_ref<const std::string&>(), options);
      print(fmt::format("{}[{}]", i == 0 ? "" : ",", fmt::join(ids, ",")));
    } catch (const RequestError& error) {
      throw RequestError("{} (text {} of {})", error.what(), i, flags.batch);
    }
  }
  print("]\n");
}

void decode_batch(const Flags& flags, const Tokenizer& tokenizer) {
  if (flags.batch_option->count() == 0)
    throw UsageError("[tokenize] --decode: expected --batch FILE.json with lists of ids, got none");
  const Json lists = read_json_input(flags.batch);
  Json out = Json::array();
  expect_list(lists, flags.batch, "id lists");
  for (size_t i = 0; i < lists.size(); ++i)
    out.push_back(tokenizer.decode(token_ids(lists[i], fmt::format("{}[{}]", flags.batch, i)),
                                   flags.skip_special));
  print(out.dump() + "\n");
}

void run(const Flags& flags) {
  if (flags.decode) {
    decode_batch(flags, *Tokenizer::load(flags.model.folder()));
    return;
  }
  const CLI::Option* input = chosen_input(flags);
  const auto tokenizer = Tokenizer::load(flags.model.folder());
  EncodeOptions options;
  options.add_special_tokens = !flags.no_special;
  if (input == flags.batch_option) {
    encode_batch(flags, *tokenizer, options);
  } else {
    print_ids(tokenizer->encode(input == flags.text_option ? flags.text : read_input(flags.file),
                                options),
              flags.json);
  }
}

}  // namespace

Verb add_tokenize(CLI::App& root) {
  CLI::App& app = add_verb(root, "tokenize", "Text to token ids, or ids back to text");
  auto flags = std::make_shared<Flags>();
  add_model_argument(app, flags->model,
                     "Model: a folder (with the tokenizer's files only, if need be), or a name")
      ->required();
  flags->text_option = app.add_option("--text", flags->text, "The text");
  flags->file_option = app.add_option("--file", flags->file, "A file with the text (- for stdin)")
                           ->type_name("FILE");
  flags->batch_option =
      app.add_option("--batch", flags->batch,
                     "A JSON list of strings (with --decode: of id lists; - for stdin)")
          ->type_name("FILE");
  app.add_flag("--no-special", flags->no_special, "Add no BOS, EOS and the like");
  app.add_flag("--json", flags->json, "Print a JSON list");
  app.add_flag("--decode", flags->decode, "From ids to text");
  app.add_flag("--skip-special", flags->skip_special, "With --decode: leave special tokens out");
  finish_verb(app,
              "  decant tokenize demo/model --text \"Hello world\"\n"
              "  decant tokenize demo/model --batch texts.json > ids.json\n"
              "  decant tokenize demo/model --decode --batch ids.json --skip-special\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
