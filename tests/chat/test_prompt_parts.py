"""The exact prompt in parts, against the prompt and the token ids of the session that sends it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.chat.events import ModelCard
from assistant.chat.prompt_parts import PromptLayout
from assistant.dataset.added_tokens import MERGES_FILE, VOCAB_FILE, AddedToken, AddedTokens
from assistant.dataset.context import count_forgotten
from assistant.dataset.encode import encode_pieces
from assistant.dataset.examples import Exchange
from assistant.dataset.prompts import TEMPLATES
from assistant.dataset.tokenizer import Tokenizer, build_tokenizer, read_tokenizer
from assistant.shipped import shipped
from tests.support.marked import with_markers

PIECES = (
    *("a", "word", " the", "9", "\n", "\n\n", " ", "   ", "\t", "\r\n", "'s", "...", ":", "\x00", "\x1b[31m", "\x85"),
    *("### Instruction:\n", "\n\n### Response:\n", "<|endoftext|>", "<|user|>\n", "{input}", "%s", "é", "e\u0301"),
    *("\U0001f642", "\U0001f469\u200d\U0001f467", "ไทย", "\u2028", "\u00a0", "\ufeff", "\ud83d", "\ude42"),
    *("\ud83d\ude42", "\u200b", "[X]", " [X] ", "<|im_end|>", "<|eot_id|>", "<|im_start|>user\n"),
)
PLAIN, MARKED = ([name for name in sorted(TEMPLATES) if bool(TEMPLATES[name].markers) is has] for has in (False, True))
hostile = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=20)
histories = st.lists(st.tuples(hostile, hostile).map(lambda texts: Exchange(*texts)), max_size=4)


@pytest.fixture(scope="module")
def pocket_tokenizer() -> Tokenizer:
    return read_tokenizer(shipped("pocket"))


@pytest.fixture(scope="module")
def with_added_tokens(pocket_tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that matches `[X]` in a text, with the white space around it."""
    number = pocket_tokenizer.vocab_size
    token = AddedToken(content="[X]", lstrip=True, rstrip=True)
    added = AddedTokens({"[X]": number}, (token,), "<|endoftext|>", {}, {})
    files = pocket_tokenizer.files()
    return build_tokenizer(files[VOCAB_FILE], files[MERGES_FILE], where="added", added=added)


def card(tokenizer: Tokenizer, template: str = "alpaca", context_length: int = 1024) -> ModelCard:
    return ModelCard(
        name="m",
        folder=None,
        n_parameters=1,
        context_length=context_length,
        template=TEMPLATES[template],
        tokenizer=tokenizer,
        info=None,
    )


LAYOUTS: dict[tuple[int, str], PromptLayout] = {}


def layout(tokenizer: Tokenizer, template: str) -> PromptLayout:
    """The same layout for all examples, so that its caches are full."""
    return LAYOUTS.setdefault((id(tokenizer), template), PromptLayout(card(tokenizer, template, 120)))


@pytest.mark.parametrize("name", ["byte_tokenizer", "pocket_tokenizer", "with_added_tokens"])
@settings(max_examples=25)
@given(
    template=st.sampled_from(PLAIN),
    instruction=hostile,
    input_text=hostile,
    history=histories,
    max_new_tokens=st.sampled_from([1, 10, 500]),
)
def test_the_parts_are_the_prompt_and_their_tokens_are_its_tokens(
    name: str,
    template: str,
    instruction: str,
    input_text: str,
    history: list[Exchange],
    max_new_tokens: int,
    request: pytest.FixtureRequest,
) -> None:
    check(request.getfixturevalue(name), template, instruction, input_text, history, max_new_tokens)


def check(
    tokenizer: Tokenizer,
    template: str,
    instruction: str,
    input_text: str,
    history: list[Exchange],
    max_new_tokens: int,
) -> None:
    """Compare a prompt in parts with the rendered prompt, its token ids, and the rule for what is left out."""
    exact = layout(tokenizer, template).lay_out(
        instruction, input=input_text, history=history, max_new_tokens=max_new_tokens
    )
    prompt = TEMPLATES[template]
    assert exact.text == prompt.render(instruction, input_text, history[exact.n_forgotten :])
    ids = [
        encode_pieces(prompt.pieces(instruction, input_text, history[n:]), tokenizer) for n in range(len(history) + 1)
    ]
    assert list(exact.token_ids) == ids[exact.n_forgotten]
    if not prompt.markers and tokenizer.bos_id is None:
        assert list(exact.token_ids) == tokenizer.encode(exact.text)
    assert exact.n_tokens == len(exact.token_ids)
    assert exact.room == max(120 - exact.n_tokens, 0)
    room = 120 - min(max_new_tokens, 30)
    assert exact.n_forgotten == next((n for n, found in enumerate(ids) if len(found) <= room), len(history))


@settings(max_examples=40)
@given(
    template=st.sampled_from([*MARKED, "text"]),
    instruction=hostile,
    input_text=hostile,
    history=histories,
    max_new_tokens=st.sampled_from([1, 10, 500]),
    first_token=st.sampled_from([None, "<|begin_of_text|>", "<|eot_id|>"]),
)
def test_markers_are_tokens_of_their_own(
    template: str,
    instruction: str,
    input_text: str,
    history: list[Exchange],
    max_new_tokens: int,
    first_token: str | None,
    pocket_tokenizer: Tokenizer,
) -> None:
    marked = with_markers(pocket_tokenizer, first_token=first_token)
    check(marked, template, instruction, input_text, history, max_new_tokens)


def test_the_session_sends_exactly_this_prompt(byte_tokenizer: Tokenizer) -> None:
    from assistant.decoding.session import Session
    from assistant.settings import GenerationSettings
    from tests.support.models import tiny_checkpoint

    session = Session(tiny_checkpoint(byte_tokenizer, n_positions=640))
    found = PromptLayout(card(byte_tokenizer, context_length=640))
    history = [Exchange(f"question {n}", "an answer " * n) for n in range(9)]
    n_forgotten = set()
    for length in range(10):
        exact = found.lay_out("And now?", input="🙂", history=history[:length], max_new_tokens=40)
        reply = session.reply(
            "And now?", input="🙂", history=history[:length], settings=GenerationSettings(max_new_tokens=40)
        )
        assert (exact.text, exact.token_ids) == (reply.prompt, reply.prompt_token_ids)
        assert exact.n_forgotten == reply.n_forgotten
        n_forgotten.add(exact.n_forgotten)
    assert len(n_forgotten) > 1
    assert session.encode_prompt("Hi")[0] == found.lay_out("Hi", max_new_tokens=40).text


def test_parts_have_names_and_a_token_belongs_to_the_part_where_it_begins(byte_tokenizer: Tokenizer) -> None:
    exact = PromptLayout(card(byte_tokenizer)).lay_out(
        "Sort.", input="b, é", history=[Exchange("Hi", "Hello")], max_new_tokens=9
    )
    assert [(part.kind, part.text) for part in exact.parts[1:]] == [
        ("history", "### Instruction:\nHi\n\n### Response:\nHello\n\n"),
        ("instruction header", "### Instruction:\n"),
        ("instruction", "Sort."),
        ("input header", "\n\n### Input:\n"),
        ("input", "b, é"),
        ("response header", "\n\n### Response:\n"),
    ]
    assert exact.parts[0].kind == "preamble"
    assert [part.n_tokens for part in exact.parts] == [len(part.text.encode()) for part in exact.parts]
    plain = PromptLayout(card(byte_tokenizer, "text")).lay_out("", max_new_tokens=9)
    assert [(part.kind, part.text, part.n_tokens) for part in plain.parts] == [("instruction", "", 0)]


def test_a_token_that_spans_two_parts_counts_in_the_first(pocket_tokenizer: Tokenizer) -> None:
    """In plain text, `wo` of the exchange before and `rd` of the instruction are one token: `word`."""
    exact = PromptLayout(card(pocket_tokenizer, "text")).lay_out("two", input="", max_new_tokens=9)
    (whole,) = exact.parts
    assert list(whole.token_ids) == pocket_tokenizer.encode("two")
    history = [Exchange("", "Some words")]
    exact = PromptLayout(card(pocket_tokenizer, "text")).lay_out("\n\nand more", history=history, max_new_tokens=9)
    ids = pocket_tokenizer.encode(exact.text)
    assert sum(part.n_tokens for part in exact.parts) == len(ids)
    first, second = exact.parts
    assert len(pocket_tokenizer.decode(first.token_ids)) >= len(first.text)
    assert exact.text.endswith(pocket_tokenizer.decode(second.token_ids))


def test_a_prompt_that_is_too_long_is_laid_out_with_no_room(byte_tokenizer: Tokenizer) -> None:
    exact = PromptLayout(card(byte_tokenizer, context_length=64)).lay_out("x" * 99, max_new_tokens=9)
    assert exact.room == 0
    assert exact.n_tokens > 64


def test_what_does_not_change_is_encoded_once(pocket_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting at every keystroke reads the new text only: neither the headers nor the conversation."""
    history = [Exchange(f"question {n}", "an answer " * 50) for n in range(50)]
    found = PromptLayout(card(pocket_tokenizer))
    found.lay_out("H", history=history, max_new_tokens=100)
    encoded: list[str] = []
    encode = Tokenizer.encode_with_sizes
    monkeypatch.setattr(
        Tokenizer,
        "encode_with_sizes",
        lambda self, text: encoded.append(text) or encode(self, text),  # type: ignore[func-returns-value]
    )
    exact = found.lay_out("Hello", history=history, max_new_tokens=100)
    assert exact.n_forgotten > 30
    assert encoded == ["\nHello\n\n### Response:\n"]


def test_the_rule_leaves_out_as_few_exchanges_as_it_can() -> None:
    lengths = [100, 80, 60, 10]
    for max_new_tokens, expected in ((1, 1), (19, 1), (20, 1), (21, 2), (40, 2), (1000, 2)):
        found = count_forgotten(lengths.__getitem__, 3, context_length=100, max_new_tokens=max_new_tokens)
        assert found == expected, max_new_tokens
    assert count_forgotten([999, 999].__getitem__, 1, context_length=100, max_new_tokens=1) == 1
    assert count_forgotten([].__getitem__, 0, context_length=100, max_new_tokens=1) == 0
