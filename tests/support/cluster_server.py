"""A Ray cluster whose nodes are processes on this machine; `clusters.Cluster` starts this and tells it what to do.

    python cluster_server.py

The first line of its output is the address. A line is `add CPUS`, answered with the id of the node, or `drain ID` or
`remove ID`, answered with the id once the node knows that it is to go, or its processes are dead. At the end of the
input the cluster ends.
"""

import os
import sys
import time
from typing import Any

os.environ.update(
    RAY_AUTH_MODE="disabled",  # the test of a local cluster has a token, as it is by default
    RAY_USAGE_STATS_ENABLED="0",
    RAY_enable_metrics_collection="0",
    RAY_health_check_initial_delay_ms="1000",
    RAY_health_check_period_ms="1000",
    RAY_health_check_failure_threshold="5",
)

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

PREEMPTION = 2
"""Ray's DRAIN_NODE_REASON_PREEMPTION."""


def say(text: str) -> None:
    """Answers a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Does what it is told until the end of the input."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes: dict[str, Any] = {}
    say(cluster.address)
    for line in sys.stdin:
        verb, argument = line.split()
        if verb == "add":
            node = cluster.add_node(num_cpus=int(argument))
            nodes[node.node_id] = node
            say(node.node_id)
        elif verb == "drain":
            deadline_ms = int((time.time() + 600) * 1000)
            gcs = GcsClient(address=cluster.address)
            gcs.drain_node(argument, PREEMPTION, "the instance is to go", deadline_ms)
            say(argument)
        else:
            cluster.remove_node(nodes.pop(argument), allow_graceful=False)
            say(argument)
    cluster.shutdown()


if __name__ == "__main__":
    main()
