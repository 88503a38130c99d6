#include "models/tower.h"

#include "base/checked.h"

namespace decant {

std::string_view name_of(Medium medium) {
  switch (medium) {
    case Medium::kImage:
      return "image";
    case Medium::kVideo:
      return "video";
    case Medium::kAudio:
      return "audio";
  }
  return "medium";
}

int rows_capacity(int64_t rows) {
  int64_t capacity = 64;
  while (capacity < rows) capacity *= 2;
  return narrow<int>(capacity);
}

}  // namespace decant
