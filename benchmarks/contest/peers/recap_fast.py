"""recap-fast as `workload.RecapFast` runs it. Needs recap-fast."""

from inputs.workload import RecapFast

from contest.peers.protocol import serve

if __name__ == "__main__":
    serve(RecapFast)
