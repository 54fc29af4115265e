"""Everyday spellings of one letter, which are the same to a reader: keyboards and habits differ in them.

They decide when two texts count as the same, so two letters that only some language distinguishes may be one here
(those of Tigrinya that Amharic writes for one another). They never change a text that is trained on.
"""

from __future__ import annotations

import sys
import unicodedata

OMITTED = (
    # apostrophes and the letters that they replace: Uzbek oʻ, Ukrainian пʼять, Hawaiian ʻokina, Hebrew geresh, saltillo
    r"'`\x{B4}\x{2B9}\x{2BB}-\x{2BF}\x{2C8}\x{2CA}\x{2CB}\x{384}\x{55A}\x{5F3}\x{7F4}\x{7F5}\x{1FBD}\x{1FBF}"
    r"\x{2018}-\x{201B}\x{2032}\x{2035}\x{A78B}\x{A78C}\x{FF07}"
    # lengthening strokes of Arabic and N'Ko; vowel signs of Arabic and Hebrew, which are usually not written
    r"\x{640}\x{7FA}\x{610}-\x{61A}\x{64B}-\x{652}\x{656}-\x{65F}\x{670}\x{6D6}-\x{6DC}\x{6DF}-\x{6E4}\x{6E7}\x{6E8}"
    r"\x{6EA}-\x{6ED}\x{591}-\x{5BD}\x{5BF}\x{5C1}\x{5C2}\x{5C4}\x{5C5}\x{5C7}"
)
"""Characters that are left out of a word, for a character class."""

_VARIANTS = """
ي ی ى ؠ; ك ک ڪ; ه ہ ھ ە ة ۃ ۀ ۂ; ا أ إ آ ٱ; و ؤ; گ ݢ ڬ
a а; e е ё ѐ; o о; p р; c с; y у; x х; i і ӏ; j ј; s ѕ; h һ; q ԛ; w ԝ; ə ә ǝ; æ ӕ; ç ҫ; ă ӑ; ĕ ӗ; ä ӓ; ö ӧ; ÿ ӱ
ε ɛ; γ ɣ; đ ð ɖ; ş ș; ţ ț; ं ँ; ং ঁ; ં ઁ; ର ଵ; र ऱ; ൗ ൌ; ஸ ஶ; ケ ヶ; カ ヵ; \u0327 \u0326; \u0323 \u0329
ሀ ሃ ሐ ሓ ኀ ኃ; ሁ ሑ ኁ; ሂ ሒ ኂ; ሄ ሔ ኄ; ህ ሕ ኅ; ሆ ሖ ኆ; ሰ ሠ; ሱ ሡ; ሲ ሢ; ሳ ሣ; ሴ ሤ; ስ ሥ; ሶ ሦ
አ ኣ ዐ ዓ; ኡ ዑ; ኢ ዒ; ኤ ዔ; እ ዕ; ኦ ዖ; ጸ ፀ; ጹ ፁ; ጺ ፂ; ጻ ፃ; ጼ ፄ; ጽ ፅ; ጾ ፆ
"""
_SEQUENCES = """
ß ss; ẞ ss; œ oe; ൺ ണ്; ൻ ന്; ർ ര്; ൽ ല്; ൾ ള്; ൿ ക്; ৎ ত্; ײ יי; װ וו; ױ וי; เเ แ; ្ដ ្ត
òa oà; óa oá; ỏa oả; õa oã; ọa oạ; òe oè; óe oé; ỏe oẻ; õe oẽ; ọe oẹ; ùy uỳ; úy uý; ủy uỷ; ũy uỹ; ụy uỵ
"""


def _groups(table: str) -> list[list[str]]:
    return [group.split() for line in table.splitlines() for group in line.split(";") if group.strip()]


LETTERS: dict[int, int] = {ord(other): ord(first) for first, *others in _groups(_VARIANTS) for other in others}
"""Lower-case letter or mark -> the one that replaces all its spellings; every digit -> its ASCII digit."""
LETTERS |= {
    point: ord(str(value))
    for point in range(0x80, sys.maxunicode)
    if (value := unicodedata.decimal(chr(point), None)) is not None
}

SEQUENCES: dict[str, str] = {
    case(one): case(other)
    for one, other in _groups(unicodedata.normalize("NFC", _SEQUENCES))
    for case in (str, str.capitalize, str.upper)
    if case(one) != case(other)
}
"""One or two characters -> their other spelling in NFKC, where one of the two has two characters; also in capitals."""
