#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/dtype.h"

namespace decant {

/// Arithmetic class of a step: generated and verified tokens, or prompt tokens.
enum class Phase : uint8_t { kDecode, kPrefill };

/// Positions per KV page. Tiles of attention lie at absolute multiples of it, so that chunk cuts
/// cannot change a result.
inline constexpr int kPageSize = 64;

/// What a program is compiled for; live counts may be anything up to it.
struct Capacity {
  Phase phase = Phase::kDecode;
  int tokens = 1;         // N
  int sequences = 1;      // S
  int outputs = 1;        // rows whose logits are needed
  bool features = false;  // some tokens' embeddings come from towers
  bool operator==(const Capacity&) const = default;
};

/// Index of the graph input by which a text model's step takes features of towers: [N, hidden],
/// filled from row 0.
inline constexpr int kFeatureInput = 0;

/// What is added to one token's logit; kBannedBias or less takes the token out.
struct TokenBias {
  int32_t id = 0;
  float bias = 0;
};
inline constexpr float kBannedBias = -100;

/// How often one token stands in a request so far.
struct TokenCount {
  int32_t id = 0;
  int32_t generated = 0;  // times in the answer
  bool in_prompt = false;
};

/// How one output row becomes a token; sampling/sampler.h states the order. temperature 0 is
/// greedy; top_k 0, the shares and repetition_penalty 1, the other penalties and min_p 0 are off.
/// The lists belong to the engine and stay where they are during a step; each names an id once.
struct SamplingRow {
  float temperature = 0;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float typical_p = 1;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  uint64_t counter = 0;  // index of the token within its request: the random number depends on
                         // (seed, counter) alone
  std::span<const TokenBias> bias = {};
  std::span<const TokenCount> history = {};  // empty when no penalty is on
};

/// What one step runs on: N tokens of S sequences, flat. Filled by the engine, read by the kernels
/// that are not token-wise. Live counts are the sizes of the vectors; a program's capacity bounds
/// them.
struct Batch {
  struct Sequence {
    int32_t first = 0;  // row of its first token
    int32_t count = 0;  // tokens in this step, consecutive rows
    int64_t past =
        0;  // tokens cached before this step: its rows have positions past .. past + count - 1
    int32_t slot = -1;   // recurrent state slot, or -1
    int32_t commit = 0;  // tokens of the slot's uncommitted log that were accepted: applied before
                         // this step's tokens
  };

  Phase phase = Phase::kDecode;
  std::vector<int32_t> tokens;       // [N]
  std::vector<int32_t> positions;    // [N] absolute
  std::vector<int32_t> sequence_of;  // [N] index into sequences
  /// [N] axes (time, height, width) that M-RoPE turns by, where they differ from the position:
  /// in pictures and after them. Empty: every token's axes are its position.
  std::vector<std::array<int32_t, 3>> rope_positions;
  /// [N] the last position a token sees, where that is beyond its own: in spans that see both ways.
  /// Empty: every token sees up to itself.
  std::vector<int32_t> last_seen;
  /// [N] which row of the step's features takes the place of the token's embedding; -1: none.
  /// Empty: none of them.
  std::vector<int32_t> feature_of;
  std::vector<Sequence> sequences;    // [S]
  std::vector<int32_t> outputs;       // rows whose logits are needed, ascending
  std::vector<SamplingRow> sampling;  // one per output
  /// [group * S + s]: physical page of each logical page of sequence s; -1 for pages a window has
  /// left behind.
  std::vector<const int32_t*> page_tables;

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_sequences() const { return static_cast<int64_t>(sequences.size()); }
  int64_t num_outputs() const { return static_cast<int64_t>(outputs.size()); }
  const int32_t* pages(int group, int64_t sequence) const {
    return page_tables[static_cast<size_t>(group * num_sequences() + sequence)];
  }
};

}  // namespace decant
