"""A peer that speaks the protocol and makes up its captions; its setting `fault` is what it does wrong."""

import os
import sys

from contest.peers.protocol import Pass, serve


def true_captions(lengths):
    return [[100 * image + step for step in range(length)] for image, length in enumerate(lengths)]


class Fake:
    libraries = ("numpy",)

    def __init__(self, job):
        self._fault, self._seconds = job.settings.get("fault"), job.settings.get("seconds", 1.0)
        sys.stdout.write("a library that writes to standard output\n")
        if self._fault == "cannot open":
            raise ValueError("no such weights")

    def run(self, lengths):
        captions = true_captions(lengths)
        if self._fault == "length":
            captions[1].pop()
        if self._fault == "token":
            captions[1][-1] += 1
        if self._fault == "image":
            captions.pop()
        if self._fault == "dies":
            sys.stderr.write("out of memory, they said\n")
            sys.stderr.flush()
            os._exit(9)
        return Pass(self._seconds, captions)


if __name__ == "__main__":
    serve(Fake)
