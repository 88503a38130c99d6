#pragma once

#include <cstdint>
#include <vector>

#include "graph/batch.h"
#include "tensor/dtype.h"

namespace decant {

/// What a cache keeps of a position.
enum class KvKind : uint8_t {
  kPair,  // a key and a value per head
  kKeys,  // keys only, laid out as the keys of a pair: an indexer's
  kRows,  // one row per head, of which readers take what they need: the latents of MLA, whose row
          // is the key and holds the value
};

/// One layer's cache: a pool of pages that sequences own through their page tables.
struct KvSpec {
  int kv_heads = 0;
  int head_dim = 0;
  int window = 0;  // positions a query sees, itself included; 0: all
  int group = 0;   // which page tables it follows: layers with equal windows share them
  KvKind kind = KvKind::kPair;
  bool operator==(const KvSpec&) const = default;
};

/// Bytes that a page of one layer takes in the plane of keys (of rows), and in that of values.
constexpr int64_t key_page_bytes(const KvSpec& spec, DType dtype) {
  return int64_t{kPageSize} * spec.kv_heads * spec.head_dim * size_of(dtype);
}
constexpr int64_t value_page_bytes(const KvSpec& spec, DType dtype) {
  return spec.kind == KvKind::kPair ? key_page_bytes(spec, dtype) : 0;
}
/// Bytes of one page of one layer.
constexpr int64_t kv_page_bytes(const KvSpec& spec, DType dtype) {
  return key_page_bytes(spec, dtype) + value_page_bytes(spec, dtype);
}

/// Recurrent state of one layer (a layer may have several): `width` floats per slot, plus a log of
/// the inputs of up to `log_tokens` uncommitted tokens so that drafted tokens can be taken back
/// (the rewind contract of the architecture page).
struct StateSpec {
  int64_t width = 0;
  int64_t log_width = 0;  // floats logged per token
  int log_tokens = 0;
  bool operator==(const StateSpec&) const = default;
};

/// A KV pool in host memory. Keys lie [page][head][dim][slot] so that the scores of neighbouring
/// positions are neighbouring lanes; values lie [page][head][slot][dim], and so do the rows of
/// kRows, which take the place of the keys.
struct KvPool {
  KvSpec spec;
  DType dtype = DType::kBF16;  // bf16 or f32
  int64_t pages = 0;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;

  int64_t head_elements() const { return int64_t{kPageSize} * spec.head_dim; }
  int64_t head_offset(int64_t page, int head) const {
    return (page * spec.kv_heads + head) * head_elements();
  }
  int64_t key_index(int64_t page, int head, int slot, int dim) const {
    return head_offset(page, head) + int64_t{dim} * kPageSize + slot;
  }
  int64_t value_index(int64_t page, int head, int slot, int dim) const {
    return head_offset(page, head) + int64_t{slot} * spec.head_dim + dim;
  }
  int64_t row_index(int64_t page, int head, int slot, int dim) const {
    return value_index(page, head, slot, dim);
  }
};

/// Recurrent state in host memory: [slot][width] and the log [slot][log_tokens][log_width].
struct StatePool {
  StateSpec spec;
  int64_t slots = 0;
  float* state = nullptr;
  float* log = nullptr;
};

}  // namespace decant
