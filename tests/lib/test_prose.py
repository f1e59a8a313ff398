"""Numbers on their way from a cell to a sentence."""

from __future__ import annotations

import IPython
import numpy as np
import pytest
import torch

from gencoh_lib import prose


@pytest.fixture
def page(monkeypatch):
    """What a notebook would be told."""
    told: list[tuple[dict, dict]] = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(prose, "display", lambda d, raw, metadata: told.append((d, metadata)))
    return told


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.5, "2.5"),
        (7, "7"),
        ("three", "'three'"),
        (torch.tensor(0.5), "0.5"),
        (np.float64(0.25), "0.25"),
        (np.int64(3), "3"),
    ],
)
def test_scalars_of_any_library_become_plain_numbers(page, value, text):
    prose.glue(toy_ratio=value)
    ((data, metadata),) = page
    assert data == {"application/papermill.record/text/plain": text}
    assert metadata["scrapbook"]["name"] == "toy-ratio"


@pytest.mark.parametrize("value", [None, [1.0], torch.ones(2), {"a": 1}])
def test_what_cannot_stand_in_a_sentence_is_refused_and_nothing_is_told(page, value):
    with pytest.raises(TypeError, match=r"curve is a .*pick the number out"):
        prose.glue(first=1.0, curve=value)
    assert page == []


def test_outside_a_notebook_it_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    prose.glue(alpha=0.5)
    assert capsys.readouterr().out == ""
