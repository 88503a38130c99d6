#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// The C++ interface of decant: load a model, let it answer, stream the text, cancel, read the
// figures. All errors are exceptions derived from std::runtime_error whose message reads
// `[component] what: expected X, got Y`; exit_code_of tells their kind.

namespace decant {

struct Completion;

struct LoadOptions {
  std::string device = "auto";          // cpu, cuda, mlx, reference or auto
  int threads = 0;                      // cpu: 0 = one per physical core
  int64_t ctx_size = 0;                 // tokens of one conversation; 0: the model's, or what fits
  int max_sequences = 8;                // answers computed at a time
  int prefill_chunk = 1024;             // prompt tokens of one step
  int64_t memory_budget_bytes = 0;      // for caches and activations; 0: what the device has free
  bool weights_from_disk = false;       // run what is larger than memory, reading it in every step
  int queue_limit = 512;                // answers that may wait
  bool exact = false;                   // float32 products and caches, for comparison
  bool reference_route = false;         // reference kernels only
  bool dense_attention = false;         // sparse attention reads all positions, for comparison
  std::filesystem::path chat_template;  // a Jinja file instead of the model's own; empty: none
};

/// One token of an answer and the likeliest ones in its place, as the model sees them: logarithms
/// of the softmax of its raw logits, before bias, penalties, temperature and filters.
struct TokenLogprob {
  int32_t token = -1;
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> top;  // likeliest first
};

/// How an answer is made. What is absent comes from the model's generation_config.json, else it is
/// off (greedy). The samplers apply in the order in which they stand here after logit_bias and the
/// penalties: temperature, top_k, typical_p, top_p, min_p.
struct GenerateOptions {
  int64_t max_tokens = 0;                        // 0: as many as the context has room for
  std::optional<float> temperature = {};         // 0 to 100; 0 is greedy
  std::optional<int> top_k = {};                 // the k likeliest tokens; 0: all
  std::optional<float> typical_p = {};           // above 0, at most 1
  std::optional<float> top_p = {};               // above 0, at most 1
  std::optional<float> min_p = {};               // 0 to 1, beside the likeliest
  std::optional<float> repetition_penalty = {};  // above 0, at most 100; prompt and answer
  std::optional<float> presence_penalty = {};    // -2 to 2; the answer only, as the next
  std::optional<float> frequency_penalty = {};   // -2 to 2
  /// Token id and what is added to its logit, -100 to 100; at most 1024, each id once. -100 bans.
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  std::optional<int> logprobs = {};    // 0 to 20 likeliest tokens beside each; absent: no logprobs
  std::optional<uint64_t> seed = {};   // absent: a random one, see Completion::seed
  std::vector<std::string> stop = {};  // ends the answer before this text; at most 16 of 1 KiB each
  std::vector<int32_t> stop_tokens = {};  // end the answer beside the model's; at most 128
  bool ignore_eos = false;                // go on at the model's end tokens
  /// Called with each token before its text if logprobs are asked for, on the engine's thread.
  std::function<void(const TokenLogprob&)> on_logprob = {};
  /// Called with each new piece of text, complete UTF-8, on the engine's thread; false cancels.
  std::function<bool(std::string_view)> on_text = {};
  /// Called with each sampled token but the end token, after the text that became final with it, on
  /// the engine's thread; false cancels.
  std::function<bool(int32_t)> on_token = {};
  /// Called once after the last text, on the engine's thread, before wait() returns.
  std::function<void(const Completion&)> on_finish = {};
};

enum class Finish : uint8_t {
  kStop,    // an end token or a stop string
  kLength,  // max_tokens or the end of the context
  kCancelled,
  kError,  // see Completion::error
};
/// "stop", "length", "cancelled", "error".
std::string_view name_of(Finish finish);

/// What an answer took. Seconds; a rate is 0 where nothing was measured.
struct Figures {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;  // sampled ones, an end token included
  double queue_seconds = 0;
  double ttft_seconds = 0;  // submitted until the first token
  double prefill_seconds = 0;
  double decode_seconds = 0;
  double prefill_tokens_per_second = 0;
  double decode_tokens_per_second = 0;  // over the n - 1 intervals between n tokens
};

struct Completion {
  std::string text;             // without special tokens (but those that mark
                                // reasoning) and without the stop string
  std::vector<int32_t> tokens;  // without the end token
  Finish finish = Finish::kStop;
  std::vector<TokenLogprob> logprobs;  // one per token, if asked for
  std::string stop_string;             // the one that ended it, if any
  int32_t stop_token = -1;             // the end or stop token that ended it, if any
  std::string error;
  int error_exit_code = 0;  // of the kind of error, as exit_code_of
  uint64_t seed = 0;
  Figures figures;
};

struct Message {
  std::string role;
  std::string content;
};

/// A conversation for the model's chat template.
struct ChatInput {
  std::vector<Message> messages = {};
  /// Instead of messages: a JSON array as the template wants it (tool calls, content parts). A part
  /// {"type": "image" | "audio" | "video", "path": ...} names a file of this machine.
  std::string messages_json = {};
  std::string tools_json = {};  // a JSON array, or empty
  std::vector<std::pair<std::string, std::string>> variables =
      {};  // name, JSON value: enable_thinking
  bool add_generation_prompt = true;
  /// Special tokens spelled in messages, tools and variables count as such; else they are text.
  bool parse_special = false;
};

class PromptAttachments;  // pictures and sounds as the model takes them

/// A prompt as tokens, with what stands in it beside text.
struct Prompt {
  std::vector<int32_t> tokens;
  std::shared_ptr<const PromptAttachments> attachments;  // null: text only
  Prompt() = default;
  Prompt(std::vector<int32_t> text) : tokens(std::move(text)) {}  // NOLINT: text is a prompt
};

/// Where the memory of a loaded model goes, in bytes.
struct MemoryFigures {
  int64_t weights = 0;
  int64_t kv = 0;
  int64_t states = 0;
  int64_t arena = 0;
  int64_t budget = 0;  // what kv, states and arena may take
  int64_t ctx_size = 0;
  int64_t kv_tokens = 0;  // tokens all conversations together can hold
};

/// What a loaded model has done so far.
struct EngineFigures {
  int64_t steps = 0;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t finished = 0;
  int64_t failed_steps = 0;
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t peak_process_bytes = 0;
  double tower_seconds = 0;     // in the towers of pictures and sounds
  int64_t towers_computed = 0;  // pictures and sounds
  int64_t towers_reused = 0;    // whose result was still there
  double stalled_seconds = 0;   // since the engine last came round while it has work
};

/// An answer in the making. Letting go of it does not end it.
class Generation {
 public:
  virtual ~Generation() = default;
  virtual void cancel() = 0;
  virtual bool finished() const = 0;
  /// Waits for the end. Valid as long as this object. Not to be called from a callback.
  virtual const Completion& wait() = 0;
};

/// A loaded model. Safe to use from several threads. Destroying it cancels what is left.
class LanguageModel {
 public:
  /// Opens a model folder. Throws when it cannot be read, is not supported or does not fit.
  static std::unique_ptr<LanguageModel> load(const std::filesystem::path& folder,
                                             const LoadOptions& options = {});
  virtual ~LanguageModel() = default;

  /// Starts an answer; throws at once for a request that can never run.
  virtual std::shared_ptr<Generation> chat(const ChatInput& input,
                                           const GenerateOptions& options) = 0;
  /// The same for plain text, which the model continues; special tokens in it are recognised.
  virtual std::shared_ptr<Generation> complete(std::string_view prompt,
                                               const GenerateOptions& options) = 0;
  virtual std::shared_ptr<Generation> generate(std::vector<int32_t> tokens,
                                               const GenerateOptions& options) = 0;

  /// The rendered conversation with its pictures and sounds, and the answer to one. By default text
  /// only.
  virtual Prompt chat_prompt(const ChatInput& input) const { return chat_tokens(input); }
  virtual std::shared_ptr<Generation> continue_prompt(Prompt prompt,
                                                      const GenerateOptions& options) {
    return generate(std::move(prompt.tokens), options);
  }
  /// Which content parts beside text the model takes: "image", "audio", "video".
  virtual std::vector<std::string> media() const { return {}; }

  virtual bool has_chat_template() const = 0;
  virtual std::vector<int32_t> chat_tokens(const ChatInput& input) const = 0;
  virtual std::vector<int32_t> tokenize(std::string_view text) const = 0;
  virtual std::string detokenize(const std::vector<int32_t>& tokens) const = 0;

  virtual std::string model_type() const = 0;
  virtual std::string device() const = 0;
  virtual MemoryFigures memory() const = 0;
  virtual EngineFigures figures() const = 0;
};

/// Exit code for an error of this library: 1 runtime, 2 usage or request, 3 model, 4 memory.
int exit_code_of(const std::exception& error);

}  // namespace decant
