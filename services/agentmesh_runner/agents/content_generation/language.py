"""Tells which language a text is in, by script and by its most frequent small words."""

import re

_SMALL_WORDS = {
    "de": "der die das und ist nicht ein eine zu den mit von auf für im sich auch es wird sind dem des",
    "en": "the and of to in is that for it with as on are this be by an or from was which not",
    "es": "el la los las y de que en un una por con para es se del al como más su lo no",
    "fr": "le la les et de des un une en que est pour dans il au du qui sur pas plus par avec",
    "it": "il la gli e di che un una in per con è non si del della le al come più sono da",
    "nl": "de het een en van is dat niet in op te met voor zijn er aan ook als bij om naar",
    "pt": "o a os as e de que em um uma para com por não se do da no na mais como é",
}
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
)
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
_SCRIPT_SHARE = 0.3
_MIN_WORDS = 8


def tell_language(text: str) -> str:
    """Return the ISO 639-1 code of the likeliest of the known languages; empty if it can't be told.

    Japanese is told before Chinese, because it is written with Chinese characters too; Cyrillic counts as
    Russian. A text with fewer than 8 words of an alphabet can't be told.
    """
    letters = len(_LETTER.findall(text))
    if not letters:
        return ""
    for language, script in _SCRIPTS:
        share = 0.1 if language == "ja" else _SCRIPT_SHARE
        if len(script.findall(text)) >= share * letters:
            return language
    words = [word.casefold() for word in _WORD.findall(text)]
    if len(words) < _MIN_WORDS:
        return ""
    hits = {language: sum(word in known for word in words) for language, known in _KNOWN.items()}
    best = max(hits, key=lambda language: hits[language])
    return best if hits[best] >= 0.1 * len(words) else ""


_KNOWN = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}
