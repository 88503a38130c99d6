"""Random strings that meet every rule of a tokenizer: see random_text."""
import unicodedata

WORDS = ["the", " the", "The", "THE", " engine", "don't", "I'M", "we'LL", "'s", "'S", "\u017f", "'\u017f", "it's", "'re'", "hello",
         "Hello World", " word", "wordword", "internationalisation", "naïve", "Fluß", "Übermut", " señor", "Съешь", " булок", "été"]
SPACES = ["  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u180e", "\u200b",
          "\u1680", "\u202f", "\u205f", "\x0b", "\x0c", "\x1c", " " * 17, "\n" * 9, "\t\t\t ", " \u00a0 ", "\ufeff"]
CONTROLS = ["\x00", "\x01", "\x07", "\x1b[0m", "\x7f", "\x80", "\x9f", "\x8f", "\xad", "\u2060", "\ufffd", "\uffff", "\ufdd0", "\U0010ffff",
            "\ue000", "\U000f0000", "\U000e0001", "\u0378", "\u061c", "\u202e"]
NUMBERS = ["1", "12", "123", "1234", "12345678901", "٣", "½", "²", "Ⅷ", "①", "3.14", "0x1F", "1,000", "१२३", "五", "𝟙", "〇"]
SIGNS = ["!", "!!!", "...", ".\n", "?!\r\n\n", "(", ")", "{}", "[0]", "->", "=>", "::", "//", "/* x */", "#", "$", "%", "&", "@", "^", "~", "`", "\\",
         "|", "_", "__init__", "-", "--", "—", "“quoted”", "«»", "、", "。", "！", " .", " ,", " n't", " 'm", " ' ", "=" * 20, "·", "€", "±", "∑", "©"]
MARKS = ["é", "e\u0301", "E\u0301\u0316", "\u0301", "a\u0316\u0301", "a\u0301\u0316\u0327", "\u0345", "ﬁ", "ﬀ", "\u212b", "\u2126", "\uf900",
         "Å", "A\u030a", "ế", "e\u0302\u0301", "ñ", "ß", "ẞ", "İ", "i\u0307", "ı", "ǅ", "Σ", "ς", "ΑΣ", "Е\u0308", "ё", "\u0344", "\u0f73", "\u1e9b\u0323", "Ǖ",
         "\u0958", "\u2adc", "\ufb1d", "\U0001d15e", "\u0340", "\u0374", "\u1fef", "ﷺ", "㌀", "ｶﾞ", "ﾊﾟ", "か\u3099", "\u1100\u1161\u11a8", "각\u11a8", "가\u11a8",
         "ᄀ", "\u1161", "\uffc2", "\U0001133e", "\U000110a5\U000110ba", "\u0b47\u0b3e", "\u09c7\u09be", "\u0dd9\u0dca"]
SCRIPTS = ["中", "中文", "文字化け", "漢字かな", "カタカナ", "ｶﾞｷﾞ", "한국어", "العربية", "عِبْر", "עִבְרִית", "हिन्दी", "क्षि", "ภาษาไทย", "ำ", "தமிழ்", "བོད", "ქართული",
           "Հայ", "አማርኛ", "ខ្មែរ", "မြန်မာ", "𐍈", "𠀀", "𪜶", "𞤀", "ꙮ", "Ꭰ", "ꭰ", "ⴰ", "々", "ー", "ㄅ", "ㄱ", "㍿", "Ⓐ", "🅰", "ª", "ʰ", "𝒳"]
EMOJI = ["😀", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "🇩", "❤\ufe0f", "❤", "🏳\ufe0f\u200d🌈", "\u200d", "\u200c", "\ufe0f", "\u20e3", "1\ufe0f\u20e3", "🧑🏿\u200d🚀", "\U0001f9ff"]
SPECIALS = ["<", ">", "<|", "|>", "<s>", "</s>", "<bos>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "<think>",
            "[MASK]", "<mask>", " <mask> ", "<0x41>", "<0xE4>", "<0x", "▁", "▁▁", "▁the", "Ġ", "Ċ", "ĠĠ", "##", "##a", "</w>", "a</w>", "<eot", "<S>"]
CODE = ["import os\nimport sys\n", "    return x\n", "\t\tif (a && b) {\n", "https://example.org/a?b=c&d=%20", "std::vector<int>", "a[i]++;",
        "{\"k\": [1, 2.5e-3, null]}", "<div class=\"x\">", "#include <stdio.h>\n", "lambda x: x**2", "SELECT * FROM t;\n", "$PATH", "0b1010"]
RUNS = ["a", "x", "7", " ", "\n", "\t", ".", "=", "中", "é", "\u0301", "😀", "▁", "<", "\u00a0", "ß", "가"]
POOLS = [WORDS, SPACES, CONTROLS, NUMBERS, SIGNS, MARKS, SCRIPTS, EMOJI, SPECIALS, CODE]
PLANES = [(0, 0x80), (0x80, 0x250), (0x250, 0x700), (0x700, 0x1200), (0x1200, 0x3000), (0x3000, 0xd800), (0xe000, 0x10000), (0x10000, 0x20000),
          (0x20000, 0x32000), (0xe0000, 0xe0200), (0xf0000, 0x110000)]
COMBINING = [chr(c) for c in range(0x20000) if unicodedata.combining(chr(c))]


def random_char(rng):
    low, high = rng.choice(PLANES)
    return chr(rng.randrange(low, high))


def random_text(rng, hints=()):
    """A string; `hints` (added tokens) appear in one of three, whole, cut, doubled and in other letters."""
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(["", " ", "\n", "\x00", "a", "中", "  ", " a", "a "])
    if kind < 0.60:
        parts = [rng.choice(rng.choice(POOLS)) for _ in range(rng.randint(1, 10))]
    elif kind < 0.70:
        pool = rng.choice(POOLS)
        parts = [rng.choice(pool) for _ in range(rng.randint(1, 14))]
    elif kind < 0.80:
        parts = [random_char(rng) for _ in range(rng.randint(1, 12))]
    elif kind < 0.86:
        parts = [rng.choice("aeioukcn가か") + "".join(rng.choice(COMBINING) for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(1, 4))]
    elif kind < 0.94:
        parts = [rng.choice(RUNS) * rng.choice([1, 2, 3, 7, 31, 32, 33, 64, 150]) for _ in range(rng.randint(1, 4))]
    else:
        parts = [rng.choice("abcdefgh  etaoin,.ABC12\n") for _ in range(rng.randint(5, 60))]
    if hints and rng.random() < 0.4:
        for _ in range(rng.randint(1, 4)):
            token = rng.choice(hints)
            change = rng.random()
            if change < 0.15:
                token = token[:rng.randint(0, len(token))]
            elif change < 0.25:
                token = token.upper() if rng.random() < 0.5 else token.lower()
            elif change < 0.35:
                token = token + token
            if rng.random() < 0.4:
                token = rng.choice([" ", "\n", "  ", "a", "_", "é", "\u0301", "中", "."]) + token
            if rng.random() < 0.4:
                token = token + rng.choice([" ", "\n", "  ", "a", "_", "é", "\u0301", "中", "."])
            parts.insert(rng.randint(0, len(parts)), token)
    return "".join(parts)
