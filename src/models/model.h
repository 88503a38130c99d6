#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "checkpoint/weight_load.h"
#include "graph/graph.h"
#include "models/tower.h"

namespace decant {

/// Where pictures and sounds stand in a prompt of this model; ids are -1 where it has none.
struct MediaSpec {
  int32_t image_token = -1, video_token = -1, audio_token = -1;  // placeholders, one per row
  /// What stands around the placeholders of one picture or sound: tokens, -1 none, and text.
  int32_t image_begin = -1, image_end = -1, audio_begin = -1, audio_end = -1;
  std::string around;
  /// Chat templates write the tokens around a placeholder themselves.
  bool template_wraps = false;
  /// The id that tables other than the embedding are read by at placeholders; -1: the
  /// placeholder's.
  int32_t lookup_token = -1;
  /// Placeholders of pictures that stand side by side see each other, in layers with a window.
  bool both_ways = false;
  /// Most placeholders of one picture: what a prefill step must have room for if they do.
  int64_t longest_span = 0;
  /// Ids whose embedding is a row of a medium's tower instead of the table's (Gemma 3n): [first,
  /// first + count).
  struct TokenRange {
    Medium medium = Medium::kImage;
    int32_t first = 0, count = 0;
  };
  std::vector<TokenRange> tower_tokens;
  /// M-RoPE: a placeholder's axes are its place in the grid, of which `merge` x `merge` patches are
  /// one. 0: positions are plain.
  int merge = 0;

  /// The placeholder of a medium; -1: the model has none.
  int32_t placeholder(Medium medium) const {
    return medium == Medium::kImage   ? image_token
           : medium == Medium::kVideo ? video_token
                                      : audio_token;
  }
};

/// A layer of a checkpoint that predicts the token after next (multi-token prediction).
struct DraftSpec {
  /// Its caches: kv[i] has external index ModelSpec::kv.size() + i and follows the page tables of
  /// its group. Whoever drafts appends them to the pools; nobody else pays for them.
  std::vector<KvSpec> kv;
  bool loaded = false;  // its weights were asked for: Model::draft can record it
};

/// What the engine must know of a model before it records anything.
struct ModelSpec {
  std::string model_type;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t max_position_embeddings = 0;
  std::vector<KvSpec> kv;         // one per caching layer, in the order of their external index
  std::vector<StateSpec> states;  // one per recurrent layer
  /// Windows by page-table group: windows[g] is the window of group g, 0 for full attention.
  std::vector<int> windows;
  std::vector<int32_t> eos_token_ids;  // of config.json; generation_config.json overrides them
  MediaSpec media;
  std::optional<DraftSpec> draft;  // absent: the checkpoint has no such layer
};

/// What a step gives to who drafts: logits [outputs, V] and a hidden state of every token, [N,
/// hidden].
struct LogitsAndHidden {
  Value logits;
  Value hidden;
};

/// One family's forward pass, written once over symbolic tensors. Holds weights of the WeightSet it
/// was built from.
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelSpec& spec() const = 0;
  /// Records one step into an empty graph; returns the logits [outputs, V].
  virtual Value forward(Graph& graph) const = 0;
  /// What turns this medium into rows for its placeholders; null: the model takes text only.
  virtual const Tower* tower(Medium) const { return nullptr; }

  /// Drafting. A row of a draft step stands for a pair: the hidden state h_t of position t and the
  /// token at t + 1, which is the row's token; its position is t and its logits are for t + 2.
  ///   u_t = joint(concat(norm_e(embed(token_{t+1})), norm_h(h_t)))
  ///   y_t = layer(u_0 .. u_t), over caches of its own;  logits = head(norm(y_t))
  /// The pairs of a prompt are its tokens shifted by one, with the first sampled one as the last,
  /// so that the caches are as long as the main ones. Where tokens are taken back, the pairs are
  /// too. To draft on, the hidden state that a draft step gives takes the place of h.
  ///
  /// The same step as forward(), with the same logits to the bit, and h of every token: the state
  /// after the final norm. It computes the last layer for all tokens, which forward() does not.
  virtual LogitsAndHidden forward_and_hidden(Graph& graph) const;
  /// Records one draft step into an empty graph; `hidden` [N, hidden] is an input of it.
  /// Both need spec().draft to be loaded. Source  DeepSeek-V3 report, section 2.2; qwen3_5.md
  /// section 3.7; glm_moe_dsa.md section 4. Position 0 is a pair like any other (vLLM blanks its
  /// embedding), and every draft step of an indexed model chooses positions for itself.
  virtual LogitsAndHidden draft(Graph& graph, Value hidden) const;
  /// Weight bytes and parameters are counted by the WeightSet; this is the number that config.json
  /// promises, 0 if unknown.
  virtual int64_t parameter_count() const { return 0; }
};

/// A family: how its config becomes a model. Registered by model_type.
struct Family {
  std::vector<std::string> model_types;
  /// How the names the family asks for are spelled in files.
  Renames renames = Renames::text_model();
  /// Builds the model. Config problems throw ConfigError; missing weights are noted in the scope's
  /// load.
  std::function<std::unique_ptr<Model>(const Json& config, const std::string& where,
                                       const WeightScope& weights)>
      build;
  /// The end tokens of config.json and generation_config.json add up; else the latter's stand
  /// alone.
  bool eos_of_both = false;
};

/// All families, and the one of a config. Errors: ConfigError naming the model_type and the
/// supported ones.
const std::vector<Family>& families();
const Family& family_of(const Json& config, const std::string& where);

}  // namespace decant
