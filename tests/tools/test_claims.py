"""Claims on the pages and labels on the tests agree, both ways, or the difference is named."""

from textwrap import dedent

import pytest

from tools.claims import Claim, ClaimTest, disagreements, in_page, in_tests

THEOREM = Claim("thm-a", ("exact",), "intro", "theorem")


def carried(label="thm-a", kind="exact"):
    return {label: [ClaimTest("tests/test_a.py", 3, "test_a", kind)]}


def test_claims_are_read_from_the_page_and_definitions_are_none():
    html = """
    <div class="proof theorem exact admonition" id="thm-a"></div>
    <div class="proof definition admonition" id="def-a"></div>
    <div class="proof proposition admonition" id="prop-b"></div>
    <div class="proof proof-text admonition" id="proof-1"></div>
    """
    assert [(c.label, c.kinds) for c in in_page(html, "intro")] == [
        ("thm-a", ("exact",)),
        ("prop-b", ()),
    ]


def test_equal_lists_have_nothing_to_mend():
    assert disagreements([THEOREM], carried()) == []


def test_a_quoted_claim_needs_no_test():
    assert disagreements([Claim("thm-a", ("quoted",), "intro", "theorem")], {}) == []


@pytest.mark.parametrize(
    "claim, tests, message",
    [
        (THEOREM, {}, "no test carries"),
        (THEOREM, carried("thm-b"), "carries thm-b, which no chapter claims"),
        (THEOREM, carried(kind="rate"), "says rate, the page says exact"),
        (THEOREM, carried(kind="proved"), "a test is exact or rate"),
        (Claim("thm-a", ("quoted",), "intro", "theorem"), carried(), "is quoted, but a test"),
        (Claim("thm-a", (), "intro", "theorem"), carried(), "needs one :class:"),
        (Claim("thm-a", ("exact", "rate"), "intro", "theorem"), carried(), "needs one :class:"),
        (Claim("theorem-0", ("exact",), "intro", "theorem"), {}, "has no :label:"),
    ],
)
def test_each_difference_is_named(claim, tests, message):
    assert any(message in problem for problem in disagreements([claim], tests))


def write(tmp_path, source):
    (tmp_path / "test_a.py").write_text(dedent(source), encoding="utf-8")
    return in_tests(tmp_path, tmp_path)


def test_markers_are_read_from_functions_classes_and_parameters(tmp_path):
    found = write(
        tmp_path,
        """
        import pytest

        @pytest.mark.claim("thm-a", kind="exact")
        def test_a(): ...

        @pytest.mark.claim("thm-b", kind="rate")
        class TestB: ...

        @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.claim("thm-c", "exact"))])
        def test_c(x): ...
        """,
    )
    assert {label: (t.line, t.name, t.kind) for label, [t] in found.items()} == {
        "thm-a": (5, "test_a", "exact"),
        "thm-b": (8, "TestB", "rate"),
        "thm-c": (11, "test_c", "exact"),
    }


def test_a_marker_that_cannot_be_compared_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"test_a\.py:2: write the marker as claim"):
        write(tmp_path, "\n@pytest.mark.claim(LABEL, kind='exact')\ndef test_a(): ...\n")
