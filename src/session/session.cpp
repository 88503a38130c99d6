#include "session/session.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include "base/file.h"
#include "models/load_model.h"
#include "session/generation_defaults.h"
#include "session/reasoning.h"
#include "session/stop_matcher.h"
#include "tokenizer/stream_decoder.h"

namespace decant {

struct EngineLink {
  std::mutex mutex;
  EngineThread* engine = nullptr;
};

namespace {

Finish finish_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return Finish::kStop;
    case FinishReason::kLength:
      return Finish::kLength;
    case FinishReason::kCancelled:
      return Finish::kCancelled;
    case FinishReason::kError:
      break;
  }
  return Finish::kError;
}

Figures figures_of(const RequestStats& stats) {
  return {stats.prompt_tokens,
          stats.completion_tokens,
          stats.queue_seconds,
          stats.ttft_seconds,
          stats.prefill_seconds,
          stats.decode_seconds,
          stats.prefill_tokens_per_second(),
          stats.decode_tokens_per_second()};
}

Json parse_request_json(const std::string& text, std::string_view name) {
  try {
    return parse_json(text, name);
  } catch (const ConfigError& error) {
    throw RequestError("[request] {}", error.what());
  }
}

/// Turns the tokens of one request into text. Its callbacks run on the engine's thread only.
class Answer final : public Generation {
 public:
  Answer(std::shared_ptr<EngineLink> link, StreamDecoder decoder, const GenerateOptions& options,
         uint64_t seed)
      : link_(std::move(link)),
        decoder_(std::move(decoder)),
        stops_(options.stop),
        on_logprob_(options.on_logprob),
        on_text_(options.on_text),
        on_token_(options.on_token),
        on_finish_(options.on_finish) {
    completion_.seed = seed;
  }

  bool token(int32_t id) {
    if (!show(decoder_.push(id))) return false;
    if (on_token_ && !on_token_(id)) declined_ = true;
    return !declined_;
  }
  void logprobs(const TokenLogprobs& token) {
    completion_.logprobs.push_back({token.token, token.logprob, token.top});
    if (on_logprob_) on_logprob_(completion_.logprobs.back());
  }

  void finish(const RequestResult& result) {
    std::string callback_error;
    try {
      // After an error or a stop string the text is what was shown; else its rest comes now.
      if (result.reason != FinishReason::kError && !stops_.matched() && !declined_) {
        show(decoder_.finish());
        if (!stops_.matched() && !declined_) emit(stops_.finish());
      }
    } catch (const std::exception& error) {
      callback_error = error.what();
    }
    completion_.tokens = result.tokens;
    completion_.finish = stops_.matched() ? Finish::kStop
                         : declined_      ? Finish::kCancelled
                                          : finish_of(result.reason);
    completion_.stop_string = stops_.match();
    completion_.stop_token = result.stop_id;
    completion_.error = result.error;
    if (completion_.finish == Finish::kError)
      completion_.error_exit_code = exit_code(result.error_kind);
    if (!callback_error.empty() && completion_.finish != Finish::kError) {
      completion_.finish = Finish::kError;
      completion_.error = callback_error;
      completion_.error_exit_code = exit_code(ErrorKind::kRuntime);
    }
    completion_.figures = figures_of(result.stats);
    try {
      if (on_finish_) on_finish_(completion_);
    } catch (...) {
      mark_finished();
      throw;  // the engine notes it
    }
    mark_finished();
  }

  void set_id(RequestId id) { id_.store(id); }
  void cancel() override {
    const std::lock_guard lock(link_->mutex);
    if (link_->engine != nullptr && id_.load() != 0) link_->engine->cancel(id_.load());
  }
  bool finished() const override {
    const std::lock_guard lock(mutex_);
    return finished_;
  }
  const Completion& wait() override {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return finished_; });
    return completion_;
  }

 private:
  void mark_finished() {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    done_.notify_all();
  }
  bool show(const std::string& piece) {
    emit(stops_.push(piece));
    return !stops_.matched() && !declined_;
  }
  void emit(const std::string& text) {
    if (text.empty()) return;
    completion_.text += text;
    if (on_text_ && !on_text_(text)) declined_ = true;
  }

  std::shared_ptr<EngineLink> link_;
  StreamDecoder decoder_;
  StopMatcher stops_;
  std::function<void(const TokenLogprob&)> on_logprob_;
  std::function<bool(std::string_view)> on_text_;
  std::function<bool(int32_t)> on_token_;
  std::function<void(const Completion&)> on_finish_;
  bool declined_ = false;  // a callback returned false
  Completion completion_;  // the engine thread's until finished_
  std::atomic<RequestId> id_{0};
  mutable std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<Session> Session::load(const std::filesystem::path& folder,
                                       const LoadOptions& options) {
  Parts parts;
  // The cheap refusals first: a tokenizer is read faster than weights are placed.
  parts.backend = make_backend(options.device, {.threads = options.threads});
  auto loaded = std::make_shared<LoadedModel>(load_model(folder));
  parts.end_tokens = loaded->spec.eos_token_ids;
  parts.folder = folder;
  parts.model = std::shared_ptr<const Model>(loaded, loaded->model.get());
  parts.tokenizer = Tokenizer::load(folder);
  parts.chat_template = ChatTemplate::load(folder, options.chat_template);
  parts.defaults = read_generation_defaults(folder, loaded->spec.vocab_size);
  return std::make_unique<Session>(std::move(parts), options);
}

Session::Session(Parts parts, const LoadOptions& options)
    : parts_(std::move(parts)), link_(std::make_shared<EngineLink>()) {
  std::vector<int32_t>& ends = parts_.end_tokens;
  if (const auto eos = parts_.tokenizer->special_token("eos_token"))
    if (const auto id = parts_.tokenizer->token_to_id(*eos)) ends.push_back(*id);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());

  for (const std::string_view marker : reasoning_tokens())
    if (const auto id = parts_.tokenizer->token_to_id(marker)) kept_special_.push_back(*id);

  if (options.queue_limit < 0)
    throw UsageError("[engine] queue_limit: expected 0 or more, got {}", options.queue_limit);
  EngineOptions engine;
  engine.ctx_size = options.ctx_size;
  engine.max_sequences = options.max_sequences;
  engine.prefill_chunk = options.prefill_chunk;
  engine.memory_budget_bytes = options.memory_budget_bytes;
  engine.weights_from_disk = options.weights_from_disk;
  engine.exact = options.exact;
  engine.reference_route = options.reference_route;
  engine.dense_attention = options.dense_attention;
  engine.queue_limit = static_cast<size_t>(options.queue_limit);
  engine_ = std::make_unique<EngineThread>(
      std::make_unique<Engine>(parts_.model, *parts_.backend, engine));
  link_->engine = engine_.get();
  if (!parts_.folder.empty() && !media().empty())
    media_ = std::make_unique<MediaPrompter>(parts_.folder, *parts_.model, *parts_.tokenizer);
}

Session::~Session() {
  {
    const std::lock_guard lock(link_->mutex);
    link_->engine = nullptr;
  }
  engine_.reset();
}

std::vector<std::string> Session::media() const {
  std::vector<std::string> out;
  for (const Medium medium : {Medium::kImage, Medium::kVideo, Medium::kAudio})
    if (parts_.model->tower(medium) != nullptr) out.emplace_back(name_of(medium));
  return out;
}

std::vector<RenderedPart> Session::rendered(const ChatRequest& request) const {
  if (parts_.chat_template == nullptr)
    throw RequestError(
        "[request] messages: expected a model with a chat template, got one without: give a Jinja "
        "file with --chat-template FILE");
  try {
    return parts_.chat_template->render_parts(request);
  } catch (const TemplateRenderError& error) {
    // The template's own words about the messages are the requester's business.
    if (!error.raised_by_template()) throw;
    throw RequestError("[request] messages: {}", error.what());
  }
}

Prompt Session::chat_prompt(const ChatRequest& request) const {
  const std::vector<MediaPart> files = media_parts(request.messages);
  if (!files.empty() && media_ == nullptr)
    throw RequestError("[media] {}: expected a model that takes {} input, got {}, which does not",
                       files.front().path, name_of(files.front().medium), model_type());
  const std::vector<RenderedPart> text = rendered(request);
  if (!files.empty()) return media_->prompt(text, files, request.parse_special);
  std::vector<Tokenizer::Part> parts;
  for (const RenderedPart& part : text)
    parts.push_back({part.text, part.from_message && !request.parse_special});
  return parts_.tokenizer->encode_parts(parts, {.add_special_tokens = false});
}

Prompt Session::chat_prompt(const ChatInput& input) const {
  return chat_prompt(to_chat_request(input));
}

std::vector<int32_t> Session::chat_tokens(const ChatRequest& request) const {
  return chat_prompt(request).tokens;
}

std::vector<int32_t> Session::chat_tokens(const ChatInput& input) const {
  return chat_tokens(to_chat_request(input));
}

std::vector<int32_t> Session::tokenize(std::string_view text) const {
  std::vector<int32_t> tokens = parts_.tokenizer->encode(text);
  // A prompt copied from a rendered template brings its BOS along.
  if (const auto bos = parts_.tokenizer->special_token("bos_token");
      bos && text.starts_with(*bos)) {
    const auto id = parts_.tokenizer->token_to_id(*bos);
    if (id && tokens.size() >= 2 && tokens[0] == *id && tokens[1] == *id)
      tokens.erase(tokens.begin());
  }
  return tokens;
}

std::string Session::detokenize(const std::vector<int32_t>& tokens) const {
  return parts_.tokenizer->decode(tokens);
}

std::shared_ptr<Generation> Session::chat(const ChatRequest& request,
                                          const GenerateOptions& options) {
  return continue_prompt(chat_prompt(request), options);
}

std::shared_ptr<Generation> Session::chat(const ChatInput& input, const GenerateOptions& options) {
  return chat(to_chat_request(input), options);
}

std::shared_ptr<Generation> Session::complete(std::string_view prompt,
                                              const GenerateOptions& options) {
  return generate(tokenize(prompt), options);
}

std::shared_ptr<Generation> Session::generate(std::vector<int32_t> tokens,
                                              const GenerateOptions& options) {
  return continue_prompt(std::move(tokens), options);
}

std::shared_ptr<Generation> Session::continue_prompt(Prompt prompt,
                                                     const GenerateOptions& options) {
  Request request;
  request.prompt = std::move(prompt.tokens);
  if (prompt.attachments != nullptr) request.media = prompt.attachments->media;
  request.max_tokens = options.max_tokens;
  request.sampling = apply_options(parts_.defaults, options);
  if (!options.ignore_eos) request.stop_ids = parts_.end_tokens;
  const int64_t vocab = parts_.model->spec().vocab_size;
  std::vector<std::string> problems = request_problems(request, vocab);
  for (const auto& [id, bias] : options.logit_bias)
    if (bias > kBannedBias && is_suppressed(parts_.defaults, id))
      problems.push_back(
          fmt::format("logit_bias[{}]: expected {} or nothing for a token that suppress_tokens of "
                      "generation_config.json bans, got {}",
                      id, kBannedBias, bias));
  constexpr size_t kMaxStopTokens = 128;
  if (options.stop_tokens.size() > kMaxStopTokens)
    problems.push_back(fmt::format("stop_tokens: expected at most {}, got {}", kMaxStopTokens,
                                   options.stop_tokens.size()));
  else
    for (int32_t id : options.stop_tokens) {
      if (id < 0 || id >= vocab)
        problems.push_back(
            fmt::format("stop_tokens: expected token ids from 0 to {}, got {}", vocab - 1, id));
      request.stop_ids.push_back(id);
    }
  throw_request_problems(problems);
  auto answer = std::make_shared<Answer>(
      link_, StreamDecoder(parts_.tokenizer, /*skip_special=*/true, kept_special_), options,
      request.sampling.seed);
  if (request.sampling.logprobs)
    request.on_logprobs = [answer](const TokenLogprobs& token) { answer->logprobs(token); };
  request.on_token = [answer](int32_t token) { return answer->token(token); };
  request.on_finish = [answer](const RequestResult& result) { answer->finish(result); };
  answer->set_id(engine_->submit(std::move(request)));
  return answer;
}

MemoryFigures Session::memory() const {
  const MemoryBreakdown& m = engine_->memory();
  return {m.weights, m.kv, m.states, m.arena, m.budget, m.ctx_size, m.kv_tokens};
}

EngineFigures Session::figures() const {
  const EngineStats s = engine_->stats();
  return {s.steps,         s.prompt_tokens,   s.completion_tokens, s.finished,
          s.failed_steps,  s.running,         s.waiting,           s.peak_process_bytes,
          s.tower_seconds, s.towers_computed, s.towers_reused,     engine_->stalled_seconds()};
}

ChatRequest to_chat_request(const ChatInput& input) {
  ChatRequest request;
  if (!input.messages_json.empty()) {
    if (!input.messages.empty())
      throw RequestError("[request] messages: expected a list or JSON, got both");
    request.messages = parse_request_json(input.messages_json, "messages");
  } else {
    request.messages = Json::array();
    for (const Message& message : input.messages)
      request.messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  if (!input.tools_json.empty()) request.tools = parse_request_json(input.tools_json, "tools");
  for (const auto& [name, value] : input.variables)
    request.variables.emplace_back(name, parse_request_json(value, name));
  request.add_generation_prompt = input.add_generation_prompt;
  request.parse_special = input.parse_special;
  return request;
}

}  // namespace decant
