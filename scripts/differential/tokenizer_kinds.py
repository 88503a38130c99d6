"""The tokenizer.json files that tokenizers.py compares: see kinds()."""
import json
import random
import re
import sys
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "scripts" / "goldens"))
import tokenizer_goldens as goldens  # noqa: E402

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BYTE_DECODER = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def bpe(vocab, merges=(), **options):
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": [list(m) for m in merges]}
    model.update(options)
    return model


def numbered(tokens):
    return {token: i for i, token in enumerate(tokens)}


def added(model, contents, flags=None):
    """Entries of added_tokens; contents the vocabulary lacks get the next ids. flags: per content."""
    vocab = model["vocab"] if isinstance(model["vocab"], dict) else {t: i for i, (t, _) in enumerate(model["vocab"])}
    following = max(vocab.values()) + 1
    out = []
    for content in contents:
        entry = {"id": vocab.get(content, following), "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True}
        following += content not in vocab
        entry.update((flags or {}).get(content, {}))
        out.append(entry)
    return out


def file(model, **parts):
    spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None, "model": model}
    spec.update(parts)
    return spec


def exact_text(normalizer):
    """Ids are the bytes of the normalized text."""
    vocab = numbered(["<unk>"] + ["<0x%02X>" % b for b in range(256)])
    return file(bpe(vocab, unk_token="<unk>", byte_fallback=True), normalizer=normalizer, decoder=BYTE_DECODER,
                added_tokens=added({"vocab": vocab}, ["<unk>", "<s>"]))


def exact_pieces(pre_tokenizer, contents=("<s>", "<mask>")):
    """Ids are the bytes of the pieces, the last of each marked."""
    vocab = numbered(ALPHABET + [c + "</w>" for c in ALPHABET])
    if pre_tokenizer["type"] == "ByteLevel":
        steps = pre_tokenizer
    else:
        steps = {"type": "Sequence", "pretokenizers": [pre_tokenizer, BYTE_LEVEL]}
    model = bpe(vocab, end_of_word_suffix="</w>")
    return file(model, pre_tokenizer=steps, decoder={"type": "BPEDecoder", "suffix": "</w>"}, added_tokens=added(model, contents))


def trained_model(size=420, **options):
    """A small BPE over characters with what `options` change of it."""
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    prefix = options.get("continuing_subword_prefix") or ""
    suffix = options.get("end_of_word_suffix") or ""
    special = ["<unk>"] + (["<0x%02X>" % b for b in range(256)] if options.get("byte_fallback") else [])
    tok.train_from_iterator(goldens.CORPUS, trainers.BpeTrainer(
        vocab_size=size + len(special), special_tokens=special, limit_alphabet=90, show_progress=False,
        continuing_subword_prefix=prefix, end_of_word_suffix=suffix))
    model = json.loads(tok.to_str())["model"]
    model.update(options)
    return model


# ---- one file per feature ----

def normalizer_kinds():
    text = lambda s: {"String": s}
    regex = lambda s: {"Regex": s}
    yield from ((n.lower(), {"type": n}) for n in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "ByteLevel", "Nmt"])
    for left in (False, True):
        for right in (False, True):
            yield f"strip_{left:d}{right:d}", {"type": "Strip", "strip_left": left, "strip_right": right}
    yield "prepend", {"type": "Prepend", "prepend": "▁x"}
    yield "prepend_nothing", {"type": "Prepend", "prepend": ""}
    yield "replace", {"type": "Replace", "pattern": text("the"), "content": "thethe"}
    yield "replace_erases", {"type": "Replace", "pattern": text("\u0301"), "content": ""}
    yield "replace_empty", {"type": "Replace", "pattern": text(""), "content": "-"}
    yield "replace_regex", {"type": "Replace", "pattern": regex(r"\s{2,}|[éñ]|\p{M}+|(?<=a)b"), "content": "\u2047"}
    yield "replace_anchors", {"type": "Replace", "pattern": regex(r"^|$"), "content": "|"}
    for n, (clean, cjk, accents, lower) in enumerate([(True, True, None, True), (False, True, None, False), (True, False, True, False),
                                                      (True, True, False, True), (False, False, True, True), (False, False, False, False)]):
        yield f"bert_{n}", {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": cjk, "strip_accents": accents,
                            "lowercase": lower}
    yield "sequence_fold", {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "NFC"}]}
    yield "sequence_spaces", {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Replace", "pattern": regex(" {2,}"), "content": " "}, {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": text(" "), "content": "▁"}]}
    yield "sequence_empty", {"type": "Sequence", "normalizers": []}


def pre_tokenizer_kinds():
    for name in ["BertPreTokenizer", "Whitespace", "WhitespaceSplit"]:
        yield name.lower(), {"type": name}
    for prefix in (False, True):
        for use_regex in (False, True):
            yield f"bytelevel_{prefix:d}{use_regex:d}", {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True,
                                                         "use_regex": use_regex}
    yield "delimiter", {"type": "CharDelimiterSplit", "delimiter": "a"}
    yield "delimiter_wide", {"type": "CharDelimiterSplit", "delimiter": "中"}
    for scheme in ["always", "first", "never"]:
        for split in (False, True):
            yield f"metaspace_{scheme}_{split:d}", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    yield "metaspace_other", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": True}
    for behavior in BEHAVIORS:
        for invert in (False, True):
            name = f"{behavior.lower()}_{invert:d}"
            yield f"split_text_{name}", {"type": "Split", "pattern": {"String": "  "}, "behavior": behavior, "invert": invert}
            yield f"split_regex_{name}", {"type": "Split", "pattern": {"Regex": r"\w+|[^\w\s]"}, "behavior": behavior, "invert": invert}
        yield f"punctuation_{behavior.lower()}", {"type": "Punctuation", "behavior": behavior}
    yield "split_empty_regex", {"type": "Split", "pattern": {"Regex": "x*"}, "behavior": "Isolated", "invert": False}
    yield "split_lookaround", {"type": "Split", "pattern": {"Regex": r"(?<=[a-z])(?=[A-Z])|\b\d|\s+(?!\S)"}, "behavior": "Isolated",
                               "invert": False}
    yield "split_classes", {"type": "Split", "pattern": {"Regex": r"[\p{Han}\p{Hiragana}]+|[\w&&[^\d_]]+|[[:punct:]]+|[^\p{L}\p{N}\s]|\h{2}"},
                            "behavior": "Isolated", "invert": False}
    for individual in (False, True):
        yield f"digits_{individual:d}", {"type": "Digits", "individual_digits": individual}
    for length in (1, 5):
        yield f"fixedlength_{length}", {"type": "FixedLength", "length": length}
    yield "unicodescripts", {"type": "UnicodeScripts"}
    yield "sequence", {"type": "Sequence", "pretokenizers": [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}, {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": "MergedWithPrevious"}]}


def model_kinds():
    for fallback in (False, True):
        for fuse in (False, True):
            for ignore in (False, True):
                yield f"bpe_{fallback:d}{fuse:d}{ignore:d}", lambda f=fallback, u=fuse, i=ignore: with_pieces(
                    trained_model(byte_fallback=f, fuse_unk=u, ignore_merges=i))
    yield "bpe_no_unk", lambda: with_pieces(trained_model(unk_token=None))
    yield "bpe_prefix", lambda: with_pieces(trained_model(continuing_subword_prefix="##", fuse_unk=True))
    yield "bpe_suffix", lambda: with_pieces(trained_model(end_of_word_suffix="</w>"))
    yield "bpe_both", lambda: with_pieces(trained_model(continuing_subword_prefix="@", end_of_word_suffix="</w>", byte_fallback=True))
    yield "bpe_whole_text", lambda: file(trained_model(byte_fallback=True), decoder=BYTE_DECODER)
    yield "bpe_whole_text_unk", lambda: file(trained_model(fuse_unk=True))

    def wordlevel():
        words = [w for text in goldens.CORPUS for w in re.findall(r"\w+|[^\w\s]+", text)]
        return with_pieces({"type": "WordLevel", "vocab": numbered(["<unk>"] + sorted(set(words))), "unk_token": "<unk>"},
                           {"type": "Whitespace"})
    yield "wordlevel", wordlevel

    def wordpiece(**options):
        tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tok.train_from_iterator(goldens.CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], limit_alphabet=90,
                                                                          show_progress=False))
        model = json.loads(tok.to_str())["model"]
        model.update(options)
        spec = with_pieces(model, {"type": "BertPreTokenizer"})
        spec["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
        return spec
    yield "wordpiece", wordpiece
    yield "wordpiece_short", lambda: wordpiece(max_input_chars_per_word=4)

    def unigram(**options):
        tok = Tokenizer(models.Unigram())
        tok.pre_tokenizer = pre_tokenizers.Metaspace()
        special = ["<unk>"] + (["<0x%02X>" % b for b in range(256)] if options.get("byte_fallback") else [])
        tok.train_from_iterator(goldens.CORPUS, trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>",
                                                                        show_progress=False))
        model = json.loads(tok.to_str())["model"]
        model.update(options)
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        return file(model, pre_tokenizer=metaspace, added_tokens=added(model, ["<s>", "</s>"]),
                    decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]} if options.get("byte_fallback") else metaspace)
    yield "unigram", unigram
    yield "unigram_bytes", lambda: unigram(byte_fallback=True)

    def unigram_whole():
        spec = unigram()
        spec["pre_tokenizer"] = None
        return spec
    yield "unigram_whole_text", unigram_whole


def with_pieces(model, pre_tokenizer=None):
    return file(model, pre_tokenizer=pre_tokenizer or {"type": "WhitespaceSplit"}, added_tokens=added(model, ["<s>", "</s>"]))


# Token texts that decoders look into.
TRICKY = ["▁", "▁▁", "▁a", "a▁b", "Ġ", "Ġa", "Ċ", "ÄĤ", "é", "中", "##", "##a", "a##", "#", "</w>", "a</w>", "</w>b", "<pad>", "|", "||", "a|b", " ", "  ",
          " a", "a ", ".", ",", " .", " ,", "n't", " n't", "'m", "do", " do not", "'s", " ' ", "hello", "world", "aaa", "xax", "xx", "x", "<0x41>", "<0x4G>",
          "<0xe4>", "<0xE4 >", "<0x+A>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "", "ab", "ba", "😀", "\u200d", "\x00", "\n", "Â", "Ã", "©", "[UNK]", "the"]


def decoder_kinds():
    text = lambda s: {"String": s}
    yield "none", None
    yield "bytelevel", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    yield "bytefallback", {"type": "ByteFallback"}
    yield "fuse", {"type": "Fuse"}
    yield "bpe", {"type": "BPEDecoder", "suffix": "</w>"}
    for cleanup in (False, True):
        yield f"wordpiece_{cleanup:d}", {"type": "WordPiece", "prefix": "##", "cleanup": cleanup}
        yield f"ctc_{cleanup:d}", {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": cleanup}
    for scheme in ["always", "first", "never"]:
        yield f"metaspace_{scheme}", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    yield "replace", {"type": "Replace", "pattern": text("▁"), "content": " "}
    yield "replace_long", {"type": "Replace", "pattern": text("aa"), "content": "a"}
    yield "replace_regex", {"type": "Replace", "pattern": {"Regex": "[ab]+|x(?=x)"}, "content": "-"}
    for start, stop in [(1, 0), (0, 1), (2, 1), (1, 2), (0, 0)]:
        yield f"strip_{start}{stop}", {"type": "Strip", "content": "x" if stop else " ", "start": start, "stop": stop}
    yield "llama2", {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": text("▁"), "content": " "}, {"type": "ByteFallback"},
                                                      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    yield "fuse_first", {"type": "Sequence", "decoders": [
        {"type": "Fuse"}, {"type": "Replace", "pattern": text("a "), "content": "b"}, {"type": "Strip", "content": "x", "start": 2, "stop": 2}]}
    yield "bytes_then_metaspace", {"type": "Sequence", "decoders": [
        {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]}
    yield "bytelevel_then_strip", {"type": "Sequence", "decoders": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Strip", "content": "a", "start": 1, "stop": 1}, {"type": "Replace", "pattern": text("\ufffd"), "content": "?"}]}
    yield "strip_then_wordpiece", {"type": "Sequence", "decoders": [
        {"type": "Strip", "content": "#", "start": 1, "stop": 0}, {"type": "WordPiece", "prefix": "#", "cleanup": True}]}
    yield "ctc_then_fuse", {"type": "Sequence", "decoders": [
        {"type": "CTC", "pad_token": "x", "word_delimiter_token": "a", "cleanup": True}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}
    yield "empty_sequence", {"type": "Sequence", "decoders": []}


def decoder_file(decoder):
    vocab = numbered(TRICKY + [c for c in "abcdefghxyz .,#|" if c not in TRICKY])
    model = bpe(vocab)
    return file(model, decoder=decoder, added_tokens=added(model, ["<pad>", "[UNK]", "<extra>", "▁add", "Ġadd", "<0x42>"],
                                                           {"▁add": {"special": False}, "Ġadd": {"special": False}, "<0x42>": {"special": False}}))


def post_kinds():
    pair = {"sep": ["</s>", 2], "cls": ["<s>", 1]}
    piece = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    token = lambda name, ids: {name: {"id": name, "ids": ids, "tokens": [name] * len(ids)}}
    yield "bert", {"type": "BertProcessing", **pair}
    yield "roberta", {"type": "RobertaProcessing", **pair, "trim_offsets": True, "add_prefix_space": True}
    yield "bytelevel", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    yield "template", {"type": "TemplateProcessing", "single": [piece("<s>"), text, piece("</s>"), piece("</s>")],
                       "pair": [text, second], "special_tokens": {**token("<s>", [1]), **token("</s>", [2])}}
    yield "template_many", {"type": "TemplateProcessing", "single": [piece("x"), text], "pair": [text, second],
                            "special_tokens": token("x", [1, 2, 1])}
    yield "template_bare", {"type": "TemplateProcessing", "single": [text], "pair": [text, second], "special_tokens": {}}
    yield "sequence", {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        {"type": "TemplateProcessing", "single": [piece("<s>"), text], "pair": [text, second], "special_tokens": token("<s>", [1])}]}


def post_file(post):
    vocab = numbered(["<unk>", "<s>", "</s>"] + ALPHABET)
    model = bpe(vocab)
    return file(model, pre_tokenizer=BYTE_LEVEL, post_processor=post, decoder=BYTE_LEVEL, added_tokens=added(model, ["<s>", "</s>"]))


CONTENTS = ["<s>", "<s>x", "word", "words", "Word", " sp", "sp ", "é", "E\u0301", "ab", "abc", "bcd", "<a", "<a>", "\n", "\n\n", "▁", "中文", "_x", "  ", "ﬁ", "1"]


def added_kinds():
    """Random flags on tokens that overlap, under normalizers and pre-tokenizers that move what is in front of them."""
    normals = {"none": None, "lower": {"type": "Lowercase"}, "nfkc": {"type": "NFKC"}, "strip": {"type": "Strip", "strip_left": True, "strip_right": True},
               "llama": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                             {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
               "nfd": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}}
    pres = {"none": None, "first": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
            "prefix": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}
    for normal, normalizer in normals.items():
        for pre, pre_tokenizer in pres.items():
            yield f"{normal}_{pre}", added_file(f"{normal}/{pre}", normalizer, pre_tokenizer)
    # One flag alone, on every token.
    for flag in ["single_word", "lstrip", "rstrip", "normalized", "special"]:
        for value in (False, True):
            spec = added_file("x", None, None)
            for token in spec["added_tokens"]:
                token.update({"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, flag: value})
            yield f"only_{flag}_{value:d}", spec


def added_file(seed, normalizer, pre_tokenizer):
    rng = random.Random(seed)
    vocab = numbered(["<unk>"] + ["<0x%02X>" % b for b in range(256)] + ["wo", "rd", "a", "b", "c", "w", "o", "r", "d"])
    model = bpe(vocab, [("w", "o"), ("r", "d")], unk_token="<unk>", byte_fallback=True)
    flags = {c: {f: rng.random() < 0.4 for f in ["single_word", "lstrip", "rstrip", "normalized", "special"]} for c in CONTENTS}
    # The library never ends on a token that normalizes to nothing, and takes any one of two that normalize alike.
    normalizing = Tokenizer.from_str(json.dumps(file(model, normalizer=normalizer))).normalizer
    seen = {""}
    for content in CONTENTS:
        form = normalizing.normalize_str(content) if normalizing else content
        flags[content]["normalized"] &= form not in seen
        if flags[content]["normalized"]:
            seen.add(form)
    return file(model, normalizer=normalizer, pre_tokenizer=pre_tokenizer, decoder=BYTE_DECODER, added_tokens=added(model, CONTENTS, flags))


# ---- large ones ----

def corpus(work):
    """Some ten megabytes of text found on this machine, in many scripts."""
    saved = work / "corpus.json"
    if saved.exists():
        return json.loads(saved.read_text())
    out = []
    budgets = [("/usr/lib/python3.11", "*.py", 3 << 20), ("/usr/include", "*.h", 1 << 20), ("/usr/share/doc", "*.txt", 2 << 20),
               ("/usr/share/vim", "*.txt", 2 << 20), ("/usr/share/perl", "*.pod", 2 << 20), ("/work/shared/design", "*.md", 1 << 20)]
    for folder, pattern, budget in budgets:
        for path in sorted(Path(folder).rglob(pattern)):
            try:
                text = path.read_text(encoding="utf-8")[:200000]
            except (OSError, UnicodeDecodeError):
                continue
            out.append(text)
            budget -= len(text)
            if budget < 0:
                break
    for language in ["zh_CN", "zh_TW", "ja", "ko", "ru", "ar", "hi", "th", "de", "fr", "es", "el", "he", "ta", "vi", "uk", "fa", "bn", "ka"]:
        budget = 400 << 10
        for path in sorted(Path("/usr/share/locale", language).rglob("*.mo")):
            text = path.read_bytes().decode("utf-8", "ignore").replace("\x00", "\n")
            text = "".join(c for c in text if c.isprintable() or c == "\n")[:200000]
            out.append(text)
            budget -= len(text)
            if budget < 0:
                break
    rng = random.Random(5)
    sample = [line + "\n" for text in out for line in text.splitlines() if line]
    rng.shuffle(sample)
    lines = ["".join(sample[i:i + 20]) for i in range(0, len(sample), 20)] + out[::3]
    saved.write_text(json.dumps(lines))
    return lines


def byte_level(pattern, normalizer=None, ignore_merges=False, size=32768):
    def make(lines):
        tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        tok.normalizer = normalizer
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, initial_alphabet=ALPHABET, show_progress=False, max_token_length=48))
        return tok
    return make


def llama3(lines):
    tok = byte_level(goldens.LLAMA3, ignore_merges=True)(lines)
    goldens.specials(tok, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    tok.post_processor = tokenizers.processors.Sequence([tokenizers.processors.ByteLevel(trim_offsets=True), goldens.bos(tok, "<|begin_of_text|>")])
    return json.loads(tok.to_str())


def qwen(pattern):
    def make(lines):
        tok = byte_level(pattern, normalizers.NFC())(lines)
        goldens.specials(tok, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>"])
        goldens.plain_added(tok, ["<tool_call>", "</tool_call>", "<think>", "</think>"])
        tok.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
        return json.loads(tok.to_str())
    return make


def glm4(lines):
    tok = byte_level(goldens.LLAMA3)(lines)
    goldens.specials(tok, ["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"])
    goldens.plain_added(tok, ["<think>", "</think>", "<arg_key>", "</arg_key>"])
    tok.post_processor = tokenizers.processors.Sequence([tokenizers.processors.ByteLevel(trim_offsets=False),
        tokenizers.processors.TemplateProcessing(single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B:1", special_tokens=[
            (t, tok.token_to_id(t)) for t in ["[gMASK]", "<sop>"]])])
    return json.loads(tok.to_str())


def gemma(lines):
    """SentencePiece-style: spaces become U+2581, bytes for what is unknown, no cuts but at the end of runs of spaces."""
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never"),
                                                 pre_tokenizers.Split(tokenizers.Regex(r"\n+"), "isolated")])
    turns = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n" * n for n in range(2, 32)] + ["▁" * n for n in range(2, 32)] + ["\t" * n for n in range(2, 8)]
    head = turns + runs + ["<0x%02X>" % b for b in range(256)]
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=32768, special_tokens=head, limit_alphabet=2500, max_token_length=48,
                                                       show_progress=False))
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in turns + runs]
    for token in spec["added_tokens"]:
        token["special"] = token["content"] in turns
        token["normalized"] = False
    spec["model"].update(byte_fallback=True, fuse_unk=True)
    spec["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    spec["post_processor"] = goldens.template(spec, "<bos>")
    spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                        {"type": "Fuse"}]}
    return spec


TRAINED = {"llama3": llama3, "qwen3": qwen(goldens.QWEN3), "qwen35": qwen(goldens.QWEN35), "glm4": glm4, "gemma": gemma}


def trained(work, name):
    saved = work / f"trained_{name}.json"
    if not saved.exists():
        saved.write_text(json.dumps(TRAINED[name](corpus(work)), ensure_ascii=False))
    return json.loads(saved.read_text())


# What decant refuses by name, each with a line in the test TokenizerRefuses.
REFUSED = {"normalizer Precompiled": "needs SentencePiece's compiled tables", "pre-tokenizer UnicodeScripts": "no released decoder-only model uses it",
           "post-processor Sequence with two that add tokens": "the library takes the first one's pieces for a pair"}


def kinds(work):
    """Yields group, name and a function that makes the file."""
    for folder in sorted((ROOT / "tests" / "fixtures" / "tokenizers").iterdir()):
        if folder.is_dir():
            yield "fixture", folder.name, lambda f=folder: json.loads((f / "tokenizer.json").read_text())
    for name, part in normalizer_kinds():
        yield "feature", f"normalizer_{name}", lambda p=part: exact_text(p)
    for name, part in pre_tokenizer_kinds():
        if f"pre-tokenizer {part['type']}" not in REFUSED:
            yield "feature", f"pretokenizer_{name}", lambda p=part: exact_pieces(p)
    for name, make in model_kinds():
        yield "feature", f"model_{name}", make
    for name, part in decoder_kinds():
        yield "feature", f"decoder_{name}", lambda p=part: decoder_file(p)
    for name, part in post_kinds():
        yield "feature", f"post_{name}", lambda p=part: post_file(p)
    for name, spec in added_kinds():
        yield "feature", f"added_{name}", lambda s=spec: s
    for name in TRAINED:
        yield "trained", name, lambda n=name: trained(work, n)
