"""The client in the package, against a real service."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import bpr
from bpr.pipeline.formats.images import encode_mask, encode_png
from bpr.service.client import ServiceError
from tests.service.services import running
from tests.service.test_operation import codes, expected_codes


@pytest.fixture
def client(service):
    with bpr.Client(service.url) as client:
        yield client


def test_every_kind_of_masks_can_be_given_as_arrays_bytes_and_files(
    client, service, scene, predictor, tmp_path
):
    want = expected_codes(scene, predictor)
    paths = []
    for index, mask in enumerate(scene.masks):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(encode_mask(mask))
    for image in (scene.image, encode_png(scene.image)):
        for masks in (scene.arrays, [path.read_bytes() for path in paths], paths):
            refined = client.refine(image, masks)
            assert [item["segmentation"] for item in refined.instances] == want
    records = client.refine(scene.image, instances=scene.records, details=True).instances
    assert [item["note"] for item in records] == [item["note"] for item in scene.records]
    assert all("coarse" in item for item in records)
    by_map = client.refine(scene.image, instance_map=scene.map_values)
    theirs = service.refine(scene.map_parts)
    assert [item["segmentation"] for item in by_map.instances] == codes(theirs)
    assert by_map.masks[0].shape == scene.image.shape[:2]
    assert by_map.masks[0].dtype == np.bool_


def test_refusals_are_errors_in_the_services_words(client, scene):
    with pytest.raises(ServiceError, match="expected exactly one of masks") as caught:
        client.refine(scene.image)
    assert caught.value.status == 400
    assert caught.value.request_id
    with pytest.raises(ServiceError) as caught:
        client.segment(scene.image)
    assert caught.value.status == 404


def test_a_service_that_is_starting_is_waited_for(predictor, scene):
    loaded = threading.Event()
    with running(predictor, wait=False, loaded=loaded) as service:
        timer = threading.Timer(1.0, loaded.set)
        timer.start()
        with bpr.Client(service.url) as client:
            refined = client.refine(scene.image, scene.arrays)
        assert [item["segmentation"] for item in refined.instances] == expected_codes(
            scene, predictor
        )


def test_but_not_for_ever(predictor, scene):
    loaded = threading.Event()
    with running(predictor, wait=False, loaded=loaded) as service:
        with bpr.Client(service.url, max_wait_s=1) as client, pytest.raises(ServiceError) as caught:
            client.refine(scene.image, scene.arrays)
        assert caught.value.status == 503
        loaded.set()


def test_a_detector_is_asked_by_segment(predictor, detector, scene):
    with running(predictor, detector=detector, api_keys="sesame") as service:
        with bpr.Client(service.url, key="sesame") as client:
            found = client.segment(scene.image)
        assert all("category" in item for item in found.instances)
        assert len(found.masks) == len(found.instances)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3))])
def test_arrays_of_another_kind_are_refused_here(client, image):
    with pytest.raises(ValueError, match="image: expected"):
        client.refine(image, [np.ones((4, 4))])
