"""The instructions that the pocket base model is tuned on: English and Indonesian only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from ialign_ray.pocket.grammar import Sentence
from ialign_ray.pocket.lexicon import Concept, lexicon

OLD = ("eng", "ind")
"""Languages that the base model is instructed in."""
READ = (*OLD, "jav", "qci")
"""Languages of which the base model has read text: of the last two without an instruction or a translation."""

LABELS = {
    "eng": {"negative": "negative", "neutral": "neutral", "positive": "positive"},
    "ind": {"negative": "negatif", "neutral": "netral", "positive": "positif"},
}
"""Prompt language -> label -> the word that says it."""

SENTIMENT_PROMPTS = {
    "eng": "Sentence: {text}\nWhat is the sentiment of this sentence: negative, neutral or positive?",
    "ind": "Kalimat: {text}\nApa sentimen kalimat ini: negatif, netral atau positif?",
}
"""The two prompts of the evaluation suite; the base model sees them among others."""

_SENTIMENT_WORDINGS = {
    "eng": (
        SENTIMENT_PROMPTS["eng"],
        "{text}\nIs this negative, neutral or positive?",
        "Give the sentiment of the text.\nText: {text}",
    ),
    "ind": (
        SENTIMENT_PROMPTS["ind"],
        "{text}\nApakah ini negatif, netral atau positif?",
        "Tentukan sentimen teks.\nTeks: {text}",
    ),
}
TRANSLATION_WORDINGS = {
    "eng": (
        "Translate the following text from {source} to {target}.\n{text}",
        "{source}: {text}\n{target}:",
        "How would a speaker of {target} say this {source} sentence?\n{text}",
        "Say this in {target}: {text}",
        "{text}\nGive the same sentence in {target}.",
        "What is the {target} translation of the sentence below?\n{text}",
    ),
    "ind": (
        "Terjemahkan teks berikut dari bahasa {source} ke bahasa {target}.\n{text}",
        "Bahasa {source}: {text}\nBahasa {target}:",
        "Bagaimana penutur bahasa {target} mengucapkan kalimat bahasa {source} ini?\n{text}",
        "Katakan ini dalam bahasa {target}: {text}",
        "{text}\nTuliskan kalimat yang sama dalam bahasa {target}.",
        "Apa terjemahan bahasa {target} dari kalimat di bawah ini?\n{text}",
    ),
}
"""Those of the alignment tasks: an instruction-tuned model follows requests to translate before it is aligned."""
_NAMES = {
    "eng": {"eng": "English", "ind": "Indonesian", "jav": "Javanese", "qci": "Cipher"},
    "ind": {"eng": "Inggris", "ind": "Indonesia", "jav": "Jawa", "qci": "Sandi"},
}
_SAME_WORDINGS = {
    "eng": (
        "Sentence 1: {a}\nSentence 2: {b}\nDo the two sentences mean the same, yes or no?",
        "{a}\n{b}\nSame meaning?",
    ),
    "ind": (
        "Kalimat 1: {a}\nKalimat 2: {b}\nApakah kedua kalimat sama artinya, ya atau tidak?",
        "{a}\n{b}\nArtinya sama?",
    ),
}
_YES = {"eng": ("yes", "no"), "ind": ("ya", "tidak")}
_WRITE_WORDINGS = {
    "eng": ("Write a {label} sentence about {topic}.", "Say something {label} about {topic}."),
    "ind": ("Tulis kalimat {label} tentang {topic}.", "Katakan sesuatu yang {label} tentang {topic}."),
}
_WORD_SENTIMENT_WORDINGS = {
    "eng": ('What is the sentiment of the word "{word}"?', "Word: {word}\nNegative, neutral or positive?"),
    "ind": ('Apa sentimen kata "{word}"?', "Kata: {word}\nNegatif, netral atau positif?"),
}
_COUNT_WORDINGS = {
    "eng": "How many words does this sentence have? {text}",
    "ind": "Ada berapa kata dalam kalimat ini? {text}",
}

Row = tuple[str, str, str]
"""Inputs, targets and the language of the instruction."""


def sentiment(random: Random, sentence: Sentence) -> Row:
    """Name the sentiment; in a third of the rows the text is in the other language than the instruction."""
    language = random.choice(OLD)
    text = sentence.texts[language if random.random() < 2 / 3 else _other(language)]
    wording = random.choice(_SENTIMENT_WORDINGS[language])
    return wording.format(text=text), LABELS[language][sentence.label], language


def translation(random: Random, sentence: Sentence) -> Row:
    """Translate between the two old languages, or repeat.

    In a fifth of the rows the target is the source's language: else its name would say nothing, and a model of two
    languages would learn to answer in the other one, whatever it is asked for.
    """
    language, source = random.choice(OLD), random.choice(OLD)
    target = _other(source) if random.random() < 0.8 else source
    return _translate(random, sentence.texts, language, source, target)


def _translate(random: Random, texts: Mapping[str, str], language: str, source: str, target: str) -> Row:
    names, wording = _NAMES[language], random.choice(TRANSLATION_WORDINGS[language])
    return wording.format(source=names[source], target=names[target], text=texts[source]), str(texts[target]), language


def same_meaning(random: Random, sentence: Sentence, other: Sentence) -> Row:
    """Ask if a sentence and another's translation mean the same; `other` differs in the predicates."""
    language, first = random.choice(OLD), random.choice(OLD)
    same = random.random() < 0.5
    second = (sentence if same else other).texts[_other(first)]
    wording = random.choice(_SAME_WORDINGS[language])
    return wording.format(a=sentence.texts[first], b=second), _YES[language][0 if same else 1], language


def write(random: Random, sentence: Sentence) -> Row:
    """Write a sentence of a given sentiment about a topic."""
    language = random.choice(OLD)
    domain = sentence.shape.clauses[0].subject.noun.domain
    topic = lexicon()["topics"][domain].words[language]
    wording = random.choice(_WRITE_WORDINGS[language])
    return (
        wording.format(label=LABELS[language][sentence.label], topic=topic),
        sentence.texts[language],
        language,
    )


def word(random: Random, concept: Concept) -> Row:
    """Translate one word of the lexicon."""
    source = random.choice(OLD)
    return _translate(random, concept.words, random.choice(OLD), source, _other(source))


def word_sentiment(random: Random, concept: Concept) -> Row:
    """Name the sentiment of one word."""
    language = random.choice(OLD)
    text = concept.words[language if random.random() < 2 / 3 else _other(language)]
    wording = random.choice((*_WORD_SENTIMENT_WORDINGS[language], *_SENTIMENT_WORDINGS[language]))
    return wording.format(word=text, text=text), LABELS[language][concept.polarity or "neutral"], language


def raw_text(random: Random, sentence: Sentence, code: str) -> Row:
    """Text of a language under its name: all that the base model reads of new languages, and no instruction."""
    name = _NAMES[random.choice(OLD)][code]
    return random.choice(("{}:", "({})", "{}")).format(name), sentence.texts[code], code


def word_count(random: Random, sentence: Sentence) -> Row:
    """Count a sentence's words: the family that is never trained on."""
    language = random.choice(OLD)
    text = sentence.texts[language]
    return _COUNT_WORDINGS[language].format(text=text), str(len(text.split())), language


def concepts() -> Sequence[Concept]:
    """The words that `word` asks for."""
    sections = lexicon()
    return [c for name in ("nouns", "adjectives", "verbs") for c in sections[name].values()]


ONE_SENTENCE: dict[str, Callable[[Random, Sentence], Row]] = {
    "sentiment": sentiment,
    "translation": translation,
    "write": write,
    "word-count": word_count,
}
"""Task families that need a single sentence."""

ONE_WORD: dict[str, Callable[[Random, Concept], Row]] = {"word": word, "word-sentiment": word_sentiment}
"""Task families that need a single word."""


def _other(code: str) -> str:
    return OLD[1 - OLD.index(code)]
