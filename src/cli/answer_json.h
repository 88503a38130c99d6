#pragma once

#include <cstdint>

#include "base/json.h"
#include "decant/decant.h"

namespace decant::cli {

/// A finished answer for a program: text, tokens, how it ended (finish, stop_string, stop_token),
/// seed, logprobs if they were asked for, and figures (seconds, tok/s, bytes).
Json answer_json(const LanguageModel& model, const Completion& completion);

/// As JSON text with a line end. Bytes that are no UTF-8 (a token that is part of a character)
/// become U+FFFD.
std::string json_text(const Json& json);

}  // namespace decant::cli
