#include "decant/decant.h"

#include "base/errors.h"
#include "session/session.h"

namespace decant {

std::unique_ptr<LanguageModel> LanguageModel::load(const std::filesystem::path& folder,
                                                   const LoadOptions& options) {
  return Session::load(folder, options);
}

std::string_view name_of(Finish finish) {
  switch (finish) {
    case Finish::kStop:
      return "stop";
    case Finish::kLength:
      return "length";
    case Finish::kCancelled:
      return "cancelled";
    case Finish::kError:
      break;
  }
  return "error";
}

int exit_code_of(const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return exit_code(ours != nullptr ? ours->kind() : ErrorKind::kRuntime);
}

}  // namespace decant
