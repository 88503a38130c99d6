#include <fmt/format.h>

#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/errors.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/answer_json.h"
#include "cli/answer_printer.h"
#include "cli/answer_view.h"
#include "cli/chat_settings.h"
#include "cli/console.h"
#include "cli/conversation.h"
#include "cli/demo_model.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/repl.h"
#include "cli/sampling_flags.h"
#include "cli/verbs.h"
#include "decant/decant.h"
#include "session/chat_turn.h"
#include "session/reasoning.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxPromptBytes = size_t{256} << 20;

struct Flags {
  ModelArgument model;
  std::string prompt;
  std::string system;
  std::vector<std::string> images, sounds, videos;
  bool raw = false;
  bool quiet = false;
  bool verbose = false;
  bool show_thinking = false;
  bool no_wrap = false;
  bool json = false;
  std::string thinking = "default";
  LoadOptions load;
  std::string chat_template;
  bool parse_special = false;
  SamplingFlags sampling;
  CLI::Option* prompt_option = nullptr;
};

GenerateOptions generate_options(const Flags& flags) {
  GenerateOptions out;
  flags.sampling.fill(out);
  return out;
}

fs::path model_folder(const Flags& flags) {
  if (!flags.model.given()) return find_demo_model();
  try {
    return flags.model.folder();
  } catch (const ConfigError& error) {
    if (flags.prompt_option->count() > 0) throw;
    throw ConfigError("{} (usage: decant run MODEL PROMPT)", error.what());
  }
}

// The prompt of a one-shot run, or nothing at a terminal without one.
std::optional<std::string> read_prompt(const Flags& flags) {
  const bool given = flags.prompt_option->count() > 0;
  if (stdin_is_terminal()) return given ? std::optional(flags.prompt) : std::nullopt;
  std::string piped = read_stdin(kMaxPromptBytes);
  if (piped.ends_with('\n')) piped.pop_back();  // `echo` means the line, not its end
  if (given && piped.empty()) return flags.prompt;
  if (!given && piped.empty())
    throw RequestError("[run] expected a prompt as an argument or on stdin, got none");
  return given ? flags.prompt + "\n\n" + piped : piped;
}

void print_memory(const LanguageModel& model) {
  const MemoryFigures memory = model.memory();
  const auto text = [](int64_t bytes) { return format_bytes(static_cast<uint64_t>(bytes)); };
  note(fmt::format("{} on {}", model.model_type(), model.device()));
  note(fmt::format("context {}, weights {}, kv {}, states {}, activations {}", memory.ctx_size,
                   text(memory.weights), text(memory.kv), text(memory.states), text(memory.arena)));
}

void finish_answer(LanguageModel& model, const Flags& flags, const Completion& completion) {
  for (const TokenLogprob& token : completion.logprobs) note(logprob_line(model, token));
  if (flags.verbose) note(fmt::format("seed {}", completion.seed));
  if (!flags.quiet) note(figures_line(completion, model.figures().peak_process_bytes));
}

void continue_text(LanguageModel& model, const Flags& flags, const std::string& prompt) {
  GenerateOptions options = generate_options(flags);
  if (flags.json) {
    const std::shared_ptr<Generation> generation = model.complete(prompt, options);
    const Completion& completion = generation->wait();
    throw_if_failed(completion);
    print(json_text(answer_json(model, completion)));
    return;
  }
  AnswerPrinter printer(!flags.no_wrap);
  options.on_text = [&](std::string_view text) { return printer.add(text); };
  const std::shared_ptr<Generation> generation = model.complete(prompt, options);
  const Completion& completion = generation->wait();
  printer.finish();
  throw_if_failed(completion);
  finish_answer(model, flags, completion);
}

ChatSettings chat_settings(const Flags& flags) {
  ChatSettings out;
  out.generate = generate_options(flags);
  out.thinking = parse_thinking(flags.thinking);
  out.show_thinking = flags.show_thinking;
  out.parse_special = flags.parse_special;
  out.stats = flags.verbose;
  out.wrap = !flags.no_wrap;
  return out;
}

// The text of the turn holds the markers of reasoning; a program gets the two parts.
Json turn_json(const LanguageModel& model, const TurnResult& result) {
  Json out = answer_json(model, result.completion);
  out["text"] = result.answer;
  out["reasoning"] = result.reasoning;
  out["reasoning_tokens"] = result.reasoning_tokens;
  return out;
}

/// The files of --image, --audio and --video as content parts, in this order.
Json attached(const Flags& flags) {
  Json out = Json::array();
  const auto add = [&](std::string_view type, const std::vector<std::string>& files) {
    for (const std::string& file : files) out.push_back(media_part(type, file));
  };
  add("image", flags.images);
  add("audio", flags.sounds);
  add("video", flags.videos);
  return out;
}

void answer_once(LanguageModel& model, const Flags& flags, const ChatSettings& settings,
                 const ReasoningSupport& support, const std::string& prompt) {
  const ThinkingPlan plan = plan_thinking(settings.thinking, support);
  ChatInput input;
  Conversation conversation(flags.system);
  conversation.add_user(prompt, attached(flags));
  input.messages_json = conversation.messages().dump();
  input.variables = plan.variables;
  input.parse_special = settings.parse_special;
  TurnOptions options;
  options.generate = settings.generate;
  options.reasoning_budget = plan.budget;
  ChatTurn turn(model, support);
  if (flags.json) {
    const TurnResult result = turn.run(model.chat_prompt(input), options);
    throw_if_failed(result.completion);
    print(json_text(turn_json(model, result)));
    return;
  }
  AnswerView view({settings.show_thinking, flags.quiet, settings.wrap});
  options.on_text = [&](const TurnText& text) { return view.add(text); };
  const TurnResult result = turn.run(model.chat_prompt(input), options);
  view.finish(result);
  throw_if_failed(result.completion);
  if (result.inside_reasoning && result.answer.empty() && !flags.quiet)
    note("note: it ended before the answer began: all of it is reasoning (--show-thinking)");
  finish_answer(model, flags, result.completion);
}

std::string template_name(const Flags& flags, const fs::path& folder) {
  if (!flags.chat_template.empty()) return flags.chat_template;
  std::error_code error;
  const fs::path file = folder / "chat_template.jinja";
  return (fs::exists(file, error) ? file : folder / "tokenizer_config.json").string();
}

void run(Flags flags) {
  if (flags.raw && (!flags.system.empty() || !flags.chat_template.empty()))
    throw UsageError("[run] --raw continues plain text: it takes no --system or --chat-template");
  if (flags.raw && flags.thinking != "default")
    throw UsageError("[run] --raw continues plain text: it takes no --thinking");
  if (flags.raw && !attached(flags).empty())
    throw UsageError("[run] --raw continues plain text: it takes no --image, --audio or --video");
  if (flags.json && flags.show_thinking)
    throw UsageError("[run] --json holds the reasoning: it takes no --show-thinking");
  if (flags.verbose) set_log_level(LogLevel::kInfo);
  const fs::path folder = model_folder(flags);
  const std::optional<std::string> prompt = read_prompt(flags);
  if (!prompt && (flags.raw || flags.json))
    throw UsageError("[run] {}: expected a prompt as an argument or on stdin, got none",
                     flags.raw ? "--raw" : "--json");
  flags.load.max_sequences = 1;
  flags.load.chat_template = flags.chat_template;
  Progress progress;
  progress.show(fmt::format("loading {}", folder.string()));
  const std::unique_ptr<LanguageModel> model = LanguageModel::load(folder, flags.load);
  progress.clear();
  if (flags.verbose) print_memory(*model);
  if (!flags.raw && !model->has_chat_template())
    throw UsageError(
        "[run] {}: the model has no chat template: continue plain text with --raw, or give one "
        "with --chat-template FILE",
        folder.string());
  if (flags.raw) {
    continue_text(*model, flags, *prompt);
    return;
  }
  const ChatSettings settings = chat_settings(flags);
  const ReasoningSupport support = probe_reasoning(*model);
  const ThinkingPlan plan = plan_thinking(settings.thinking, support);  // refuses what cannot be
  if (!plan.note.empty() && (flags.verbose || settings.thinking.mode == Thinking::Mode::kOn))
    note("note: " + plan.note);
  if (prompt) {
    answer_once(*model, flags, settings, support, *prompt);
    return;
  }
  Repl repl(*model, {folder.string(), template_name(flags, folder)}, support, settings,
            flags.system, attached(flags));
  repl.run();
}

CLI::Validator thinking_value() {
  return {[](std::string& text) -> std::string {
            try {
              parse_thinking(text);
              return {};
            } catch (const RequestError&) {
              return fmt::format("expected off, on or a number of tokens, got {}", quote(text));
            }
          },
          ""};
}

}  // namespace

Verb add_run(CLI::App& root) {
  CLI::App& app = add_verb(root, "run", "Chat with a model, or answer one prompt");
  auto flags = std::make_shared<Flags>();
  add_model_argument(app, flags->model,
                     "Model: a folder, or a name (decant list; default: the bundled demo model)");
  flags->prompt_option =
      app.add_option("PROMPT", flags->prompt, "The prompt; text on stdin is appended");
  app.add_flag("--raw", flags->raw, "Continue the text: no chat template");
  app.add_option("--system", flags->system, "System message");
  const auto media = [&](const char* name, std::vector<std::string>& files, const char* help) {
    app.add_option(name, files, help)->type_name("FILE")->allow_extra_args(false);
  };
  media("--image", flags->images, "A picture before the prompt (JPEG, PNG, WebP); may be repeated");
  media("--audio", flags->sounds, "A sound before the prompt (WAV, FLAC, MP3, Ogg, AIFF)");
  media("--video", flags->videos, "A video before the prompt");
  flags->sampling.declare(app);
  app.add_option("--ctx-size", flags->load.ctx_size, "Context length (default: what fits)")
      ->check(whole_number(1, std::numeric_limits<int32_t>::max()));
  app.add_option("--threads", flags->load.threads, "CPU threads (0: one per core)")
      ->check(whole_number(0, 1024));
  app.add_option("--device", flags->load.device, "Where it runs")
      ->check(device_name())
      ->capture_default_str();
  app.add_flag("--weights-from-disk", flags->load.weights_from_disk,
               "Run a model larger than memory, reading what does not fit in every step");
  app.add_flag("--exact", flags->load.exact, "Float32 products and caches: slow, for comparison");
  app.add_flag("--dense-attention", flags->load.dense_attention,
               "Sparse attention reads every position: slow, for comparison");
  app.add_option("--chat-template", flags->chat_template, "A Jinja file instead of the model's");
  app.add_option("--thinking", flags->thinking,
                 "off, on, or the tokens after which the reasoning is ended (default: the model's)")
      ->type_name("off|on|TOKENS")
      ->check(thinking_value());
  app.add_flag(
      "--show-thinking", flags->show_thinking,
      "Show the reasoning on stderr; else it is folded at a terminal, and hidden in a pipe");
  app.add_flag("--no-wrap", flags->no_wrap, "Leave long lines to the terminal");
  app.add_flag("--parse-special", flags->parse_special,
               "Special tokens spelled in messages count: without it they are plain text");
  app.add_flag("--json", flags->json,
               "Print one JSON object when the answer is done: text, reasoning, tokens, figures");
  app.add_flag("--quiet", flags->quiet, "No figures after the answer");
  app.add_flag("--verbose", flags->verbose, "Model, device and memory on stderr");
  finish_verb(app,
              "  decant run                                  talk to the demo model\n"
              "  decant run Qwen3-0.6B-4bit \"Why is the sky blue?\" --max-tokens 200\n"
              "  decant run Qwen3-0.6B-4bit \"Summarise:\" < notes.txt\n"
              "  decant run gemma-4-E2B-it-4bit \"What is this?\" --image photo.jpg\n"
              "  decant run Qwen3-0.6B-4bit \"Name a colour\" --json --logprobs 3\n"
              "  decant run model --raw \"Once upon a time\" --temperature 0\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
