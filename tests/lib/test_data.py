"""Data: what is loaded is what the sources hold, parts do not overlap, noise is on record.

The toy set comes with closed forms, so it is its own oracle: the formulas are compared with
linear algebra and with gradient descent written out here.
"""

import hashlib
import io
import math
from dataclasses import FrozenInstanceError
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gencoh_lib
from gencoh_lib import data
from gencoh_lib._sampling import _apportion
from gencoh_lib.data import Dataset
from gencoh_lib.download import DownloadError

STEADY = settings(deadline=None, derandomize=True, max_examples=60)
PACKAGED = Path(gencoh_lib.__file__).parent / "datasets"


def small(m=20, classes=3):
    """A data set whose inputs say which example they are."""
    x = torch.arange(m, dtype=torch.float32)[:, None]
    return Dataset("small", x, torch.arange(m) % classes, classes, "made here")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def mnist10k():
    return data.load("mnist10k")


# --- Dataset ---------------------------------------------------------------------------------


def test_dataset_prints_its_sizes_and_its_source(digits):
    text = repr(digits)
    assert "1797" in text
    assert "64 numbers = 1 x 8 x 8" in text
    assert "10 classes of 174 to 183 examples" in text
    assert "scikit-learn" in text


def test_regression_prints_the_range_of_its_targets():
    assert "real, -1 to 1" in repr(data.coherence_toy().train)


def test_dataset_is_frozen():
    with pytest.raises(FrozenInstanceError):
        small().name = "other"


def test_images_are_the_rows_in_their_shape(digits):
    assert digits.images.shape == (1797, 1, 8, 8)
    assert torch.equal(digits.images[7, 0].flatten(), digits.x[7])


def test_take_keeps_the_order_and_copies():
    whole = small()
    part = whole.take([4, 2, 4], name="part")
    assert part.name == "part"
    assert part.x[:, 0].tolist() == [4, 2, 4]
    part.x[:] = -1
    assert whole.x[4, 0] == 4


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_take_accepts_lists_tensors_arrays_and_masks(kind):
    assert small().take(kind([3, 1])).x[:, 0].tolist() == [3, 1]
    assert small(3).take(kind([True, False, True])).x[:, 0].tolist() == [0, 2]


def test_take_refuses_what_is_not_in_the_data_set():
    with pytest.raises(
        IndexError, match=r"span 0 \.\.\. 20, but .*'small' has positions 0 \.\.\. 19"
    ):
        small().take([0, 20])
    with pytest.raises(IndexError, match=r"span -1 \.\.\. 0"):
        small().take([0, -1])
    with pytest.raises(IndexError, match="mask has 2 entries for 20 examples"):
        small().take([True, False])
    with pytest.raises(TypeError, match=r"list of integers or booleans, got torch\.float32"):
        small().take([0.5])
    with pytest.raises(ValueError, match="'small' has no examples"):
        small().take([])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.zeros((2, 3))}, TypeError, "x must be a torch tensor, got ndarray"),
        ({"y": [0, 1]}, TypeError, "y must be a torch tensor, got list"),
        ({"x": torch.zeros(2, 3, 1)}, ValueError, r"shape \[m, d\].*\(2, 3, 1\).*flatten"),
        ({"x": torch.zeros(2, 3, dtype=torch.uint8)}, ValueError, "floating point.*uint8"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, ValueError, r"shape \[2\]; got \(3,\)"),
        ({"y": torch.zeros(2)}, TypeError, "int64 where there are classes, got torch.float32"),
        ({"y": torch.tensor([0, 2])}, ValueError, r"0 \.\.\. 1 for 2 classes; it spans 0 \.\.\. 2"),
        ({"image_shape": (1, 2, 2)}, ValueError, "has 4 numbers, but a row of x has 3"),
        ({"x": torch.zeros(2, 0)}, ValueError, "'bad' has no inputs"),
        ({"x": torch.eye(3)[1:] / 0}, ValueError, "x must be finite, but example 0 of .* 'bad'"),
        (
            {"y": torch.tensor([0, math.inf]), "classes": 0},
            ValueError,
            "y must be finite, but example 1",
        ),
        ({"classes": 2.5}, TypeError, r"classes must be a whole number, got 2\.5"),
        ({"classes": -1}, ValueError, "classes must be at least 0, got -1"),
    ],
)
def test_dataset_refuses_what_does_not_fit_together(changes, error, message):
    good = {
        "name": "bad",
        "x": torch.zeros(2, 3),
        "y": torch.tensor([0, 1]),
        "classes": 2,
        "source": "here",
    }
    Dataset(**good)
    with pytest.raises(error, match=message):
        Dataset(**good | changes)


def test_real_targets_have_no_class_counts_and_flat_inputs_no_images():
    toy = data.coherence_toy().train
    with pytest.raises(ValueError, match="real targets, not classes"):
        _ = toy.class_counts
    with pytest.raises(ValueError, match="not pictures"):
        _ = toy.images


# --- load ------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    assert digits.x.dtype == torch.float32
    assert digits.y.dtype == torch.int64
    np.testing.assert_array_equal(digits.x.numpy() * 16, x)
    np.testing.assert_array_equal(digits.y.numpy(), y)


def test_mnist10k_holds_ten_thousand_grey_pictures_in_the_unit_interval(mnist10k):
    assert mnist10k.image_shape == (1, 28, 28)
    assert mnist10k.x.dtype == torch.float32
    assert (mnist10k.x.min(), mnist10k.x.max()) == (0, 1)
    counts = [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert mnist10k.class_counts.tolist() == counts
    with np.load(PACKAGED / "mnist10k.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal((mnist10k.images * 255).round()[:, 0], archive["x"])
        np.testing.assert_array_equal(mnist10k.y, archive["y"])


def test_packaged_file_has_the_checksum_that_its_note_and_the_loader_state():
    checksum = hashlib.sha256((PACKAGED / "mnist10k.npz").read_bytes()).hexdigest()
    assert checksum == data.MNIST10K_SHA256
    note = (PACKAGED / "README.md").read_text(encoding="utf-8")
    assert f"**SHA-256:** `{checksum}`" in note
    assert "Licence" in note


def test_each_load_is_a_fresh_copy(digits):
    data.load("digits").x.zero_()
    assert digits.x.max() == 1
    assert data.load("digits").x.max() == 1


@pytest.mark.parametrize(("asked", "meant"), [("digit", "digits"), ("mnist-trian", "mnist-train")])
def test_unknown_data_set_is_refused_with_the_nearest_name(asked, meant):
    with pytest.raises(ValueError, match=f"no data set '{asked}'.*Did you mean '{meant}'"):
        data.load(asked)


def test_unknown_data_set_is_refused_with_the_list():
    names = "'digits', 'mnist10k', 'mnist-train', 'mnist-test'"
    with pytest.raises(ValueError, match=names):
        data.load("imagenet")
    with pytest.raises(ValueError, match=names):
        data.load(None)
    with pytest.raises(ValueError, match=r"no data set \['digits'\]"):
        data.load(["digits"])  # cannot be hashed


def packed(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    """A file in the form of the full MNIST, where the download would have put it."""
    grey = np.full((2, 28, 28), 51, dtype=np.uint8)
    content = packed(
        x_train=grey,
        y_train=np.array([5, 0], dtype=np.uint8),
        x_test=grey[:1] * 5,
        y_test=np.array([7], dtype=np.uint8),
    )
    (tmp_path / "mnist.npz").write_bytes(content)
    monkeypatch.setattr(data, "MNIST_SHA256", hashlib.sha256(content).hexdigest())
    return tmp_path


def test_full_mnist_is_read_from_the_folder_that_is_asked_for(tiny_mnist):
    train = data.load("mnist-train", folder=tiny_mnist)
    test = data.load("mnist-test", folder=str(tiny_mnist))
    assert train.y.tolist() == [5, 0]
    assert train.images.shape == (2, 1, 28, 28)
    assert torch.allclose(train.x, torch.tensor(0.2))
    assert test.y.tolist() == [7]
    assert torch.equal(test.x, torch.ones(1, 784))


def test_environment_names_the_folder(tiny_mnist, monkeypatch):
    monkeypatch.setenv("GENCOH_DATA", str(tiny_mnist))
    assert len(data.load("mnist-train")) == 2


def test_home_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.delenv("GENCOH_DATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)

    def offline(url, target, *, sha256):
        raise DownloadError(f"asked for {url} in {target.parent}")

    monkeypatch.setattr(data, "fetch", offline)
    with pytest.raises(DownloadError, match=f"{data.MNIST_URL} in {tmp_path}/.cache/gencoh_lib"):
        data.load("mnist-test")


def test_another_file_in_the_place_of_mnist_is_refused(tiny_mnist):
    (tiny_mnist / "mnist.npz").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="exists but has SHA-256"):
        data.load("mnist-train", folder=tiny_mnist)


def test_pickled_objects_are_never_run():
    content = packed(x=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data._arrays(content)


def test_damaged_installation_is_refused(monkeypatch):
    monkeypatch.setattr(data, "MNIST10K_SHA256", 64 * "0")
    with pytest.raises(ValueError, match=r"mnist10k\.npz does not have SHA-256 0+: install genc"):
        data.load("mnist10k")


@pytest.mark.network
def test_real_mnist_can_be_fetched_and_verified(tmp_path):
    train = data.load("mnist-train", folder=tmp_path)
    test = data.load("mnist-test", folder=tmp_path)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.class_counts.tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert (train.x.min(), train.x.max()) == (0, 1)
    # The packaged digits are said to be real ones of MNIST: each is somewhere in the full set.
    everything = {row.numpy().tobytes() for row in torch.cat([train.x, test.x])}
    assert all(row.numpy().tobytes() in everything for row in data.load("mnist10k").x)


# --- split -----------------------------------------------------------------------------------


@STEADY
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 180), min_size=1, max_size=4),
)
def test_shares_are_rounded_up_or_down_and_add_up(counts, cuts):
    m = sum(counts)
    borders = sorted({0, *(cut % (m + 1) for cut in cuts), m})
    sizes = [high - low for low, high in pairwise(borders)]
    shares = _apportion(sizes, counts)
    exact = np.outer(sizes, counts) / m
    assert np.abs(shares - exact).max() < 1
    assert shares.sum(axis=0).tolist() == counts
    assert shares.sum(axis=1).tolist() == sizes


def test_rounding_asks_an_earlier_part_to_make_room():
    # Every share is 2/3. Taken in order, both other parts round up classes 0 and 1 ... and nobody
    # is left who may round up class 2 twice: largest remainders, part by part, come to a dead end.
    shares = _apportion([2, 2, 2], [2, 2, 2])
    assert sorted(shares.tolist()) == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


@STEADY
@given(st.data())
def test_parts_are_disjoint_stratified_and_reproducible(draw):
    whole = small(draw.draw(st.integers(4, 60)), classes=draw.draw(st.integers(1, 4)))
    first = draw.draw(st.integers(1, len(whole) - 1))
    second = draw.draw(st.integers(1, len(whole) - first))
    seed = draw.draw(st.integers(0, 2**32))
    stratified = draw.draw(st.booleans())
    parts = data.split(whole, [first, second], seed=seed, stratified=stratified)
    again = data.split(whole, [first, second], seed=seed, stratified=stratified)
    assert [len(part) for part in parts] == [first, second]
    drawn = torch.cat([part.x[:, 0] for part in parts]).int().tolist()
    assert len(set(drawn)) == first + second
    assert drawn == torch.cat([part.x[:, 0] for part in again]).int().tolist()
    for part in parts:
        assert torch.equal(part.y, part.x[:, 0].long() % whole.classes)
        if stratified:
            exact = whole.class_counts * len(part) / len(whole)
            assert (part.class_counts - exact).abs().max() < 1


def test_parts_of_a_sorted_data_set_are_shuffled(mnist10k):
    (part,) = data.split(mnist10k, [500], seed=0)
    changes = int((part.y.diff() != 0).sum())
    assert changes > 400  # sorted it would be 9, shuffled about 450
    assert part.name == "mnist10k, part 1"


def test_another_seed_gives_other_parts(digits):
    one, two = (data.split(digits, [100], seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(one.x, two.x)


def test_unstratified_draw_is_uniform():
    # Each of 6 examples is in a part of 2 with probability 1/3: 4 standard errors of 3000 draws.
    whole, draws = small(6), 3000
    hits = torch.zeros(6)
    for seed in range(draws):
        hits[data.split(whole, [2], seed=seed, stratified=False)[0].x[:, 0].long()] += 1
    assert (hits / draws - 1 / 3).abs().max() < 4 * (2 / 9 / draws) ** 0.5


def test_stratified_draw_is_uniform_within_a_class():
    whole, draws = small(6, classes=2), 2000
    hits = torch.zeros(6)
    for seed in range(draws):
        hits[data.split(whole, [2], seed=seed)[0].x[:, 0].long()] += 1
    assert (hits / draws - 1 / 3).abs().max() < 4 * (2 / 9 / draws) ** 0.5


def test_drawing_leaves_the_global_random_state_alone(digits):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    data.split(digits, [100], seed=0)
    data.corrupt_labels(digits, 0.5, seed=0)
    data.coherence_toy()
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_split_refuses_impossible_sizes():
    with pytest.raises(ValueError, match=r"add up to 21, but data set 'small' has only 20"):
        data.split(small(), [20, 1], seed=0)
    for sizes in ([], [0], [5, -1]):
        with pytest.raises(ValueError, match="one or more positive numbers"):
            data.split(small(), sizes, seed=0)
    with pytest.raises(ValueError, match="cannot be stratified; pass stratified=False"):
        data.split(data.coherence_toy().train, [2], seed=0)
    assert len(data.split(data.coherence_toy().train, [2], seed=0, stratified=False)[0]) == 2


@pytest.mark.parametrize("sizes", [[0.8, 0.2], [10.7], ["10"], "12", [True], 5])
def test_split_takes_whole_numbers_of_examples_and_no_shares(sizes):
    with pytest.raises(TypeError, match="sizes must be a list of whole numbers, got"):
        data.split(small(), sizes, seed=0)


def test_whole_numbers_of_numpy_and_torch_are_whole_numbers():
    parts = data.split(small(), np.array([3, 4]), seed=np.int64(0))
    assert [len(part) for part in parts] == [3, 4]
    assert len(data.coherence_toy(examples=torch.tensor(5)).train) == 5


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: data.split(small(), [3], seed=seed),
        lambda seed: data.corrupt_labels(small(), 0.5, seed=seed),
    ],
    ids=["split", "corrupt_labels"],
)
@pytest.mark.parametrize("seed", [None, 1.0, "1"])
def test_seed_is_a_whole_number(draw, seed):
    with pytest.raises(TypeError, match=f"seed must be a whole number, got {seed!r}"):
        draw(seed)


# --- corrupt_labels --------------------------------------------------------------------------


@STEADY
@given(
    fraction=st.floats(0, 1), kind=st.sampled_from(["uniform", "permuted"]), seed=st.integers(0, 99)
)
def test_corruption_is_on_record(fraction, kind, seed):
    whole = small(50, classes=5)
    noisy = data.corrupt_labels(whole, fraction, kind=kind, seed=seed)
    assert torch.equal(noisy.changed, noisy.dataset.y != whole.y)
    assert int(noisy.pool.sum()) == round(fraction * 50)
    assert not (noisy.changed & ~noisy.pool).any()
    assert torch.equal(noisy.dataset.x, whole.x)
    assert torch.equal(whole.y, torch.arange(50) % 5)
    if kind == "permuted":
        assert torch.equal(noisy.dataset.class_counts, whole.class_counts)
    again = data.corrupt_labels(whole, fraction, kind=kind, seed=seed)
    assert torch.equal(noisy.dataset.y, again.dataset.y)


@pytest.mark.parametrize("kind", ["uniform", "permuted"])
def test_a_tenth_of_the_pool_keeps_its_label(mnist10k, kind):
    noisy = data.corrupt_labels(mnist10k, 1.0, kind=kind, seed=0)
    shares = mnist10k.class_counts / len(mnist10k)
    expected = float(shares.square().sum()) if kind == "permuted" else 0.1
    kept = 1 - float(noisy.changed.float().mean())
    assert abs(kept - expected) < 4 * (0.09 / len(mnist10k)) ** 0.5


def test_uniform_labels_are_uniform(mnist10k):
    counts = data.corrupt_labels(mnist10k, 1.0, seed=1).dataset.class_counts
    statistic = float(((counts - 1000) ** 2 / 1000).sum())
    assert statistic < 33.7  # chi-squared with 9 degrees of freedom exceeds it once in 10,000


def test_smaller_pool_lies_within_a_larger_one(digits):
    less, more = (data.corrupt_labels(digits, f, seed=3).pool for f in (0.2, 0.6))
    assert not (less & ~more).any()


def test_corruption_prints_how_many_labels_changed(digits):
    noisy = data.corrupt_labels(digits, 0.5, kind="permuted", seed=0)
    text = repr(noisy)
    assert "898 (50.0%), labels permuted" in text
    assert f"changed      {int(noisy.changed.sum())} (" in text
    assert noisy.dataset.name == "digits, 50% permuted labels"


@pytest.mark.parametrize(("fraction", "said"), [(0.004, "0.4%"), (0.29, "29%"), (1, "100%")])
def test_name_of_corrupted_data_does_not_round_the_share(digits, fraction, said):
    noisy = data.corrupt_labels(digits, fraction, seed=0)
    assert noisy.dataset.name == f"digits, {said} uniform labels"


def test_corruption_refuses_what_it_cannot_do(digits):
    for fraction in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
            data.corrupt_labels(digits, fraction, seed=0)
    with pytest.raises(ValueError, match="'uniform' or 'permuted', got 'random'"):
        data.corrupt_labels(digits, 0.5, kind="random", seed=0)
    with pytest.raises(ValueError, match="no labels to corrupt"):
        data.corrupt_labels(data.coherence_toy().train, 0.5, seed=0)


# --- coherence_toy ---------------------------------------------------------------------------

SIZES = st.integers(1, 12)
STRENGTHS = st.floats(-4, 4)


def test_toy_is_the_table_of_the_paper():
    real, random = data.coherence_toy(1.0), data.coherence_toy(0.0)
    assert real.train.x.tolist() == [
        [1, 0, 0, 0, 0, 1],
        [0, -1, 0, 0, 0, -1],
        [0, 0, -1, 0, 0, -1],
        [0, 0, 0, 1, 0, 1],
    ]
    assert real.test.x.tolist() == [[0, 0, 0, 0, -1, -1]]
    assert real.train.y.tolist() == [1, -1, -1, 1]
    assert real.test.y.tolist() == [-1]
    assert torch.equal(random.train.x[:, :5], real.train.x[:, :5])
    assert not random.train.x[:, 5].any()


def test_toy_numbers_of_four_examples():
    real, random = data.coherence_toy(1.0), data.coherence_toy(0.0)
    assert (real.m_coherence, real.alpha) == (2.5, 0.625)
    assert (random.m_coherence, random.alpha) == (1.0, 0.25)
    assert (real.own_weight, real.common_weight, real.test_residual) == (0.2, 0.8, 0.2)
    assert (random.own_weight, random.common_weight, random.test_residual) == (1, 0, 1)
    assert real.train_loss(0.1, 10) == pytest.approx(0.0346044, abs=5e-8)
    assert real.test_loss(0.1, 10) == pytest.approx(0.0842389, abs=5e-8)
    assert random.train_loss(0.1, 10) == pytest.approx(0.3013438, abs=5e-8)
    assert random.test_loss(0.1, 10) == 0.5


@STEADY
@given(m=SIZES, strength=STRENGTHS)
def test_toy_weights_are_the_minimum_norm_solution(m, strength):
    toy = data.coherence_toy(strength, examples=m, dtype=torch.float64)
    assert toy.train.x.shape == (m, m + 2)
    w = torch.linalg.pinv(toy.train.x) @ toy.train.y
    expected = [toy.own_weight] * m + [0, toy.common_weight]
    torch.testing.assert_close(w, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    residual = (toy.test.y - toy.test.x @ w).abs()
    assert float(residual) == pytest.approx(toy.test_residual, rel=1e-9, abs=1e-9)


@STEADY
@given(m=SIZES, strength=STRENGTHS, step=st.integers(0, 20), pace=st.floats(0.05, 0.9))
def test_toy_formulas_are_gradient_descent(m, strength, step, pace):
    toy = data.coherence_toy(strength, examples=m, dtype=torch.float64)
    learning_rate = pace * m / (1 + m * strength**2)
    x, y = toy.train.x, toy.train.y
    w = torch.zeros(m + 2, dtype=torch.float64)
    for _ in range(step):
        w -= learning_rate * x.T @ (x @ w - y) / m
    residual = (y - x @ w) * y  # with the sign of the target taken out
    expected = torch.full((m,), toy.residual(learning_rate, step), dtype=torch.float64)
    torch.testing.assert_close(residual, expected, rtol=1e-9, atol=1e-9)
    gradients = (x @ w - y)[:, None] * x
    alpha = gradients.mean(0).square().sum() / gradients.square().sum(1).mean()
    assert float(alpha) == pytest.approx(toy.alpha, rel=1e-6)
    assert toy.m_coherence == pytest.approx(m * toy.alpha)
    train = float(residual.square().mean() / 2)
    test = float((toy.test.y - toy.test.x @ w).square() / 2)
    assert train == pytest.approx(toy.train_loss(learning_rate, step), rel=1e-9, abs=1e-12)
    assert test == pytest.approx(toy.test_loss(learning_rate, step), rel=1e-9, abs=1e-12)


@STEADY
@given(m=SIZES, strength=STRENGTHS)
def test_coherence_is_generalisation_on_the_toy(m, strength):
    toy = data.coherence_toy(strength, examples=m)
    assert toy.test_residual == pytest.approx(1 / ((1 + strength**2) * toy.m_coherence))


def test_signs_of_the_toy_repeat():
    assert data.coherence_toy(examples=6).train.y.tolist() == [1, -1, -1, 1, 1, -1]


def test_toy_prints_its_closed_forms():
    text = repr(data.coherence_toy(1.0))
    assert "m-coherence    2.5" in text
    assert "0.2 at convergence" in text


def test_toy_refuses_what_it_cannot_build():
    for strength in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength must be a finite number"):
            data.coherence_toy(strength)
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        data.coherence_toy(examples=0)
    with pytest.raises(TypeError, match=r"examples must be a whole number, got 4\.0"):
        data.coherence_toy(examples=4.0)
