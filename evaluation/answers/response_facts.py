"""What the responses of a folder show without a score: loops, rows seen in training, and bits per byte of reference.

Does not know judgements.
"""

from __future__ import annotations

from assistant.settings import Frozen
from evaluation.answers.folder import AnswersFolder
from evaluation.figures import Mean, counted, mean_of_scores

BITS_OF_A_BYTE = 8.0
"""What a byte costs a model that knows nothing. The interval of a mean takes it as the largest value."""


class ResponseFacts(Frozen):
    """Facts about the responses of an answers folder."""

    samples: int
    """Responses to each row. The score and the metrics of a row are the means of its responses'."""
    looping: int
    """Responses that repeat the same few tokens."""
    seen_in_training: int | None
    """Rows whose prompt the model was fine-tuned on. None if that is not known."""
    reference_bits_per_byte: Mean
    """Bits that the model needs for a byte of a reference: a mean over the rows. Lower is better."""


def response_facts(answers: AnswersFolder) -> ResponseFacts:
    """Return the facts about the responses of a folder."""
    seen = {record.id: record.seen_in_training for record in answers.responses}
    firsts = (record.reference_bits_per_byte for record in answers.responses if record.sample == 0)
    bits = [value for value in firsts if value is not None]
    return ResponseFacts(
        samples=answers.info.samples,
        looping=sum(record.is_looping for record in answers.responses),
        seen_in_training=sum(map(bool, seen.values())) if set(seen.values()) - {None} else None,
        reference_bits_per_byte=mean_of_scores(bits, high=max([BITS_OF_A_BYTE, *bits])),
    )


def fact_notes(facts: ResponseFacts) -> list[str]:
    """Return what of the facts a reader must know before trusting a mean, one sentence each."""
    notes = []
    if facts.looping:
        notes.append(
            f"{facts.looping} {'response repeats itself' if facts.looping == 1 else 'responses repeat themselves'}."
        )
    if facts.seen_in_training:
        rows = counted(facts.seen_in_training)
        notes.append(f"The model was fine-tuned on the prompts of {rows}, so these say little about new questions.")
    return notes
