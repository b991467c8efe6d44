"""One spelling for the many of a mathematical answer. Nothing is computed here, and no letter is taken for a unit."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from oxrl_core.rewards.answers import plain_digits

SIGNS = {
    "−": "-", "–": "-", "×": "*", "⋅": "*", "·": "*", "∗": "*", "÷": "/", "⁄": "/", "∕": "/", "∞": r"\infty ",
    "π": r"\pi ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "°": r"\text{degrees}", "º": r"\text{degrees}", "％": "%", "，": ",", "．": ".", "（": "(", "）": ")",
    "＝": "=", "＋": "+", "－": "-", "／": "/", "∅": r"\emptyset ", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
    "‰": None, "€": "", "£": "", "¥": "",
}  # fmt: skip
SIGN_TABLE = str.maketrans({sign: word for sign, word in SIGNS.items() if word is not None})
SUPERSCRIPTS = re.compile("[⁰¹²³⁴-⁹⁻]+")

WORDS = re.compile(r"\\(?:mathrm|textrm|mbox|textnormal|textit|textsf|texttt|operatorname|textup|textbf|mathbf|mathit|boldsymbol|bm)\s*\{")  # fmt: skip # noqa: E501
SUBSTITUTIONS: list[tuple[re.Pattern[str], str]] = [
    (
        re.compile(r"\\(?:left|right|displaystyle|textstyle|big[lr]?|Big[lr]?|bigg[lr]?|Bigg[lr]?|limits)(?![a-zA-Z])"),
        "",
    ),
    (re.compile(r"(?<=\d)\{,\}(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<=\d)\\[,;: ](?=\d{3}(?!\d))"), ""),  # a thin space between thousands
    (re.compile(r"\\!|\\allowbreak(?![a-zA-Z])|\\phantom\{[^{}]*\}"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\(?:hspace|vspace)\{[^{}]*\}"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:cdot|times|ast)(?![a-zA-Z])\s*"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])\s*"), "/"),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![a-zA-Z])"), r"\\text{degrees}"),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"\\neq(?![a-zA-Z])"), r"\\ne"),
    (re.compile(r"\\(?:lbrace|\{)"), r"\\{"),
    (re.compile(r"\\(?:rbrace|\})"), r"\\}"),
    (re.compile(r"\\(?:varnothing|emptyset)(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset"),
    (re.compile(r"\\text\{\s*(and|or)\s*\}|(?<=[\d})\]])\s+(and|or)\s+(?=[-+\d\\({])"), ", "),
    (re.compile(r"\^\{(\w)\}"), r"^\1"),
    (re.compile(r"_\{(\w)\}"), r"_\1"),
    (re.compile(r"\s*(&|\\\\)\s*"), r"\1"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\\$|\$"), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<![\d\w}]) (?=[\d\w\\({\[.])|(?<=[\d\w)}\]]) (?=[-+*/^=<>,;)}\]])|(?<=[-+*/^=<>;({\[]) "), ""),
]
BRACKETS = re.compile(r"^(?:\\\((.*)\\\)|\\\[(.*)\\\])$", re.DOTALL)
PLAIN = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?")  # by far the most answers

# Words that may stand behind a number without \text{}. No single letters: "5 m" may be five times m.
WORDS_OF_UNITS = """
cm mm km nm dm inch inches feet foot ft yard yards yd mile miles mi meter meters metre metres centimeter
centimeters kg mg gram grams kilogram kilograms pound pounds lb lbs ounce ounces oz ton tons liter liters litre
litres ml gallon gallons second seconds sec secs minute minutes min mins hour hours hr hrs day days week weeks
month months year years dollar dollars cent cents usd eur euro euros degree degrees deg radian radians rad mph
kmh square cubic unit units percent people person students apples point points time times way ways sq cu
"""
UNITS = frozenset(WORDS_OF_UNITS.split())
UNIT_OF_TEXT = re.compile(r"\s*\\text\{([^{}]*)\}\s*(?:\^\{?([23])\}?)?\s*$")
UNIT_OF_WORDS = re.compile(r"(?<=[\d}).])\s*((?:[A-Za-z]{2,}\.?[ /]?){1,4})(?:\^\{?([23])\}?)?$")
NO_UNIT = re.compile(
    r"\b(?:not?|or|and|give|wrong|maybe|perhaps|either|unknown|none|but|i|is|if)\b|[^A-Za-z ./^%*23-]", re.I
)
NAME = r"(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?'*(?:\(\w(?:,\w)*\))?|\\text\{[^{}]*\})"
NAMED = re.compile(rf"^{NAME}\s*=(?![=])")
APART = re.compile(r"(?<!\d) | (?!\d)")  # not the space of "2 1/2" and "4 2"
WORDS_ONLY = re.compile(r"[A-Za-z][A-Za-z .'-]+")
IS = re.compile(r"(?<![<>!=])=(?!=)")


def _one_spelling(text: str) -> str:
    if not text.isascii():
        text = SUPERSCRIPTS.sub(
            lambda run: "^{" + unicodedata.normalize("NFKC", run.group()).replace("−", "-") + "}", text
        )
        text = plain_digits(text).translate(SIGN_TABLE)
        text = re.sub(r"(\d?)([¼-¾⅐-⅞])", _vulgar_fraction, text)
    return text


def _vulgar_fraction(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", match[2]).partition("\u2044")
    return rf"{match[1]}\frac{{{above}}}{{{below}}}"


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """The one spelling of a mathematical text; a single space is left only where it separates."""
    if PLAIN.fullmatch(text):
        return text
    text = _one_spelling(text).strip()
    wrapped = BRACKETS.match(text)
    if wrapped:
        text = wrapped[1] or wrapped[2] or ""
    text = WORDS.sub(r"\\text{", text)
    for pattern, replacement in SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".;, ").strip()
    whole = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    return whole[1].strip() if whole else text


def key(normal: str) -> str:
    """What two equal texts share: no spaces, and no upper case in words."""
    if len(normal) == 3 and normal[0] == "(" and normal[2] == ")" and normal[1].isalpha():
        return normal[1]  # the letter of a choice
    if " " in normal:
        normal = APART.sub("", normal)
    return normal.lower() if WORDS_ONLY.fullmatch(normal) else normal


@dataclass(frozen=True)
class Quantity:
    """A text without its unit."""

    text: str
    unit: str = ""  # in the singular; empty without one
    is_percent: bool = False


def split_unit(normal: str) -> Quantity:
    """Value and unit of a normalised text. What could be algebra is no unit."""
    unit = UNIT_OF_TEXT.search(normal)
    if unit is None and (found := UNIT_OF_WORDS.search(normal)):
        words = found[1].replace("/", " ").replace(".", " ").lower().split()
        unit = found if all(word in UNITS or word == "per" for word in words) else None
    value = normal[: unit.start()].strip() if unit else normal
    if unit and value and not NO_UNIT.search(unit[1]):
        name = _singular(unit[1])
        if name == "percent":
            return Quantity(value, is_percent=True)
        return Quantity(value, f"{name}{unit[2] or ''}")
    if normal.endswith("%"):
        return Quantity(normal[:-1].strip(), is_percent=True)
    return Quantity(normal)


def _singular(unit: str) -> str:
    same = {"feet": "foot", "inches": "inch", "centimeter": "cm", "meter": "m", "metre": "m", "kilometer": "km"}
    words = [word.strip(".").lower() for word in unit.replace("/", " per ").split()]
    words = [same.get(word, word.rstrip("s") if len(word) > 2 else word) for word in words]
    return " ".join(same.get(word, word) for word in words)


def members(normal: str) -> list[str]:
    """The members of a chain of equations: one where there is no `=` outside all brackets."""
    if "=" not in normal:
        return [normal]
    parts, start = list[str](), 0
    for match in IS.finditer(normal):
        before = normal[: match.start()]
        if all(before.count(opening) <= before.count(closing) for opening, closing in ("{}", "()", "[]")):
            parts.append(normal[start : match.start()].strip())
            start = match.end()
    return [*parts, normal[start:].strip()]


def is_name(member: str) -> bool:
    """Whether a member of a chain only says what the others are: a name, with index or argument, or no number."""
    return bool(member) and (re.fullmatch(NAME, member) is not None or not any(map(str.isdigit, member)))


def without_name(normal: str) -> str:
    """`5` of `x = 5` and of `f(x) = 5`; anything else as it is."""
    named = NAMED.match(normal)
    return normal[named.end() :].strip() if named and len(members(normal)) == 2 else normal
