#pragma once

#include <string>
#include <string_view>

namespace decant::cli {

// libedit's characters are wchar_t, which is UTF-32 on the systems decant runs on.
static_assert(sizeof(wchar_t) == 4);

std::wstring widen(std::string_view utf8);
std::string narrow(std::wstring_view text);

}  // namespace decant::cli
