"""The fast decoder: NVIDIA DALI 2.4 decodes, pads or crops and resizes, on a GPU or on the CPU with the same pipeline.

In go encoded bytes that passed the gate, out come pixels within a few levels of the Pillow reference. JPEG, PNG and
WebP of the common kinds go through DALI, every other image goes to Pillow, and so does what DALI fails on. DALI's
parsers trust lengths and counts that files declare (a JPEG of 928 bytes that declared 32,514 EXIF tags ended the
process), so they see nothing but pictures without metadata, whose structure the gate has found to be as it must be.

Distance from Pillow, measured with 336 px pad and crop on the CPU (levels of 0 to 255): at most 5 and 0.13 on average
for photograph-like and drawn images, 20 and 0.27 for white noise. All of it comes from the resize, where Pillow rounds
to uint8 between its two passes; decoded pixels are equal. DALI gives what there is of a JPEG with an invalid scan,
which Pillow calls corrupt.

On a GPU the pixels stay there. None of that has been measured yet, neither its speed nor the distance, where nvJPEG's
own IDCT and chroma upsampling add to the resize. By arithmetic, a batch at its limits takes about 1 GiB of the GPU's
memory beside torch's: 0.2 GB each for the decoded, the padded and the half resized images, the rest for nvJPEG.
"""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.data_node import DataNode
from PIL import Image

from recap_fast.decode import noise
from recap_fast.decode.flat import mark_flat
from recap_fast.decode.formats import sniff
from recap_fast.decode.gate import Header, Opened, RefusedImageError, open_image
from recap_fast.decode.geometry import Window, crop_window, pad_window, resized_size
from recap_fast.decode.pillow import Color, PillowDecoder
from recap_fast.decode.pixels import HostPixels
from recap_fast.records import ImageBatch, ImageOutcome, Preprocess

if TYPE_CHECKING:
    from recap_fast.decode.device_pixels import DevicePixels

BatchPixels: TypeAlias = "HostPixels | DevicePixels"
_MAX_BATCH = 32
"""Images of one DALI batch. Enough for a GPU, too: DALI's authors report 16 ms for a batch of 256 (NVIDIA/DALI #6366),
and even at that time for 32 it is ten times as fast as the engine takes images."""
_MAX_BATCH_PIXELS = 1 << 26
"""Of the images of one DALI batch, padding included: 200 MB of RGB."""
_FORMATS = ("JPEG", "PNG", "WebP")
_INTERPOLATION = {
    "bicubic": types.INTERP_CUBIC,
    "bilinear": types.INTERP_LINEAR,
    "lanczos": types.INTERP_LANCZOS3,
}
_logger = logging.getLogger(__name__)


class DaliDecoder:
    """Decodes with DALI, on GPU `device_id` or (None) on the CPU; see `decoder.ImageDecoder`.

    Raises RuntimeError on construction where DALI does not work on this machine.
    """

    name = "dali"
    note: str | None = None

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        max_image_pixels: int,
        num_threads: int,
        device_id: int | None,
        background: Color | None = None,
    ) -> None:
        self.num_fallbacks = 0
        self._preprocess = preprocess
        self._max_image_pixels, self._background = max_image_pixels, background
        self._num_threads, self._device_id = num_threads, device_id
        self._pillow = PillowDecoder(
            preprocess, max_image_pixels=max_image_pixels, num_threads=num_threads, background=background
        )
        self._begin = _choose_memory(preprocess.image_size, device_id)
        self._pipeline = self._build()
        self._try_out()

    def decode(self, images: Sequence[bytes], *, only_pillow: bool = False) -> ImageBatch:
        """Decodes each image; a bad one leaves zeros and its outcome, and never raises."""
        pixels = self._begin(len(images))
        outcomes: dict[int, ImageOutcome] = {}
        headers: dict[int, Header] = {}
        pictures: dict[int, bytes] = {}
        for index, data in enumerate(images):
            if only_pillow or sniff(data) not in (*_FORMATS, None):
                continue
            try:
                opened = open_image(data, self._max_image_pixels)
            except RefusedImageError as error:
                outcomes[index] = error.outcome
                continue
            if self._takes(opened):
                headers[index], pictures[index] = opened.header, opened.picture.data
        for indices in self._batches(headers):
            for index in self._run(pictures, headers, indices, pixels):
                outcomes[index] = ImageOutcome(headers[index].width, headers[index].height)
        rest = [index for index in range(len(images)) if index not in outcomes]
        if rest:
            self.num_fallbacks += len(rest)
            batch = self._pillow.decode([images[index] for index in rest])
            pixels.put_host(rest, np.asarray(batch.pixels))
            outcomes.update(zip(rest, batch.outcomes, strict=True))
        marked = mark_flat([outcomes[index] for index in range(len(images))], self._preprocess, pixels.look)
        return ImageBatch(pixels.finish(), marked)

    def close(self) -> None:
        """Frees the pipeline's buffers and the threads."""
        self._pipeline = None
        self._pillow.close()

    def _takes(self, opened: Opened) -> bool:
        """Whether DALI may see such an image, and decodes it as Pillow does."""
        header, picture = opened.header, opened.picture
        if not picture.well_formed or self._num_pixels(header) > _MAX_BATCH_PIXELS:
            return False
        if self._background is not None and header.has_alpha:
            return False
        if header.format == "JPEG":
            return header.mode in ("L", "RGB")
        # Byte 24 of a PNG is the bit depth. 16 bits are rounded otherwise; 1-bit dither is all overshoot, which Pillow
        # clips between its passes and DALI only at the end: two levels of difference on average.
        return header.orientation == 1 and (header.format == "WebP" or 1 < picture.data[24] <= 8)

    def _num_pixels(self, header: Header) -> int:
        if self._preprocess.mode == "pad":
            return max(header.width, header.height) ** 2
        if self._preprocess.mode == "stretch":
            return header.num_pixels
        width, height = resized_size(header.width, header.height, self._preprocess.image_size)
        return max(header.width * header.height, width * height)

    def _batches(self, headers: dict[int, Header]) -> Iterator[list[int]]:
        batch: list[int] = []
        num_pixels = 0
        for index, header in headers.items():
            if batch and (len(batch) == _MAX_BATCH or num_pixels + self._num_pixels(header) > _MAX_BATCH_PIXELS):
                yield batch
                batch, num_pixels = [], 0
            batch.append(index)
            num_pixels += self._num_pixels(header)
        if batch:
            yield batch

    def _try_out(self) -> None:
        """Decodes a small JPEG: some installations of DALI import, and fail at the first image."""
        out = io.BytesIO()
        Image.new("RGB", (16, 16)).save(out, "JPEG")
        output, _ = self._run_pipeline([out.getvalue()], [Header("JPEG", "RGB", 16, 16)])
        pixels = self._begin(1)
        pixels.put_dali([0], output, [0])
        pixels.finish()

    def _run(
        self, pictures: dict[int, bytes], headers: dict[int, Header], batch: list[int], pixels: BatchPixels
    ) -> list[int]:
        """Puts the images of a batch into `pixels`; returns which ones, for there may be some that DALI fails on.

        One bad image fails a whole batch, and no call of DALI says which: then each image is tried by itself.
        """
        try:
            output, shapes = self._run_pipeline([pictures[i] for i in batch], [headers[i] for i in batch])
        except RuntimeError as error:
            _logger.debug("DALI failed on a batch of %d: %s", len(batch), error)
            self._pipeline = self._build()  # a pipeline that has failed once is of no more use
            if len(batch) == 1:
                return []
            return [row for index in batch for row in self._run(pictures, headers, [index], pixels)]
        # Where DALI reads another size or rotation than the gate did, the geometry was wrong: Pillow redoes it.
        sizes = [(headers[index].height, headers[index].width) for index in batch]
        kept = [i for i, size in enumerate(sizes) if tuple(shapes[i, :2]) == size]
        rows = [batch[i] for i in kept]
        pixels.put_dali(rows, output, kept)
        return rows

    def _run_pipeline(self, images: list[bytes], headers: list[Header]) -> tuple[Any, NDArray[np.int64]]:
        """DALI's output, uint8 [n, 3, H, W], until its next run, and what it takes each image's shape to be: [n, 3]."""
        windows, sizes = zip(*(_geometry(header, self._preprocess) for header in headers), strict=True)
        self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8) for data in images])
        self._pipeline.feed_input("start", np.array([(w.top, w.left) for w in windows], np.int32))
        self._pipeline.feed_input("shape", np.array([(w.height, w.width) for w in windows], np.int32))
        self._pipeline.feed_input("size", np.array([(height, width) for width, height in sizes], np.float32))
        with noise.dropped():
            output, shapes = self._pipeline.run()
        return output, shapes.as_array()

    def _build(self) -> Pipeline:
        pipeline = Pipeline(
            batch_size=_MAX_BATCH,
            num_threads=self._num_threads,
            device_id=self._device_id,
            prefetch_queue_depth=1,  # each run is fed and read by `_run`: nothing can be fetched ahead of it
        )
        with pipeline:
            device = "cpu" if self._device_id is None else "mixed"
            pipeline.set_outputs(*_define_pipeline(self._preprocess, device))
        pipeline.build()
        return pipeline


def _choose_memory(size: int, device_id: int | None) -> Callable[[int], BatchPixels]:
    """What begins a batch of so many images: in host memory, or on GPU `device_id`."""
    if device_id is None:
        return partial(HostPixels, size)
    import torch

    from recap_fast.decode.device_pixels import DevicePixels

    device = torch.device("cuda", device_id)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return partial(DevicePixels, size, device, stream)


def _define_pipeline(preprocess: Preprocess, device: str) -> tuple[DataNode, DataNode]:
    """The pixels, uint8 [n, 3, H, W], and what DALI takes each image's (height, width, channels) to be.

    The geometry is computed outside: DALI's own `resize_shorter` rounds where the reference truncates.
    """
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
    shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
    size = fn.external_source(name="size", dtype=types.FLOAT, ndim=1)
    # All JPEGs to the GPU's JPEG engine, where there is one (A100, H100): it leaves the cores to the model, and how
    # images are shared out would otherwise depend on their neighbors.
    images = fn.decoders.image(
        encoded, device=device, output_type=types.RGB, jpeg_fancy_upsampling=True, hw_decoder_load=1.0
    )
    resize = partial(_resize, size=size, interpolation=_INTERPOLATION[preprocess.resample])
    cut = partial(_cut, start=start, shape=shape, color=preprocess.pad_color)
    images = cut(resize(images)) if preprocess.mode == "crop" else resize(cut(images))
    return fn.transpose(images, perm=[2, 0, 1]), fn.peek_image_shape(encoded)


def _resize(images: DataNode, size: DataNode, interpolation: types.DALIInterpType) -> DataNode:
    return fn.resize(images, size=size, interp_type=interpolation, antialias=True)


def _cut(images: DataNode, start: DataNode, shape: DataNode, color: tuple[int, int, int]) -> DataNode:
    """A window of each image, filled with `color` where it reaches beyond."""
    return fn.slice(images, start=start, shape=shape, axes=[0, 1], out_of_bounds_policy="pad", fill_values=list(color))


def _geometry(header: Header, preprocess: Preprocess) -> tuple[Window, tuple[int, int]]:
    """The window to cut, and the (width, height) to resize to: before the cut for 'crop', else after it."""
    width, height, size = header.width, header.height, preprocess.image_size
    if preprocess.mode == "pad":
        return pad_window(width, height), (size, size)
    if preprocess.mode == "stretch":
        return Window(0, 0, width, height), (size, size)
    resized = resized_size(width, height, size)
    return crop_window(*resized, size), resized
