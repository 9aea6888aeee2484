"""Both kinds of memory do the same; the GPU's, here with torch's CPU device, against the host's."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from recap_fast.decode.device_pixels import DevicePixels
from recap_fast.decode.pixels import HostPixels

SIZE = 6
KINDS = [partial(HostPixels, SIZE), partial(DevicePixels, SIZE, torch.device("cpu"), None)]


class Output:
    """A DALI run's output: a buffer that the next run fills anew."""

    def __init__(self, num_images: int, seed: int = 0):
        self.buffer = np.random.default_rng(seed).integers(1, 256, (num_images, 3, SIZE, SIZE), dtype=np.uint8)

    def as_array(self) -> np.ndarray:
        return self.buffer

    def as_tensor(self) -> np.ndarray:
        return self.buffer  # speaks DLPack, as DALI's tensors do


@pytest.fixture(params=KINDS, ids=["host", "device"])
def begin(request):
    return request.param


def test_every_image_comes_to_its_row_and_the_others_are_zero(begin):
    first, second, host = Output(3), Output(1, seed=1), Output(2, seed=2).buffer
    pixels = begin(8)
    pixels.put_dali([6, 1], first, [2, 0])
    pixels.put_dali([3], second, [0])
    pixels.put_host([0, 7], host)
    expected = np.zeros((8, 3, SIZE, SIZE), np.uint8)
    expected[[6, 1, 3, 0, 7]] = [first.buffer[2], first.buffer[0], second.buffer[0], *host]
    np.testing.assert_array_equal(pixels.finish(), expected)


def test_pixels_outlive_the_buffers_they_came_from(begin):
    output, host = Output(2), np.full((1, 3, SIZE, SIZE), 7, np.uint8)
    pixels = begin(3)
    pixels.put_dali([0, 1], output, [0, 1])
    pixels.put_host([2], host)
    before = np.asarray(pixels.finish()).copy()
    output.buffer[:] = 0
    host[:] = 0
    np.testing.assert_array_equal(pixels.finish(), before)
    assert before.all()


def test_nothing_put_is_nothing_but_zeros(begin):
    pixels = begin(2)
    pixels.put_dali([], Output(2), [])
    finished = pixels.finish()
    assert finished.shape == (2, 3, SIZE, SIZE)
    assert not np.asarray(finished).any()
    assert begin(0).finish().shape == (0, 3, SIZE, SIZE)


def test_the_images_of_a_batch_are_views_of_one_tensor():
    pixels = KINDS[1](4).finish()
    assert (pixels.dtype, pixels.device.type) == (torch.uint8, "cpu")
    for image in pixels:
        assert image.untyped_storage().data_ptr() == pixels.untyped_storage().data_ptr()


def test_without_a_gpu_decoding_loads_no_torch():
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    code = (
        "import sys\nfrom support.pictures import PAD, encode, natural\n"
        "from recap_fast.decode.decoder import make_decoder\n"
        "decoder = make_decoder('dali', PAD)\n"
        "outcomes = decoder.decode([encode(natural(40, 30), 'JPEG'), encode(natural(40, 30), 'GIF')]).outcomes\n"
        "print([o.status for o in outcomes], decoder.num_fallbacks, 'torch' in sys.modules)"
    )
    paths = f"import sys; sys.path[:0] = {sys.path!r}\n"
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True, check=True)
    assert done.stdout == "['ok', 'ok'] 1 False\n"
