"""recap-fast as `workload.RecapFast` runs it. Needs recap-fast and the folder above on the path."""

from peers.protocol import serve
from workload import RecapFast

if __name__ == "__main__":
    serve(RecapFast)
