#include <fmt/format.h>
#include <histedit.h>
#include <langinfo.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/utf8.h"
#include "cli/console.h"
#include "cli/folded_texts.h"
#include "cli/line_completion.h"
#include "cli/line_reader.h"
#include "cli/text_width.h"
#include "cli/wide_text.h"

namespace decant::cli {
namespace {

constexpr int kHistoryEntries = 1000;
constexpr size_t kMostListed = 200;  // candidates shown for Tab
constexpr size_t kMaxPasteBytes = size_t{256} << 20;
constexpr const char* kPasteOn = "\033[?2004h";  // the terminal brackets what is pasted
constexpr const char* kPasteOff = "\033[?2004l";
constexpr std::string_view kPasteEnd = "\033[201~";
constexpr wchar_t* kNoMore = nullptr;  // ends libedit's argument lists

// libedit asks the C library how wide a character is and how it is written.
void use_utf8_locale() {
  std::setlocale(LC_CTYPE, "");
  for (const char* name : {"C.UTF-8", "C.utf8", "en_US.UTF-8"}) {
    if (std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
    std::setlocale(LC_CTYPE, name);
  }
}

class EditingReader final : public LineReader {
 public:
  EditingReader();
  ~EditingReader() override;
  Entry read(const std::string& prompt) override;
  void remember(std::string_view text) override;

 private:
  static EditingReader& self(EditLine* editor) {
    void* data = nullptr;
    el_wget(editor, EL_CLIENTDATA, &data);
    return *static_cast<EditingReader*>(data);
  }
  template <unsigned char (EditingReader::*Function)()>
  static unsigned char key(EditLine* editor, wint_t) {
    return (self(editor).*Function)();
  }
  using KeyFunction = unsigned char (*)(EditLine*, wint_t);
  void bind(const wchar_t* name, KeyFunction function,
            std::initializer_list<const wchar_t*> sequences);

  int next_character(wchar_t& out);
  unsigned char on_interrupt();
  unsigned char on_suspend();
  unsigned char on_paste();
  unsigned char on_complete();
  unsigned char on_left();
  unsigned char on_right();
  unsigned char on_delete_left();
  unsigned char on_delete_right();
  unsigned char on_new_line();
  void on_resize();

  std::string before_cursor() const;
  std::string after_cursor() const;
  int last_cluster() const;   // characters before the cursor that belong together
  int first_cluster() const;  // and behind it
  void list(const Completions& found);
  void send(const char* text);

  FILE* out_ = nullptr;
  EditLine* editor_ = nullptr;
  HistoryW* history_ = nullptr;
  std::wstring prompt_;
  FoldedTexts folded_;
  bool interrupted_ = false;
  bool signalled_ = false;
  std::string cleared_;
  std::string problem_;
};

EditingReader::EditingReader() {
  use_utf8_locale();
  out_ = ::fdopen(::dup(STDERR_FILENO), "w");  // stderr itself has no buffer
  if (out_ == nullptr) throw RuntimeError("[input] cannot open the terminal");
  editor_ = el_init("decant", stdin, out_, stderr);
  history_ = history_winit();
  DECANT_ASSERT(editor_ != nullptr && history_ != nullptr, "libedit starts at a terminal");
  HistEventW event;
  history_w(history_, &event, H_SETSIZE, kHistoryEntries);
  history_w(history_, &event, H_SETUNIQUE, 1);
  el_wset(editor_, EL_CLIENTDATA, this);
  el_wset(editor_, EL_HIST, history_w, history_);
  el_wset(editor_, EL_PROMPT, +[](EditLine* editor) { return self(editor).prompt_.data(); });
  el_wset(
      editor_, EL_GETCFN,
      +[](EditLine* editor, wchar_t* out) { return self(editor).next_character(*out); });
  el_wset(editor_, EL_EDITOR, L"emacs");
  el_source(editor_, nullptr);  // ~/.editrc
  // Ctrl-C and Ctrl-Z come as keys: signals do not race with the screen.
  el_wset(editor_, EL_SETTY, L"-d", L"-isig", kNoMore);
  // CR and LF stay what they are, so that a pasted CRLF is one line break.
  el_wset(editor_, EL_SETTY, L"-d", L"-icrnl", kNoMore);
  el_wset(editor_, EL_SETTY, L"-d", L"-inlcr", kNoMore);
  el_wset(editor_, EL_SIGNAL, 0);

  using E = EditingReader;
  bind(L"decant-interrupt", key<&E::on_interrupt>, {L"^C"});
  bind(L"decant-suspend", key<&E::on_suspend>, {L"^Z"});
  bind(L"decant-paste", key<&E::on_paste>, {L"\\e[200~"});
  bind(L"decant-complete", key<&E::on_complete>, {L"^I"});
  bind(L"decant-left", key<&E::on_left>, {L"^B", L"\\e[D", L"\\eOD"});
  bind(L"decant-right", key<&E::on_right>, {L"^F", L"\\e[C", L"\\eOC"});
  bind(L"decant-delete-left", key<&E::on_delete_left>, {L"^H", L"^?"});
  bind(L"decant-delete-right", key<&E::on_delete_right>, {L"^D", L"\\e[3~"});
  bind(L"decant-new-line", key<&E::on_new_line>, {L"\\e^M", L"\\e^J"});
  const std::pair<const wchar_t*, const wchar_t*> others[] = {
      {L"^R", L"em-inc-search-prev"}, {L"^W", L"ed-delete-prev-word"},
      {L"\\e[H", L"ed-move-to-beg"},  {L"\\eOH", L"ed-move-to-beg"},
      {L"\\e[1~", L"ed-move-to-beg"}, {L"\\e[F", L"ed-move-to-end"},
      {L"\\eOF", L"ed-move-to-end"},  {L"\\e[4~", L"ed-move-to-end"},
      {L"\\e[1;5D", L"ed-prev-word"}, {L"\\e[1;5C", L"em-next-word"},
  };
  for (const auto& [sequence, function] : others)
    el_wset(editor_, EL_BIND, sequence, function, kNoMore);
}

EditingReader::~EditingReader() {
  el_end(editor_);
  history_wend(history_);
  std::fclose(out_);
}

void EditingReader::bind(const wchar_t* name, KeyFunction function,
                         std::initializer_list<const wchar_t*> sequences) {
  el_wset(editor_, EL_ADDFN, name, L"decant", function);
  for (const wchar_t* sequence : sequences) el_wset(editor_, EL_BIND, sequence, name, kNoMore);
}

void EditingReader::send(const char* text) {
  std::fputs(text, out_);
  std::fflush(out_);
}

Entry EditingReader::read(const std::string& prompt) {
  prompt_ = widen(prompt);
  interrupted_ = signalled_ = false;
  cleared_.clear();
  problem_.clear();
  el_wset(editor_, EL_PREP_TERM, 1);  // before the prompt invites to type
  send(kPasteOn);
  int count = 0;
  const wchar_t* line = el_wgets(editor_, &count);
  send(kPasteOff);
  Entry out;
  if (interrupted_) {
    out.kind = Entry::Kind::kInterrupt;
    out.text = cleared_;
  } else if (signalled_) {
    out.kind = Entry::Kind::kSignal;
    send("\n");
  } else if (line == nullptr || count <= 0) {
    out.kind = Entry::Kind::kEnd;
  } else {
    std::string text = narrow({line, static_cast<size_t>(count)});
    if (text.ends_with('\n')) text.pop_back();
    out.text = folded_.expanded(std::move(text));
    out.problem = problem_;
  }
  return out;
}

void EditingReader::remember(std::string_view text) {
  if (text.empty()) return;
  HistEventW event;
  history_w(history_, &event, H_ENTER, widen(folded_.shown(std::string(text))).c_str());
}

// For libedit: 1 with a character, 0 at the end of input, -1 to end the line.
int EditingReader::next_character(wchar_t& out) {
  std::string bytes;
  while (true) {
    unsigned char byte = 0;
    switch (input_.next(byte)) {
      case TerminalInput::Event::kEnd:
        return 0;
      case TerminalInput::Event::kWake:
        signalled_ = true;
        return -1;
      case TerminalInput::Event::kResize:
        on_resize();
        continue;
      case TerminalInput::Event::kByte:
        break;
    }
    if (!bytes.empty() && (byte & 0xC0) != 0x80) {
      input_.unread(byte);  // the sequence was cut short
    } else {
      bytes += static_cast<char>(byte);
      if (utf8_sequence_length(bytes) == 0 && utf8_incomplete_tail(bytes) == bytes.size()) continue;
    }
    break;
  }
  if (utf8_sequence_length(bytes) == bytes.size()) {
    out = widen(bytes).front();
  } else {
    typed_text(bytes, problem_);
    out = 0xFFFD;
  }
  return 1;
}

unsigned char EditingReader::on_interrupt() {
  interrupted_ = true;
  const LineInfoW* line = el_wline(editor_);
  cleared_ = narrow({line->buffer, static_cast<size_t>(line->lastchar - line->buffer)});
  el_cursor(editor_, static_cast<int>(line->lastchar - line->cursor));
  el_winsertstr(editor_, L"^C");
  el_wpush(editor_, L"\n");  // ends the line, wherever it stands on the screen
  return CC_REFRESH;
}

unsigned char EditingReader::on_suspend() {
  send(kPasteOff);
  el_wset(editor_, EL_PREP_TERM, 0);
  ::kill(0, SIGTSTP);
  el_wset(editor_, EL_PREP_TERM, 1);
  send(kPasteOn);
  el_wset(editor_, EL_REFRESH);
  return CC_NORM;
}

unsigned char EditingReader::on_paste() {
  std::string bytes;
  while (!bytes.ends_with(kPasteEnd)) {
    unsigned char byte = 0;
    const TerminalInput::Event event = input_.next(byte);
    if (event == TerminalInput::Event::kResize) {
      on_resize();
      continue;
    }
    if (event == TerminalInput::Event::kWake) {
      signalled_ = true;
      return CC_EOF;
    }
    if (event == TerminalInput::Event::kEnd) return CC_EOF;
    if (bytes.size() >= kMaxPasteBytes) {
      problem_ =
          fmt::format("[input] expected at most {} bytes in a paste, got more", kMaxPasteBytes);
      bytes.clear();
    }
    bytes += static_cast<char>(byte);
  }
  bytes.resize(bytes.size() - kPasteEnd.size());
  std::string text = typed_text(std::move(bytes), problem_);
  if (text.ends_with('\n')) text.pop_back();  // of its last line
  if (text.empty()) return CC_NORM;
  return el_winsertstr(editor_, widen(folded_.shown(text)).c_str()) == 0 ? CC_REFRESH : CC_ERROR;
}

unsigned char EditingReader::on_new_line() {
  return el_winsertstr(editor_, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

unsigned char EditingReader::on_complete() {
  const std::string before = before_cursor();
  const Completions found = complete_line(before);
  if (found.candidates.empty()) return CC_ERROR;
  const std::string more =
      found.common.substr(std::min(before.size() - found.begin, found.common.size())) +
      (found.final ? " " : "");
  if (!more.empty())
    return el_winsertstr(editor_, widen(more).c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  list(found);
  return CC_REDISPLAY;
}

void EditingReader::list(const Completions& found) {
  std::vector<std::string> names;
  for (const std::string& text : found.candidates) {
    if (names.size() == kMostListed) break;
    const size_t slash = text.rfind('/', text.size() >= 2 ? text.size() - 2 : 0);
    names.push_back(slash == std::string::npos || slash == 0 ? text : text.substr(slash + 1));
  }
  int width = 0;
  for (const std::string& name : names) width = std::max(width, text_width(name));
  width += 2;
  const int columns = std::max(1, terminal_columns() / width);
  std::string out = "\n";
  for (size_t i = 0; i < names.size(); ++i) {
    out += names[i];
    const bool ends = (i + 1) % static_cast<size_t>(columns) == 0 || i + 1 == names.size();
    out += ends ? "\n" : std::string(static_cast<size_t>(width - text_width(names[i])), ' ');
  }
  if (names.size() < found.candidates.size())
    out += fmt::format("and {} more\n", found.candidates.size() - names.size());
  send(out.c_str());
}

std::string EditingReader::before_cursor() const {
  const LineInfoW* line = el_wline(editor_);
  return narrow({line->buffer, static_cast<size_t>(line->cursor - line->buffer)});
}

std::string EditingReader::after_cursor() const {
  const LineInfoW* line = el_wline(editor_);
  return narrow({line->cursor, static_cast<size_t>(line->lastchar - line->cursor)});
}

int EditingReader::last_cluster() const {
  const std::string before = before_cursor();
  std::string_view rest = before;
  std::string_view cluster;
  while (!rest.empty()) {
    cluster = rest.substr(0, grapheme_length(rest));
    rest.remove_prefix(cluster.size());
  }
  return static_cast<int>(widen(cluster).size());
}

int EditingReader::first_cluster() const {
  const std::string after = after_cursor();
  return static_cast<int>(widen(after.substr(0, grapheme_length(after))).size());
}

unsigned char EditingReader::on_left() {
  const int count = last_cluster();
  if (count == 0) return CC_ERROR;
  el_cursor(editor_, -count);
  return CC_CURSOR;
}

unsigned char EditingReader::on_right() {
  const int count = first_cluster();
  if (count == 0) return CC_ERROR;
  el_cursor(editor_, count);
  return CC_CURSOR;
}

unsigned char EditingReader::on_delete_left() {
  const int count = last_cluster();
  if (count == 0) return CC_ERROR;
  el_deletestr(editor_, count);
  return CC_REFRESH;
}

unsigned char EditingReader::on_delete_right() {
  const LineInfoW* line = el_wline(editor_);
  if (line->lastchar == line->buffer) return CC_EOF;
  const int count = first_cluster();
  if (count == 0) return CC_ERROR;
  el_cursor(editor_, count);
  el_deletestr(editor_, count);
  return CC_REFRESH;
}

// The terminal has laid its lines out anew: go to where ours begins and draw it again.
void EditingReader::on_resize() {
  el_resize(editor_);
  const int columns = std::max(1, terminal_columns());
  int row = 0, column = 0;
  const std::string text = narrow(prompt_) + before_cursor();
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view cluster = rest.substr(0, grapheme_length(rest));
    rest.remove_prefix(cluster.size());
    const int width = cluster == "\n" ? columns - column : grapheme_width(cluster);
    column += width;
    if (column >= columns) {
      ++row;
      column = cluster == "\n" || column == columns ? 0 : width;
    }
  }
  send(row > 0 ? fmt::format("\r\033[{}A\033[J", row).c_str() : "\r\033[J");
  el_wset(editor_, EL_REFRESH);
}

}  // namespace

std::unique_ptr<LineReader> make_editing_reader() { return std::make_unique<EditingReader>(); }

}  // namespace decant::cli
