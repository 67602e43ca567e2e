"""Pictures: they open, have the right size and frames, and the same input gives the same bytes."""

import numpy as np
import pytest
from PIL import Image

from mstg_jax.evaluation.showing import figures
from mstg_jax.evaluation.showing.view import heart_view

FRAMES = 4
GAMMAS = np.linspace(0, 1, FRAMES, dtype=np.float32)
SPACING = (3.0, 1.5, 1.5)


def heart() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A contracting bright disc, wider in slice 3, and the labels of ED and the field of view."""
    z, y, x = np.meshgrid(*map(np.arange, (6, 24, 30)), indexing="ij")
    radius = np.hypot(y - 12, x - 15) + np.abs(z - 3)
    frames = np.stack([(radius < 8 - i) * 0.8 + 0.01 * y for i in range(FRAMES)])
    fov = np.zeros(z.shape, bool)
    fov[1:5, 2:22, 3:27] = True
    labels = np.where((radius < 8) & fov & (z > 1), 3, 0).astype(np.uint8)
    return (frames * fov).astype(np.float32), labels, fov


TRUTH, LABELS, FOV = heart()
BLEND = (TRUTH[0] + GAMMAS[:, None, None, None] * (TRUTH[-1] - TRUTH[0])).astype(np.float32)
VIEW = heart_view(FOV, LABELS, SPACING)


def inches(pixels: tuple[int, int]) -> list[float]:
    return [n / 200 for n in pixels]


def test_view_shows_the_largest_ventricle_in_the_field_of_view():
    assert (VIEW.z, VIEW.slices) == (3, (2, 4))
    assert VIEW.cut(TRUTH).shape == (FRAMES, 20, 24)
    np.testing.assert_array_equal(VIEW.cut(TRUTH), TRUTH[:, 3, 2:22, 3:27])
    np.testing.assert_array_equal(VIEW.cut(TRUTH, 2), TRUTH[:, 2, 2:22, 3:27])


@pytest.mark.parametrize("labels", [None, np.zeros_like(LABELS)])
def test_view_without_a_ventricle_shows_the_middle(labels):
    view = heart_view(FOV, labels, SPACING)
    assert (view.z, view.slices) == (2, (1, 4))


def test_sequence_figure(tmp_path):
    """Rows: the truth, then each method and its error; columns: the frames."""
    two = {"blend": BLEND, "copy": np.repeat(TRUTH[:1], FRAMES, 0)}
    with Image.open(figures.sequence_figure(tmp_path / "a.png", TRUTH, two, GAMMAS, VIEW)) as image:
        both, info = inches(image.size), image.info
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    assert "Software" not in info
    with Image.open(
        figures.sequence_figure(tmp_path / "b.png", TRUTH, {"blend": BLEND}, GAMMAS, VIEW)
    ) as image:
        one = inches(image.size)
    with Image.open(
        figures.sequence_figure(tmp_path / "c.png", None, {"blend": BLEND}, GAMMAS, VIEW, columns=3)
    ) as image:
        bare = inches(image.size)
    panel = figures.PANEL * 20 / 24 + figures.GAP
    assert both[1] - one[1] == pytest.approx(2 * panel + figures.GROUP_GAP, abs=0.02)
    assert one[1] - bare[1] == pytest.approx(2 * panel + figures.GROUP_GAP, abs=0.02)
    assert one[0] - bare[0] == pytest.approx(figures.PANEL + figures.GAP, abs=0.02)


def test_slices_figure(tmp_path):
    with Image.open(figures.slices_figure(tmp_path / "a.png", TRUTH, BLEND, GAMMAS, VIEW)) as image:
        pairs = inches(image.size)
    with Image.open(figures.slices_figure(tmp_path / "b.png", None, BLEND, GAMMAS, VIEW)) as image:
        bare = inches(image.size)
    assert pairs[1] - bare[1] == pytest.approx(
        3 * (figures.PANEL * 20 / 24 + figures.GAP), abs=0.02
    )


def test_validation_picture(tmp_path):
    path = tmp_path / "step.png"
    assert figures.validation_picture(path, TRUTH, BLEND, GAMMAS, VIEW, "step 10: 30 dB") == path
    with Image.open(path) as image:
        width, _ = inches(image.size)
    expected = figures.LEFT + 4 * (figures.PANEL + figures.GAP) + figures.RIGHT
    assert width == pytest.approx(expected, abs=0.02)


def test_animation_beats_from_ed_to_es_and_back(tmp_path):
    panels = {"blend": VIEW.cut(BLEND), "truth": VIEW.cut(TRUTH)}
    path = figures.animation(tmp_path / "a.gif", panels, GAMMAS, error=True)
    with Image.open(path) as image:
        pictures, durations = [], []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
            durations.append(image.info["duration"])
        assert image.info["loop"] == 0
    assert len(pictures) == 2 * FRAMES - 2
    assert sum(durations) == pytest.approx(figures.BEAT, rel=0.05)
    for i in range(1, FRAMES - 1):
        np.testing.assert_array_equal(pictures[i], pictures[-i])
    blend, truth, error = (p := pictures[1])[24:-24, :360], p[24:-24, 364:724], p[24:-24, 728:]
    assert blend.shape == truth.shape == (300, 360, 3)
    np.testing.assert_array_equal(pictures[0][24:-24, :360], pictures[0][24:-24, 364:724])
    assert np.abs(blend - truth).max() > 50
    assert np.ptp(error, axis=-1).max() > 50, "the error map is in colour"
    assert np.ptp(truth, axis=-1).max() == 0, "the frames are grey"


def test_animation_keeps_the_pixels_aspect(tmp_path):
    path = figures.animation(tmp_path / "a.gif", {"blend": VIEW.cut(BLEND)}, GAMMAS, aspect=2.0)
    with Image.open(path) as image:
        assert image.size == (24 * 15, 20 * 15 * 2 + 48)


def test_animation_of_errors_needs_the_truth(tmp_path):
    with pytest.raises(ValueError, match=r"error maps need a sequence `truth`; got \['blend'\]"):
        figures.animation(tmp_path / "a.gif", {"blend": VIEW.cut(BLEND)}, GAMMAS, error=True)


@pytest.mark.parametrize("kind", ["sequence", "slices", "validation", "animation"])
def test_same_input_same_bytes(tmp_path, kind):
    def draw(name):
        path = tmp_path / name
        match kind:
            case "sequence":
                figures.sequence_figure(path, TRUTH, {"blend": BLEND}, GAMMAS, VIEW)
            case "slices":
                figures.slices_figure(path, TRUTH, BLEND, GAMMAS, VIEW, positions=2)
            case "validation":
                figures.validation_picture(path, TRUTH, BLEND, GAMMAS, VIEW, "step 10")
            case _:
                figures.animation(path, {"truth": VIEW.cut(TRUTH)}, GAMMAS)
        return path.read_bytes()

    assert draw("first") == draw("second")
