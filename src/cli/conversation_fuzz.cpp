#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/errors.h"
#include "cli/chat_settings.h"
#include "cli/conversation_file.h"
#include "cli/word_wrapper.h"

// A saved conversation is somebody else's file: it is refused with an error of ours, or it comes
// back from its own text as it was.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace decant;
  using namespace decant::cli;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  WordWrapper wrapper([size] { return static_cast<int>(size % 90); });
  wrapper.push(text);
  wrapper.finish();
  try {
    const SavedConversation saved = parse_conversation(text, "fuzz");
    with_parameters({}, saved.parameters, "fuzz");
    const SavedConversation again = parse_conversation(conversation_text(saved), "again");
    DECANT_ASSERT(again.messages == saved.messages && again.parameters == saved.parameters,
                  "a conversation survives being saved");
  } catch (const RequestError&) {
  }
  return 0;
}
