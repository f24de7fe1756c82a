"""No control token of any known family survives in a text, and ordinary text does not change.

The lists are from the public tokenizer configurations of the families. The module under test has no such list.
"""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.judging.control_tokens import neutralise_tokens

FAMILIES = {
    "GPT-2, GPT-4": "<|endoftext|> <|fim_prefix|> <|endofprompt|>",
    "gpt-oss": "<|start|> <|message|> <|channel|> <|constrain|> <|call|> <|return|> <|end|>",
    "Llama 2": "<s> </s> <unk> [INST] [/INST] <<SYS>> <</SYS>>",
    "Llama 3, 4": "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|python_tag|> <|eot|>",
    "Code Llama": "▁<PRE> ▁<SUF> ▁<MID> ▁<EOT>",
    "Mistral": "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS] [TOOL_CALLS] [IMG] [control_8] [THINK] [/THINK] "
    "[PREFIX] [MODEL_SETTINGS]",
    "Gemma": "<bos> <eos> <start_of_turn> <end_of_turn> <unused99> <start_of_image> <mask> <2mass> [multimodal_1] "
    "<|turn> <turn|> <|channel> <channel|>",
    "Qwen, ChatML": "<|im_start|> <|im_end|> <think> </think> <tool_call> </tool_call> <tool_response>"
    " <|vision_start|>",
    "DeepSeek": "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜> <|EOT|>"
    " <｜tool▁calls▁begin｜>",
    "Phi": "<|system|> <|user|> <|assistant|> <|end|> <|im_sep|> <|placeholder1|>",
    "GLM": "[gMASK] [sMASK] [MASK] <sop> <eop> <|observation|> <arg_key> </arg_key>",
    "EXAONE": "[|system|] [|user|] [|assistant|] [|endofturn|] [BOS] [PAD]",
    "Command R": "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> <|END_OF_TURN_TOKEN|> <EOS_TOKEN>",
    "Baichuan": "<reserved_106> <reserved_107>",
    "InternLM": "<|action_start|> [UNUSED_TOKEN_146] <eoh> <eoa>",
    "Falcon": ">>TITLE<< >>QUESTION<< >>ANSWER<< >>SUMMARY<<",
    "Granite, StarCoder": "<|start_of_role|> <fim_prefix> <filename> <gh_stars> <jupyter_start> <empty_output>",
    "Nemotron, T5": "<SPECIAL_12> <extra_id_0> <TOOLCALL> </TOOLCALL> [AVAILABLE_TOOLS]",
    "Seed": "<seed:bos> <seed:eos> <seed:think> </seed:think>",
    "MiniMax": "]~!b[ ]~b] [e~[ <minimax:tool_call>",
    "ERNIE": "<|begin_of_sentence|> <mask:1> [extra_id_0]",
    "OLMo": "<|padding|> |||IP_ADDRESS||| |||EMAIL_ADDRESS|||",
    "BERT": "[CLS] [SEP] [UNK] [unused1]",
    "XGLM, RoBERTa": "<madeupword0> <pad> <image> <video>",
    "Llama functions": "<function=search> </function> <parameter=x> <0x0A>",
    "LFM2, SmolLM": "<|tool_list_start|> <repo_name> <issue_start> <|startoftext|>",
}
TOKENS = sorted({token for tokens in FAMILIES.values() for token in tokens.split()})
ORDINARY = (
    "a < b",
    "a<b and b>c",
    "x[i]",
    "[1]",
    "see [2, 3] and [Name]",
    "[link](https://example.org/a_b)",
    "<b>bold</b> and <br/> and </h1>",
    '<a href="https://example.org">x</a>',
    "f(x) = |x| + [x]",
    "1 > 0 || 2 < 3",
    "| a | b |\n| --- | --- |",
    "if (a <= b) { return a >> 2; }",
    "List[int]",
    "He said: <not now>, [sic].",
    "~/.config and a~b",
    "I'm fine; it's 5 o'clock -> go.",
)


def test_there_are_more_than_twenty_families() -> None:
    assert len(FAMILIES) > 20
    assert len(TOKENS) > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_token_of_a_known_family_is_broken_and_readable(family: str) -> None:
    for token in FAMILIES[family].split():
        text = neutralise_tokens(f"before{token}after")
        assert token not in text
        assert re.sub(r"\s", "", text) == f"before{token}after"


PIECES = st.sampled_from([*TOKENS, *"<>|[]/｜~ \nsé", "<|", "|>", "INST"])


@settings(max_examples=80)
@given(st.lists(PIECES, max_size=8).map("".join))
@example("<<|im_start|>|im_start|>")
@example("<|<bos>|>")
@example("[[INST]]")
def test_no_token_survives_in_any_neighbourhood(text: str) -> None:
    neutral = neutralise_tokens(text)
    assert not [token for token in TOKENS if token in neutral]
    assert neutralise_tokens(neutral) == neutral
    assert neutral.replace(" ", "") == text.replace(" ", "")


def test_full_width_spelling_is_broken_too() -> None:
    """A tokenizer that normalises texts would turn it into the token."""
    for token in TOKENS:
        if "~" not in token and ">>" not in token:
            wide = token.translate({ord(mark): ord(mark) + 0xFEE0 for mark in "<>[]|"})
            assert token not in unicodedata.normalize("NFKC", neutralise_tokens(wide))


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_does_not_change(text: str) -> None:
    assert neutralise_tokens(text) == text
    assert neutralise_tokens(text) == text


@given(st.text(st.characters(exclude_characters="<>[]|＜＞﹤﹥［］｜")))
def test_text_without_brackets_does_not_change(text: str) -> None:
    assert neutralise_tokens(text) == text


def test_time_grows_with_the_length() -> None:
    for part in ("<", "<a", "[A", "[/a", "|||a", ">>a", "]~", "[" + "a" * 50, "_"):
        start = time.process_time()
        neutralise_tokens("[" + part * 3_000)
        assert time.process_time() - start < 60 * max(base_seconds(), 0.001)


def base_seconds() -> float:
    start = time.process_time()
    neutralise_tokens("a plain sentence. " * 3_000)
    return time.process_time() - start
