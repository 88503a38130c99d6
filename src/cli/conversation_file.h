#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"

namespace decant::cli {

/// A conversation as a file holds it: {"format": "decant-conversation", "version": 1, "model": ...,
/// "messages": [...], "parameters": {...}}.
struct SavedConversation {
  std::string model;  // for the reader; any model may go on with it
  Json messages = Json::array();
  Json parameters = Json::object();
};

std::string conversation_text(const SavedConversation& saved);

/// Reads and checks a conversation. A bare list of messages is one too. What this program would not
/// pass on to the model is an error, never left out. Errors: RequestError `[load] NAME:
/// messages[2].content: expected ..., got ...` with all problems.
SavedConversation parse_conversation(std::string_view text, const std::string& name);

/// Errors: RequestError naming the file.
SavedConversation load_conversation(const std::filesystem::path& path);

/// Writes the file at once or not at all; only its owner may read it. True if it took the place of
/// another conversation. Errors: RequestError for what exists and is no conversation; RuntimeError.
bool save_conversation(const std::filesystem::path& path, const SavedConversation& saved);

/// The path a user typed: `~/` is the home folder.
std::filesystem::path user_path(std::string_view text);

}  // namespace decant::cli
