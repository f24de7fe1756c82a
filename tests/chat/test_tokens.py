"""An answer's tokens under two models, against transformers; and where two answers differ."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assistant.chat.records import Answered
from assistant.chat.tokens import character_offset, first_difference, have_same_tokens, inspect_answer
from assistant.dataset.tokenizer import Tokenizer, read_tokenizer
from assistant.decoding.reply import Reply, StopReason
from assistant.decoding.session import Session
from assistant.errors import ContextError
from assistant.settings import GenerationSettings
from assistant.shipped import shipped
from tests.support.generation import SAMPLED
from tests.support.models import save_tiny, tiny_checkpoint


def answered(
    token_ids: list[int] | tuple[int, ...], response: str = "", *, stop_reason: StopReason = "length"
) -> Answered:
    return Answered(
        at=datetime(2026, 11, 28, tzinfo=UTC),
        turn=0,
        side="tuned",
        variant=0,
        response=response,
        token_ids=tuple(token_ids),
        stop_reason=stop_reason,
        seconds=1.0,
        settings=GenerationSettings(),
    )


def answer_of(reply: Reply) -> Answered:
    return answered(reply.token_ids, reply.response, stop_reason=reply.stop_reason)


def test_every_number_is_that_of_transformers_for_both_models(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    from transformers import GPT2LMHeadModel

    folders = [save_tiny(tmp_path / name, byte_tokenizer, seed=seed) for seed, name in enumerate(("tuned", "base"))]
    tuned, base = (Session.load(folder, precision="float32") for folder in folders)
    reply = tuned.reply("Say hi.", settings=SAMPLED)
    answer = answer_of(reply).model_copy(update={"stop_reason": "eos"})
    details = inspect_answer(tuned, base, answer, reply.prompt_token_ids)
    targets = [*reply.token_ids, byte_tokenizer.eos_id]
    assert [detail.token_id for detail in details] == targets
    ids = torch.tensor([[*reply.prompt_token_ids, *reply.token_ids]])
    with torch.inference_mode():
        logits = [GPT2LMHeadModel.from_pretrained(folder)(input_ids=ids).logits[0] for folder in folders]
    of_tuned, of_base = (one[len(reply.prompt_token_ids) - 1 :].double().softmax(dim=-1) for one in logits)
    for place, (detail, target) in enumerate(zip(details, targets, strict=True)):
        assert detail.text == byte_tokenizer.decode([target])
        assert detail.probability == pytest.approx(of_tuned[place, target].item(), rel=1e-4)
        assert detail.rank == 1 + int((of_tuned[place] > of_tuned[place, target]).sum())
        assert detail.base_probability == pytest.approx(of_base[place, target].item(), rel=1e-4)
        assert detail.base_rank == 1 + int((of_base[place] > of_base[place, target]).sum())
        assert [top.token_id for top in detail.likeliest] == of_tuned[place].topk(5).indices.tolist()
        probabilities = of_tuned[place]
        assert detail.entropy == pytest.approx(-(probabilities * probabilities.log2()).sum().item(), abs=1e-4)


def test_only_an_answer_that_ended_by_itself_has_eos(byte_tokenizer: Tokenizer) -> None:
    session = Session(tiny_checkpoint(byte_tokenizer))
    for stop_reason in ("length", "stop", "cancelled"):
        assert len(inspect_answer(session, None, answered([65, 66], stop_reason=stop_reason), [1])) == 2
    assert len(inspect_answer(session, None, answered([], stop_reason="eos"), [1])) == 1
    assert inspect_answer(session, None, answered([]), [1]) == ()


def test_without_a_base_that_has_the_same_tokens_nothing_is_said_of_it(byte_tokenizer: Tokenizer) -> None:
    tuned = Session(tiny_checkpoint(byte_tokenizer))
    other = Session(tiny_checkpoint(read_tokenizer(shipped("pocket"))))
    short = Session(tiny_checkpoint(byte_tokenizer, n_positions=8))
    assert not have_same_tokens(tuned.tokenizer, other.tokenizer)
    assert have_same_tokens(other.tokenizer, read_tokenizer(shipped("pocket")))
    for base in (None, other, short):
        for detail in inspect_answer(tuned, base, answered([65, 66, 67]), [1] * 20):
            assert (detail.base_probability, detail.base_rank) == (None, None)
            assert 0 < detail.probability < 1
    with pytest.raises(ContextError, match="at most 8 tokens together"):
        inspect_answer(short, tuned, answered([65, 66, 67]), [1] * 20)


def test_both_models_say_how_likely_the_same_end_is(byte_tokenizer: Tokenizer) -> None:
    """Where several tokens end a reply, each model alone may think of another one."""
    from dataclasses import replace

    ending = replace(byte_tokenizer, eos_ids=tuple(range(3, 257)))
    tuned, base = (
        Session(replace(tiny_checkpoint(byte_tokenizer, seed=seed), tokenizer=ending), precision="float32")
        for seed in (1, 2)
    )
    (detail,) = inspect_answer(tuned, base, answered([], stop_reason="eos"), [1, 2])
    (under_base,) = base.inspect([1, 2], [detail.token_id], with_eos=False)
    assert base.inspect([1, 2], [], with_eos=True)[0].token_id != detail.token_id
    assert detail.base_probability == pytest.approx(math.exp(under_base.logprob))


# --- where two answers differ -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuned", "base", "index"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([], [], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2], 2),
        ([], [5], 0),
    ],
)
def test_the_first_difference(tuned: list[int], base: list[int], index: int | None) -> None:
    assert first_difference(answered(tuned), answered(base)) == index
    assert first_difference(answered(base), answered(tuned)) == index


def test_half_a_character_has_the_place_of_the_whole(byte_tokenizer: Tokenizer) -> None:
    """`é` and `è` share their first byte, so their tokens differ in the middle of a character."""
    tuned, base = (answered(byte_tokenizer.encode(text), text) for text in ("caféx", "cafèx"))
    index = first_difference(tuned, base)
    assert index == 4
    assert [character_offset(byte_tokenizer, answer, index) for answer in (tuned, base)] == [3, 3]
    assert character_offset(byte_tokenizer, tuned, 5) == 4
    assert character_offset(byte_tokenizer, tuned, 99) == len("caféx")


@given(ids=st.lists(st.integers(0, 255), max_size=12))
def test_offsets_cut_the_response_into_the_texts_of_its_tokens(byte_tokenizer: Tokenizer, ids: list[int]) -> None:
    """Also for bytes that are no text at all."""
    answer = answered(ids, byte_tokenizer.decode(ids))
    offsets = [character_offset(byte_tokenizer, answer, index) for index in range(len(ids) + 1)]
    assert offsets == sorted(offsets)
    for index, offset in enumerate(offsets):
        whole = byte_tokenizer.decode(ids[:index])
        assert answer.response[:offset] == whole[:offset]
        assert len(whole) - offset <= 3, "only bytes of one character are held back"


def test_a_stop_string_inside_a_token_ends_the_text_before_it(byte_tokenizer: Tokenizer) -> None:
    assert character_offset(byte_tokenizer, answered([65, 66, 67], "AB"), 3) == 2
