#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/piece_cache.h"
#include "tokenizer/regex.h"

namespace decant::tokenizer {

/// A range of bytes found by a pattern, or the part between two matches.
struct Match {
  size_t begin;
  size_t end;
  bool is_match;
};

/// A pre-token: bytes of PreText::text.
struct Piece {
  size_t begin;
  size_t end;
  bool at_start;  // it begins where the whole input began
};

/// One symbol of a word while BPE merges it.
struct Symbol {
  int32_t id;
  uint32_t begin;   // byte offset in the piece
  bool from_vocab;  // a character of the vocabulary, not a byte or an unknown
};

/// The best way to write a text up to some byte (Unigram).
struct PathEnd {
  double score = 0;
  int32_t id = -1;
  uint32_t begin = 0;
};

/// Working memory of one encode call, kept by the tokenizer between calls.
struct Scratch {
  RegexScratch regex;
  std::vector<Match> matches;
  std::vector<Piece> pieces;
  std::string text;
  std::string subject;  // what a pattern sees in the place of a text
  std::vector<Symbol> symbols;
  std::vector<int32_t> ids;
  std::vector<uint32_t> ranks;
  std::vector<uint64_t> heap;
  std::vector<uint32_t> prev;
  std::vector<uint32_t> next;
  std::vector<PathEnd> paths;
  PieceCache cache;
};

}  // namespace decant::tokenizer
