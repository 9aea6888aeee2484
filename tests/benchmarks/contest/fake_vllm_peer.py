"""A stand-in for vLLM: made-up captions, at a speed that depends on its settings and on who resizes the images."""

from contest.peers.protocol import Images, Pass, serve


class FakeVLLM:
    libraries = ("numpy",)

    def __init__(self, job):
        tokens, prefixes = job.settings.get("max_num_batched_tokens", 1024), job.settings.get("enable_prefix_caching")
        self._seconds = tokens / 1024 + bool(prefixes)
        self._images, self._side = Images(job), job.image_size

    def run(self, lengths, *, resized=True):
        decode = self._images.decode if resized else self._images.decode_originals
        shapes = {pixels.shape for pixels in decode(len(lengths))}
        assert shapes == {(self._side, self._side, 3) if resized else (384, 512, 3)}
        return Pass(self._seconds * (1 if resized else 2), [[7] * length for length in lengths])


if __name__ == "__main__":
    serve(FakeVLLM)
