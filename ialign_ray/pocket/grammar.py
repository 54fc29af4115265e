"""A sentence grammar whose sentences are exact translations of each other with a sentiment known by construction.

A `Shape` is a sentence without its predicates: who, what, negation, degree, links. Filled with predicates it
can be negative, neutral or positive, so nothing but the predicates (and their negation) shows the label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from ialign_ray.pocket.lexicon import DIALECTS, REAL, Concept, encipher, encipher_dialect, lexicon

POLARITIES = ("negative", "neutral", "positive")
_OPPOSITE = {"negative": "positive", "positive": "negative", "neutral": "neutral"}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: `this coffee`, `my phone`, `the soup in this hotel`."""

    frame: str
    noun: Concept
    place: Concept | None = None

    def text(self, code: str) -> str:
        """The phrase in a language of the lexicon."""
        place = self.place.words[code] if self.place else ""
        return str(lexicon()["frames"][self.frame].words[code].format(noun=self.noun.words[code], place=place))


@dataclass(frozen=True)
class Clause:
    """`subject is [not] [very] ADJECTIVE`, or with an agent `agent [do not] [often] VERB subject`."""

    subject: Phrase
    polar: bool
    """True if the predicate bears the sentence's sentiment; otherwise it is neutral in every label."""
    negated: bool
    modifier: Concept | None
    """A degree before an adjective, a frequency before a verb; none when negated."""
    agent: Concept | None = None
    bound: str = ""
    """`coordinated` or `pronoun` when the subject is that of the clause before and is not repeated."""


@dataclass(frozen=True)
class Shape:
    """A sentence without its predicates."""

    opener: Concept | None
    clauses: tuple[Clause, ...]
    link: Concept | None
    time: Concept | None


@dataclass(frozen=True)
class Sentence:
    """The same sentence in every language."""

    label: str
    texts: dict[str, str]
    shape: Shape
    predicates: tuple[Concept, ...]

    @property
    def key(self) -> frozenset[str]:
        """Its texts: two sentences overlap when they share one, in whatever language."""
        return frozenset(self.texts.values())


def draw_shape(random: Random) -> Shape:
    """A random sentence shape; it is drawn before, and independently of, any label."""
    words = lexicon()
    subject = _phrase(random, random.choice(list(words["nouns"].values())))
    double = random.random() < 0.2
    first = _clause(random, subject, verb=random.random() < 0.35, polar=True)
    opener = _maybe(random, "openers", 0.3)
    time = _maybe(random, "times", 0.3)
    if not double:
        return Shape(opener, (first,), None, time)
    both = random.random() < 0.4
    links = ["and", "because"] if both else ["and", "but", "while"]
    link = random.choice(links)
    other = _phrase(random, _related(random, subject.noun)) if link == "while" else subject
    second = _clause(random, other, verb=False, polar=True)
    coordinated = link in ("and", "but") and not first.agent
    clauses = [first, second if link == "while" else _continue(second, coordinated)]
    if not both:
        # either clause may bear the label, so its place in the sentence does not show it
        silent = random.randrange(2)
        clauses[silent] = replace(clauses[silent], polar=False)
    return Shape(opener, tuple(clauses), words["links"][link], time)


def fill(shape: Shape, label: str, random: Random) -> Sentence:
    """The shape with predicates that give it the label.

    A negated polar predicate is drawn from the opposite polarity: `not delicious` is negative.
    """
    predicates: list[Concept] = []
    for clause in shape.clauses:
        polarity = label if clause.polar else "neutral"
        choice = _predicates(clause, _OPPOSITE[polarity] if clause.negated else polarity)
        # the same predicate twice would make `good and good`
        predicates.append(random.choice([c for c in choice if c not in predicates]))
    texts = with_ciphers({code: render(shape, predicates, code) for code in REAL})
    return Sentence(label, texts, shape, tuple(predicates))


def with_ciphers(texts: dict[str, str]) -> dict[str, str]:
    """Add the cipher of the Indonesian text and its dialects."""
    dialects = {code: encipher_dialect(texts["ind"], distance) for code, distance in DIALECTS.items()}
    return {**texts, "qci": encipher(texts["ind"]), **dialects}


def phrases() -> Iterator[dict[str, str]]:
    """A phrase book: words, nouns with `this`, `that` and `my`, adjectives with their degrees; language -> text."""
    words = lexicon()
    for section in ("nouns", "adjectives", "verbs", "agents", "times", "frequencies", "links"):
        for concept in words[section].values():
            yield with_ciphers({code: str(concept.words[code]) for code in REAL})
    for noun in words["nouns"].values():
        for frame in ("this", "that", "my") if noun.own else ("this", "that"):
            phrase = Phrase(frame, noun)
            yield with_ciphers({code: phrase.text(code) for code in REAL})
    for adjective in words["adjectives"].values():
        for degree in words["degrees"].values():
            yield with_ciphers({c: " ".join(_graded(degree, adjective.words[c], c)) for c in REAL})
        denied = words["negation"]["adjective"]
        yield with_ciphers({c: f"{denied.words[c]} {adjective.words[c]}" for c in REAL})


def render(shape: Shape, predicates: Sequence[Concept], code: str) -> str:
    """The sentence in a language of the lexicon, colloquially without capitals."""
    parts = [shape.opener.words[code]] if shape.opener else []
    for i, (clause, predicate) in enumerate(zip(shape.clauses, predicates)):
        if i and shape.link:
            parts.append(shape.link.words[code])
        parts += _render_clause(clause, predicate, code)
    if shape.time:
        parts.append(shape.time.words[code])
    return " ".join(parts) + "."


def _render_clause(clause: Clause, predicate: Concept, code: str) -> list[str]:
    word = str(predicate.words[code])
    subject = clause.subject.text(code)
    negation = lexicon()["negation"]
    if clause.agent:
        before = [negation["verb"].words[code]] if clause.negated else []
        before += [clause.modifier.words[code]] if clause.modifier else []
        return [clause.agent.words[code], *before, word, subject]
    adjective = [negation["adjective"].words[code], word] if clause.negated else _graded(clause.modifier, word, code)
    if code != "eng":
        return adjective if clause.bound else [subject, *adjective]
    return [*{"": [subject, "is"], "pronoun": ["it", "is"], "coordinated": []}[clause.bound], *adjective]


def _graded(degree: Concept | None, word: str, code: str) -> list[str]:
    around = degree.words[code] if degree else {}
    return [text for text in (around.get("pre"), word, around.get("post")) if text]


def _clause(random: Random, subject: Phrase, verb: bool, polar: bool) -> Clause:
    negated = random.random() < 0.15
    section = "frequencies" if verb else "degrees"
    modifier = None if negated else _maybe(random, section, 0.35)
    agent = random.choice(list(lexicon()["agents"].values())) if verb else None
    return Clause(subject, polar, negated, modifier, agent)


def _continue(clause: Clause, coordinated: bool) -> Clause:
    if coordinated:
        return replace(clause, bound="coordinated")
    # English needs a pronoun here and would have to choose he or she: a person is named again.
    return clause if clause.subject.noun.domain == "person" else replace(clause, bound="pronoun")


def _phrase(random: Random, noun: Concept) -> Phrase:
    places = [n for n in lexicon()["nouns"].values() if n.domain == "place" and n is not noun]
    frames = ["this", "that", "in", "near"]
    frames += ["my", "my"] if noun.own else []
    if noun.domain in ("weather", "place", "story", "travel"):
        frames.remove("near" if noun.domain in ("weather", "story") else "in")
    frame = random.choice(frames)
    return Phrase(frame, noun, random.choice(places) if frame in ("in", "near") else None)


def _related(random: Random, noun: Concept) -> Concept:
    return random.choice([n for n in lexicon()["nouns"].values() if n.domain == noun.domain and n is not noun])


def _predicates(clause: Clause, polarity: str) -> list[Concept]:
    words = lexicon()
    if clause.agent:
        return [v for v in words["verbs"].values() if v.polarity == polarity]
    domain = clause.subject.noun.domain
    return [a for a in words["adjectives"].values() if a.polarity == polarity and domain in a.fits]


def _maybe(random: Random, section: str, chance: float) -> Concept | None:
    return random.choice(list(lexicon()[section].values())) if random.random() < chance else None
