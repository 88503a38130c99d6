#pragma once

#include "layers/config.h"
#include "models/model.h"

namespace decant {

/// The part of a ModelSpec that a decoder's config gives; `top` is the whole config (its type and
/// end tokens), of which `decoder` may be the text part.
inline ModelSpec decoder_spec(const ConfigReader& top, const layers::DecoderConfig& decoder) {
  ModelSpec out;
  out.model_type = top.require<std::string>("model_type");
  out.vocab_size = decoder.vocab_size;
  out.hidden_size = decoder.hidden_size;
  out.max_position_embeddings = decoder.max_positions;
  out.eos_token_ids = layers::read_eos(top);
  return out;
}

}  // namespace decant
