"""Makes tests/fixtures/tokenizers: small tokenizers with the settings of real ones, and what the official
library (PyPI tokenizers 0.23.3) makes of a list of hard texts.

    python scripts/goldens/tokenizer_goldens.py OUT [DEMO]

DEMO is a folder with demo models (MODEL/tokenizer.json), copied to OUT as they are; without it the copies in OUT
are used. Seeded: the same versions write the same bytes.
"""
import json
import random
import shutil
import sys
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
         r"|\s+")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN3.replace(r"|\p{N}| ?", r"|\p{N}{1,3}| ?")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CJK = r"[一-龥぀-ゟ゠-ヿ]+"
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

CORPUS = [
    "The engine reads a file of weights and maps it; nothing is copied that need not be copied. It's what they've "
    "wanted, isn't it? We'll see, I'm sure you'd say they're right.",
    "for (int i = 0; i < n; ++i) {\n    sum += values[i] * 0.5f;\n}\nreturn sum;\n",
    "def encode(text: str) -> list[int]:\n\tids = []\n\tfor piece in split(text):\n\t\tids.extend(merge(piece))\n\treturn ids\n",
    "Der Fluß fließt über große Steine; Äpfel, Öl und Übermut. Où est l'été? Mañana será otro día, señor.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Всё хорошо.",
    "机器学习模型在中文文本上的表现很好。日本語の文章も少しあります。カタカナとひらがな。한국어 문장도 있습니다.",
    "الكلمات العربية تكتب من اليمين إلى اليسار. עברית גם כן. हिन्दी में कुछ शब्द हैं। ภาษาไทยไม่มีช่องว่าง",
    "In 1969, 12345678 people paid $3.50; 100% of 0x7fffffff is 2147483647.",
    "😀 😃 👍🏽 👨‍👩‍👧‍👦 🇩🇪 are emoji; so is ❤️. Math: ∑ x² ≤ ∞, α + β = γ, ½ cup.",
    "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><body class=\"x\">Hello</body></html>",
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich\", \"days\": 3}}",
    "the the the and and of to in that was his with for as had you not be her is at on by which have or from",
] * 4

# Assembled into random texts: every plane and every rule of the patterns above has a piece here.
PIECES = [
    "the", " the", "The", "THE", " engine", "don't", "I'M", "we'LL", "'s", "'S", "\u017f", "'\u017f", "it's", " it'", "'re'",
    "hello", "Hello World", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u2028",
    "\u0085", "\u180e", "\u200b", "\x00", "\x01", "\x7f", "\ufeff", "1", "12", "123", "1234", "12345678901", "٣", "½", "²", "Ⅷ", "①", "3.14",
    "0x1F", "!", "!!!", "...", ".\n", "?!\r\n\n", "(", ")", "{}", "[0]", "->", "=>", "::", "//", "/* x */", "#", "$", "%", "&", "@", "^",
    "~", "`", "\\", "|", "_", "__init__", "-", "--", "—", "“quoted”", "«»", "、", "。", "！", "é", "e\u0301", "E\u0301\u0316", "\u0301", "a\u0316\u0301",
    "ﬁ", "ﬀ", "\u212b", "\u2126", "\uf900", "\ufb01", "Å", "A\u030a", "ế", "e\u0302\u0301", "ñ", "ß", "ẞ", "İ", "ı", "ǅ", "Ω", "я", "Ё", "Е\u0308", "ё",
    "中", "中文", "文字化け", "漢字かな", "カタカナ", "ｶﾞ", "が", "か\u3099", "한국어", "각", "\u1100\u1161\u11a8", "ᄀ", "العربية", "עִבְרִית", "हिन्दी", "क्षि",
    "ภาษาไทย", "ำ", "தமிழ்", "བོད", "😀", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "❤\ufe0f", "𝒳", "𐍈", "𠀀", "\U0001f9ff", "\U000e0001",
    "\U000f0000", "\ue000", "\ufffd", "\uffff", "\U0010ffff", "\u0378", "\u200d", "\u200c", "Ⓐ", "ª", "ʰ", "〇", "々", "㍿", "\u0f73", "\u0344",
    "<", ">", "<|", "|>", "<s>", "</s>", "<bos>", "<eos>", "<unk>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|begin_of_text|>", "<|eot_id|>", "<tool_call>", "</tool_call>", "<think>", "</think>", "<mask>", " <mask> ", "<0x41>", "<0xE4>", "▁", "▁▁", "▁the",
    "<image_soft_token>", "<|image_pad|>", "[gMASK]", "<sop>", "word", "wordword", " word ", "Ġ", "Ċ", "ĠĠ", "x" * 40, "ab" * 30, " " * 33, "\n" * 20, "=" * 50,
    "unmergeable", " unmergeable", "import os\nimport sys\n", "    return x\n", "\t\tif (a && b) {\n", "https://example.org/a?b=c&d=%20",
]


def texts(seed, count):
    rng = random.Random(seed)
    out = ["", " ", "\n", "a", "\x00", "Hello, world!"] + PIECES
    while len(out) < count:
        kind = rng.random()
        if kind < 0.75:
            out.append("".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12))))
        elif kind < 0.9:
            out.append("".join(random_char(rng) for _ in range(rng.randint(1, 12))))
        else:
            text = rng.choice(CORPUS)
            begin = rng.randrange(len(text))
            out.append(text[begin:begin + rng.randint(1, 80)])
    return out[:count]


def random_char(rng):
    limit = rng.choice([0x80, 0x250, 0x700, 0x3000, 0xd7ff, 0x1ffff])
    while True:
        c = rng.randrange(limit)
        if not 0xd800 <= c < 0xe000:
            return chr(c)


def byte_level(pattern, vocab_size=520, **options):
    tok = Tokenizer(models.BPE(ignore_merges=options.get("ignore_merges", False)))
    tok.normalizer = options.get("normalizer")
    steps = [pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in pattern]
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


def specials(tok, names):
    tok.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])


def plain_added(tok, names):
    tok.add_tokens([AddedToken(n, special=False, normalized=False) for n in names])


def bos(tok, token):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B:1",
                                         special_tokens=[(token, tok.token_to_id(token))])


def llama3():
    spec = json.loads(byte_level([LLAMA3], ignore_merges=True).to_str())
    # Words that no merges lead to: only ignore_merges finds them.
    for word in ["Ġunmergeable", "unmergeable"]:
        spec["model"]["vocab"][word] = len(spec["model"]["vocab"])
    tok = Tokenizer.from_str(json.dumps(spec))
    specials(tok, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), bos(tok, "<|begin_of_text|>")])
    return json.loads(tok.to_str())


def qwen3():
    tok = byte_level([QWEN3], normalizer=normalizers.NFC())
    specials(tok, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"])
    plain_added(tok, ["<tool_call>", "</tool_call>", "<think>", "</think>"])
    return json.loads(tok.to_str())


def qwen35():
    tok = byte_level([QWEN35], normalizer=normalizers.NFC())
    specials(tok, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    spec = json.loads(tok.to_str())
    spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]  # the older spelling
    return spec


def glm4():
    tok = byte_level([LLAMA3])
    specials(tok, ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>"])
    plain_added(tok, ["<think>", "</think>"])
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    return json.loads(tok.to_str())


def o200k():
    tok = byte_level([O200K])
    specials(tok, ["<|endoftext|>"])
    return json.loads(tok.to_str())


def kimi():
    tok = byte_level([KIMI])
    specials(tok, ["<|im_end|>"])
    return json.loads(tok.to_str())


def deepseek():
    tok = byte_level([r"\p{N}{1,3}", CJK, DEEPSEEK], normalizer=normalizers.Sequence([]))
    # As in the released files: special and normalized.
    tok.add_special_tokens([AddedToken(n, special=True, normalized=True) for n in ["<s>", "</s>"]])
    tok.post_processor = bos(tok, "<s>")
    return json.loads(tok.to_str())


def gpt2():
    tok = byte_level([])
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tok.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False), AddedToken("<s>", special=True),
                            AddedToken("</s>", special=True, rstrip=True)])
    tok.add_tokens([AddedToken("word", single_word=True), AddedToken("The", normalized=True)])
    tok.post_processor = processors.RobertaProcessing(("</s>", tok.token_to_id("</s>")), ("<s>", tok.token_to_id("<s>")))
    return json.loads(tok.to_str())


def sentencepiece(vocab_size=700, byte_fallback=True, fuse_unk=True, unk="<unk>", extra=()):
    """Trained on words that begin with U+2581, as SentencePiece does it."""
    tok = Tokenizer(models.BPE(unk_token=unk))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    head = ["<pad>", "<eos>", "<bos>", "<unk>"] + list(extra) + (["<0x%02X>" % b for b in range(256)] if byte_fallback else [])
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=head, limit_alphabet=120,
                                                        show_progress=False))
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    spec["model"]["byte_fallback"] = byte_fallback
    spec["model"]["fuse_unk"] = fuse_unk
    spec["pre_tokenizer"] = None
    return spec


def template(spec, token):
    i = spec["model"]["vocab"][token]
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]}}}


def gemma():
    spec = sentencepiece(extra=["<start_of_turn>", "<end_of_turn>", "<image_soft_token>", "\n\n", "▁▁"])
    for token in spec["added_tokens"]:
        token["special"] = token["content"] not in ("\n\n", "▁▁")
        token["normalized"] = False
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    spec["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    spec["post_processor"] = template(spec, "<bos>")
    spec["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return spec


def llama2():
    """The legacy form: a prefix from the normalizer, no pre-tokenizer."""
    spec = sentencepiece(vocab_size=640)
    spec["added_tokens"].append({"id": max(spec["model"]["vocab"].values()) + 1, "content": "wordy", "single_word": False,
                                 "lstrip": False, "rstrip": False, "normalized": True, "special": False})
    spec["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    spec["post_processor"] = template(spec, "<bos>")
    spec["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return spec


def metaspace(scheme, split):
    spec = sentencepiece(vocab_size=400, byte_fallback=False, fuse_unk=split)
    spec["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    spec["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    return spec


def classic():
    """The original BPE of translation models: end-of-word suffix, lower case, accents off, no unknown token."""
    tok = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.BPEDecoder()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", limit_alphabet=80,
                                                        show_progress=False))
    tok.add_special_tokens(["<s>", "</s>"])
    return json.loads(tok.to_str())


def prefixed():
    """A continuing prefix, unknowns one by one, and every splitter that has no other test."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    tok.normalizer = normalizers.BertNormalizer()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.CharDelimiterSplit("x"), pre_tokenizers.Split("ab", "merged_with_next", invert=False),
        pre_tokenizers.Split(tokenizers.Regex("[aeiou]+"), "merged_with_previous", invert=True)])
    tok.decoder = decoders.WordPiece(cleanup=True)
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, continuing_subword_prefix="##", limit_alphabet=60,
                                                        special_tokens=["<unk>"], show_progress=False))
    return json.loads(tok.to_str())


def splits(behavior, invert):
    tok = byte_level([r"\w+|\d"])
    spec = json.loads(tok.to_str())
    spec["pre_tokenizer"]["pretokenizers"][0].update(behavior=behavior, invert=invert)
    spec["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "WhitespaceSplit"})
    spec["decoder"] = None
    return spec


SYNTHETIC = {
    "llama3": llama3, "qwen3": qwen3, "qwen35": qwen35, "glm4": glm4, "o200k": o200k, "kimi": kimi, "deepseek": deepseek,
    "gpt2": gpt2, "gemma": gemma, "llama2": llama2, "metaspace_first": lambda: metaspace("first", False),
    "metaspace_always": lambda: metaspace("always", True), "classic": classic, "prefixed": prefixed,
    "split_removed": lambda: splits("Removed", True), "split_previous": lambda: splits("MergedWithPrevious", False),
    "split_next": lambda: splits("MergedWithNext", True), "split_contiguous": lambda: splits("Contiguous", False),
}
DEMO = {"demo_gemma": "gemma3n", "demo_qwen": "qwen3_5_moe"}  # the third demo model shares the first's file


def random_ids(rng, tok, count):
    size = max(tok.get_vocab(with_added_tokens=True).values()) + 3
    byte = [tok.token_to_id("<0x%02X>" % b) for b in (0x41, 0xE4, 0xB8, 0xAD, 0xF0, 0x9F, 0x98, 0x80, 0xFF)]
    byte = [b for b in byte if b is not None]
    out = []
    for _ in range(count):
        if byte and rng.random() < 0.5:
            out.append([rng.choice(byte) if rng.random() < 0.7 else rng.randrange(size) for _ in range(rng.randint(1, 10))])
        else:
            out.append([rng.randrange(size) for _ in range(rng.randint(1, 10))])
    return out


def golden(tok, strings, seed):
    rng = random.Random(seed)
    encoded = [tok.encode(s, add_special_tokens=True).ids for s in strings]
    decode = []
    for ids in random_ids(rng, tok, 150) + [encoded[rng.randrange(len(encoded))] for _ in range(50)]:
        if not ids:
            continue
        decode.append([ids, tok.decode(ids, skip_special_tokens=False), tok.decode(ids, skip_special_tokens=True)])
    return {"encode": encoded, "decode": decode}


def main():
    assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 2:
        for name, model in DEMO.items():
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (out / name).mkdir(exist_ok=True)
                shutil.copyfile(Path(sys.argv[2]) / model / file, out / name / file)
                (out / name / file).chmod(0o644)
    strings = texts(1, 450)
    dump = lambda value: json.dumps(value, separators=(",", ":"))
    (out / "texts.json").write_text(dump(strings) + "\n")
    for name, make in list(SYNTHETIC.items()) + [(n, None) for n in DEMO]:
        (out / name).mkdir(exist_ok=True)
        file = out / name / "tokenizer.json"
        if make:
            file.write_text(json.dumps(make(), separators=(",", ":"), ensure_ascii=False) + "\n")
        tok = Tokenizer.from_file(str(file))
        (out / name / "golden.json").write_text(dump(golden(tok, strings, 2)) + "\n")


if __name__ == "__main__":
    main()
