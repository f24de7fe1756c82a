"""A model is refused if its template has changed since its training."""

from __future__ import annotations

import pytest

from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.model.templates import check_same_template, template_record


def test_another_template_is_refused_with_the_first_token_that_differs(byte_tokenizer: Tokenizer) -> None:
    trained = template_record(get_template("alpaca"))
    common = len("Below is an instruction that describes a task")
    check_same_template(get_template("alpaca"), trained, byte_tokenizer, where="m")
    with pytest.raises(CheckpointError, match=r"token 1 of the prompt: 'B' in training, '<' now"):
        check_same_template(get_template("phi3"), trained, byte_tokenizer, where="m")
    with pytest.raises(CheckpointError, match=rf"token {common + 1} of the prompt: '\.' in training, ',' now"):
        check_same_template(get_template("alpaca-stanford"), trained, byte_tokenizer, where="m")
