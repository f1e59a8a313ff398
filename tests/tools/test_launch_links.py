"""Launch links go to the notebook on its own branch; a link of another form is an error."""

import pytest

from tools.launch_links import is_launch, to_notebook

BINDER = "https://mybinder.org/v2/gh/o/main/main?urlpath=lab/tree/chapters/main/a.md"


def test_only_the_branch_and_the_suffix_change():
    # Owner, repository and folder may be called like the branch.
    assert to_notebook(BINDER, "main", "notebooks") == (
        "https://mybinder.org/v2/gh/o/main/notebooks?urlpath=lab/tree/chapters/main/a.ipynb"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://mybinder.org/v2/gh/o/r/dev?urlpath=lab/tree/a.md",
        "https://mybinder.org/v2/gh/o/r/main?urlpath=lab/tree/a.ipynb",
        "https://colab.research.google.com/github/o/r/blob/dev/a.md",
        "https://example.org/github/o/r/blob/main/a.md",
    ],
)
def test_a_link_of_another_form_is_an_error(url):
    with pytest.raises(ValueError, match="Not a launch link"):
        to_notebook(url, "main", "notebooks")


def test_edit_links_are_no_launch_links():
    assert not is_launch("https://github.com/o/r/edit/main/a.md")
