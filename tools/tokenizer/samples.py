"""Texts that tokenizers get wrong, and generators of more; all as bytes."""
import json
import pathlib
import random

LANGUAGES = """
The quick brown fox doesn't jump; it's over the lazy dog's 12,345.67 dollars (about 3%)!
I'll, you're, we've, he'd, THEY'LL, it'S, o'clock, rock'n'roll, 'quoted', ''twice''
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.
Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis.
Příliš žluťoučký kůň úpěl ďábelské ódy. Pchnąć w tę łódź jeża lub ośm skrzyń fig.
Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак, ґанок, ў.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Τὸ ἄλφα καὶ τὸ ὦ.
明天杭州和北京的天气怎么样？根据查询结果，明天（2024年1月16日）最高温度：12°C。
深度求索的模型有6710亿参数，每个token激活370亿。龥龦龧鿿㐀䶿𠀀𠮷𪚥
我喜歡吃蘋果，但是他不喜歡。「引號」『書名』《論語》——……
色は匂へど散りぬるを、我が世誰ぞ常ならむ。カタカナ、ひらがな、ゟヿ゠ー、ｶﾀｶﾅ。
東京タワーは333メートルです。Ｆｕｌｌｗｉｄｔｈ　１２３
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. ㄱㄴㄷ 한국어
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق. ٠١٢٣٤٥
דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। १२३४ क्षि
আমি কাঁচ খেতে পারি, তাতে আমার কোনো ক্ষতি হয় না। நான் கண்ணாடி சாப்பிடுவேன். ཨོཾ་མ་ཎི་པདྨེ་ཧཱུྃ
Tiếng Việt: Tôi có thể ăn thủy tinh mà không hại gì. ქართული ენა. Հայերեն
ᚠᛇᚻ᛫ᛒᛦᚦ ⵜⴰⵎⴰⵣⵉⵖⵜ ᏣᎳᎩ ᓀᐦᐃᔭᐍᐏᐣ አማርኛ ខ្មែរ ລາວ မြန်မာ
"""

SYMBOLS = """
👍👍🏽👍🏿 👩‍👩‍👧‍👦 👨🏻‍💻 🏳️‍🌈 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🇩🇪🇨🇳🇯🇵 1️⃣#️⃣ ❤️‍🔥 🫨🩷🪽🫎🪭 🫩🪾
∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ≤ ∑ᵢ₌₀ⁿ xᵢ² ⇒ ∫₀^∞ e^{−x²}dx = √π⁄2 ½ ¼ Ⅷ ② ㊿ ፲
price: $5, €6, £7, ¥8, ₹9, ₿0.01, 5¢ ±3 ×4 ÷2 ©®™ §¶ †‡ •…‰′″ «»‹›„“”‘’ —–‐
e\u0301e\u0301 n\u0303 o\u0308\u0323 a\u0300\u0301\u0302\u0303\u0304\u0305 \u0301start \u20dd x\u0338 Z\u0351\u036b\u0343a\u0321lgo
"""

CODE = [
    'int main(int argc, char** argv) {\n  return argc > 1 ? atoi(argv[1]) : 0;  // exit\n}\n',
    "def f(x: int) -> str:\n\tif x % 2 == 0:\n\t\treturn f\"{x!r:>10}\"\n\n\n\treturn 'odd'\n",
    '<div class="a b" id=\'c\'>&nbsp;&#x1F600;</div>\r\n<!-- note -->\r\n',
    'SELECT * FROM "t" WHERE a<>b AND c!=\'d\';--comment\n#include <vector>\n#define X(a)a##_b\n',
    '{"a": [1, 2.5e-10, null, true], "b\\n": "\\u00e9\\\\"}',
    '\\begin{equation}\\frac{a}{b}\\label{eq:1}\\end{equation}%\n$$x_{i+1}^2$$',
    'https://example.org/a/b?c=d&e=%20#f user@example.org C:\\Users\\x\\ ../../..//\n',
    'x=x+1;y-=2;z**=3;a<<=4;b>>>5;c?.d??e;f=>{};g::h->i.j;@k;#l;~m;!n;^o;`p`',
    '$ ls -la | grep "^d" && echo $HOME > /dev/null 2>&1 ; kill -9 $$\n',
    '.method .5 .5a _a __init__ --flag -x +y &amp; *p **kw (a) [b] {c} <d> =e |f ,g :h ;i ?j !k @l',
]

SPACES = [
    ' ', '  ', '   a', 'a  b', 'a   b   ', '\t', '\t\ta', ' \t b', '\n', '\n\n', '\r\n', '\r\n\r\n ',
    ' \n', '  \n  \n  a', 'a \n b', 'a\n\n\n\nb', '\n a', '\n  a', '\n\t a', 'a\r', 'a\rb\r\nc\n',
    ' \u00a0 a', '\u00a0\u00a0b', 'a\u0085b', '\u0085\n', 'a\u2028b\u2029c', '\u3000\u3000文',
    'a\u180eb', '\u180e\u180e', ' \u180e a', '\u1680\u2000\u2001\u200a\u202f\u205f', 'a\u200bb\u200cc\u200dd',
    '\ufeffBOM', 'a\u2060b', '\x0b\x0c', 'a\x0bb', ' \x0c\n', '\x1c\x1d\x1e\x1f', 'a\x00b', '\x00\x00',
    '\x7f', '\x01\x02a\x03 \x04', 'tail ', 'tail  ', 'tail\n', 'tail \n ', '.\n', '.\n\n', '. \n', '!\r\n\r\n',
    ' .', '  .', ' .\n a', '\u00ada\u00ad', '\u061ca\u202eb\u202c',
]

DIGITS = [
    '1', '12', '123', '1234', '12345', '1234567890' * 5, '3.14159', '1,000,000', '1e10', '0x1F', 'a1b22c333d4444',
    '٣٤٥٦', '१२३४५', '１２３４５６', '²³¹⁴⁵', '½¼¾', 'ⅠⅡⅢⅣ', '①②③④', '𝟎𝟏𝟐𝟑', '1 2 3', '1  22   333', '007', '-1', '+1',
    '1st 2nd 3rd', '2024-01-15T14:30:00Z', '192.168.0.1', '(555) 123-4567', '第1章', '1一2二',
]

BROKEN = [
    b'\xff', b'a\xffb', b'\xc3', b'\xc3(', b'\xe4\xbd', b'\xe4\xbd\xa0\xe5', b'\xf0\x9f\x98', b'\xf0\x9f', b'\xf0',
    b'\xf0\x9f\x98a', b'\x80\x80', b'\xed\xa0\x80', b'\xed\xb0\x80x', b'\xc0\x80', b'\xe0\x80\x80', b'\xf0\x80\x80\x80',
    b'\xf4\x90\x80\x80', b'\xf8\x88\x80\x80\x80', b'\xfe\xfe', b'\xe4\xe4\xbd\xa0', b'\xf0\x9f\xf0\x9f\x98\x80',
    b'caf\xe9 na\xefve', b'\xef\xbf\xbd\xef\xbf', b'<\xef\xbd\x9cUser\xef\xbd', b'\xed\x9f\xbf\xee\x80\x80',
]

# What occurs between others in random texts.
ALPHABETS = [
    'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ',
    '0123456789',
    ' \t\n\r',
    '!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~',
    '\u00a0\u0085\u1680\u180e\u2000\u2007\u2028\u2029\u202f\u205f\u3000\u200b\u200d\ufeff',
    '的一是不了人我在有他这为之大来以个中上们おかきのはカタ한국',
    'éüñßøåçšžłőдиесятьαβγאבגدهوกขค',
    '\u0300\u0301\u0308\u0323\u20dd\ufe0f\u0903\u093e',
    '👍😀🎉🏽🇩🇪🫨🩷\u200d',
    '²½Ⅷ①٣१１',
]


def special_texts(contents):
    """Added tokens alone, between words, cut short, doubled and nested."""
    chosen = [c for c in contents if 'place' not in c] + [c for c in contents if 'place' in c][:20]
    for content in chosen:
        yield content
        yield f'a{content}b'
        yield f' {content} \n{content}{content}'
        yield content[:-1]
        yield content[1:]
        yield content[:3] + content + content[-3:]


def handwritten():
    for block in (LANGUAGES, SYMBOLS):
        yield from block.strip().split('\n')
    yield from CODE
    yield from SPACES
    yield from DIGITS
    yield ''


def random_text(rng):
    """A few runs, each over one alphabet or over all code points."""
    parts = []
    for _ in range(rng.randint(1, 8)):
        length = rng.choice([1, 1, 2, 3, 5, 8, 20])
        kind = rng.random()
        if kind < 0.8:
            alphabet = rng.choice(ALPHABETS)
            parts.append(''.join(rng.choice(alphabet) for _ in range(length)))
        else:
            top = rng.choice([0x250, 0x3000, 0x10000, 0x110000])
            points = (rng.randrange(top) for _ in range(length))
            parts.append(''.join(chr(p) for p in points if not 0xd800 <= p < 0xe000))
    return ''.join(parts)


def random_bytes(rng):
    text = bytearray(random_text(rng).encode())
    for _ in range(rng.randint(1, 4)):
        if text:
            text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def generated(count, seed):
    rng = random.Random(seed)
    for i in range(count):
        yield random_bytes(rng) if i % 4 == 3 else random_text(rng).encode()


def every_code_point():
    """Each code point after a letter, before one, doubled, and next to space, digit and newline."""
    line = []
    for point in range(0x110000):
        if 0xd800 <= point < 0xe000:
            continue
        c = chr(point)
        line.append(f'a{c}b {c}{c}1{c}\n{c}. {c}')
        if len(line) == 16:
            yield '|'.join(line)
            line = []
    yield '|'.join(line)


def long_texts():
    """Long runs, where a quadratic algorithm or a limit of the matcher would show."""
    for piece in ('a', ' ', '\n', '.', '1', '的', 'é', '\u0301', '\u200d', ' a', 'ab', '\x01', '👍', '\n ', "'s", 'a1'):
        yield piece * (100000 // len(piece))


def gsm8k(directory):
    for path in sorted(pathlib.Path(directory).glob('*.jsonl')):
        for line in path.read_text().split('\n'):
            if line:
                problem = json.loads(line)
                yield problem['question']
                yield problem['answer']
