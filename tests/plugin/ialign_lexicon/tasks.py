"""A task: say the first word of the translation."""

from ialign_ray.tasks.alignment import AlignmentTask, TaskDraw


def draw(pair, rng, context):
    """The first word of the target; None for a target of one word, which becomes a translation example."""
    first, _, rest = pair.target.partition(" ")
    if not rest:
        return None
    return TaskDraw({"text": pair.source}, {"language": pair.target_language}, first)


FIRST_WORD = AlignmentTask(
    text_slots=("text",),
    name_slots=("language",),
    draw=draw,
    templates={
        "eng": {"first-1": "{text}\nWith which word does this begin in {language}?"},
        "ind": {"first-1": "{text}\nDengan kata apa kalimat ini dimulai dalam bahasa {language}?"},
    },
)
