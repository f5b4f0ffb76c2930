"""The widget of examples/napari_bpr in napari itself, found by its manifest.

pip install "napari[all]" ./examples/napari_bpr
pytest -W default -m slow tests/examples/test_napari_widget.py
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from bpr import load_refiner
from bpr.pipeline.demo.scenes import load_demo_scenes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of napari's own libraries
]


@pytest.fixture
def viewer(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    napari = pytest.importorskip("napari", reason="needs napari and examples/napari_bpr")
    pytest.importorskip("napari_bpr", reason="needs pip install examples/napari_bpr")
    viewer = napari.Viewer(show=False)
    yield viewer
    viewer.close()


@pytest.fixture
def scene():
    (scene,) = (scene for scene in load_demo_scenes() if scene.name == "coffee")
    return scene


@pytest.fixture
def labels(scene):
    """The coarse masks as a label map, numbered 5, 6, ..."""
    labels = np.zeros(scene.image.shape[:2], np.int32)
    for number, mask in enumerate(scene.coarse, start=5):
        labels[mask.to_array()] = number
    return labels


def refine(viewer):
    """Press the button of the widget, and wait for what comes of it."""
    from qtpy.QtWidgets import QApplication

    _, widget = viewer.window.add_plugin_dock_widget("napari-bpr", "Refine labels")
    before = len(viewer.layers)
    widget.call_button.native.click()
    end = time.monotonic() + 60
    while len(viewer.layers) == before:
        assert time.monotonic() < end
        QApplication.processEvents()
    return viewer.layers[-1]


def test_the_widget_adds_a_layer_of_refined_labels(viewer, scene, labels):
    viewer.add_image(scene.image, name="coffee")
    viewer.add_labels(labels.copy(), name="coarse", scale=(2, 2))
    layer = refine(viewer)
    assert layer.name == "coarse refined"
    np.testing.assert_array_equal(layer.scale, (2, 2))
    np.testing.assert_array_equal(layer.data, load_refiner()(scene.image, labels=labels))
    np.testing.assert_array_equal(viewer.layers["coarse"].data, labels)


def test_a_16_bit_image_is_seen_as_its_contrast_shows_it(viewer, scene, labels):
    grey = scene.image.mean(axis=2)
    viewer.add_image((grey * 16).astype(np.uint16), contrast_limits=(0, 255 * 16), name="deep")
    viewer.add_labels(labels, name="coarse")
    seen = np.repeat(np.rint((grey * 16).astype(np.uint16) / 16).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(refine(viewer).data, load_refiner()(seen, labels=labels))


def test_a_volume_is_refused(viewer):
    from napari_bpr import photograph

    volume = viewer.add_image(np.zeros((4, 20, 30), np.uint8), name="volume")
    with pytest.raises(ValueError, match="volume: expected a 2D image, got an array of"):
        photograph(volume)
